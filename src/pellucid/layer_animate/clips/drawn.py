"""Pictures with alpha drawn by code: soft, striped, half-transparent and hollow shapes with names.

What transparency networks and small motion models learn from without a download. A drawing is a handful of numbers, so
that it can be rendered anew at any size and place, and its caption says what is to be seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import InputError

KINDS = ("circle", "square", "triangle", "star", "ring", "moon", "flower")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.13, 0.12),
    "orange": (0.95, 0.55, 0.10),
    "yellow": (0.97, 0.85, 0.15),
    "green": (0.15, 0.60, 0.22),
    "blue": (0.12, 0.33, 0.80),
    "purple": (0.52, 0.20, 0.65),
    "pink": (0.96, 0.55, 0.70),
    "brown": (0.45, 0.28, 0.14),
    "white": (0.95, 0.95, 0.95),
    "black": (0.08, 0.08, 0.09),
}
_MOST = 3  # shapes in a picture


@dataclass(frozen=True)
class Drawings:
    """What ``n`` pictures of up to three shapes look like; all fields ``(n, 3, ...)``, the first shape at the bottom.

    Attributes:
        kind: index in `KINDS`.
        hue: index in `COLOURS`.
        colour: ``(n, 3, 3)`` near that colour, in [0, 1].
        shade: ``(n, 3, 3)`` the colour that it runs to, across the shape.
        centre: ``(n, 3, 2)`` x, y in [-1, 1] of the picture.
        radius: in half sides of the picture.
        turn: in radians.
        soft: width of the edge, in half sides; 0 is a sharp one.
        opacity: of the whole shape, in (0, 1].
        stripes: waves across the shape that alpha follows; 0 for none.
        present: whether the shape is there; the first always is.
    """

    kind: Tensor
    hue: Tensor
    colour: Tensor
    shade: Tensor
    centre: Tensor
    radius: Tensor
    turn: Tensor
    soft: Tensor
    opacity: Tensor
    stripes: Tensor
    present: Tensor

    def __len__(self) -> int:
        return self.kind.shape[0]

    def __getitem__(self, index: slice | Tensor | list[int]) -> Drawings:
        """Some of the drawings."""
        return Drawings(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def captions(self) -> list[str]:
        """Name what is to be seen, for example ``"a red ring and a blue star"``."""
        names = list(COLOURS)
        texts: list[str] = []
        for kinds, hues, there in zip(self.kind.tolist(), self.hue.tolist(), self.present.tolist(), strict=True):
            seen = [(names[hue], KINDS[kind]) for kind, hue, shown in zip(kinds, hues, there, strict=True) if shown]
            texts.append(
                " and ".join(f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {kind}" for colour, kind in seen)
            )
        return texts


def make_drawings(n: int, seed: int, *, shapes: int = _MOST) -> Drawings:
    """Choose what ``n`` pictures show; the same arguments give the same drawings.

    Args:
        n: how many.
        seed: any integer that is not negative.
        shapes: the most in one picture, 1 to 3. With 1 the shape stands near the middle, without stripes.
    """
    if n < 1 or not 1 <= shapes <= _MOST:
        raise InputError(f"expected at least 1 drawing of 1..{_MOST} shapes, found {n} of {shapes}")
    random = generator_of(seed, 0xD4A3)

    def uniform(low: float, high: float, *more: int) -> Tensor:
        return low + (high - low) * torch.rand(n, _MOST, *more, generator=random)

    kind = torch.randint(len(KINDS), (n, _MOST), generator=random)
    hue = torch.randint(len(COLOURS), (n, _MOST), generator=random)
    colour = torch.tensor(list(COLOURS.values()))[hue] + uniform(-0.06, 0.06, 3)
    shade = colour * uniform(0.55, 1.25, 1) + uniform(-0.06, 0.06, 3)
    kinds = uniform(0.0, 1.0)
    place = 0.25 if shapes == 1 else 0.5
    centre, radius = uniform(-place, place, 2), uniform(0.35, 0.6)
    turn, soft = uniform(0.0, 2.0 * math.pi), uniform(0.0, 1.0).pow(4) * 0.4
    opacity = torch.where(kinds < 0.3, uniform(0.3, 0.9), 1.0)
    stripes = torch.where((kinds > 0.8) & (shapes > 1), uniform(6.0, 14.0), 0.0)
    extra = uniform(0.0, 1.0) < 0.5
    present = (torch.arange(_MOST) == 0) | (extra & (torch.arange(_MOST) < shapes))
    colour, shade = colour.clamp(0.0, 1.0), shade.clamp(0.0, 1.0)
    return Drawings(kind, hue, colour, shade, centre, radius, turn, soft, opacity, stripes, present)


def render(drawings: Drawings, size: int, place: Tensor | None = None) -> Tensor:
    """Draw at a size, antialiased.

    Args:
        drawings: n of them.
        size: side in pixels.
        place: ``(n, 2, 3)``, from places in the picture to places in the drawing, x and y in [-1, 1]: what moves,
            turns and scales the whole; unmoved when None.

    Returns:
        ``(n, 4, size, size)`` float32 in [0, 1], straight alpha; colour is 0 where alpha is 0.
    """
    axis = (torch.arange(size) + 0.5) / size * 2.0 - 1.0
    x, y = axis.expand(size, size), axis[:, None].expand(size, size)
    if place is not None:
        grid = torch.stack([x, y, torch.ones_like(x)]).flatten(1)  # (3, S * S)
        moved = (place @ grid).unflatten(2, (size, size))  # (n, 2, S, S)
        x, y = moved[:, :1], moved[:, 1:]
        scale = torch.linalg.det(place[:, :, :2]).abs().sqrt().reshape(-1, 1, 1, 1)
    else:
        scale = torch.ones(1, 1, 1, 1)
    column = (..., None, None)
    x, y = x - drawings.centre[..., 0][column], y - drawings.centre[..., 1][column]  # (n, 3, S, S)
    turn, radius = drawings.turn[column], drawings.radius[column]
    u = (turn.cos() * x + turn.sin() * y) / radius
    v = (turn.cos() * y - turn.sin() * x) / radius
    distance = _distances(u, v).gather(0, drawings.kind[column].expand_as(u)[None])[0] * radius
    pixel = 2.0 / size * scale
    alpha = (0.5 - distance / (pixel + drawings.soft[column])).clamp(0.0, 1.0)
    # Stripes finer than four pixels would alias.
    waves = torch.minimum(drawings.stripes[column], radius / pixel * (math.pi / 2.0))
    striped = (u * waves).sin().mul(2.0).clamp(-1.0, 1.0) * 0.5 + 0.5
    alpha = alpha * torch.where(drawings.stripes[column] > 0, striped, 1.0)
    alpha = alpha * (drawings.opacity * drawings.present)[column]
    ramp = (v * 0.5 + 0.5).clamp(0.0, 1.0)[:, :, None]
    colour = torch.lerp(drawings.colour[column], drawings.shade[column], ramp)  # (n, 3, 3, S, S)
    painted, covered = torch.zeros_like(colour[:, 0]), torch.zeros_like(alpha[:, :1])
    for shape in range(_MOST):
        above = alpha[:, shape : shape + 1]
        painted = painted * (1.0 - above) + colour[:, shape] * above
        covered = covered * (1.0 - above) + above
    straight = torch.where(covered > 0, painted / covered.clamp(min=1e-6), 0.0)
    return torch.cat([straight, covered], dim=1).clamp(0.0, 1.0)


def draw_rgba(n: int, size: int, seed: int) -> Tensor:
    """Draw ``n`` pictures with alpha: ``(n, 4, size, size)`` float32 in [0, 1], straight; one seed, one result."""
    return render(make_drawings(n, seed), size)


def _distances(u: Tensor, v: Tensor) -> Tensor:
    """Distance to the outline of each of `KINDS` at radius 1, negative inside: ``(kinds, n, 3, S, S)``."""
    r, angle = (u.square() + v.square()).sqrt(), torch.atan2(v, u)

    def polygon(corners: int, inner: float) -> Tensor:
        # The side nearest to the point, as a half plane; for a star the line from a tip to the notch beside it.
        slice_ = math.pi / corners
        folded = (torch.remainder(angle, 2.0 * slice_) - slice_).abs()  # 0 at a notch, `slice_` at a tip
        px, py = r * folded.cos(), r * folded.sin()
        tip = (math.cos(slice_), math.sin(slice_))
        along = (tip[0] - inner, tip[1])
        length = math.hypot(*along)
        return (px - inner) * (along[1] / length) - py * (along[0] / length)

    return torch.stack(
        [
            r - 1.0,
            torch.maximum(u.abs(), v.abs()) - 0.8,
            polygon(3, 0.5),
            polygon(5, 0.45),
            (r - 0.72).abs() - 0.28,
            torch.maximum(r - 1.0, 0.8 - ((u - 0.5).square() + v.square()).sqrt()),
            r - (0.75 + 0.25 * (6.0 * angle).cos()),
        ]
    )
