"""Regions: a phrase for one part of the picture, with an edge that follows the picture's own.

One text vector has no order of words, so "a red shirt and a blue bag" does not say which is which (Sec. 3 leaves it
there). A region binds a phrase to a place. Each mask is feathered by a guided filter on the lightness; beyond the reach
of that filter its weight is exactly 0, so a region changes nothing there. Where regions overlap, the later one lies
above the earlier, as layers do.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError
from pellucid.io.image import load_image
from pellucid.nn.guided import guided_coefficients

log = logging.getLogger(__name__)

LONGEST = 1024  # longer side at which masks are feathered, in pixels
FEATHER = 0.006  # radius of the guided filter as a share of the longer side
EPS = 1e-3  # variance of L / 100 below which the mask is only blurred

_NUMBER = r"\s*([+-]?\d+(?:\.\d*)?)\s*(%?)\s*"
_BOX = re.compile(",".join([_NUMBER] * 4))
_LIKE_A_BOX = re.compile(r"[\d\s.,%+-]*,[\d\s.,%+-]*")


@dataclass(frozen=True)
class Box:
    """A rectangle: left, top, right, bottom; right and bottom are the first column and row outside.

    Attributes:
        x0, y0, x1, y1: in pixels, or in percent of width and height.
        percent: which of the two.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    percent: bool = False

    def in_pixels(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels of a picture of ``size`` (height, width).

        Raises:
            InputError: the box is empty, or does not lie inside the picture.
        """
        height, width = size
        across, down = (width / 100, height / 100) if self.percent else (1.0, 1.0)
        x0, y0, x1, y1 = self.x0 * across, self.y0 * down, self.x1 * across, self.y1 * down
        if not (x0 < x1 and y0 < y1):
            raise InputError(f"region {self} has no area", "give left,top,right,bottom")
        slack = 1e-6 * max(size)
        if min(x0, y0) < -slack or x1 > width + slack or y1 > height + slack:
            raise InputError(
                f"region {self} does not lie inside the picture of {width}x{height}",
                f"left,top,right,bottom go from 0,0 to {width},{height}, or to 100%,100%",
            )
        return x0, y0, x1, y1

    def __str__(self) -> str:
        unit = "%" if self.percent else ""
        return ",".join(f"{value:g}{unit}" for value in (self.x0, self.y0, self.x1, self.y1))


Where: TypeAlias = "str | Path | Tensor | Box | tuple[float, float, float, float]"


@dataclass(frozen=True, eq=False)
class Region:
    """One part of the picture and what is to be seen there.

    Attributes:
        where: a `Box`; four numbers left, top, right, bottom in pixels; a mask ``(H, W)`` or ``(1, H, W)`` in [0, 1] of
            the picture's size; the path of a mask picture, white inside; or a string, which `parse_where` reads.
        text: the phrase; empty is the colour the network gives without words.
    """

    where: Where
    text: str

    def __str__(self) -> str:
        where = self.where
        if isinstance(where, Tensor):
            return f"mask of {where.shape[-1]}x{where.shape[-2]}"
        return str(Box(*where)) if isinstance(where, tuple) else str(where)


def parse_where(text: str) -> Box | Path:
    """Read what the command line calls WHERE: ``"10,20,300,400"``, ``"10%,20%,60%,80%"``, or a mask's path.

    Raises:
        ConfigError: pixels and percent are mixed, or there are numbers but not four.
    """
    found = _BOX.fullmatch(text)
    if found is None:
        if _LIKE_A_BOX.fullmatch(text):
            raise ConfigError(f"region {text!r} must have four numbers", "left,top,right,bottom in pixels or percent")
        return Path(text)
    numbers, units = found.groups()[::2], set(found.groups()[1::2])
    if len(units) > 1:
        raise ConfigError(f"region {text!r} mixes pixels and percent", "write all four numbers with %, or none")
    x0, y0, x1, y1 = map(float, numbers)
    return Box(x0, y0, x1, y1, percent=units == {"%"})


def as_regions(regions: Iterable[Region | tuple[Where, str]]) -> tuple[Region, ...]:
    """Take regions, or pairs of where and text.

    Raises:
        ConfigError: something else is among them.
    """
    found: list[Region] = []
    for each in regions:
        given: Any = each
        if isinstance(given, tuple) and len(given) == 2:
            given = Region(*given)
        if not isinstance(given, Region) or not isinstance(given.text, str):
            raise ConfigError(f"a region is a place and a text, found {given!r}")
        found.append(given)
    return tuple(found)


def feathered(region: Region, L: Tensor) -> Tensor:
    """Make the mask's edge follow the picture's: coefficients of the weight as a function of L / 100.

    Args:
        region: where.
        L: lightness of the whole picture ``(1, 1, H, W)`` in 0..100.

    Returns:
        ``(1, 2, h, w)``, to be enlarged to the picture's size and evaluated by `weight`.

    Raises:
        InputError: a box outside the picture, a mask of another size, or a mask that cannot be read.
    """
    size = (L.shape[-2], L.shape[-1])
    small = working_size(size)
    guide = F.interpolate(L, small, mode="area") if small != size else L
    mask = _mask(region.where, size, small).to(L.device)
    if not bool(mask.any()):
        log.warning("region %s is empty: %r colours nothing", region, region.text)
    return guided_coefficients(guide / 100.0, mask, radius=_radius(small), eps=EPS)


def weight(coefficients: Tensor, L: Tensor) -> Tensor:
    """Weight of a region ``(1, 1, H, W)`` in [0, 1] from enlarged coefficients ``(1, 2, H, W)`` and L in 0..100."""
    slope, offset = coefficients.chunk(2, dim=1)
    return (slope * (L / 100.0) + offset).clamp_(0.0, 1.0)


def reach(size: tuple[int, int]) -> int:
    """Pixels beyond its mask where a region of a picture of ``size`` (height, width) still may have weight."""
    small = working_size(size)
    scale = max(full / own for full, own in zip(size, small, strict=True))
    return math.ceil((2 * _radius(small) + 2) * scale)


def working_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which masks of a picture of ``size`` are feathered."""
    scale = min(1.0, LONGEST / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _radius(small: tuple[int, int]) -> int:
    return max(1, round(max(small) * FEATHER))


def _mask(where: Where, size: tuple[int, int], small: tuple[int, int]) -> Tensor:
    """Share of each pixel of the working size that is inside: ``(1, 1, h, w)``."""
    where = parse_where(where) if isinstance(where, str) else where
    if isinstance(where, tuple):
        if len(where) != 4:
            raise InputError(f"region {where} must have four numbers: left, top, right, bottom")
        where = Box(*where)
    if isinstance(where, Box):
        x0, y0, x1, y1 = where.in_pixels(size)
        rows = _covered(y0, y1, size[0], small[0])
        return (rows[:, None] * _covered(x0, x1, size[1], small[1]))[None, None]
    mask = where if isinstance(where, Tensor) else _mask_file(where)
    name = "region's mask" if isinstance(where, Tensor) else f"mask {str(where)!r}"
    mask = mask.detach().to("cpu", torch.float32)
    mask = mask[0] if mask.ndim == 3 and mask.shape[0] == 1 else mask
    if tuple(mask.shape) != size:
        found = "x".join(map(str, reversed(mask.shape)))
        raise InputError(f"{name} must have the picture's size, {size[1]}x{size[0]}, found {found}")
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise InputError(f"{name} must have values in [0, 1], found others", "scale it, and see to NaN")
    return F.interpolate(mask[None, None], small, mode="area") if small != size else mask[None, None]


def _mask_file(path: Path) -> Tensor:
    layer = load_image(path).layers[0]
    mask = layer.pixels.mean(dim=0).clamp(0.0, 1.0)  # (H, W)
    return mask if layer.alpha is None else mask * layer.alpha[0]


def _covered(begin: float, end: float, full: int, small: int) -> Tensor:
    """How much of each of ``small`` equal parts of ``full`` pixels lies between begin and end, in [0, 1]."""
    edges = torch.arange(small + 1, dtype=torch.float64) * (full / small)
    overlap = edges[1:].clamp(max=end) - edges[:-1].clamp(min=begin)
    return (overlap.clamp(min=0.0) * (small / full)).float()
