"""PSD through psd-tools, which the extra ``psd`` installs: all layers, with 8 or 16 bits per channel.

Photoshop blends ``luminosity`` and ``color`` in a space of its own, close to but not the same as CIELAB; the merged
image, which viewers show, is our exact composite.
"""

import logging
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import ConfigError, DependencyError, FormatError, InputError, PellucidError
from pellucid.io import exif, icc
from pellucid.io.arrays import quantise
from pellucid.io.decode import MAX_PIXELS
from pellucid.io.files import atomic_path, check_output
from pellucid.io.formats import suffixes_that
from pellucid.io.placement import differing, place
from pellucid.layers import Layer, LayerStack, Meta
from pellucid.layers.stack import Blend

logger = logging.getLogger(__name__)

_MODES = {"over": b"norm", "add": b"lddg", "luminosity": b"lum ", "color": b"colr"}
_BLENDS = {mode: blend for blend, mode in _MODES.items()}
_SIDE, _NAME = 30_000, 255  # what a PSD holds: pixels a side, characters of a layer's name
_RESOLUTION, _ICC, _EXIF, _XMP = 1005, 1039, 1058, 1060  # numbers of the image resources


def _psd_tools() -> Any:
    try:
        import psd_tools
        import psd_tools.constants
        import psd_tools.psd.header
        import psd_tools.psd.image_data
        import psd_tools.psd.image_resources
    except ImportError as error:
        found = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not load: {error}"
        raise DependencyError(f"PSD files need psd-tools, which {found}", "pip install pellucid[psd]") from error
    if not hasattr(psd_tools.PSDImage, "create_pixel_layer_from_array"):
        version = getattr(psd_tools, "__version__", "an older one")
        raise DependencyError(f"PSD files need psd-tools 1.26, found {version}", "pip install pellucid[psd] --upgrade")
    return psd_tools


def save_psd(
    stack: LayerStack,
    path: str | Path,
    *,
    overwrite: bool = False,
    strip_metadata: bool = False,
    bit_depth: int | None = None,
    **options: Any,
) -> Path:
    """Write all layers, hidden ones too, with their blend modes, and the merged image.

    Args:
        stack: a still.
        path: the file.
        overwrite: whether an existing file may be replaced.
        strip_metadata: leave out EXIF, XMP and resolution. The ICC profile stays.
        bit_depth: 8 or 16 bits per channel; None keeps the source's.
        **options: there are no others.

    Returns:
        The path.

    Raises:
        DependencyError: psd-tools is not installed.
        FormatError: a time axis, more than 30000 pixels a side, or a layer name of more than 255 characters.
        ConfigError: an unknown option.
        InputError: the file exists or cannot be written.
    """
    depth = bit_depth or stack.meta.bit_depth
    if options:
        raise ConfigError(f"{path}: PSD has no option {next(iter(options))!r}", "it has bit_depth")
    if depth not in (8, 16):
        raise ConfigError(f"{path}: bit depth must be 8 or 16, found {bit_depth}")
    _refuse(stack, path)
    tools = _psd_tools()
    check_output(path, overwrite)  # before the work
    if depth < stack.meta.bit_depth:
        logger.warning("%s: 16 bit per channel written as 8", path)
    if stack.meta.method:
        logger.info("%s: PSD does not keep how the layers were made (%s); .ora does", path, stack.meta.method)
    matrix = icc.parse(stack.meta.icc_profile) if stack.meta.icc_profile else None
    if stack.meta.icc_profile and matrix is None:
        logger.warning("%s: its ICC profile cannot be written; the picture is sRGB", path)
    convert = matrix.from_srgb if matrix and not matrix.is_srgb else None

    record = _document(tools, stack, path, depth, convert, strip_metadata, keep_profile=matrix is not None)

    class Document(tools.PSDImage):
        def is_updated(self) -> bool:
            return False  # else psd-tools would draw the merged image anew, with blend modes of its own

    document = Document(record)
    for layer in stack.layers:
        opacity = round(layer.opacity * 255)
        if abs(opacity / 255 - layer.opacity) > 1e-6:
            logger.info("%s: layer %r: opacity %g becomes %d/255", path, layer.name, layer.opacity, opacity)
        array = quantise(layer.rgba, depth, convert)
        made = document.create_pixel_layer_from_array(array, opacity=opacity, blend_mode=_MODES[layer.blend])
        made.name, made.visible = layer.name, layer.visible
    if record.header.channels == 4:
        info = record.layer_and_mask_information.layer_info
        info.layer_count = -abs(info.layer_count)  # the sign says that the fourth channel is transparency
    with atomic_path(path, overwrite) as temporary, temporary.open("wb") as file:
        document.save(file)
    return Path(path)


