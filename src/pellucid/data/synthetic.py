"""Pictures drawn by code, so that everything trains and tests with no download.

Not scenes, but with the statistics that matter to low-level networks: smooth shading, sharp and soft edges, occlusion
with shadows, textures and noise at several scales, repeated lines, text-like strokes. All of a batch is drawn at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.device import cpu_generator

_SHAPES = 7
_GLYPHS = (5, 14)  # lines and letters of a piece of text


def draw_pictures(n: int, size: int, seed: int) -> Tensor:
    """Draw ``n`` pictures; the same arguments give the same pictures.

    Args:
        n: how many.
        size: side in pixels, at least 8.
        seed: any integer.

    Returns:
        ``(n, 3, size, size)`` float32 in [0, 1], sRGB-encoded.
    """
    random = cpu_generator(seed)
    picture = _ground(n, size, random)
    for _ in range(_SHAPES):
        picture = _add_shape(picture, random)
    picture = _add_text(picture, random)
    return _photograph(picture, random).clamp(0.0, 1.0)


def _uniform(n: int, low: float, high: float, random: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, 1, 1, 1, generator=random)


def _colours(n: int, random: torch.Generator, chroma: float = 0.3) -> Tensor:
    """``(n, 3, 1, 1)``: an even choice of lightness, most colours muted, some strong."""
    lightness = _uniform(n, 0.05, 0.95, random)
    hue = torch.randn(n, 3, 1, 1, generator=random)
    hue = hue - hue.mean(dim=1, keepdim=True)
    hue = hue / hue.norm(dim=1, keepdim=True).clamp(min=1e-6)
    strength = chroma * torch.rand(n, 1, 1, 1, generator=random).square() * 1.4
    return (lightness + hue * strength).clamp(0.0, 1.0)


def _grid(size: int) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(size) + 0.5) / size * 2.0 - 1.0
    return axis.reshape(1, 1, 1, size), axis.reshape(1, 1, size, 1)  # x, y in [-1, 1]


def _ramp(n: int, size: int, random: torch.Generator) -> Tensor:
    """A linear ramp in [0, 1] in a random direction: ``(n, 1, size, size)``."""
    x, y = _grid(size)
    angle = _uniform(n, 0.0, 2.0 * math.pi, random)
    return ((angle.cos() * x + angle.sin() * y) * 0.35 + 0.5).clamp(0.0, 1.0)


def _clouds(n: int, size: int, random: torch.Generator, *, coarse: int = 2, falloff: float = 0.55) -> Tensor:
    """Noise at every scale from ``coarse`` cells to one pixel, about mean 0 and spread 1: ``(n, 1, size, size)``."""
    total = torch.zeros(n, 1, size, size)
    weight, power, cells = 1.0, 0.0, coarse
    while cells < size:
        noise = torch.randn(n, 1, cells + 2, cells + 2, generator=random)
        total = total + weight * F.interpolate(noise, (size, size), mode="bicubic", align_corners=False)
        power, weight, cells = power + weight**2, weight * falloff, cells * 2
    return total / math.sqrt(max(power, 1e-6))


def _ground(n: int, size: int, random: torch.Generator) -> Tensor:
    """What lies behind: a shaded wall, a cloudy surface, or a sky over a ground."""
    _, y = _grid(size)
    first, second, third = (_colours(n, random) for _ in range(3))
    ramp = _ramp(n, size, random)
    wall = torch.lerp(first, second, ramp)
    clouds = _clouds(n, size, random)
    cloudy = torch.lerp(wall, third, torch.sigmoid(2.0 * clouds + _uniform(n, -2.0, 1.0, random)))
    horizon = _uniform(n, -0.4, 0.6, random) + 0.08 * _clouds(n, size, random)[:, :, :1]  # (n, 1, 1, size)
    below = torch.sigmoid((y - horizon) * size / 4.0)
    grain = 1.0 + 0.12 * _clouds(n, size, random, coarse=max(4, size // 8), falloff=0.9)
    scene = torch.lerp(wall, third * grain, below)
    kind = _uniform(n, 0.0, 1.0, random)
    ground = torch.where(kind < 0.3, wall, torch.where(kind < 0.6, cloudy, scene))
    return ground * (1.0 + 0.03 * _clouds(n, size, random, coarse=4, falloff=0.8))


def _shape_distance(n: int, size: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Signed distance (negative inside) to an ellipse, a box or a blob, and its own coordinates: ``(n, 1, S, S)``."""
    x, y = _grid(size)
    x = x - _uniform(n, -1.0, 1.0, random)
    y = y - _uniform(n, -1.0, 1.0, random)
    # Boxes mostly stand upright, as doors and shelves do.
    tilt = _uniform(n, -1.0, 1.0, random) ** 3 * 1.2
    u, v = tilt.cos() * x + tilt.sin() * y, tilt.cos() * y - tilt.sin() * x
    extent = _uniform(n, 0.0, 1.0, random).square()
    wide = 0.06 + 0.55 * extent
    high = wide * _uniform(n, 0.4, 1.8, random)
    radius = ((u / wide).square() + (v / high).square()).sqrt()
    ellipse = (radius - 1.0) * torch.minimum(wide, high)
    du, dv = u.abs() - wide, v.abs() - high
    box = torch.maximum(du, dv).clamp(max=0.0) + (du.clamp(min=0.0).square() + dv.clamp(min=0.0).square()).sqrt()
    turn = torch.atan2(v, u)
    lobes = torch.randint(2, 7, (n, 1, 1, 1), generator=random)
    blob = ellipse + 0.25 * wide * (lobes * turn + _uniform(n, 0.0, 6.3, random)).sin()
    kind = _uniform(n, 0.0, 1.0, random)
    distance = torch.where(kind < 0.35, ellipse, torch.where(kind < 0.75, box, blob))
    return distance, u / wide, v / high


