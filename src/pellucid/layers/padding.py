"""Colour for pixels that nobody sees: smooth, and continuing what lies beside them.

Colour under alpha 0 is arbitrary, and mostly black. A network, a codec with subsampled chroma or a resizer smears it
into the visible edge. So it is filled first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import InputError

_SHRINK = 1.2  # of each level of the pyramid to the next
_EMPTY = 1e-8  # sum of alpha below which a picture has no colour at all


def pad_rgb(rgba: Tensor) -> Tensor:
    """Fill what is invisible with smooth colour, as LayerDiffuse does: an alpha-weighted pyramid.

    Every level holds premultiplied colour and alpha, shrunk by 1/1.2 from the one before by area, until the short side
    is 1. From there up, the colour so far is enlarged and shows through where a level is not opaque. Opaque pixels keep
    their colour; half-transparent ones take up their neighbours' in proportion. `fill_invisible` touches neither.

    Args:
        rgba: ``(4, H, W)`` or ``(N, 4, H, W)``, straight alpha, in [0, 1].

    Returns:
        Colour ``(3, H, W)`` or ``(N, 3, H, W)`` float32; zeros for a picture that is all transparent.

    Raises:
        InputError: the shape is another.
    """
    pictures = _pictures(rgba).float()
    alpha = pictures[:, 3:]
    level = torch.cat([pictures[:, :3] * alpha, alpha], dim=1)  # (N, 4, H, W), premultiplied
    pyramid = [level]
    while min(level.shape[-2:]) > 1:
        height, width = (int(side / _SHRINK) for side in level.shape[-2:])
        level = _shrink(_shrink(level, height, -2), width, -1)
        pyramid.append(level)
    total = level.sum(dim=(2, 3), keepdim=True)  # (N, 4, 1, 1)
    colour = total[:, :3] / total[:, 3:].clamp(min=_EMPTY)
    for level in reversed(pyramid):
        colour = F.interpolate(colour, level.shape[-2:], mode="bilinear", align_corners=False)
        colour = torch.addcmul(level[:, :3], colour, 1.0 - level[:, 3:])
    return colour if rgba.ndim == 4 else colour[0]


def fill_invisible(rgba: Tensor) -> Tensor:
    """Give pixels of alpha 0 the colour of `pad_rgb` and leave all others exactly as they are.

    Args:
        rgba: ``(4, H, W)`` or ``(N, 4, H, W)``, straight alpha, in [0, 1].

    Returns:
        The same shape and alpha, float32.

    Raises:
        InputError: the shape is another.
    """
    colour, alpha = rgba[..., :3, :, :].float(), rgba[..., 3:, :, :].float()
    return torch.cat([torch.where(alpha > 0, colour, pad_rgb(rgba)), alpha], dim=-3)


def _pictures(rgba: Tensor) -> Tensor:
    if rgba.ndim not in (3, 4) or rgba.shape[-3] != 4 or not rgba.is_floating_point() or min(rgba.shape[-2:]) < 1:
        raise InputError(
            f"colour is padded in floats of shape (4, H, W) or (N, 4, H, W), found {tuple(rgba.shape)} {rgba.dtype}"
        )
    return rgba if rgba.ndim == 4 else rgba[None]


def _shrink(level: Tensor, length: int, dim: int) -> Tensor:
    """Shrink one axis to ``length`` by area: each new pixel is the mean of what it covers, parts of pixels in part.

    `torch.nn.functional`'s "area" covers whole pixels only. Here a new pixel covers three old ones at most, so three
    gathers do what a matrix product would need a whole row for.
    """
    old = level.shape[dim]
    step = old / length
    starts = torch.arange(length, dtype=torch.float64) * step
    ends = starts + step
    first = starts.long()
    # Of the picture's own layout along the axis, to broadcast over the others.
    shape = (length, 1) if dim == -2 else (length,)
    taps = int((ends - 1e-9).floor().long().sub(first).max()) + 1
    total: Tensor | None = None
    for tap in range(taps):
        pixel = first + tap
        covered = torch.minimum(ends, pixel + 1.0) - torch.maximum(starts, pixel.double())
        weight = (covered.clamp(min=0.0) / step).to(level).reshape(shape)
        part = level.index_select(dim, pixel.clamp(max=old - 1).to(level.device)) * weight
        total = part if total is None else total.add_(part)
    assert total is not None
    return total
