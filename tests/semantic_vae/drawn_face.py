"""A face of boxes with all 19 classes, each about where it lies in a real mask."""

import torch
from torch import Tensor

# class -> (left, top, right, bottom) in 64ths of the side, painted in this order
_BOXES: tuple[tuple[int, tuple[int, int, int, int]], ...] = (
    (13, (12, 4, 52, 48)),
    (18, (6, 58, 58, 64)),
    (17, (24, 48, 40, 60)),
    (16, (26, 58, 38, 59)),
    (8, (46, 32, 50, 42)),
    (9, (14, 32, 18, 42)),
    (1, (18, 14, 46, 56)),
    (15, (47, 42, 49, 44)),
    (14, (14, 0, 50, 7)),
    (6, (36, 25, 44, 27)),
    (7, (20, 25, 28, 27)),
    (3, (19, 28, 45, 34)),
    (4, (37, 30, 42, 32)),
    (5, (22, 30, 27, 32)),
    (2, (29, 30, 35, 42)),
    (11, (27, 45, 37, 47)),
    (10, (28, 47, 36, 48)),
    (12, (27, 48, 37, 51)),
)


def drawn_face(side: int = 64) -> Tensor:
    """``(side, side)`` uint8, ids of CelebAMask-HQ."""
    labels = torch.zeros(side, side, dtype=torch.uint8)
    for part, box in _BOXES:
        left, top, right, bottom = (value * side // 64 for value in box)
        labels[top:bottom, left:right] = part
    return labels
