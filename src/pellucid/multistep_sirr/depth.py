"""Where depth comes from: providers that turn a picture into inverse depth (Sec. 3; the paper uses a frozen MiDaS).

A provider sees whole pictures, never tiles, and works at a bounded size of its own, so that a photograph of
24 megapixels costs little more than a small one. Depth may have any scale: `RangedDepthMap` brings it to ranges.
"""

from typing import Protocol

import torch
from kornia.filters import gaussian_blur2d, guided_blur, laplacian
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import InputError

_CUE_SIDE = 512  # the cues are looked for at this size at most
_CUE_GRID = 64  # and measured on a grid of 64 to 127 cells along the longer side
_GREY = (0.299, 0.587, 0.114)


class DepthProvider(Protocol):
    """What every provider is: a callable with a name."""

    @property
    def name(self) -> str:
        """Name to report with a result and to write into its metadata."""
        ...

    @property
    def is_learned(self) -> bool:
        """True when trained weights made the depth."""
        ...

    def __call__(self, rgb01: Tensor) -> Tensor:
        """Estimate the depth of whole pictures.

        Args:
            rgb01: ``(B, 3, H, W)``, sRGB in [0, 1], any size.

        Returns:
            Inverse depth ``(B, 1, H, W)``, float32, larger = nearer, any scale; without gradient.

        Raises:
            InputError: the tensor has another shape.
        """
        ...


class NoDepth:
    """No depth at all: zeros, which put every pixel into the farthest range."""

    name = "none"
    is_learned = False

    def __call__(self, rgb01: Tensor) -> Tensor:
        """Return zeros ``(B, 1, H, W)`` for ``(B, 3, H, W)``."""
        _check(rgb01)
        return rgb01.new_zeros((rgb01.shape[0], 1, *rgb01.shape[-2:]), dtype=torch.float32)


class CueDepth:
    """Three cues that need no weights, then a guided filter (ours; the fallback when MiDaS is not at hand).

    The mean of three z-scores: (a) row, lower = nearer; (b) local contrast, the Laplacian's magnitude blurred at 1/64
    of the side; (c) no haze, the negative dark channel. It orders ground and sky, it does not measure depth: results
    say ``depth_source: cue``. The same picture gives the same map, and a batch gives what its pictures give alone.
    """

    name = "cue"
    is_learned = False

    def __call__(self, rgb01: Tensor) -> Tensor:
        """Return the cues of ``(B, 3, H, W)`` in [0, 1] as ``(B, 1, H, W)``, about -3 to 3; see `DepthProvider`."""
        _check(rgb01)
        height, width = rgb01.shape[-2:]
        # A variance in bfloat16 is noise, so autocast is shut out.
        with torch.no_grad(), torch.autocast(rgb01.device.type, enabled=False):
            depth = _cues(_shrink(rgb01.float(), _CUE_SIDE))
            if depth.shape[-2:] != (height, width):
                depth = F.interpolate(depth, size=(height, width), mode="bilinear", align_corners=False)
        return depth


def _cues(rgb: Tensor) -> Tensor:
    height, width = rgb.shape[-2:]
    step = max(1, max(height, width) // _CUE_GRID)
    grid = (-(-height // step), -(-width // step))
    grey = (rgb * rgb.new_tensor(_GREY)[:, None, None]).sum(dim=1, keepdim=True)  # (B, 1, H, W)

    row = torch.linspace(0, 1, grid[0], device=rgb.device)[:, None].expand(len(rgb), 1, *grid)
    edges = laplacian(grey, 3, border_type="replicate", normalized=True).abs_()
    # The grid has one cell for 1/64 to 1/127 of the side, so a sigma of 1/64 of the side is one to two cells.
    sigma = max(grid) / 64
    taps = 2 * int(3 * sigma + 0.5) + 1
    contrast = gaussian_blur2d(F.adaptive_avg_pool2d(edges, grid), taps, (sigma, sigma), border_type="replicate")
    dark = -F.adaptive_max_pool2d(-rgb.amin(dim=1, keepdim=True), grid)
    dark = -F.max_pool2d(-dark, 3, stride=1, padding=1)
    mean = (_standard(row) + _standard(contrast) + _standard(-dark)) / 3  # (B, 1, h, w)

    mean = F.interpolate(mean, size=(height, width), mode="bilinear", align_corners=False)
    radius = step * max(1, round(max(height, width) / (16 * step)))  # a multiple of the step keeps the window odd
    return guided_blur(
        grey, mean, 2 * radius + 1, 1e-3, border_type="replicate", subsample=step, separable=True
    )  # (B, 1, H, W)


def _standard(x: Tensor) -> Tensor:
    """Z-score of each map; a map without contrast becomes zeros."""
    std, mean = torch.std_mean(x, dim=(1, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (std + 1e-6)


def _shrink(rgb: Tensor, side: int) -> Tensor:
    height, width = rgb.shape[-2:]
    if max(height, width) <= side:
        return rgb
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(rgb, size=size, mode="bilinear", align_corners=False, antialias=True)


def _check(rgb01: Tensor) -> None:
    if rgb01.ndim != 4 or rgb01.shape[1] != 3 or rgb01.numel() == 0:
        raise InputError(f"a depth provider takes pictures of shape (B, 3, H, W), found {tuple(rgb01.shape)}")
