"""A guided filter (He et al. 2010) whose result is wanted at another size than it is found at.

What a network says at its own size is written there as A * guide + B with smooth A and B, and A and B are enlarged
instead of it: at full size the result follows the edges of the full-size guide.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 64  # strip height: the temporaries of a 24-megapixel picture are 10 MB then and stay in the cache


def guided_coefficients(guide: Tensor, signal: Tensor, radius: int = 4, eps: float = 1e-3) -> Tensor:
    """Fit signal ~ A * guide + B in windows of ``2 radius + 1`` pixels, every channel for itself.

    Args:
        guide: the picture at the network's size ``(B, C, h, w)`` in [0, 1]; or one channel ``(B, 1, h, w)``, which then
            guides all channels of the signal.
        signal: what the network says of it ``(B, C, h, w)``.
        radius: window radius in pixels of that size.
        eps: variance below which the guide counts as flat and A goes to 0.

    Returns:
        A and B side by side ``(B, 2C, h, w)``.
    """
    guide, signal = guide.float(), signal.float()
    mean_g, mean_s = box_mean(guide, radius), box_mean(signal, radius)
    covariance = box_mean(guide * signal, radius) - mean_g * mean_s
    variance = box_mean(guide * guide, radius) - mean_g * mean_g
    slope = covariance / (variance + eps)
    return box_mean(torch.cat([slope, mean_s - slope * mean_g], dim=1), radius)


def apply_coefficients(guide: Tensor, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
    """Evaluate A * guide + B at full size, in strips of rows.

    Args:
        guide: the full-size picture ``(B, C, H, W)``, or one channel ``(B, 1, H, W)``.
        coefficients: ``(B, 2C, h, w)`` of `guided_coefficients`.
        out: where to write; a new tensor by default.

    Returns:
        The signal ``(B, C, H, W)``.
    """
    size = guide.shape[-2:]
    if out is None:
        out = guide.new_empty(guide.shape[0], coefficients.shape[1] // 2, *size)
    for rows, strip in enlarge_strips(coefficients, size):
        slope, offset = strip.chunk(2, dim=1)
        out[..., rows, :] = torch.addcmul(offset, slope, guide[..., rows, :])
    return out


def enlarge_strips(small: Tensor, size: tuple[int, int] | torch.Size) -> Iterator[tuple[slice, Tensor]]:
    """Yield ``small`` bilinearly enlarged to ``size`` in strips, exactly as enlarging all of it at once would.

    Rows are sampled at half-pixel centres (``align_corners=False``).
    """
    height, width = size
    h = small.shape[-2]
    columns = F.interpolate(small, (h, width), mode="bilinear", align_corners=False)  # (B, C, h, W)
    for top in range(0, height, ROWS):
        bottom = min(top + ROWS, height)
        at = (torch.arange(top, bottom, device=small.device, dtype=torch.float32) + 0.5) * (h / height) - 0.5
        at = at.clamp(0, h - 1)
        below = at.floor().long()
        above = (below + 1).clamp(max=h - 1)
        share = (at - below)[:, None].to(small.dtype)
        yield slice(top, bottom), torch.lerp(columns.index_select(-2, below), columns.index_select(-2, above), share)


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over windows of ``2 radius + 1`` pixels: ``(B, C, H, W)``, the same shape."""
    # Averages only pixels that exist, so the border needs no invented ones.
    # First down, then across: 2 (2 radius + 1) sums per pixel in place of the window's square.
    size = 2 * radius + 1
    x = F.avg_pool2d(x, (size, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, size), 1, (0, radius), count_include_pad=False)
