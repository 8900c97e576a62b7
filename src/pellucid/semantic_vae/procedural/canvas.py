"""The sheet that face masks are drawn on, and how it is bent into the picture.

Parts are drawn on an upright, straight sheet, where a part is what lies between two edges in each row, or in each
column; an edge is a list of places, so drawing costs one comparison a pixel. Roll, zoom, elastic warp and the trembling
of edges then happen all at once, where the picture looks up its pixels on the sheet.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.semantic_vae.procedural.parameters import FaceParameters

_MARGIN = 0.16  # of the sheet beyond the picture on each side
_DENSITY = 1.5  # pixels of the sheet along one of the picture
_WARP_KNOTS = 3
_TREMBLE_KNOTS = 26
_CURL_KNOTS = 30
_WAVED = 0.4  # of the curl is seen in hair over the face
_COARSE, _FINE = 14, 52  # knots of the noise along a line
LINES = 12  # independent noises along a line for every face
STRANDS = 4  # the most strands over a face
_CENTRE = (0.5, 0.55)  # of roll and zoom
_EVERYWHERE = (-1.0, 2.0)
Array = NDArray[Any]


class Sheet:
    """One layer of ``N`` faces being drawn: ``labels`` ``(N, n, n)`` uint8, 0 where nothing is.

    An array and not a tensor, because numpy compares and masks 16 and 8 bit numbers several times faster here. Every
    method that takes ``within`` works on the rows between these two places alone.
    """

    def __init__(self, count: int, size: int) -> None:
        self.axis = sheet_axis(size)
        self._places = np.arange(len(self.axis), dtype=np.int16)
        self.labels = np.zeros((count, len(self.axis), len(self.axis)), np.uint8)

    def window(self, within: tuple[float, float]) -> slice:
        """The rows from one place to another, in parts of the picture's side."""
        low, high = (int((place + _MARGIN) * self._scale) for place in within)
        return slice(max(0, low), min(len(self.axis), high + 2))

    @property
    def _scale(self) -> float:
        return len(self.axis) / (1.0 + 2.0 * _MARGIN)

    def _pixels(self, edges: Tensor) -> Array:
        """Places ``(N, n)`` -> numbers of the first pixels whose centres lie beyond them, int16."""
        first = ((edges + _MARGIN) * self._scale + 0.5).floor()
        return first.clamp(0, len(self.axis)).to(torch.int16).numpy()

    def rows(self, left: Tensor, right: Tensor, within: tuple[float, float] = _EVERYWHERE) -> Array:
        """What lies between two edges in each row: edges ``(N, n)`` -> bool ``(N, rows, n)``."""
        rows = self.window(within)
        start, stop = self._pixels(left[:, rows])[:, :, None], self._pixels(right[:, rows])[:, :, None]
        return (self._places >= start) & (self._places < stop)

    def columns(self, top: Tensor, bottom: Tensor, within: tuple[float, float] = _EVERYWHERE) -> Array:
        """What lies between two edges in each column: edges ``(N, n)`` -> bool ``(N, rows, n)``."""
        rows = self._places[self.window(within), None]
        return (rows >= self._pixels(top)[:, None]) & (rows < self._pixels(bottom)[:, None])

    def above(self, bottom: Tensor, within: tuple[float, float] = _EVERYWHERE) -> Array:
        """What lies above an edge in each column: ``(N, n)`` -> bool ``(N, rows, n)``."""
        return self._places[self.window(within), None] < self._pixels(bottom)[:, None]

    def paint(
        self,
        where: Array,
        label: int,
        within: tuple[float, float] = _EVERYWHERE,
        only_on: int | None = None,
    ) -> None:
        """Give ``where``, found with the same ``within``, a label; with ``only_on`` only over that label."""
        part = self.labels[:, self.window(within)]
        if only_on is not None:
            where = where & (part == only_on)
        cover(part, where, label)


def cover(labels: Array, where: Array, label: int) -> None:
    """``labels[where] = label`` in place, by masking bits, which is several times faster."""
    ones = where.view(np.uint8)
    labels &= ones - np.uint8(1)
    labels |= ones * np.uint8(label)


@lru_cache(maxsize=8)
def sheet_axis(size: int) -> Tensor:
    """Centres of the sheet's pixels along one side, in parts of the picture's side: ``(n,)`` float64."""
    n = round((1.0 + 2.0 * _MARGIN) * size * _DENSITY)
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n * (1.0 + 2.0 * _MARGIN) - _MARGIN


class Textures(NamedTuple):
    """The random shapes that no parameter tells, from each face's ``texture``."""

    coarse: Tensor  # (N, LINES, n) float64, smooth, about in [-1, 1]
    fine: Tensor  # (N, LINES, n) float64, jagged
    strands: Tensor  # (N, STRANDS, 6) float64 in [0, 1)
    bend: Tensor  # (N, 2, S, S) float32: x and y, elastic warp and trembling
    curl: Tensor  # (N, 2, S, S) float32: what hair is moved by besides


