"""Label maps as planes, one a part, and a linear layer over such planes that reads only what is set.

B masks, P parts, N pixels of a mask. A pixel belongs to one class, so the P planes of a mask together hold at most N
ones: summing those N rows of the weights is what multiplying by all P N numbers comes to.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import InputError


def shrink_labels(labels: Tensor, side: int) -> Tensor:
    """Label maps ``(B, H, W)`` at ``side`` by torch's nearest rule, which takes pixels 0, 2, 4, ... of twice the size.

    Raises:
        InputError: not a batch of label maps.
    """
    if labels.ndim != 3 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(f"labels: expected whole numbers (B, H, W), found {labels.dtype} {tuple(labels.shape)}")
    if _is_multiple(labels, side):
        return shrink_planes(labels[:, None], side)[:, 0]
    return shrink_planes(labels[:, None].to(torch.uint8), side)[:, 0]


def shrink_planes(planes: Tensor, side: int) -> Tensor:
    """Planes ``(B, P, H, W)`` at ``side`` by the same rule."""
    if _is_multiple(planes, side):  # picking pixels leaves no question of rounding, in an exported file neither
        return planes[..., :: planes.shape[-2] // side, :: planes.shape[-1] // side]
    return F.interpolate(planes, (side, side), mode="nearest")


def one_hot(labels: Tensor, parts: Sequence[int]) -> Tensor:
    """Planes of the parts ``(B, P, H, W)``, bool, true where the label ``(B, H, W)`` is the part's id."""
    ids = torch.tensor(parts, dtype=labels.dtype, device=labels.device)
    return labels[:, None] == ids[:, None, None]


class PlaneLinear(nn.Linear):
    """A linear layer over planes ``(B, P, N) -> (B, P, out)``, with a short way for label maps.

    The weight has the usual shape ``(out, N)`` but lies in memory with a pixel's ``out`` numbers side by side, so that
    the short way needs no copy of it.
    """

    def __init__(self, pixels: int, out: int) -> None:
        super().__init__(pixels, out)
        self.weight = nn.Parameter(self.weight.detach().t().contiguous().t())

    def of_labels(self, labels: Tensor, parts: Sequence[int]) -> Tensor:
        """The layer's answer to the planes of label maps ``(B, h, w)``: ``(B, P, out)``, the same within rounding."""
        if not self._takes_sums(labels):
            return self(one_hot(labels, parts).flatten(2).to(self.weight.dtype))
        batch = labels.shape[0]
        bags = batch * len(parts)
        # Which bag a label belongs to: its part of its mask; the last one is for what has no code.
        bag_of = torch.full((256,), -1, dtype=torch.long)
        bag_of[torch.tensor(parts)] = torch.arange(len(parts))
        bag = bag_of[labels.flatten(1).long().clamp(-1, 255)]  # (B, N)
        first = torch.arange(batch)[:, None] * len(parts)
        bag = torch.where(bag < 0, bags, bag + first).flatten()
        order = torch.argsort(bag, stable=True)
        counts = torch.bincount(bag, minlength=bags + 1)[:bags]
        ends = counts.cumsum(0)
        pixels = order[: int(ends[-1])] % labels[0].numel()
        sums = F.embedding_bag(pixels, self.weight.t(), ends - counts, mode="sum")  # (B P, out)
        return (sums + self.bias).unflatten(0, (batch, len(parts)))

    def _takes_sums(self, labels: Tensor) -> bool:
        return (
            labels.device.type == "cpu"
            and labels.dtype in (torch.uint8, torch.long)
            and self.weight.dtype == torch.float32
            and self.weight.t().is_contiguous()
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )


def _is_multiple(planes: Tensor, side: int) -> bool:
    return planes.shape[-2] % side == 0 and planes.shape[-1] % side == 0
