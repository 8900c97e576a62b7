"""Still pictures: PNG, JPEG, WebP, TIFF, BMP and single-frame GIF as stacks, and back."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import FormatError, InputError
from pellucid.io.arrays import from_array, quantise, to_uint8, to_uint16
from pellucid.io.decode import MAX_PIXELS, convert, decode, open_image
from pellucid.io.decode import count_frames as _count_frames
from pellucid.io.encode import encode_still
from pellucid.io.files import atomic_path, check_output, write_error
from pellucid.io.formats import find_format
from pellucid.layers.stack import Layer, LayerStack, Meta

__all__ = [
    "MAX_PIXELS",
    "as_stack",
    "atomic_path",
    "check_output",
    "count_frames",
    "decode_still",
    "encode_still",
    "from_array",
    "load_image",
    "quantise",
    "save_image",
    "to_uint8",
    "to_uint16",
    "write_error",
]

logger = logging.getLogger(__name__)

_RANGE_SLACK = 1e-3  # by which floats may miss [0, 1], as those from a resize or a network do


def load_image(source: str | Path | BinaryIO, *, max_pixels: int = MAX_PIXELS) -> LayerStack:
    """Read a still picture as a stack of one layer, ``"image"``.

    It is turned upright after its EXIF orientation. Its colours become sRGB: a profile with a matrix and curves is
    applied in float, so that colours outside sRGB lie outside [0, 1] and come back when the stack is saved; other
    profiles go through littlecms, with a log line. 16 bits per channel and alpha are kept; grey becomes RGB.

    Args:
        source: a file name, ``"-"`` for stdin, or a file open for reading bytes.
        max_pixels: larger pictures are refused from their header.

    Returns:
        A stack whose `Meta` holds EXIF (upright), ICC, XMP, resolution, bit depth and the file's name.

    Raises:
        InputError: there is no such file, or it is empty, damaged, no picture, too large or animated.
    """
    data, name = _read(source)
    pixels, alpha, meta = decode(data, name, max_pixels)
    del data
    return LayerStack((Layer("image", pixels, alpha),), meta=replace(meta, source=Path(name).name))


def decode_still(
    file: BinaryIO, name: str = "picture", *, max_pixels: int = MAX_PIXELS
) -> tuple[Tensor, Tensor | None, Meta]:
    """Read a still picture from an open file: pixels ``(3, H, W)``, alpha ``(1, H, W)`` or None, and `Meta`.

    Raises:
        InputError: as `load_image`.
    """
    return decode(file.read(), name, max_pixels)


def count_frames(source: str | Path) -> int:
    """Count the frames of a picture file from its headers; the pages of a TIFF are not frames.

    Raises:
        InputError: as `load_image`.
    """
    data, name = _read(source)
    image = open_image(data, name)
    return 1 if image.format == "TIFF" else _count_frames(image, name)


def _read(source: str | Path | BinaryIO) -> tuple[bytes, str]:
    if isinstance(source, str | Path):
        name = str(source)
        if name == "-":
            return sys.stdin.buffer.read(), "stdin"
        try:
            return Path(source).read_bytes(), name
        except FileNotFoundError as error:
            raise InputError(f"{name}: no such file") from error
        except IsADirectoryError as error:
            raise InputError(f"{name}: is a folder, expected a picture") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return source.read(), str(getattr(source, "name", "picture"))


def save_image(
    stack: LayerStack,
    path: str | Path,
    *,
    overwrite: bool = False,
    background: Tensor | Sequence[float] | None = None,
    quality: int = 95,
    format: str | None = None,
    strip_metadata: bool = False,
    bit_depth: int | None = None,
    **options: Any,
) -> Path:
    """Write what the stack shows as one PNG, JPEG, WebP or TIFF.

    Args:
        stack: a still; one visible layer alone is written as it is, also the colour below its transparent pixels.
        path: a file name whose suffix tells the format, or ``"-"`` for stdout with ``format``.
        overwrite: whether an existing file may be replaced.
        background: opaque sRGB colour ``(3,)`` or picture ``(3, H, W)`` in [0, 1] to lay below; alpha is gone then.
        quality: see `encode_still`, like the rest.
        format: a suffix without its dot, which counts instead of the path's.
        strip_metadata: leave out EXIF, XMP and resolution.
        bit_depth: 8 or 16 bits per channel; None keeps the source's where the format can.
        **options: of the format.

    Returns:
        The path.

    Raises:
        FormatError: the format does not hold alpha, 16 bits or time; the hint lists those that do.
        InputError: the file exists, its folder does not, or it cannot be written.
        ConfigError: an option is unknown or out of range.
    """
    row = find_format(path, time=stack.fps is not None, format=format)
    if stack.fps is not None:
        raise FormatError(f"{path}: {row.name} is written by save_video", "call pellucid.io.save")
    to_stdout = str(path) == "-"
    if not to_stdout:
        check_output(path, overwrite)  # before the work
    pixels = _shown(stack, background)
    if pixels.shape[0] == 4 and not row.alpha and bool((pixels[3] == 1).all()):
        pixels = pixels[:3]  # nothing shows through, so nothing is lost
    arguments: dict[str, Any] = {
        "format": row.suffixes[0][1:],
        "quality": quality,
        "strip_metadata": strip_metadata,
        "bit_depth": bit_depth,
        "name": "stdout" if to_stdout else str(path),
        **options,
    }
    if to_stdout:
        buffer = BytesIO()  # whole or not at all: what reads the pipe gets no broken picture
        encode_still(pixels, stack.meta, buffer, **arguments)
        sys.stdout.buffer.write(buffer.getbuffer())
        sys.stdout.buffer.flush()
        return Path(path)
    with atomic_path(path, overwrite) as temporary, temporary.open("wb") as file:
        encode_still(pixels, stack.meta, file, **arguments)
    return Path(path)


def _shown(stack: LayerStack, background: Tensor | Sequence[float] | None) -> Tensor:
    shown = [layer for layer in stack.layers if layer.visible]
    if background is not None:
        return stack.composite(torch.as_tensor(background, dtype=torch.float32))
    if len(shown) == 1 and shown[0].opacity == 1.0:
        return shown[0].rgba
    return stack.composite()


def as_stack(image: str | Path | BinaryIO | Image.Image | np.ndarray[Any, Any] | Tensor | LayerStack) -> LayerStack:
    """Take any way to hand over a still picture to a stack.

    Args:
        image: a file name, an open file, a Pillow picture, a numpy array ``(H, W)`` or ``(H, W, 1|2|3|4)`` of uint8,
            uint16 or floats in [0, 1], a tensor ``(1|2|3|4, H, W)`` of uint8 or floats in [0, 1], or a stack, which is
            returned as it is. With 2 or 4 channels the last one is alpha. Arrays and tensors are sRGB.

    Returns:
        A stack whose layer is called ``"image"``, on the CPU.

    Raises:
        InputError: the shape, type or range is another, or there are NaN or infinite values.
    """
    if isinstance(image, LayerStack):
        return image
    if isinstance(image, Image.Image):
        pixels, alpha, meta = convert(image, "picture")
        return LayerStack((Layer("image", pixels, alpha),), meta=meta)
    if isinstance(image, np.ndarray):
        return _from_numpy(image)
    if isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, str | Path) or hasattr(image, "read"):
        return load_image(image)
    expected = "a path, a Pillow picture, a numpy array, a tensor or a LayerStack"
    raise InputError(f"picture must be {expected}, found {type(image).__name__}")


def _from_numpy(array: np.ndarray[Any, Any]) -> LayerStack:
    shaped = array[..., None] if array.ndim == 2 else array
    if shaped.ndim != 3 or shaped.shape[-1] not in (1, 2, 3, 4) or 0 in shaped.shape:
        raise InputError(f"array must be (H, W) or (H, W, 1|2|3|4), found {array.shape}")
    if shaped.dtype.kind == "f":
        planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(shaped, -1, 0), dtype=np.float32))  # (C, H, W)
        return _stack(_in_range(planes), Meta())
    if shaped.dtype.kind == "u" and shaped.dtype.itemsize in (1, 2):
        return _stack(from_array(shaped), Meta(bit_depth=8 * shaped.dtype.itemsize))
    raise InputError(f"array must be uint8, uint16 or float, found {array.dtype}")


def _from_tensor(tensor: Tensor) -> LayerStack:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 2, 3, 4) or 0 in tensor.shape:
        raise InputError(f"tensor must be (1|2|3|4, H, W), found {tuple(tensor.shape)}")
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.uint8:
        return _stack(tensor.to(torch.float32).div_(255), Meta())
    if not tensor.is_floating_point():
        raise InputError(f"tensor must be uint8 or float, found {tensor.dtype}")
    return _stack(_in_range(tensor.to(torch.float32)), Meta())


def _in_range(planes: Tensor) -> Tensor:
    low, high = float(planes.min()), float(planes.max())
    if not bool(torch.isfinite(planes).all()):
        raise InputError("picture has NaN or infinite values, expected floats in [0, 1]")
    if low < -_RANGE_SLACK or high > 1 + _RANGE_SLACK:
        hint = "divide by 255" if low >= 0 and high <= 255 else "scale it to [0, 1]"
        raise InputError(f"picture must have floats in [0, 1], found {low:g} to {high:g}", hint)
    if low < 0 or high > 1:
        logger.info("values from %g to %g were clipped to [0, 1]", low, high)
        return planes.clamp(0, 1)
    return planes


def _stack(planes: Tensor, meta: Meta) -> LayerStack:
    channels = planes.shape[0]
    colours = channels - (channels in (2, 4))
    alpha = planes[colours:] if colours < channels else None
    pixels = planes[:colours].expand(3, -1, -1) if colours == 1 else planes[:colours]
    return LayerStack((Layer("image", pixels, alpha),), meta=meta)