def textures(parameters: FaceParameters, size: int) -> Textures:
    """Draw the random shapes of each face.

    One face at a time, because a product of stacked matrices may round differently for different numbers of them, and
    one label would change with its neighbours in a batch. In float64, so that it changes with no processor either.
    """
    axis, picture = sheet_axis(size), _picture_axis(size)
    coarse, fine, strands, bend, curl = [], [], [], [], []
    along = [_basis(axis, knots, smooth=knots == _COARSE) for knots in (_COARSE, _FINE)]
    across = [_basis(picture, knots, smooth=True) for knots in (_WARP_KNOTS, _TREMBLE_KNOTS, _CURL_KNOTS)]
    for texture, strength, jitter, amount in zip(
        parameters.texture.tolist(),
        parameters.warp.tolist(),
        parameters.jitter.tolist(),
        parameters.curl.tolist(),
        strict=True,
    ):
        generator = torch.Generator().manual_seed(texture)
        coarse.append(_noise(generator, LINES, _COARSE) @ along[0].T)
        fine.append(_noise(generator, LINES, _FINE) @ along[1].T)
        strands.append(torch.rand(STRANDS, 6, generator=generator, dtype=torch.float64))
        # Uniform in (-a, a) has deviation a / sqrt(3).
        elastic = _noise(generator, 2, _WARP_KNOTS, _WARP_KNOTS) * (math.sqrt(3.0) * strength)
        trembling = _noise(generator, 2, _TREMBLE_KNOTS, _TREMBLE_KNOTS) * (jitter / 256)
        waves = _noise(generator, 2, _CURL_KNOTS, _CURL_KNOTS) * amount
        warp, tremble, wave = across
        bend.append((warp @ elastic @ warp.T + tremble @ trembling @ tremble.T).float())
        curl.append((wave @ waves @ wave.T).float())
    stack = torch.stack
    return Textures(stack(coarse), stack(fine), stack(strands), stack(bend), stack(curl))


def _noise(generator: torch.Generator, *shape: int) -> Tensor:
    """Uniform in [-1, 1), float64."""
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2.0 - 1.0


@lru_cache(maxsize=8)
def _picture_axis(size: int) -> Tensor:
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


def _basis(places: Tensor, knots: int, smooth: bool) -> Tensor:
    """Weights ``(places, knots)`` of values at evenly spread knots: hats, or rounded hats when ``smooth``."""
    low, high = float(places[0]), float(places[-1])
    at = (places - low) / (high - low) * (knots - 1)
    distance = (at[:, None] - torch.arange(knots, dtype=torch.float64)).abs().clamp(max=1.0)
    weight = 1.0 - distance
    return weight * weight * (3.0 - 2.0 * weight) if smooth else weight


class Lookup(NamedTuple):
    """Where the picture's pixels lie on the sheet: flat indices ``(N, S * S)`` int64."""

    still: Array  # for everything but hair
    curled: Array  # for hair behind the head
    waved: Array  # for hair over the face, which is moved less


def lookup(parameters: FaceParameters, shapes: Textures, size: int) -> Lookup:
    """Undo cut, zoom, roll, warp and trembling for each pixel of the picture."""
    n = len(sheet_axis(size))
    scale = n / (1.0 + 2.0 * _MARGIN)
    p = parameters
    shrink = torch.exp(-p.zoom.double())
    cos, sin = torch.cos(p.roll.double()) * shrink, torch.sin(p.roll.double()) * shrink
    far = torch.where(p.cut > 0, p.cut, 1.0).double()
    axis = _picture_axis(size)
    x = axis - _CENTRE[0] - (p.shift_x * far)[:, None]  # (N, S)
    y = axis - _CENTRE[1] - (p.shift_y * far)[:, None]

    def place(across: Tensor, down: Tensor, centre: float, bend: Tensor) -> Tensor:
        """``(N, S)`` along columns and rows and ``(N, S, S)`` bend -> pixel numbers on the sheet, float32."""
        across = ((across + centre + _MARGIN) * scale).float()[:, None, :]
        return (across + (down * scale).float()[:, :, None]) + bend * scale

    column = place(cos[:, None] * x, sin[:, None] * y, _CENTRE[0], shapes.bend[:, 0])
    row = place(-sin[:, None] * x, cos[:, None] * y, _CENTRE[1], shapes.bend[:, 1])

    def flat(column: Tensor, row: Tensor) -> Array:
        # In float32, which holds every number of a pixel exactly: turning into integers is the slow part.
        return (row.clamp(0, n - 1).floor() * n + column.clamp(0, n - 1).floor()).long().flatten(1).numpy()

    curl_x, curl_y = shapes.curl[:, 0] * scale, shapes.curl[:, 1] * scale
    return Lookup(
        flat(column, row),
        flat(column + curl_x, row + curl_y),
        flat(column + _WAVED * curl_x, row + _WAVED * curl_y),
    )


def look_up(labels: Array, at: Array, size: int) -> Array:
    """``(N, n, n)`` of a sheet and flat indices ``(N, S * S)`` -> ``(N, S, S)``."""
    flat = labels.reshape(len(labels), -1)
    return np.stack([one.take(where) for one, where in zip(flat, at, strict=True)]).reshape(-1, size, size)
