"""From a read clip to the F frames that training sees: which frames, how fast, which way round, which part (Sec. 5).

What is drawn is drawn once for the whole clip, so that no augmentation moves anything between frames. Resizing happens
in premultiplied colour: what lies invisible under alpha 0 must not bleed into edges. Alpha is never colour-jittered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.device import generator_of
from pellucid.errors import ConfigError, InputError

# Motions that are the same backwards although they hold a word of direction.
_THERE_AND_BACK = re.compile(
    r"\b(up and down|down and up|left and right|right and left|in and out|back and forth|side to side|"
    r"growing and shrinking|shrinking and growing|appearing and disappearing|disappearing and appearing|"
    r"fading in and out|opening and closing|rising and falling)\b"
)
_ONE_WAY = re.compile(
    r"\b(up|upwards?|down|downwards?|left|leftwards?|right|rightwards?|in|into|out|away|forwards?|backwards?|clockwise|"
    r"counterclockwise|anticlockwise|appearing|disappearing|arriving|leaving|growing|shrinking|rising|falling|melting|"
    r"opening|closing|exploding|breaking|pouring|dripping|dropping|running|walking|driving|riding|rolling|flying|"
    r"swimming|sliding|crossing|across|jumping|throwing|launching|burning|apart|together|eating|drinking|writing)\b"
)
_HANDED = re.compile(r"\b(left|leftwards?|right|rightwards?|clockwise|counterclockwise|anticlockwise)\b")


@dataclass(frozen=True)
class Cutting:
    """How F frames are taken from a clip.

    Attributes:
        frames: F.
        fps: frames per second of what is cut; the step through a clip follows from its own rate.
        step: frames of the clip from one to the next instead, whatever the rate: 4 at 24 to 30 fps in AnimateDiff.
        loop: what becomes of a clip that is a loop: ``"whole"`` spreads the F frames evenly over it, so that the cut
            loops too; ``"rate"`` steps as through any clip and goes on from the start at the end.
        speed: factor on the step, drawn evenly in log from here to there.
        reverse: share of cuts that run backwards; none of a clip whose text says a direction (`one_way`).
        flip: share of cuts that are mirrored; none of a clip whose text says left or right.
        crop: side of the part that is shown, as a fraction of the largest part of the wanted shape; above 1 the
            clip stands in a transparent margin.
        fit: ``"crop"`` cuts a clip of another shape at a random place, ``"contain"`` shows all of it.
    """

    frames: int = 16
    fps: float = 8.0
    step: float | None = None
    loop: Literal["whole", "rate"] = "rate"
    speed: tuple[float, float] = (1.0, 1.0)
    reverse: float = 0.0
    flip: float = 0.0
    crop: tuple[float, float] = (1.0, 1.0)
    fit: Literal["crop", "contain"] = "crop"

    def __post_init__(self) -> None:
        for name, (low, high) in (("speed", self.speed), ("crop", self.crop)):
            if not 0.0 < low <= high:
                raise ConfigError(f"{name} must be 0 < from <= to, found {(low, high)}")
        if self.frames < 1:
            raise ConfigError(f"frames must be at least 1, found {self.frames}")


def one_way(text: str) -> bool:
    """Whether a text says a direction in time or space, so that the clip backwards would be another motion."""
    return bool(_ONE_WAY.search(_THERE_AND_BACK.sub(" ", text.lower())))


def handed(text: str) -> bool:
    """Whether a text says left or right, or a sense of turning, so that the mirrored clip would be another motion."""
    return bool(_HANDED.search(_THERE_AND_BACK.sub(" ", text.lower())))


def resize_rgba(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize straight RGBA in premultiplied colour.

    Args:
        frames: ``(..., 4, H, W)`` float in [0, 1], straight alpha.
        size: height and width of the result.

    Returns:
        ``(..., 4, h, w)`` straight; colour is 0 where alpha is.
    """
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    flat = premultiply(frames.reshape(-1, *frames.shape[-3:]))  # (N, 4, H, W)
    flat = F.interpolate(flat, size, mode="bilinear", antialias=True, align_corners=False)
    return straighten(flat).reshape(*frames.shape[:-2], *size)


def premultiply(rgba: Tensor) -> Tensor:
    """``(..., 4, H, W)`` straight -> colour times alpha, alpha."""
    return torch.cat([rgba[..., :3, :, :] * rgba[..., 3:, :, :], rgba[..., 3:, :, :]], dim=-3)


