"""How well a label map is another: accuracy, and intersection over union in the four ways that papers may mean.

"mIoU" may count the background or not, and may be taken from the pixels of the whole set or from each picture alone;
the four differ by several points, so a figure needs its way. Confusion matrices are torchmetrics'.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import ConfigError, DependencyError, InputError


class SegmentationScores:
    """Collects pairs of label maps and tells how far they agree.

    Attributes:
        confusion: ``(C, C)`` int64 on the CPU, pixels of all pictures: a row a true class, a column a found one.
        pictures: how many were compared.

    Args:
        classes: C; ids are 0..C-1.
        background: id that the ways without background leave out of the mean; None if there is none.

    Raises:
        ConfigError: the background is no class.
        DependencyError: torchmetrics is not installed.
    """

    def __init__(self, classes: int, background: int | None = 0) -> None:
        if background is not None and not 0 <= background < classes:
            raise ConfigError(f"background must be an id in 0..{classes - 1}, found {background}")
        self._confusion_of = _confusion_matrix()
        self._kept = torch.tensor([label != background for label in range(classes)])
        self._of_pictures: list[tuple[float, float]] = []
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)

    @property
    def pictures(self) -> int:
        return len(self._of_pictures)

    def update(self, found: Tensor, true: Tensor) -> None:
        """Compare label maps ``(H, W)`` or ``(N, H, W)`` of whole numbers.

        Raises:
            InputError: the shapes differ, or an id is not of the classes.
        """
        if found.shape != true.shape or found.ndim not in (2, 3):
            raise InputError(f"label maps of one shape expected, found {tuple(found.shape)} and {tuple(true.shape)}")
        classes = len(self.confusion)
        found, true = (maps.long().reshape(-1, *maps.shape[-2:]) for maps in (found, true))
        for maps in (found, true):
            if maps.numel() and not 0 <= int(maps.min()) <= int(maps.max()) < classes:
                raise InputError(f"labels: expected ids 0..{classes - 1}, found {int(maps.min())}..{int(maps.max())}")
        for ours, theirs in zip(found, true, strict=True):
            matrix = self._confusion_of(ours, theirs, num_classes=classes, validate_args=False).cpu()
            self.confusion += matrix
            iou = iou_of(matrix)
            self._of_pictures.append((float(iou.nanmean()), float(iou[self._kept].nanmean())))

    def accuracy(self) -> float:
        """Share of pixels with their true class."""
        return float(self.confusion.diagonal().sum() / self.confusion.sum())

    def iou(self) -> Tensor:
        """IoU of each class over the pixels of all pictures, ``(C,)``; NaN for one neither true nor found."""
        return iou_of(self.confusion)

    def figures(self) -> dict[str, float]:
        """All figures, in [0, 1].

        Returns:
            ``accuracy``; ``miou``, all classes and the pixels of all pictures, which is the headline; ``miou_parts``
            without background; ``miou_image`` and ``miou_image_parts``, means over pictures of the mean over the
            classes that are true or found in that picture. A class that occurs nowhere counts in none of them.
        """
        iou, of_pictures = self.iou(), torch.tensor(self._of_pictures, dtype=torch.float64).reshape(-1, 2)
        each = of_pictures.nanmean(dim=0)  # a picture of background alone has no mean over the parts
        return {
            "accuracy": self.accuracy(),
            "miou": float(iou.nanmean()),
            "miou_parts": float(iou[self._kept].nanmean()),
            "miou_image": float(each[0]),
            "miou_image_parts": float(each[1]),
        }


def iou_of(confusion: Tensor) -> Tensor:
    """TP / (TP + FP + FN) of each class, ``(C,)`` float64, from a confusion matrix ``(C, C)``; NaN where none is."""
    confusion = confusion.double()
    hits = confusion.diagonal()
    return hits / (confusion.sum(dim=0) + confusion.sum(dim=1) - hits)  # 0 / 0 is NaN


def _confusion_matrix() -> Callable[..., Any]:
    try:
        from torchmetrics.functional.classification import multiclass_confusion_matrix
    except ImportError as error:
        raise DependencyError("scores of label maps need torchmetrics", "pip install pellucid[train]") from error
    return multiclass_confusion_matrix
