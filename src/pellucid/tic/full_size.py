"""From the network's 256x256 ab to a coloured picture of any size, strip by strip.

The network's ab is enlarged bilinearly, and what L gained by being larger is added with the slope that ab has on L
nearby (guided filter): ab = ab_small + A * (L - L_small). So edges of colour become as sharp as those of L, nothing the
network said is smoothed away, at its own size its ab arrives as it is, and L is the original's at every pixel.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pellucid.nn.guided import enlarge_strips, guided_coefficients
from pellucid.tic.lab import Gamut, rgb_to_lab, to_gamut
from pellucid.tic.regions import weight

RADIUS = 2  # of the guided filter, in pixels of the network's size
EPS = 3e-3  # variance of L / 100 below which L says nothing about colour


def ab_coefficients(small_L: Tensor, ab: Tensor) -> Tensor:
    """Write ab as A * L / 100 + B at the network's size: ``(1, 1, h, w)``, ``(B, 2, h, w) -> (B, 4, h, w)``."""
    guide = small_L / 100.0
    slope, _ = guided_coefficients(guide, ab, radius=RADIUS, eps=EPS).chunk(2, dim=1)
    return torch.cat([slope, ab - slope * guide], dim=1)


def paint(
    L: Tensor,
    base: Tensor,
    over: Sequence[tuple[Tensor, Tensor]] = (),
    *,
    gamut: Gamut = "chroma",
    kept: Tensor | None = None,
) -> Tensor:
    """Colour the picture.

    Args:
        L: full-size lightness ``(1, 1, H, W)`` in 0..100.
        base: coefficients of the whole picture's ab ``(1, 4, h, w)``, from `ab_coefficients`.
        over: for each region, from the bottom up, coefficients of its ab and of its weight (`regions.feathered`).
        gamut: how colours come into sRGB, see `lab.to_gamut`.
        kept: the picture itself ``(1, 3, H, W)``, whose own colours stay outside the regions in place of ``base``.

    Returns:
        sRGB ``(1, 3, H, W)`` in [0, 1]; with ``kept``, that picture's values where no region has weight.
    """
    size = L.shape[-2:]
    out = L.new_empty(1, 3, *size)
    regions = [(enlarge_strips(colour, size), enlarge_strips(feather, size)) for colour, feather in over]
    for rows, strip in enlarge_strips(base, size):
        strip_L = L[..., rows, :]
        ab = _evaluate(strip, strip_L) if kept is None else rgb_to_lab(kept[..., rows, :])[:, 1:]
        touched = torch.zeros_like(strip_L, dtype=torch.bool)
        for colour, feather in regions:
            share = weight(_next(feather), strip_L)
            # With a weight of 0 lerp returns its first argument to the last bit.
            ab = torch.lerp(ab, _evaluate(_next(colour), strip_L), share)
            touched |= share > 0
        painted = to_gamut(strip_L, ab, gamut)
        out[..., rows, :] = painted if kept is None else torch.where(touched, painted, kept[..., rows, :])
    return out


def _evaluate(coefficients: Tensor, L: Tensor) -> Tensor:
    slope, offset = coefficients.chunk(2, dim=1)
    return torch.addcmul(offset, slope, L / 100.0)


def _next(strips: Iterator[tuple[slice, Tensor]]) -> Tensor:
    return next(strips)[1]
