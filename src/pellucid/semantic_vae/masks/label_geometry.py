"""Label maps at other sizes: the two nearest rules that must not be swapped, and squares (section 1.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError

Squaring = Literal["pad", "crop"]


def resize_labels(labels: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resize label maps by Pillow's NEAREST rule: output pixel i shows input pixel ``floor((i + 0.5) * scale)``.

    From 512 to 256 these are the odd rows and columns, as public 256-pixel copies of CelebAMask-HQ have them. The
    encoder's own step from 256 to 128 follows torch's rule, which takes the even ones; it is not this function.

    Args:
        labels: ``(..., H, W)`` of any integer type.
        size: one side for a square, or height and width.

    Returns:
        ``(..., height, width)`` of the same type.

    Raises:
        ConfigError: a side is below 1.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ConfigError(f"label map cannot be resized to {height}x{width}, expected at least 1x1")
    if labels.shape[-2:] == (height, width):
        return labels
    rows = _nearest(labels.shape[-2], height, labels.device)
    columns = _nearest(labels.shape[-1], width, labels.device)
    return labels[..., rows[:, None], columns]  # (..., height, width)


def _nearest(old: int, new: int, device: torch.device) -> Tensor:
    steps = np.full(new, old / new)
    steps[0] /= 2
    # Added up one by one as Pillow does: where (i + 0.5) * scale is a whole number, rounding decides alike then.
    return torch.from_numpy(steps.cumsum().astype(np.int64).clip(0, old - 1)).to(device)


@dataclass(frozen=True)
class Frame:
    """Where a square was taken from a label map, so that the answer comes back at the input's size.

    Attributes:
        height: of the input, in pixels.
        width: of the input, in pixels.
        side: of the square, in the input's pixels.
        top: row of the input at which the square begins; negative where it was padded.
        left: column of the input at which the square begins; negative where it was padded.
        source: the whole input, of which a crop keeps what lies outside the square; None when nothing does.
    """

    height: int
    width: int
    side: int
    top: int = 0
    left: int = 0
    source: Tensor | None = field(default=None, compare=False, repr=False)

    def restore(self, labels: Tensor) -> Tensor:
        """Put squares ``(..., S, S)`` of any side S back: ``(..., height, width)``, nearest; outside is the input's.

        Raises:
            InputError: the maps are not square.
        """
        if labels.shape[-1] != labels.shape[-2]:
            raise InputError(f"expected a square label map, found {labels.shape[-2]}x{labels.shape[-1]}")
        whole = resize_labels(labels, self.side)
        if self.source is None:
            top, left = -self.top, -self.left
            return whole[..., top : top + self.height, left : left + self.width]
        rows, columns = slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)
        base = self.source.to(labels).expand(*labels.shape[:-2], self.height, self.width).clone()
        base[..., rows, columns] = whole
        return base


def square(labels: Tensor, how: Squaring = "pad", fill: int | None = 0) -> tuple[Tensor, Frame]:
    """Make a label map square, in the way that is asked for; a square one comes back as it is.

    Args:
        labels: ``(H, W)``.
        how: ``"pad"`` adds to the shorter side, evenly; ``"crop"`` keeps the middle of the longer side.
        fill: label of what is added; None repeats the rim (for a set without background).

    Returns:
        The square ``(S, S)``, with S the longer side ("pad") or the shorter ("crop"), and the `Frame` that undoes it.

    Raises:
        InputError: the map is not ``(H, W)`` or is empty.
        ConfigError: ``how`` is another word.
    """
    if labels.ndim != 2 or 0 in labels.shape:
        raise InputError(f"label map must be (H, W), found {tuple(labels.shape)}")
    if how not in ("pad", "crop"):
        raise ConfigError(f"square: expected pad or crop, found {how!r}")
    height, width = labels.shape
    if height == width:
        return labels, Frame(height, width, height)
    if how == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return labels[top : top + side, left : left + side], Frame(height, width, side, top, left, labels)
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    if fill is None:
        rows = (torch.arange(side, device=labels.device) - top).clamp(0, height - 1)
        columns = (torch.arange(side, device=labels.device) - left).clamp(0, width - 1)
        padded = labels[rows[:, None], columns]
    else:
        padded = labels.new_full((side, side), fill)
        padded[top : top + height, left : left + width] = labels
    return padded, Frame(height, width, side, -top, -left)
