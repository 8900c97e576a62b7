"""Ranged depth map: every pixel is assigned one of K ranges of depth (Sec. 3, Fig. 1d).

The paper says that a pixel is "mapped to a previously constructed range of pixels" and that K = 4 is best; it gives no
formula. The definition here is ours, and each choice in it is an option:

1. d is inverse depth (larger = nearer), lo and hi its extremes over one picture: not over the batch, not over a tile.
2. ``"uniform"``: index = min(floor(K (d - lo) / (hi - lo)), K - 1); ``"quantile"``: as many pixels in each range.
3. ``"scalar"``: index / (K - 1); ``"onehot"``: K channels; ``"continuous"``: (d - lo) / (hi - lo), Table 2's
   "depth map".
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError

Mode = Literal["uniform", "quantile"]
Encoding = Literal["scalar", "onehot", "continuous"]

_FLAT = 1e-8  # a depth that varies by less than this has one range
_ROBUST = (0.01, 0.99)


@dataclass(frozen=True)
class RangedDepthMap:
    """Turn inverse depth into depth ranges; nothing in it is trained and no gradient flows through it.

    Attributes:
        ranges: K, at least 2.
        mode: where the ranges are cut.
        encoding: how the range of a pixel is shown to the networks.
        robust: take the 1st and 99th percentile for lo and hi, so that a few wild pixels do not use up the ranges.

    Raises:
        ConfigError: fewer than 2 ranges, or an unknown mode or encoding.
    """

    ranges: int = 4
    mode: Mode = "uniform"
    encoding: Encoding = "scalar"
    robust: bool = False

    def __post_init__(self) -> None:
        if self.ranges < 2:
            raise ConfigError(f"ranged depth needs at least 2 ranges, found {self.ranges}", "4 is the paper's choice")
        for what, value, known in (
            ("mode", self.mode, get_args(Mode)),
            ("encoding", self.encoding, get_args(Encoding)),
        ):
            if value not in known:
                raise ConfigError(f"ranged depth {what} {value!r} is not known", f"use {', '.join(known)}")

    @property
    def channels(self) -> int:
        """Channels of the encoded map: K for ``"onehot"``, else 1."""
        return self.ranges if self.encoding == "onehot" else 1

    def __call__(self, depth: Tensor) -> Tensor:
        """Encode the depth of whole pictures; crops and tiles are cut from the result, never made on their own.

        Args:
            depth: inverse depth ``(B, 1, H, W)``, larger = nearer, any scale.

        Returns:
            float32 ``(B, channels, H, W)`` in [0, 1]; 0 = farthest.

        Raises:
            InputError: the tensor has another shape.
        """
        with torch.no_grad():
            if self.encoding == "continuous":
                depth, low, high = self._bounded(depth)
                return ((depth - low) / _span(low, high)).clamp_(0, 1)
            index = self.indices(depth)
            if self.encoding == "scalar":
                return index.float().div_(self.ranges - 1)
            return F.one_hot(index[:, 0], self.ranges).permute(0, 3, 1, 2).float()  # (B, K, H, W)

    def indices(self, depth: Tensor) -> Tensor:
        """Return the range of each pixel, int64 ``(B, 1, H, W)``: 0 = farthest, K - 1 = nearest.

        Raises:
            InputError: the tensor has another shape than ``(B, 1, H, W)``.
        """
        with torch.no_grad():
            depth, low, high = self._bounded(depth)
            if self.mode == "uniform":
                # The product first: it is exact for small integers, so a value on a cut falls into the upper range.
                index = ((depth - low) * self.ranges / _span(low, high)).floor_().clamp_(0, self.ranges - 1).long()
            else:
                flat = depth.flatten(1)  # (B, H * W)
                edges = _quantiles(flat, [i / self.ranges for i in range(1, self.ranges)])  # (B, K - 1)
                index = torch.searchsorted(edges, flat, right=True).reshape(depth.shape)
            return index.masked_fill_(high - low <= _FLAT, 0)

    def _bounded(self, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return float32 depth with lo and hi of each picture, the latter two ``(B, 1, 1, 1)``."""
        if depth.ndim != 4 or depth.shape[1] != 1 or depth.numel() == 0:
            raise InputError(f"depth must have shape (B, 1, H, W), found {tuple(depth.shape)}")
        depth = depth.detach().float()
        flat = depth.flatten(1)
        if self.robust:
            low, high = _quantiles(flat, _ROBUST).unbind(1)
        else:
            low, high = torch.aminmax(flat, dim=1)
        low, high = low.reshape(-1, 1, 1, 1), high.reshape(-1, 1, 1, 1)
        return (depth.clamp(low, high) if self.robust else depth), low, high


def _span(low: Tensor, high: Tensor) -> Tensor:
    # A flat picture is divided by infinity, which puts it into range 0 without a special case.
    return torch.where(high - low > _FLAT, high - low, torch.inf)


def _quantiles(flat: Tensor, shares: list[float] | tuple[float, ...]) -> Tensor:
    """Quantiles ``(B, len(shares))`` of ``(B, N)`` with linear interpolation.

    torch.quantile does the same but refuses more than 16 million values, which a photograph of 24 megapixels has.
    """
    ordered = flat.sort(dim=1).values
    place = torch.tensor(shares, dtype=torch.float64, device="cpu") * (flat.shape[1] - 1)
    below = place.floor().long()
    above = (below + 1).clamp_(max=flat.shape[1] - 1)
    part = (place - below).to(flat.device, flat.dtype)
    lower, upper = ordered[:, below.to(flat.device)], ordered[:, above.to(flat.device)]
    return (lower + (upper - lower) * part).contiguous()
