"""Where depth comes from: providers that turn a picture into inverse depth (Sec. 3; the paper uses a frozen MiDaS).

A provider sees whole pictures, never tiles, and works at a bounded size of its own, so that a photograph of
24 megapixels costs little more than a small one. Depth may have any scale: `RangedDepthMap` brings it to ranges.
"""

from pathlib import Path
from typing import Literal, Protocol

import torch
from kornia.filters import gaussian_blur2d, guided_blur, laplacian
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError
from pellucid.hub.convert import load_foreign
from pellucid.hub.pretrained import load_state
from pellucid.multistep_sirr.cache import require_weights
from pellucid.multistep_sirr.midas import MidasSmall, postprocess, preprocess

Kind = Literal["inverse", "metric"]
PROVIDERS = ("midas_small", "transformers", "file", "cue", "none")
MIDAS_FILES = ("midas_v21_small_256.pt", "midas_v21_small*.pt", "midas_v21_small*.safetensors")

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


def check_pictures(rgb01: Tensor) -> None:
    """Refuse everything but ``(B, 3, H, W)``.

    Raises:
        InputError: the tensor has another shape or is empty.
    """
    if rgb01.ndim != 4 or rgb01.shape[1] != 3 or rgb01.numel() == 0:
        raise InputError(f"a depth provider takes pictures of shape (B, 3, H, W), found {tuple(rgb01.shape)}")


def follow(model: nn.Module, rgb01: Tensor) -> None:
    """Move a network to where the pictures are, once."""
    if next(model.parameters()).device != rgb01.device:
        model.to(rgb01.device)


class NoDepth:
    """No depth at all: zeros, which put every pixel into the farthest range."""

    name = "none"
    is_learned = False

    def __call__(self, rgb01: Tensor) -> Tensor:
        """Return zeros ``(B, 1, H, W)`` for ``(B, 3, H, W)``."""
        check_pictures(rgb01)
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
        check_pictures(rgb01)
        height, width = rgb01.shape[-2:]
        # A variance in bfloat16 is noise, so autocast is shut out.
        with torch.no_grad(), torch.autocast(rgb01.device.type, enabled=False):
            depth = _cues(_shrink(rgb01.float(), _CUE_SIDE))
            if depth.shape[-2:] != (height, width):
                depth = F.interpolate(depth, size=(height, width), mode="bilinear", align_corners=False)
        return depth


class MidasDepth:
    """MiDaS small, frozen: the provider the paper names (Sec. 3).

    Args:
        model: the network with its weights; it follows the pictures to their device.
    """

    name = "midas_small"
    is_learned = True

    def __init__(self, model: MidasSmall) -> None:
        self.model = model.eval().requires_grad_(False)
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @classmethod
    def from_file(cls, weights: str | Path | None = None) -> "MidasDepth":
        """Load the published ``midas_v21_small_256.pt``, from a path or from the cache folder; never downloaded.

        Raises:
            WeightsError: the file is missing, damaged or of another network.
        """
        model = MidasSmall()
        load_state(model, load_foreign(require_weights("MiDaS small", weights, MIDAS_FILES)))
        return cls(model)

    def __call__(self, rgb01: Tensor) -> Tensor:
        """Estimate the depth of ``(B, 3, H, W)`` at a longer side of 256, as ``(B, 1, H, W)``; see `DepthProvider`."""
        check_pictures(rgb01)
        follow(self.model, rgb01)
        with torch.no_grad(), torch.autocast(rgb01.device.type, enabled=False):
            small = preprocess(rgb01).contiguous(memory_format=torch.channels_last)
            return postprocess(self.model(small), (rgb01.shape[-2], rgb01.shape[-1]))


def make_provider(
    name: str,
    *,
    weights: str | Path | None = None,
    path: str | Path | None = None,
    kind: Kind | None = None,
) -> DepthProvider:
    """Make a depth provider from its name.

    Args:
        name: one of `PROVIDERS`.
        weights: file of MiDaS's weights (None: the cache folder), or the folder of a transformers network.
        path: the user's depth map, for ``"file"``.
        kind: ``"inverse"`` or ``"metric"``, for ``"file"`` (None: inverse) and ``"transformers"`` (None: ask it).

    Raises:
        ConfigError: an unknown name, or something that the named provider needs was not given.
        WeightsError: the weights are missing or do not fit.
        DependencyError: a package that the provider needs is not installed.
        InputError: the depth map cannot be read.
    """
    if name == "none":
        return NoDepth()
    if name == "cue":
        return CueDepth()
    if name == "midas_small":
        return MidasDepth.from_file(weights)
    if name == "transformers":
        if weights is None:
            raise ConfigError("depth provider 'transformers' needs the folder of a network", "give --depth-weights")
        from pellucid.multistep_sirr.depth_transformers import TransformersDepth

        return TransformersDepth(weights, kind)
    if name == "file":
        if path is None:
            raise ConfigError("depth provider 'file' needs a depth map", "give --depth PATH")
        from pellucid.multistep_sirr.depth_file import FileDepth

        return FileDepth(path, kind or "inverse")
    raise ConfigError(f"depth provider {name!r} is not known", f"use {', '.join(PROVIDERS)}")


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
