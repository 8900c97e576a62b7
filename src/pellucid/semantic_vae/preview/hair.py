"""Hair: strands that follow the shape of the hair's mask, lit by their direction (spec of the room, section 6.2).

Strands run along the level lines of a field that is 0 at the face and 1 at the outside. Over the head these lines go
from the parting round the head and down its sides, in long hair they hang. Noise that is fine across the lines and
coarse along them is the strands.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.device import generator_of
from pellucid.semantic_vae.preview.roles import Role
from pellucid.semantic_vae.preview.scene import FACE, Box, Scene, smoothstep
from pellucid.semantic_vae.preview.style import PreviewStyle

_ALONG, _ACROSS = 48, 512  # size of the noise along and across the strands
_FINE, _LOCKS = 0.12, 0.19  # how strongly single strands and locks show


def hair_color(scene: Scene, style: PreviewStyle, box: Box) -> Tensor:
    """Colour of hair all over a piece of the canvas: ``(3, H, W)``."""
    field, strand = _field(scene)  # (h, w)
    parted = style.parting is not None and not scene.has(Role.HAT)
    turn = _turn(scene, style.parting or 0.0, field)
    wave = style.curl * 0.040 * torch.sin(13.0 * turn.abs() + 9.0 * field + 2.0 * torch.sin(7.0 * field + 3.0 * turn))
    shade = _shade(scene, style, field, turn, parted)
    across, along, tone = scene.up(torch.stack([strand + wave, turn / math.pi, shade]), box)  # (H, W) each
    if parted:
        # Strands rise to the parting from both sides, and each side has its own.
        across += 0.10 * torch.exp(along.abs() * (-math.pi / 0.10))
        across += 0.37 * (along < 0.0)
    locks, fine = _sampled(_noise(scene.seed), across, along)
    return _ramp(style.hair, tone + _LOCKS * locks + _FINE * fine)


def _field(scene: Scene) -> tuple[Tensor, Tensor]:
    """From 0 at the face to 1 at the outside, and a number that grows evenly along the same way: ``(h, w)`` both."""
    inner = scene.share(*FACE, Role.EAR, Role.NECK, Role.GLASSES)
    outer = scene.share(Role.BACKGROUND, Role.CLOTH, Role.HAT)
    near, far = torch.full_like(inner, 1e-5), torch.full_like(inner, 1e-5)
    for sigma, weight in ((0.045, 1.0), (0.11, 0.15), (0.25, 0.02)):
        near = near + weight * scene.blur(inner, sigma)
        far = far + weight * scene.blur(outer, sigma)
    ratio = (far / near).log()
    return torch.sigmoid(ratio), 0.30 * torch.asinh(0.35 * ratio)


def _turn(scene: Scene, parting: float, field: Tensor) -> Tensor:
    """Angle about the middle of the face from the parting, 0 there, to +-pi below: ``(h, w)``."""
    x, y = scene.coarse_grid()
    face = scene.face
    at = face.x + parting * face.rx
    turn = torch.atan2(x - at, (face.y + 0.25 * face.ry) - y)
    return turn + 0.10 * (field - 0.5)  # so that the parting leans


def _shade(scene: Scene, style: PreviewStyle, field: Tensor, turn: Tensor, parted: bool) -> Tensor:
    """How light the hair is without strands, about 0.5: ``(h, w)``."""
    x, y = scene.coarse_grid()
    face = scene.face
    lx, ly, lz = style.light
    length = math.hypot(lx, ly, lz)
    # The head under the hair is a dome, larger than the face.
    nx, ny = (x - face.x) / (1.75 * face.rx), (y - face.y + 0.1 * face.ry) / (1.65 * face.ry)
    lit = (nx * lx + ny * ly + lz) / (length * (1.0 + nx * nx + ny * ny).sqrt())
    inner = scene.blur(scene.share(*FACE, Role.EAR, Role.NECK, Role.HAT), 0.030)
    ring = torch.exp(-(((turn.abs() - 0.62) / 0.30) ** 2)) * smoothstep(0.10, 0.5, field) * smoothstep(1.0, 0.65, field)
    below = smoothstep(0.05, 0.5, y - face.y - 0.55 * face.ry)
    shade = 0.16 + 0.52 * lit + 0.30 * ring - 0.45 * inner - 0.10 * below
    if parted:
        shade = shade - 0.20 * torch.exp(-((turn / 0.05) ** 2)) * smoothstep(0.98, 0.6, field)
    return shade


def _noise(seed: int) -> Tensor:
    """Noise ``(1, 2, _ALONG, _ACROSS)``: locks, and single strands; of mean 0 and spread 1; across it goes round."""
    random = generator_of(seed, 0x4A1)
    planes: list[Tensor] = []
    for cells in ((14, 34), (90, 220)):
        total = torch.zeros(1, 1, _ALONG, _ACROSS)
        for count, rows in zip(cells, (5, 9), strict=True):
            noise = torch.randn(1, 1, rows, count, generator=random)
            noise = torch.cat([noise, noise[..., :2]], dim=-1)  # goes round
            wide = F.interpolate(noise, (_ALONG, _ACROSS * (count + 2) // count), mode="bicubic", align_corners=False)
            total = total + wide[..., :_ACROSS]
        planes.append(total / total.std())
    return torch.cat(planes, dim=1)


def _sampled(noise: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """Look noise up at positions in [0, 1] across, which go round, and [-1, 1] along: ``(2, H, W)``."""
    place = torch.stack([(across % 1.0) * 2.0 - 1.0, along], dim=-1)[None]
    return F.grid_sample(noise, place, mode="bilinear", padding_mode="border", align_corners=False)[0]


def _ramp(color: tuple[float, float, float], tone: Tensor) -> Tensor:
    """From deep shadow over the hair's own colour to its shine: ``(3, H, W)``."""
    base = torch.tensor(color)
    luma = float(base @ torch.tensor([0.299, 0.587, 0.114]))
    # Light hair has lighter shadows.
    dark = base * (torch.tensor([0.36, 0.30, 0.32]) + 0.32 * luma)
    light = (base * 1.40 + (1.0 - base) * (0.13 + 0.12 * luma)).clamp(max=1.0)
    low, high = (tone / 0.5).clamp(0.0, 1.0), ((tone - 0.5) / 0.6).clamp(0.0, 1.0)
    planes = [dark[i] + (base[i] - dark[i]) * low + (light[i] - base[i]) * high for i in range(3)]
    return torch.stack(planes)
