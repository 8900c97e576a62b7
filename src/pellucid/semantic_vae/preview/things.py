"""What people wear, as it is drawn: garment, hat, glasses, earrings and necklace (spec of the room, section 6.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.device import generator_of
from pellucid.semantic_vae.preview.roles import Role
from pellucid.semantic_vae.preview.scene import FACE, Box, Scene, smoothstep
from pellucid.semantic_vae.preview.style import Color, PreviewStyle, mixed

_RIM = 0.010  # half width of a glasses' frame, of the longer side


def cloth_color(scene: Scene, style: PreviewStyle, box: Box) -> Tensor:
    """Colour of the garment: folds that spread from the neck, a hem along it, shadow under the hair: ``(3, H, W)``."""
    x, y = scene.coarse_grid()
    neck = scene.share(Role.NECK, *FACE)
    middle, top = scene.face.x, scene.face.y + 1.05 * scene.face.ry
    turn = torch.atan2(x - middle, y - top + 0.15)  # (h, w), 0 straight down
    away = ((x - middle) ** 2 + (y - top) ** 2).sqrt()
    noise = _smooth_noise(scene.seed, 0xC1, 5, 30)
    place = torch.stack([turn / math.pi * 1.1, away * 1.6 - 0.8], dim=-1)[None]
    folds = F.grid_sample(noise, place, mode="bicubic", padding_mode="reflection", align_corners=False)[0, 0]
    light = style.light[0] / math.hypot(*style.light)
    lit = 0.30 * light * ((x - middle) / 0.5).clamp(-1.0, 1.0) - 0.30 * (y - top - 0.05)
    cast = 0.55 * smoothstep(0.1, 0.7, scene.blur(scene.share(*FACE, Role.HAIR, Role.NECK), 0.02, -0.02 * light, 0.03))
    color = _fabric(style.cloth, lit + 0.20 * folds - cast)
    canvas = scene.up(color, box)
    # A hem along the neck: a line, and a lighter strip inside it.
    near = scene.up(scene.blur(neck, 0.018), box)
    strip = smoothstep(0.10, 0.13, near)
    line = torch.exp(-(((near - 0.115) / 0.022) ** 2))
    tones = canvas * (1.0 + 0.10 * strip - 0.22 * line)
    return tones


def hat_color(scene: Scene, style: PreviewStyle, box: Box) -> Tensor:
    """Colour of a hat: a dome with a band over the brow: ``(3, H, W)``."""
    x, y = scene.coarse_grid()
    hat = scene.share(Role.HAT)
    mass = hat.sum().clamp(min=1e-6)
    at_x, at_y = float((hat * x).sum() / mass), float((hat * y).sum() / mass)
    wide = max(0.05, 2.0 * float(((hat * (x - at_x) ** 2).sum() / mass).sqrt()))
    high = max(0.05, 2.0 * float(((hat * (y - at_y) ** 2).sum() / mass).sqrt()))
    lx, ly, lz = (value / math.hypot(*style.light) for value in style.light)
    u, v = (x - at_x) / wide, (y - at_y - 0.3 * high) / (1.6 * high)
    lit = (u * lx + v * ly + lz) / (1.0 + (u * u + v * v)).sqrt() - lz
    noise = _smooth_noise(scene.seed, 0xA7, 6, 30)
    place = torch.stack([(u * 0.8).expand_as(hat), (v * 0.5).expand_as(hat)], dim=-1)[None]
    folds = F.grid_sample(noise, place, mode="bicubic", padding_mode="reflection", align_corners=False)[0, 0]
    canvas = scene.up(_fabric(style.hat, 1.5 * lit + 0.07 * folds - 0.05), box)
    near = scene.up(scene.blur(scene.share(*FACE, Role.HAIR, Role.EAR), 0.030), box)
    band = smoothstep(0.16, 0.19, near)
    line = torch.exp(-(((near - 0.17) / 0.03) ** 2))
    ribs = 0.5 + 0.5 * torch.sin(scene.grid(box)[0] * 260.0)
    return canvas * (1.0 - 0.20 * band - 0.25 * line - 0.07 * band * ribs)


def metal_color(scene: Scene, style: PreviewStyle, box: Box) -> Tensor:
    """Colour of earrings and necklace: bands of light and dark, as polished metal has: ``(3, H, W)``."""
    jewel = scene.share(Role.JEWEL)
    soft = scene.blur(jewel, 0.007) + scene.blur(jewel, 0.02)
    dy, dx = torch.gradient(soft)
    lx, ly, _ = (value / math.hypot(*style.light) for value in style.light)
    tilt = scene.up(-(dx * lx + dy * ly) * 4.0, box)
    x, y = scene.grid(box)
    bands = 0.5 + 0.5 * torch.sin(90.0 * (y - 0.35 * x) + 5.0 * tilt)
    base = torch.tensor(style.metal)[:, None, None]
    tone = (0.46 + 0.9 * tilt + 0.30 * (bands - 0.5)).clamp(0.0, 1.0)
    dark = base * torch.tensor([0.42, 0.36, 0.36])[:, None, None]
    color = dark + (base - dark) * (2.0 * tone).clamp(0.0, 1.0)
    return color + (1.0 - color) * (0.85 * smoothstep(0.74, 1.0, tone))


def glasses_color(scene: Scene, style: PreviewStyle, under: Tensor, box: Box) -> Tensor:
    """Colour of glasses over the face.

    Where the class is as thin as a frame it is one; wide areas are lenses: clear when eyes are seen in them, as label
    files paint the eyes over the glasses, else dark.

    Args:
        under: ``(3, H, W)``, the piece of the face as it is without them.
        box: the piece of the canvas.

    Returns:
        ``(3, H, W)``.
    """
    glasses = scene.share(Role.GLASSES)
    eyes = scene.share(Role.EYE)
    solid = (glasses + eyes + scene.share(Role.BROW)).clamp(0.0, 1.0)
    deep = scene.up(scene.blur(solid, _RIM), box)
    frame = 1.0 - smoothstep(0.80, 0.90, deep)
    clear = float((scene.blur(glasses, 0.02) * eyes).sum()) > 0.15 * float(eyes.sum()) > 0.0
    x, y = scene.grid(box)
    bottom, top = _span(glasses, scene)
    down = ((y - top) / max(bottom - top, 1e-3)).clamp(0.0, 1.0)
    slant = x + 0.55 * y
    period = 0.30 * max(scene.face.rx, 0.1) / 0.27
    phase = (slant / period) % 1.0
    glare = smoothstep(0.16, 0.20, phase) * smoothstep(0.44, 0.40, phase) + 0.6 * (
        smoothstep(0.50, 0.53, phase) * smoothstep(0.60, 0.57, phase)
    )
    lens = torch.tensor(style.lens)[:, None, None]
    if clear:
        glass = under * (1.0 - 0.10 * (1.0 - lens)) + (1.0 - under) * (0.16 * glare)
    else:
        tinted = lens * 0.55 + (mixed_tensor(style.lens, (0.78, 0.70, 0.72), 0.38) - lens * 0.55) * down
        glass = 0.94 * tinted + 0.06 * under + (1.0 - tinted) * (0.20 * glare)
    rim = torch.tensor(style.frame)[:, None, None]
    edge = scene.up(scene.blur(glasses, 0.006, 0.003 * style.light[0], 0.006) - scene.blur(glasses, 0.006), box)
    shine = smoothstep(0.02, 0.16, -edge)
    rim = rim + (1.0 - rim) * (0.35 * shine)
    return glass + (rim - glass) * frame


def other_color(scene: Scene, colors: dict[int, Color], light: Color, box: Box) -> Tensor:
    """Classes without a drawing of their own, each in its colour, as a soft relief: ``(3, H, W)``."""
    height = scene.blur(scene.share(Role.OTHER), 0.02)
    dy, dx = torch.gradient(height)
    lit = scene.up(-3.0 * (dx * light[0] + dy * light[1]) / math.hypot(*light), box)
    total = torch.full((3, box.bottom - box.top, box.right - box.left), 1e-6)
    weight = torch.full_like(lit, 1e-6)
    for one, color in colors.items():
        part = scene.feature((one,), box=box)
        if part is not None:
            total += part.cover * torch.tensor(color)[:, None, None]
            weight += part.cover
    return (total / weight * (1.0 + lit)).clamp(0.0, 1.0)


def mixed_tensor(first: Color, second: Color, share: float) -> Tensor:
    """`mixed` as a column ``(3, 1, 1)``."""
    return torch.tensor(mixed(first, second, share))[:, None, None]


def _span(plane: Tensor, scene: Scene) -> tuple[float, float]:
    """Lowest and highest place of a coarse plane."""
    rows = (plane.amax(dim=1) > 0.5).nonzero()[:, 0]
    _, y = scene.coarse_grid()
    return (float(y[rows[-1]]), float(y[rows[0]])) if rows.numel() else (1.0, 0.0)


def _fabric(color: Color, tone: Tensor) -> Tensor:
    """A dull surface: ``(3, h, w)``; tone 0 is its own colour, -1 deep shadow, 1 bright light."""
    base = torch.tensor(color)[:, None, None]
    dark = base * torch.tensor([0.36, 0.34, 0.44])[:, None, None]
    low, high = (-tone).clamp(0.0, 1.0), tone.clamp(0.0, 1.0)
    luma = float(base.flatten() @ torch.tensor([0.299, 0.587, 0.114]))
    return base + (dark - base) * low + (1.0 - base) * ((0.20 + 0.45 * luma) * high)


def _smooth_noise(seed: int, key: int, rows: int, columns: int) -> Tensor:
    """``(1, 1, rows, columns)`` of spread 1."""
    return torch.randn(1, 1, rows, columns, generator=generator_of(seed, key))
