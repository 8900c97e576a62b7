"""Counts over label maps: what touches what, in how many pieces, how large and where; and how far two samples lie."""

import torch
from torch import Tensor


def touching(labels: Tensor, count: int) -> Tensor:
    """Pairs of neighbouring pixels of each two classes: label maps ``(N, H, W)`` -> ``(N, C, C)`` int64, symmetric."""
    found = torch.zeros(len(labels), count * count, dtype=torch.int64, device=labels.device)
    ids = labels.long()
    for one, other in ((ids[:, :, 1:], ids[:, :, :-1]), (ids[:, 1:], ids[:, :-1])):
        pairs = (one * count + other).flatten(1)
        found.scatter_add_(1, pairs, torch.ones_like(pairs))
    pairs = found.view(-1, count, count)
    pairs = pairs + pairs.transpose(1, 2)
    return pairs * ~torch.eye(count, dtype=torch.bool, device=labels.device)


def pieces(labels: Tensor, count: int, least: int = 1) -> Tensor:
    """Connected pieces of each class, by common sides: label maps ``(N, H, W)`` -> ``(N, C)`` int64.

    Args:
        labels: the masks.
        count: C.
        least: pixels that make a piece.
    """
    total, height, width = labels.shape
    device = labels.device
    same = labels.long()
    right, down = same[:, :, 1:] == same[:, :, :-1], same[:, 1:] == same[:, :-1]
    root = torch.arange(total * height * width, device=device).view(total, height, width)
    while True:
        # The smallest number among a pixel and its neighbours of the same class; then what that pixel points to.
        lower = root.clone()
        lower[:, :, 1:] = torch.where(right, torch.minimum(lower[:, :, 1:], root[:, :, :-1]), lower[:, :, 1:])
        lower[:, :, :-1] = torch.where(right, torch.minimum(lower[:, :, :-1], root[:, :, 1:]), lower[:, :, :-1])
        lower[:, 1:] = torch.where(down, torch.minimum(lower[:, 1:], root[:, :-1]), lower[:, 1:])
        lower[:, :-1] = torch.where(down, torch.minimum(lower[:, :-1], root[:, 1:]), lower[:, :-1])
        # The old root learns it too, and with it everything that points there.
        flat = root.flatten().clone().scatter_reduce_(0, root.flatten(), lower.flatten(), "amin")
        flat = torch.minimum(flat, lower.flatten())
        for _ in range(2):
            flat = flat[flat]
        if torch.equal(flat, root.flatten()):
            break
        root = flat.view_as(root)
    sizes = torch.bincount(root.flatten(), minlength=root.numel())
    heads = (sizes >= least).view(total, -1)
    found = torch.zeros(total, count, dtype=torch.int64, device=device)
    return found.scatter_add_(1, same.flatten(1), heads.long())


def present(labels: Tensor, count: int) -> Tensor:
    """Which classes a mask has: ``(N, H, W)`` -> ``(N, C)`` bool."""
    return shapes(labels, count)["area"] > 0


def shapes(labels: Tensor, count: int) -> dict[str, Tensor]:
    """Area and centroid of each class, ``(N, C)`` each, in parts of the picture; centroids NaN where it is absent."""
    total, height, width = labels.shape
    ids = labels.long().flatten(1)
    row = torch.arange(height, device=labels.device).repeat_interleave(width) + 0.5
    column = torch.arange(width, device=labels.device).repeat(height) + 0.5
    sums = [
        torch.zeros(total, count, device=labels.device).scatter_add_(1, ids, values.expand(total, -1).float())
        for values in (torch.ones_like(row), column, row)
    ]
    return {"area": sums[0] / (height * width), "x": sums[1] / sums[0] / width, "y": sums[2] / sums[0] / height}


def wasserstein(one: Tensor, other: Tensor) -> float:
    """Wasserstein-1 distance of two samples ``(n,)`` and ``(m,)`` of numbers; NaN when one is empty."""
    if not len(one) or not len(other):
        return float("nan")
    # The area between two quantile functions, which are steps at multiples of 1/n and 1/m.
    breaks = torch.cat([torch.arange(1, len(each) + 1, dtype=torch.float64) / len(each) for each in (one, other)])
    breaks = breaks.sort().values
    widths = breaks.diff(prepend=torch.zeros(1, dtype=torch.float64))
    middles = breaks - widths / 2
    values = [
        each.double().cpu().sort().values[(middles * len(each)).long().clamp(max=len(each) - 1)]
        for each in (one, other)
    ]
    return float(((values[0] - values[1]).abs() * widths).sum())
