"""From the network's size to the picture's: guided enlargement of a correction, and overlapping tiles.

The networks change a picture mostly in ways that are smooth or follow its own edges. So the *correction* T - I found at
a smaller size is written there as A * I + B with smooth A and B (guided filter, He et al. 2010, one channel guiding
itself), and A and B are enlarged instead: the full-size picture keeps every detail it had.
"""

from collections.abc import Callable

import torch
from torch import Tensor


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
