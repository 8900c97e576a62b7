"""A clip with alpha into the file that is asked for: as it is, premultiplied, taken apart, or laid over something.

Colour below alpha 0 is written as a smooth continuation of what is beside it: dark and grey fringes come from codecs
and players that mix it into the edge.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import ConfigError, FormatError, InputError
from pellucid.io.animation import check_folder
from pellucid.io.backdrop import Backdrop, lay_over
from pellucid.io.files import check_output
from pellucid.io.formats import find_format, suffixes_that
from pellucid.io.settings import settings_of, sidecar_path, write_sidecar
from pellucid.io.sprites import is_sheet, save_sheet
from pellucid.io.video import VideoReader, VideoWriter, pad_hidden
from pellucid.layers import LayerStack

logger = logging.getLogger(__name__)

PREMULTIPLIED = "premultiplied"
_PARTS = ("rgb", "alpha")
_OPAQUE = (".mp4",)
_NOT_PREMULTIPLIED = (*_OPAQUE, ".gif")
_MOST_ERROR = 2.01 / 255  # of alpha in a .webm, unless a crf is asked for
_CRF = (".webm", ".mp4")


@dataclass(frozen=True)
class Export:
    """How clips are written.

    Attributes:
        padded: colour below alpha 0 is smooth; else it is written as it is.
        premultiplied: colour times alpha, on black; the file's name then says so.
        split: two opaque files, ``NAME_rgb`` and ``NAME_alpha``.
        over: what the clip is laid over; the file is opaque then.
        linear: lay it over in linear light.
        matte: colour ``(3,)`` that half-transparent pixels of a GIF are mixed with; None keeps their own.
        bit_depth: 8, or 16 for PNG and APNG; None is the stack's where the format holds it.
        crf: how coarse .webm and .mp4 are, 0 to 63 or 51. None is the writer's for .mp4; a .webm is then lossless where
            the writer's would bring alpha more than 2/255 off.
        sidecar: write the settings beside the file as JSON.
        overwrite: replace what is there.
    """

    padded: bool = True
    premultiplied: bool = False
    split: bool = False
    over: Backdrop | None = None
    linear: bool = False
    matte: Tensor | None = None
    bit_depth: int | None = None
    crf: int | None = None
    sidecar: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        ways = {"premultiplied": self.premultiplied, "split": self.split, "over": self.over is not None}
        given = [name for name, asked in ways.items() if asked]
        if len(given) > 1:
            raise ConfigError(f"{given[0]} and {given[1]} exclude each other", "leave one of them out")
        if self.linear and self.over is None:
            raise ConfigError("linear light is for a clip laid over something", "add what lies below")
        if self.bit_depth not in (None, 8, 16):
            raise ConfigError(f"bit depth must be 8 or 16, found {self.bit_depth}")


def targets(path: str | Path, export: Export) -> list[Path]:
    """Names of the files a clip will be written to, without JSON files."""
    path = Path(path)
    if export.split:
        return [_named(path, part) for part in _PARTS]
    if export.premultiplied and PREMULTIPLIED not in path.name:
        return [_named(path, PREMULTIPLIED)]
    return [path]


def _named(path: Path, word: str) -> Path:
    if is_sheet(path):
        stem, kind = path.name[: -len(".sheet.png")], path.name[-len(".sheet.png") :]
        return path.with_name(f"{stem}_{word}{kind}")
    return path.with_name(f"{path.stem}_{word}{path.suffix}")


def check_export(path: str | Path, export: Export) -> None:
    """Say before the work starts whether a clip with alpha can be written so.

    Raises:
        FormatError: the format holds no frames over time, or not what is asked for.
        InputError: a file is there, or its folder is not.
    """
    path = Path(path)
    row, suffix = find_format(path, time=True), path.suffix.lower()
    opaque = export.split or export.over is not None
    if row.writer is None:
        raise FormatError(f"{path}: {row.name} can only be read", f"use one of {suffixes_that('time')}")
    if suffix in _OPAQUE and not opaque:
        able = suffixes_that("time", "alpha")
        raise FormatError(f"{path}: {row.name} cannot hold alpha", f"lay the clip over something, or use {able}")
    if export.premultiplied and suffix in _NOT_PREMULTIPLIED:
        raise FormatError(f"{path}: {row.name} cannot hold premultiplied alpha", "use .mov, .webm or a folder")
    if export.bit_depth == 16 and not row.deep:
        raise FormatError(f"{path}: {row.name} holds 8 bits per channel", f"use {suffixes_that('time', 'deep')}")
    for target in targets(path, export):
        if suffix:
            check_output(target, export.overwrite)
        else:
            check_folder(target, export.overwrite)
        if is_sheet(target):
            check_output(target.with_suffix(".json"), export.overwrite)
        elif export.sidecar:
            check_output(sidecar_path(target), export.overwrite)


def export_clip(
    stack: LayerStack, path: str | Path, export: Export | None = None, *, settings: dict[str, Any] | None = None
) -> list[Path]:
    """Write a clip, and how it was made, to one file or two.

    Args:
        stack: frames over time.
        path: its suffix tells the format: those of `VideoWriter`, or ``NAME.sheet.png``, a sprite sheet.
        export: how; by default straight alpha with padded colour.
        settings: how the clip was made; by default what the stack knows.

    Returns:
        What was written, JSON files too.

    Raises:
        FormatError: the stack is a still, or the format cannot hold what is asked for.
        InputError: a file is there, or cannot be written; then nothing of it is left.
    """
    export = export or Export()
    if stack.fps is None or stack.frames is None:
        raise FormatError(f"{path}: a clip has frames over time, found a still picture", "use io.save")
    check_export(path, export)
    if export.bit_depth is None:
        deep = find_format(path, time=True).deep
        export = replace(export, bit_depth=stack.meta.bit_depth if deep else 8)
    frame_of = _frames(stack)
    facts = settings if settings is not None else settings_of(stack)
    written: list[Path] = []
    for target, part in zip(targets(path, export), _PARTS if export.split else ("",), strict=False):
        alpha = {"rgb": "none", "alpha": "as grey"}.get(part, "straight")
        alpha = PREMULTIPLIED if export.premultiplied else alpha if export.over is None else "none"
        told = {**facts, "alpha": alpha, "hidden_colour": "padded" if export.padded else "as it is"}
        if export.over is not None:
            told["over"] = {"what": export.over.name, "linear_light": export.linear}
        written += _write(stack, frame_of, target, part, export, told)
    return written


def _write(
    stack: LayerStack,
    frame_of: Callable[[int], Tensor],
    target: Path,
    part: str,
    export: Export,
    settings: dict[str, Any],
) -> list[Path]:
    assert stack.fps is not None
    assert stack.frames is not None
    below = None if export.over is None else export.over.frames(stack.height, stack.width, stack.fps)

    levels = 65535 if export.bit_depth == 16 else 255

    def shown(index: int) -> Tensor:
        frame = frame_of(index)
        if below is not None:
            return lay_over(frame, next(below), linear=export.linear)
        if part == "alpha":
            return frame[3:].expand(3, -1, -1)
        if part == "rgb":
            return pad_hidden(frame, levels)[:3] if export.padded else frame[:3]
        return frame

    has_alpha = below is None and not part
    if is_sheet(target):
        frames = torch.stack([shown(index) for index in range(stack.frames)])  # (T, 3|4, H, W)
        if has_alpha and export.padded:
            frames = pad_hidden(frames, levels)
        if export.premultiplied:
            frames = torch.cat([frames[:, :3] * frames[:, 3:], frames[:, 3:]], dim=1)
        depth, fps = export.bit_depth or 8, stack.fps
        return [*save_sheet(frames, fps, target, bit_depth=depth, overwrite=export.overwrite, settings=settings)]
    suffix = target.suffix.lower()
    options: dict[str, Any] = {"matte": export.matte} if suffix == ".gif" and has_alpha else {}
    if export.crf is not None and suffix in _CRF:
        options["crf"] = export.crf
    tries: tuple[dict[str, Any], ...] = (options,)
    if suffix == ".webm" and has_alpha and export.crf is None:
        tries = ({}, {"lossless": True})  # a soft rim passes at the usual setting, a sharp edge or grain does not
    for number, tuned in enumerate(tries):
        writer = VideoWriter(
            target,
            stack.width,
            stack.height,
            stack.fps,
            has_alpha,
            overwrite=export.overwrite or number > 0,
            bit_depth=export.bit_depth or 8,
            padded=export.padded,
            premultiplied=export.premultiplied,
            settings=settings,
            **tuned,
        )
        with writer:
            for index in range(stack.frames):
                writer.write(shown(index))
        if tuned is tries[-1] or _alpha_error(target, frame_of) <= _MOST_ERROR:
            break
        logger.info("%s: alpha would be off by more than 2/255, so it is written losslessly", target)
    if not export.sidecar:
        return [target]
    try:
        return [target, write_sidecar(settings, target, overwrite=export.overwrite)]
    except InputError:
        logger.warning("%s is written, but not the file beside it that says how it was made", target)
        raise


def _alpha_error(path: Path, frame_of: Callable[[int], Tensor]) -> float:
    """Largest difference between the alpha of a film and that of the clip."""
    with VideoReader(path) as film:
        if not film.has_alpha:
            return 1.0
        return max(float((frame[3] - frame_of(index)[3]).abs().max()) for index, frame in enumerate(film))


def _frames(stack: LayerStack) -> Callable[[int], Tensor]:
    """What the stack shows at a moment, ``(4, H, W)`` in [0, 1]; the colour of a lone layer stays below alpha 0."""
    visible = [layer for layer in stack.layers if layer.visible]
    if len(visible) == 1 and visible[0].opacity == 1.0:
        layer = visible[0]
        pixels, alpha = layer.pixels, layer.alpha
    else:
        whole = stack.composite()
        pixels, alpha = whole[:, :3], whole[:, 3:] if whole.shape[1] == 4 else None

    def frame(index: int) -> Tensor:
        cover = torch.ones_like(pixels[index, :1]) if alpha is None else alpha[index]
        return torch.cat([pixels[index], cover])

    return frame
