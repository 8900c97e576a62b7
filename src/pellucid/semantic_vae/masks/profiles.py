"""Ends, places and outlines of regions: from counts along rows and columns, at fractions of a pixel."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_HULL_ANGLES = 64


def mean_position(profile: Tensor) -> Tensor:
    """Centre of mass of counts ``(N, L)``, in pixels from the border."""
    place = torch.arange(profile.shape[1], device=profile.device) + 0.5
    return (profile * place).sum(1) / profile.sum(1)


def position(profile: Tensor, share: float) -> Tensor:
    """Where a share of the counts ``(N, L)`` lies before: ``(N,)``, NaN without counts."""
    total = profile.sum(1)
    sums = profile.cumsum(1)
    wanted = total * share
    index = torch.searchsorted(sums.contiguous(), wanted[:, None])[:, 0].clamp(max=profile.shape[1] - 1)
    here = profile.gather(1, index[:, None])[:, 0]
    before = sums.gather(1, index[:, None])[:, 0] - here
    return torch.where(total > 0, index + (wanted - before) / here, torch.nan)


def ends(profile: Tensor, trim: float) -> tuple[Tensor, Tensor]:
    """Both ends of the counts ``(N, L)``: the places with ``trim`` beyond, stretched by what an even spread lacks."""
    low, high = position(profile, trim), position(profile, 1 - trim)
    stretch = (high - low) * trim / (1 - 2 * trim)
    return low - stretch, high + stretch


def window(low: Tensor, high: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
    return low + (high - low) * start, low + (high - low) * end


def cover(low: Tensor, high: Tensor, length: int) -> Tensor:
    """How much of each pixel lies between two places: ``(N, L)`` in [0, 1]; NaN where a place is."""
    pixel = torch.arange(length, device=low.device, dtype=torch.float32)
    shared = torch.minimum(pixel + 1, high[:, None]) - torch.maximum(pixel, low[:, None])
    return shared.clamp(0, 1)


def hull(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Convex hull of masks ``(N, H, W)`` as the interval of columns in each row, ``(N, H)`` twice.

    The hull is where no direction sees a point beyond the mask's farthest; 64 directions leave a disc 0.1 % too large.
    """
    _, height, width = mask.shape
    device = mask.device
    rows = torch.arange(height, device=device) + 0.5
    filled = mask.any(2)
    start = torch.where(filled, mask.byte().argmax(2).float(), torch.nan)
    end = torch.where(filled, width - mask.flip(2).byte().argmax(2).float(), torch.nan)
    angle = torch.arange(_HULL_ANGLES, device=device) * (2 * math.pi / _HULL_ANGLES)
    cos, sin = angle.cos(), angle.sin()
    cos = torch.where(cos.abs() < 1e-6, 0.0, cos)
    x = torch.where(cos > 0, end[..., None], start[..., None])  # (N, H, K)
    support = torch.nan_to_num(x * cos + rows[:, None] * sin, -math.inf).amax(1)  # (N, K)
    left_over = support[:, None] - rows[:, None] * sin  # (N, H, K), what a row leaves for x * cos
    bound = left_over / cos
    low = torch.where(cos < 0, bound, -math.inf).amax(2)
    high = torch.where(cos > 0, bound, math.inf).amin(2)
    beyond = ((cos == 0) & (left_over < -1e-3)).any(2)  # above the highest point or below the lowest
    low, high = low.masked_fill(beyond, math.inf), high.masked_fill(beyond, -math.inf)
    empty = ~filled.any(1, keepdim=True)
    return low.masked_fill(empty, math.inf), high.masked_fill(empty, -math.inf)


def blur(pictures: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``(N, 1, H, W)``; at the border the edge goes on."""
    reach = max(1, round(3 * sigma))
    place = torch.arange(-reach, reach + 1, device=pictures.device, dtype=torch.float32)
    kernel = torch.exp(-(place**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(pictures, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[:, :, None]), kernel[:, :, :, None])


def gradient(pictures: Tensor) -> Tensor:
    """Length of the gradient by central differences, ``(N, 1, H, W)``, zero at the border."""
    padded = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    across = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    return torch.hypot(across, down)
