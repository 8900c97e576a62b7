"""What layered files of other programs need to become a stack: layers put on one canvas, names made to differ."""

import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def place(
    pixels: Tensor, alpha: Tensor | None, offset: tuple[int, int], size: tuple[int, int], name: str
) -> tuple[Tensor, Tensor | None]:
    """Put a layer of any size on the canvas; what lies outside the canvas is cut off, with a log line.

    Args:
        pixels: ``(3, h, w)``.
        alpha: ``(1, h, w)`` or None.
        offset: of the layer's left and top edge, in pixels, possibly negative.
        size: width and height of the canvas.
        name: what the log calls the layer.

    Returns:
        Colour ``(3, H, W)`` and alpha ``(1, H, W)``; alpha is None only when the layer is opaque and covers everything.
    """
    (left, top), (width, height) = offset, size
    layer_height, layer_width = pixels.shape[-2:]
    if (left, top, layer_width, layer_height) == (0, 0, width, height):
        return pixels, alpha
    if left < 0 or top < 0 or left + layer_width > width or top + layer_height > height:
        found = f"{layer_width}x{layer_height} at {left}, {top}"
        logger.warning("layer %r (%s) reaches beyond the canvas of %dx%d and is cut there", name, found, width, height)
    x0, x1 = max(left, 0), min(left + layer_width, width)
    y0, y1 = max(top, 0), min(top + layer_height, height)
    colour, coverage = torch.zeros(3, height, width), torch.zeros(1, height, width)
    if x0 < x1 and y0 < y1:
        rows, columns = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        colour[:, y0:y1, x0:x1] = pixels[:, rows, columns]
        coverage[:, y0:y1, x0:x1] = 1 if alpha is None else alpha[:, rows, columns]
    if alpha is None and (x0, y0, x1, y1) == (0, 0, width, height):
        return colour, None
    return colour, coverage


def differing(names: list[str]) -> list[str]:
    """Number the names that occur before: ``["a", "a", ""]`` becomes ``["a", "a 2", "layer"]``, with a log line."""
    found: list[str] = []
    for name in names:
        base = name or "layer"
        fresh, count = base, 1
        while fresh in found or (fresh != name and fresh in names):
            count += 1
            fresh = f"{base} {count}"
        if fresh != name:
            logger.info(
                "a second layer %r is called %r" if name else "a layer without name (%r) is called %r", name, fresh
            )
        found.append(fresh)
    return found
