"""From the network's size to the picture's: guided enlargement of a correction, and overlapping tiles.

The networks change a picture mostly in ways that are smooth or follow its own edges. So the *correction* T - I found at
a smaller size is written there as A * I + B with smooth A and B (guided filter, He et al. 2010, one channel guiding
itself), and A and B are enlarged instead: the full-size picture keeps every detail it had.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 64  # strip height: the temporaries of a 24-megapixel picture are 10 MB then and stay in the cache


def guided_coefficients(guide: Tensor, correction: Tensor, radius: int = 4, eps: float = 1e-3) -> Tensor:
    """Fit correction ~ A * guide + B in windows of ``2 radius + 1`` pixels, every channel for itself.

    Args:
        guide: the picture at the network's size ``(B, C, h, w)`` in [0, 1].
        correction: what is to be added to it, same shape.
        radius: window radius in pixels of that size.
        eps: variance below which the guide counts as flat and A goes to 0.

    Returns:
        A and B side by side ``(B, 2C, h, w)``.
    """
    guide, correction = guide.float(), correction.float()
    mean_g, mean_c = _box(guide, radius), _box(correction, radius)
    covariance = _box(guide * correction, radius) - mean_g * mean_c
    variance = _box(guide * guide, radius) - mean_g * mean_g
    slope = covariance / (variance + eps)
    return _box(torch.cat([slope, mean_c - slope * mean_g], dim=1), radius)


def apply_coefficients(picture: Tensor, coefficients: Tensor, out: Tensor | None = None) -> Tensor:
    """Evaluate A * picture + B at full size, in strips of rows.

    Args:
        picture: ``(B, C, H, W)``.
        coefficients: ``(B, 2C, h, w)`` of `guided_coefficients`.
        out: where to write; a new tensor by default.

    Returns:
        The correction ``(B, C, H, W)``.
    """
    out = torch.empty_like(picture) if out is None else out
    for rows, strip in enlarge_strips(coefficients, picture.shape[-2:]):
        slope, offset = strip.chunk(2, dim=1)
        out[..., rows, :] = torch.addcmul(offset, slope, picture[..., rows, :])
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
        yield slice(top, bottom), torch.lerp(columns[..., below, :], columns[..., above, :], share)


def tiles(size: int, tile: int, overlap: int) -> list[int]:
    """Starts of tiles of ``tile`` pixels that cover ``size`` and overlap by at least ``overlap``."""
    if size <= tile:
        return [0]
    count = -(-(size - overlap) // (tile - overlap))
    return [round(index * (size - tile) / (count - 1)) for index in range(count)]


def run_tiled(
    network: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    picture: Tensor,
    condition: Tensor,
    tile: int,
    overlap: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run ``network`` tile by tile and blend with cosine windows that add up to one.

    Args:
        network: maps ``(B, 3, h, w)`` and its condition to two pictures of that size.
        picture: ``(B, 3, H, W)``.
        condition: ``(B, D, H, W)``, computed from the whole picture.
        tile: side in pixels.
        overlap: pixels shared by neighbours.
        progress: called with (done, total, label).
    """
    height, width = picture.shape[-2:]
    tops, lefts = tiles(height, tile, overlap), tiles(width, tile, overlap)
    over_y = _window_sum(tops, min(tile, height), height, overlap)
    over_x = _window_sum(lefts, min(tile, width), width, overlap)
    first, second = torch.zeros_like(picture), torch.zeros_like(picture)
    done = 0
    for top in tops:
        rows = slice(top, min(top + tile, height))
        share_y = _window(rows.stop - rows.start, overlap) / over_y[rows]
        for left in lefts:
            columns = slice(left, min(left + tile, width))
            share_x = _window(columns.stop - columns.start, overlap) / over_x[columns]
            share = (share_y[:, None] * share_x[None, :]).to(picture.device)
            one, two = network(picture[..., rows, columns], condition[..., rows, columns])
            first[..., rows, columns] += one * share
            second[..., rows, columns] += two * share
            done += 1
            if progress is not None:
                progress(done, len(tops) * len(lefts), "tiles")
    return first, second


def _window(length: int, overlap: int) -> Tensor:
    # Rises like half a cosine over the middle half of the overlap. The outer quarter, where a network meets the end of
    # its tile, is left to the neighbour. Never quite zero, so that the sum can be divided by at the picture's border.
    ramp = torch.arange(length, dtype=torch.float32) + 0.5
    edge = (torch.minimum(ramp, length - ramp) - overlap / 4) / max(overlap / 2, 1.0)
    return (0.5 - 0.5 * torch.cos(torch.pi * edge.clamp(0.0, 1.0))).clamp(min=1e-3)


def _window_sum(starts: list[int], length: int, size: int, overlap: int) -> Tensor:
    total = torch.zeros(size)
    for start in starts:
        total[start : start + length] += _window(length, overlap)
    return total


def _box(x: Tensor, radius: int) -> Tensor:
    # Averages only pixels that exist, so the border needs no invented ones.
    # First down, then across: 2 (2 radius + 1) sums per pixel in place of the window's square.
    size = 2 * radius + 1
    x = F.avg_pool2d(x, (size, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, size), 1, (0, radius), count_include_pad=False)