def _surface(n: int, size: int, u: Tensor, v: Tensor, random: torch.Generator) -> Tensor:
    """Colour of a shape: plain and shaded, striped, checked, or mottled: ``(n, 3, S, S)``."""
    first, second = _colours(n, random, 0.45), _colours(n, random, 0.45)
    waves = _uniform(n, 4.0, 26.0, random)
    # Lines thinner than two pixels would only alias.
    waves = waves.clamp(max=size / 6.0)
    stripes = ((u * waves).sin() * 4.0).clamp(-1.0, 1.0) * 0.5 + 0.5
    checks = ((u * waves * 0.5).sin() * (v * waves * 0.5).sin() * 6.0).clamp(-1.0, 1.0) * 0.5 + 0.5
    mottle = torch.sigmoid(3.0 * _clouds(n, size, random, coarse=max(2, size // 16), falloff=0.8))
    kind = _uniform(n, 0.0, 1.0, random)
    amount = torch.where(kind < 0.15, stripes, torch.where(kind < 0.27, checks, torch.where(kind < 0.5, mottle, 0.0)))
    shading = 1.0 + _uniform(n, -0.35, 0.35, random) * v.clamp(-1.0, 1.0) + 0.2 * u.clamp(-1.0, 1.0)
    return torch.lerp(first, second, amount.expand(n, 1, size, size)) * shading


def _add_shape(picture: Tensor, random: torch.Generator) -> Tensor:
    n, _, size, _ = picture.shape
    distance, u, v = _shape_distance(n, size, random)
    # Most edges are one pixel wide; some shapes are out of focus.
    blur = 1.0 / size + _uniform(n, 0.0, 1.0, random) ** 6 * 0.12
    inside = torch.sigmoid(-distance / blur * 2.0)
    depth = _uniform(n, 0.01, 0.15, random)
    present = (_uniform(n, 0.0, 1.0, random) < 0.75).float()
    down, right = size // 32, size // 48
    below = F.pad(distance, (right, 0, down, 0), mode="replicate")[:, :, :size, :size]
    shadow = torch.sigmoid(-below / depth * 2.0)
    picture = picture * (1.0 - _uniform(n, 0.0, 0.55, random) * present * shadow)
    opaque = _uniform(n, 0.0, 1.0, random).pow(0.1)
    return torch.lerp(picture, _surface(n, size, u, v, random), inside * present * opaque)


def _add_text(picture: Tensor, random: torch.Generator) -> Tensor:
    """Lay lines of made-up letters over a part of the picture, at any size and a little tilted."""
    n, _, size, _ = picture.shape
    lines, letters = _GLYPHS
    cells = _letters(n * lines * letters, random).reshape(n, lines, letters, 8, 6)
    gaps = torch.rand(n, lines, letters, 1, 1, generator=random) < 0.18
    page = cells.masked_fill(gaps, 0.0).permute(0, 1, 3, 2, 4).reshape(n, 1, lines * 8, letters * 6)
    page = F.interpolate(page, scale_factor=4, mode="bilinear", align_corners=False)
    tilt = _uniform(n, -0.35, 0.35, random)
    zoom = _uniform(n, 0.9, 3.0, random)
    ratio = (letters * 6) / (lines * 8)
    x, y = _grid(size)
    x, y = x - _uniform(n, -0.6, 0.6, random), y - _uniform(n, -0.6, 0.6, random)
    u, v = tilt.cos() * x + tilt.sin() * y, tilt.cos() * y - tilt.sin() * x
    place = torch.cat([u * zoom, v * zoom * ratio], dim=1).permute(0, 2, 3, 1)  # (n, S, S, 2)
    ink = F.grid_sample(page, place, mode="bilinear", padding_mode="zeros", align_corners=False)
    ink = ((ink - 0.35) * 3.0).clamp(0.0, 1.0)
    present = (_uniform(n, 0.0, 1.0, random) < 0.4).float()
    return torch.lerp(picture, _colours(n, random, 0.4), ink * present)


def _letters(count: int, random: torch.Generator) -> Tensor:
    """Letters of random strokes on a 5 x 7 raster with a margin: ``(count, 8, 6)``."""
    cell = torch.zeros(count, 8, 6)
    strokes = torch.rand(count, 7, generator=random) < torch.tensor([0.75, 0.3, 0.5, 0.5, 0.45, 0.5, 0.25])
    strokes[:, 0] |= ~strokes[:, 1:3].any(dim=1)
    areas = ((slice(0, 7), 0), (slice(0, 7), 2), (slice(0, 7), 4), (0, slice(0, 5)), (3, slice(0, 5)), (6, slice(0, 5)))
    for number, (rows, columns) in enumerate(areas):
        cell[:, rows, columns] = torch.maximum(
            cell[:, rows, columns], strokes[:, number].float().reshape(-1, *[1] * (cell[:, rows, columns].ndim - 1))
        )
    small = strokes[:, 6].float()[:, None, None]
    return torch.lerp(cell, F.pad(cell[:, ::2, :], (0, 0, 3, 1))[:, :8], small)


def _photograph(picture: Tensor, random: torch.Generator) -> Tensor:
    """What a camera does: uneven light, exposure, a little blur, sensor noise."""
    n, _, size, _ = picture.shape
    light = 1.0 + 0.18 * F.interpolate(
        torch.randn(n, 1, 3, 3, generator=random), (size, size), mode="bicubic", align_corners=True
    )
    picture = (picture.clamp(0.0, 1.0) * light * _uniform(n, 0.75, 1.15, random)).clamp(0.0, 1.0)
    soft = F.avg_pool2d(F.pad(picture, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    picture = torch.lerp(picture, soft, _uniform(n, 0.0, 0.8, random))
    noise = torch.randn(n, 3, size, size, generator=random) * _uniform(n, 0.0, 0.02, random)
    return picture + noise