def straighten(premultiplied: Tensor) -> Tensor:
    """The way back from `premultiply`; colour is 0 where alpha is (less than half of one of 255 levels)."""
    alpha = premultiplied[..., 3:, :, :].clamp(0.0, 1.0)
    colour = premultiplied[..., :3, :, :] / alpha.clamp(min=1e-6)
    return torch.cat([torch.where(alpha > 0.5 / 255, colour.clamp(0.0, 1.0), 0.0), alpha], dim=-3)


def frame_places(total: int, frames: int, step: float, start: float, *, loops: bool = False) -> Tensor:
    """Which frames of a clip are shown.

    Args:
        total: frames of the clip, T.
        frames: F.
        step: frames of the clip from one to the next.
        start: in [0, 1], where between the earliest and the latest possible beginning.
        loops: go on from the start at the end, so that any step fits.

    Returns:
        ``(F,)`` int64 in [0, T).
    """
    if loops:
        first = int(start * total) % total
        return (first + (torch.arange(frames) * step).round().long()) % total
    room = max(0.0, total - 1 - (frames - 1) * step)
    places = start * room + torch.arange(frames) * step
    return places.round().long().clamp(0, total - 1)


def cut(
    frames: Tensor,
    cutting: Cutting,
    size: tuple[int, int],
    *,
    fps: float,
    seed: tuple[int, ...],
    caption: str = "",
    loops: bool = False,
    name: str = "clip",
) -> Tensor:
    """Cut F frames of a clip, all drawn numbers following from ``seed``.

    Args:
        frames: ``(T, 4, H, W)`` uint8, or float in [0, 1]; straight alpha.
        cutting: how.
        size: height and width of the result.
        fps: of the clip.
        seed: numbers that the draws follow from, for example seed, clip, variant.
        caption: what the clip is told with.
        loops: the clip is a loop.
        name: of the clip, for the error.

    Returns:
        ``(F, 4, h, w)`` float32 in [0, 1], straight.

    Raises:
        InputError: the clip is too short: its frames would have to be shown more than twice.
    """
    draws = torch.rand(6, generator=generator_of(*seed)).tolist()
    low, high = cutting.speed
    step = (cutting.step or fps / cutting.fps) * low * (high / low) ** draws[0]
    total = frames.shape[0]
    if loops and cutting.loop == "whole":
        step = total / cutting.frames
    elif not loops and (cutting.frames - 1) * step > total - 1:
        step = (total - 1) / max(cutting.frames - 1, 1)  # a short clip is shown more slowly
        if step < 0.5 and cutting.frames > 1:
            raise InputError(f"{name}: a clip of {total} frames is too short for {cutting.frames}")
    places = frame_places(total, cutting.frames, step, draws[1], loops=loops)
    if draws[2] < cutting.reverse and not one_way(caption):
        places = places.flip(0)
    shown = frames[places]
    shown = shown.float() / 255.0 if shown.dtype == torch.uint8 else shown.float()
    if draws[3] < cutting.flip and not handed(caption):
        shown = shown.flip(-1)
    scale = cutting.crop[0] + (cutting.crop[1] - cutting.crop[0]) * draws[4]
    # One more number places the part in both directions, by its own stream.
    across, along = torch.rand(2, generator=generator_of(*seed, 1)).tolist()
    return resize_rgba(_part(shown, size, scale, cutting.fit, across, along), size)


def _part(
    frames: Tensor, size: tuple[int, int], scale: float, fit: Literal["crop", "contain"], across: float, along: float
) -> Tensor:
    """The part of wanted shape ``(F, 4, h', w')``; transparent where it reaches beyond the frame."""
    height, width = frames.shape[-2:]
    inside = min(height / size[0], width / size[1])
    outside = max(height / size[0], width / size[1])
    unit = (inside if fit == "crop" else outside) * scale
    tall, wide = max(1, round(size[0] * unit)), max(1, round(size[1] * unit))
    top, left = _place(height - tall, along), _place(width - wide, across)
    # Negative margins cut, positive ones add transparent pixels.
    return F.pad(frames, (-left, left + wide - width, -top, top + tall - height))


def _place(spare: int, draw: float) -> int:
    """Where a part begins: anywhere it fits; a clip smaller than the part stands in its middle."""
    return round(spare * draw) if spare >= 0 else spare // 2