def _refuse(stack: LayerStack, path: str | Path) -> None:
    if stack.fps is not None:
        able = suffixes_that("time")
        raise FormatError(f"{path}: PSD cannot hold frames over time", f"use one of {able}")
    if max(stack.width, stack.height) > _SIDE:
        found = f"{stack.width}x{stack.height}"
        raise FormatError(f"{path}: PSD holds at most {_SIDE} pixels a side, found {found}", "use .ora")
    long = next((name for name in stack.names if len(name) > _NAME), None)
    if long:
        found = f"{len(long)} in {long[:20]!r}..."
        raise FormatError(f"{path}: PSD holds layer names of {_NAME} characters, found {found}", "use .ora")


def _document(
    tools: Any, stack: LayerStack, path: str | Path, depth: int, convert: Any, strip: bool, *, keep_profile: bool
) -> Any:
    """Make a file without layers: header, resources, merged image."""
    shown = stack.composite() if any(layer.visible for layer in stack.layers) else torch.zeros(4, *_size(stack))
    if shown.shape[0] == 4:  # Photoshop lays the merged image over white and keeps alpha beside it
        shown = torch.cat([shown[:3] * shown[3:] + (1 - shown[3:]), shown[3:]])
    merged = quantise(shown, depth, convert)
    planes = [np.ascontiguousarray(merged[..., index]) for index in range(merged.shape[-1])]
    constants, low = tools.constants, tools.psd
    header = low.header.FileHeader(
        version=1,
        channels=len(planes),
        height=stack.height,
        width=stack.width,
        depth=depth,
        color_mode=constants.ColorMode.RGB,
    )
    data = low.image_data.ImageData(compression=constants.Compression.RLE)
    data.set_data([plane.astype(plane.dtype.newbyteorder(">")).tobytes() for plane in planes], header)
    resources = low.image_resources.ImageResources.new()
    meta = stack.meta
    blocks = {_ICC: meta.icc_profile if keep_profile else None}
    if not strip:
        blocks |= {_EXIF: meta.exif, _XMP: meta.xmp, _RESOLUTION: _resolution(meta.dpi)}
    for number, block in blocks.items():
        if block:
            key = constants.Resource(number)
            resources[key] = low.image_resources.ImageResource(key=number, data=block)
    return low.PSD(header=header, image_data=data, image_resources=resources)


def _size(stack: LayerStack) -> tuple[int, int]:
    return stack.height, stack.width


def _resolution(dpi: tuple[float, float] | None) -> bytes | None:
    if not dpi:
        return None
    across, down = (round(value * 65536) for value in dpi)
    return struct.pack(">IHHIHH", across, 1, 1, down, 1, 1)  # 1: pixels per inch, shown in inches


@dataclass(frozen=True)
class _Inherited:
    """What groups hand down to their layers."""

    opacity: float = 1.0
    visible: bool = True


