"""What an edit must not touch: pixels far from the edited parts, and classes that nobody asked for.

Both are needed because the decoder paints the whole mask again, and smooths it (spec of the room, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.semantic_vae.masks.classes import ClassSet


def allowed_classes(present: Tensor, classes: ClassSet) -> Tensor:
    """Presence of parts as a mask over all classes, the background always in it: ``(..., P) -> (..., C)`` bool."""
    allowed = torch.ones(*present.shape[:-1], len(classes.names), dtype=torch.bool, device=present.device)
    allowed[..., list(classes.parts)] = present
    return allowed


def stray_guard(logits: Tensor, allowed: Tensor) -> Tensor:
    """Forbid classes: ``(..., C, H, W)`` and ``(..., C)`` bool -> logits, -inf where not allowed.

    The paper's Fig. 4 shows such strays. When no class is allowed, nothing is forbidden: an argmax needs one.
    """
    forbidden = ~allowed & allowed.any(dim=-1, keepdim=True)
    return logits.masked_fill(forbidden[..., None, None], float("-inf"))


def edited_region(source: Tensor, edited: Tensor, parts: Iterable[int], radius: float = 12.0) -> Tensor:
    """Pixels within ``radius`` of where the parts were or are: label maps ``(..., H, W) -> (..., H, W)`` bool.

    Args:
        source, edited: before and after.
        parts: ids.
        radius: Euclidean, in pixels of these maps.
    """
    inside = torch.zeros(source.shape, dtype=torch.bool, device=source.device)
    for part in parts:
        inside |= (source == part) | (edited == part)
    return dilated(inside, radius)


def keep_unedited(source: Tensor, edited: Tensor, parts: Iterable[int], radius: float = 12.0) -> Tensor:
    """Copy from the source whatever lies farther than ``radius`` from the old and new regions of the edited parts.

    The network smooths everything, also what nobody edited.

    Args:
        source, edited: label maps ``(..., H, W)``.
        parts: ids of the edited parts.
        radius: in pixels of these maps; 12 at 256.

    Returns:
        Label maps ``(..., H, W)``.
    """
    return torch.where(edited_region(source, edited, parts, radius), edited, source)


def dilated(inside: Tensor, radius: float) -> Tensor:
    """Grow a region by a disc: ``(..., H, W)`` bool -> pixels at most ``radius`` away from one inside.

    One run of sums per row offset of the disc; exact, and without a distance transform.
    """
    height, width = inside.shape[-2:]
    grown = inside.clone()
    if radius <= 0:
        return grown
    sums = F.pad(inside.to(torch.int32).cumsum(dim=-1), (1, 0))  # (..., H, W + 1)
    columns = torch.arange(width, device=inside.device)
    reach = min(int(radius), height - 1)
    for offset in range(reach + 1):
        half = int(math.sqrt(radius * radius - offset * offset))
        right = (columns + half + 1).clamp(max=width)
        left = (columns - half).clamp(min=0)
        row_hit = sums[..., right] > sums[..., left]  # (..., H, W): something inside within half columns
        grown[..., offset:, :] |= row_hit[..., : height - offset, :]
        grown[..., : height - offset, :] |= row_hit[..., offset:, :]
    return grown
