"""Between the stack's float tensors and the integer arrays that codecs read and write."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.errors import InputError

logger = logging.getLogger(__name__)

Array = NDArray[Any]  # of uint8 or uint16
Convert = Callable[[Tensor], Tensor]
_STRIP = 1 << 20  # pixels converted at a time, so that a large picture needs no second float copy


def from_array(array: Array) -> Tensor:
    """Turn an integer picture into a tensor, in one pass.

    Args:
        array: ``(..., H, W, C)`` or, with one channel, ``(H, W)``; uint8 or uint16, either byte order.

    Returns:
        ``(..., C, H, W)`` float32 in [0, 1].

    Raises:
        InputError: the array has another dtype or shape.
    """
    levels = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}.get(array.dtype.newbyteorder("="))
    if levels is None or array.ndim < 2:
        raise InputError(f"picture must be (H, W, C) uint8 or uint16, found {array.shape} {array.dtype}")
    if array.ndim == 2:
        array = array[..., None]
    if not array.dtype.isnative or any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = array.astype(array.dtype.newbyteorder("="))  # what torch cannot take as it is; still the small type
    view = torch.from_numpy(array).movedim(-1, -3)  # (..., C, H, W)
    pixels = torch.empty(view.shape, dtype=torch.float32)
    return pixels.copy_(view).div_(levels)


def to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """Round ``(..., C, H, W)`` in [0, 1] to the nearest of 256 levels: ``(..., H, W, C)``.

    Values outside [0, 1] are clipped, and a warning says how many pixels that met.
    """
    return quantise(pixels, 8)


def to_uint16(pixels: Tensor) -> NDArray[np.uint16]:
    """Round ``(..., C, H, W)`` in [0, 1] to the nearest of 65536 levels: ``(..., H, W, C)``; else as `to_uint8`."""
    return quantise(pixels, 16)


def quantise(pixels: Tensor, bit_depth: int, convert: Convert | None = None) -> Array:
    """Round to 8 or 16 bit, passing each strip of rows through ``convert`` first.

    Args:
        pixels: ``(..., C, H, W)``.
        bit_depth: 8 or 16.
        convert: maps the colour rows ``(..., 3, h, W)`` of a strip, for example into another colour space. A fourth
            channel, alpha, does not go through it.

    Returns:
        ``(..., H, W, C)`` uint8 or uint16.
    """
    dtype, levels = (np.uint16, 65535) if bit_depth == 16 else (np.uint8, 255)
    *lead, channels, height, width = pixels.shape
    array = np.empty((*lead, height, width, channels), dtype)
    out = torch.from_numpy(array)
    rows = max(1, _STRIP // max(1, width * int(np.prod(lead, dtype=np.int64))))
    clipped = 0
    for top in range(0, height, rows):
        strip = pixels[..., top : top + rows, :].detach().cpu()
        if convert is not None:
            strip = torch.cat([convert(strip[..., :3, :, :]), strip[..., 3:, :, :]], dim=-3)
        scaled = strip * levels  # (..., C, h, W)
        if float(scaled.min()) < -0.5 or float(scaled.max()) > levels + 0.5:
            clipped += int(((scaled < -0.5) | (scaled > levels + 0.5)).any(dim=-3).sum())
        out[..., top : top + rows, :, :].copy_(scaled.round_().clamp_(0, levels).movedim(-3, -1))
    if clipped:
        logger.warning(
            "%d of %d pixels lay outside the colours that can be written and were clipped",
            clipped,
            array.size // channels,
        )
    return array