def load_psd(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> LayerStack:
    """Read a PSD or PSB file of this or another program.

    Groups are taken apart, in order, with their opacity and visibility given to their layers; masks go into alpha;
    text, shapes and smart objects are read as the pixels they hold. Adjustments, effects, clipping and other blend
    modes are left out. Each time the result may look different, a log line says so.

    Args:
        path: the file.
        max_pixels: the canvas, any layer, or four times all layers together may have no more.

    Raises:
        DependencyError: psd-tools is not installed.
        InputError: the file is no PSD, damaged, too large, or not RGB or grey.
    """
    tools, path = _psd_tools(), Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not data.startswith(b"8BPS"):
        raise InputError(f"{path}: is not a PSD file, it begins with {data[:8]!r}")
    try:
        return _read(tools.PSDImage.open(BytesIO(data)), path, max_pixels)
    except PellucidError:
        raise
    except Exception as error:  # psd-tools raises whatever damaged data leads to, from AssertionError to struct.error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: cannot be read as PSD: {reason}") from error


def _read(document: Any, path: Path, max_pixels: int) -> LayerStack:
    size = document.width, document.height
    mode = document.color_mode.name
    if mode not in ("RGB", "GRAYSCALE") or document.depth not in (8, 16):
        found = f"{mode} with {document.depth} bits"
        raise InputError(f"{path}: expected RGB or grey with 8 or 16 bits per channel, found {found}")
    found = list(_flatten(document, path, _Inherited()))
    if size[0] * size[1] > max_pixels or size[0] * size[1] * len(found) > 4 * max_pixels:
        raise InputError(f"{path}: {len(found)} layers of {size[0]}x{size[1]} pixels are more than can be held")
    for layer, _ in found:
        if layer.width * layer.height > max_pixels:
            raise InputError(f"{path}: layer {layer.name!r} of {layer.width}x{layer.height} pixels is too large")
    meta = _meta(document, path)
    to_srgb = _converter(meta.icc_profile, path)
    if not found:
        pixels, alpha = _split(document.numpy())
        return LayerStack((Layer("image", to_srgb(pixels), alpha),), meta=meta)
    layers: list[Layer] = []
    for name, (layer, handed) in zip(differing([layer.name for layer, _ in found]), found, strict=True):
        pixels, alpha = _split(layer.numpy())
        pixels, alpha = place(to_srgb(pixels), alpha, (layer.left, layer.top), size, name)
        alpha = _masked(layer, pixels, alpha, size)
        if alpha is not None and bool((alpha == 1).all()):
            alpha = None  # a PSD layer always has alpha; full everywhere is none
        opacity = handed.opacity * layer.opacity / 255
        layers.append(Layer(name, pixels, alpha, _blend(layer, path), opacity, handed.visible and layer.visible))
    return LayerStack(tuple(layers), meta=meta)


def _flatten(group: Any, path: Path, handed: _Inherited) -> list[tuple[Any, _Inherited]]:
    found: list[tuple[Any, _Inherited]] = []
    for layer in group:  # bottom first
        if layer.is_group():
            inner = _Inherited(handed.opacity * layer.opacity / 255, handed.visible and layer.visible)
            below = _flatten(layer, path, inner)
            if len(below) > 1 and (layer.opacity < 255 or layer.blend_mode.value not in (b"pass", b"norm")):
                logger.warning("%s: group %r is taken apart, so its layers may blend differently", path, layer.name)
            found.extend(below)
        elif not layer.has_pixels():
            logger.warning("%s: %s %r has no pixels and is left out", path, layer.kind, layer.name)
        else:
            lost = [what for what, there in (("clipping", layer.clipping), ("effects", layer.has_effects())) if there]
            if lost:
                logger.warning("%s: layer %r: %s left out", path, layer.name, " and ".join(lost))
            if layer.fill_opacity != 255:
                logger.warning("%s: layer %r: fill opacity is taken as opacity", path, layer.name)
                inner = _Inherited(handed.opacity * layer.fill_opacity / 255, handed.visible)
                found.append((layer, inner))
            else:
                found.append((layer, handed))
    return found


def _split(array: Any) -> tuple[Tensor, Tensor | None]:
    planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0), dtype=np.float32))  # (C, h, w)
    colours = 3 if planes.shape[0] >= 3 else 1
    alpha = planes[colours : colours + 1] if planes.shape[0] > colours else None
    pixels = planes[:colours] if colours == 3 else planes[:1].expand(3, -1, -1).contiguous()
    return pixels, alpha


def _masked(layer: Any, pixels: Tensor, alpha: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    if not layer.has_mask() or layer.mask.disabled:
        return alpha
    mask = layer.mask
    held = layer.numpy("mask")
    around = torch.full((1, size[1], size[0]), mask.background_color / 255)
    if held is not None:
        inside = torch.from_numpy(np.ascontiguousarray(held[..., 0], dtype=np.float32))[None]  # (1, h, w)
        value, covered = place(inside.expand(3, -1, -1), None, (mask.left, mask.top), size, f"mask of {layer.name}")
        around = value[:1] if covered is None else torch.where(covered > 0, value[:1], around)
    return around if alpha is None else alpha * around


def _blend(layer: Any, path: Path) -> Blend:
    blend = _BLENDS.get(layer.blend_mode.value)
    if blend is None:
        logger.warning("%s: layer %r blends with %s, taken as over", path, layer.name, layer.blend_mode.name.lower())
        return "over"
    if blend in ("luminosity", "color"):
        logger.info("%s: layer %r: %s is taken in CIELAB, editors differ a little", path, layer.name, blend)
    return cast(Blend, blend)


def _meta(document: Any, path: Path) -> Meta:
    def block(number: int) -> bytes | None:
        data = document.image_resources.get_data(number)
        return bytes(data) if isinstance(data, bytes | bytearray) and data else None

    resolution = document.image_resources.get_data(_RESOLUTION)
    across, down = (getattr(resolution, side, 0) / 65536 for side in ("horizontal", "vertical"))
    return Meta(
        exif=exif.strip_prefix(block(_EXIF)),
        icc_profile=block(_ICC),
        xmp=block(_XMP),
        dpi=(across, down) if across > 0 and down > 0 else None,
        bit_depth=document.depth,
        source=path.name,
    )


def _converter(profile: bytes | None, path: Path) -> Any:
    matrix = icc.parse(profile) if profile else None
    if profile and matrix is None:
        logger.warning("%s: its ICC profile cannot be applied; its colours are taken as sRGB", path)
    if matrix is None or matrix.is_srgb:
        return lambda pixels: pixels
    return lambda pixels: icc.apply_in_place(pixels, matrix.to_srgb)
