"""Light and shadow on skin: the face as a dome with bumps, the neck as a column, ears; and the background.

Everything here is smooth, so it is worked out on the coarse grid. The features, which have sharp edges, come on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.semantic_vae.preview.roles import Role
from pellucid.semantic_vae.preview.scene import FACE, Scene, smoothstep
from pellucid.semantic_vae.preview.style import Color, PreviewStyle, mixed

_SHADE: Color = (0.74, 0.53, 0.50)  # what shadow leaves of skin: red stays longest
_DEEP: Color = (0.48, 0.29, 0.30)
_LIGHT: Color = (1.0, 0.965, 0.90)


@dataclass(frozen=True)
class Marks:
    """Where the face's features are, in fractions of the longer side; where one is not seen, the ellipse tells.

    Attributes:
        eyes: middles of the eyes, left one of the picture first.
        tip: of the nose.
        mouth: its middle.
        unit: height of the face.
    """

    eyes: tuple[tuple[float, float], tuple[float, float]]
    tip: tuple[float, float]
    mouth: tuple[float, float]
    unit: float


def marks_of(scene: Scene) -> Marks:
    """Find the features of the face."""
    face = scene.face
    unit = 2.0 * face.ry
    found = sorted((one.x / scene.side, one.y / scene.side) for one in scene.features(Role.EYE))
    mouth = (
        scene.feature(
            tuple(
                one
                for role in (Role.UPPER_LIP, Role.LOWER_LIP, Role.LIPS, Role.MOUTH)
                for one in scene.ids.get(role, ())
            )
        )
        if scene.has_any(Role.UPPER_LIP, Role.LOWER_LIP, Role.LIPS, Role.MOUTH)
        else None
    )
    nose = scene.feature(scene.ids[Role.NOSE]) if scene.has(Role.NOSE) else None
    middle = nose.x / scene.side if nose else mouth.x / scene.side if mouth else face.x
    level = found[0][1] if found else face.y - 0.11 * unit
    if len(found) == 2:
        eyes = (found[0], found[1])
    elif found:
        # The other eye is hidden: its mirror image about the nose.
        other = (2.0 * middle - found[0][0], level)
        eyes = (min(found[0], other), max(found[0], other))
    else:
        eyes = ((middle - 0.2 * unit, level), (middle + 0.2 * unit, level))
    tip = (
        (nose.x / scene.side, (nose.box.top + nose.cover.shape[0] / 2 + 0.32 * nose.height) / scene.side)
        if nose
        else (middle, face.y + 0.13 * unit)
    )
    lips = (mouth.x / scene.side, mouth.y / scene.side) if mouth else (middle, face.y + 0.27 * unit)
    return Marks(eyes, tip, lips, unit)


def face_skin(scene: Scene, style: PreviewStyle, marks: Marks) -> Tensor:
    """Colour of the face without its features: ``(3, h, w)`` on the coarse grid."""
    x, y = scene.coarse_grid()
    face, unit = scene.face, marks.unit
    light = _unit(style.light)
    across, down = (x - face.x) / face.rx, (y - face.y) / face.ry
    # A dome: steep at the sides, flatter from forehead to chin.
    height = _bumps(scene, marks)
    slope_x, slope_y = _slopes(height, scene)
    nx, ny = 0.72 * across - slope_x, 0.42 * down - slope_y
    lit = _lambert(nx, ny, light)
    middle = light[2]
    shadow = smoothstep(0.02, -0.62, lit - middle)
    bright = smoothstep(0.02, 0.36, lit - middle)
    # What stands above the skin throws a shadow away from the light.
    cast = _cast(scene, light, Role.HAIR, Role.HAT) * 0.75
    glasses = scene.share(Role.GLASSES)
    cast = cast + 0.35 * scene.blur(glasses, 0.008, -0.012 * light[0], 0.016)
    under = _under(scene, unit)
    shadow = 1.0 - (1.0 - 0.85 * shadow) * (1.0 - cast.clamp(0.0, 0.85)) * (1.0 - under)
    color = _toned(style.skin, shadow, bright * (1.0 - cast.clamp(0.0, 1.0)), 0.75)
    return _flush(color, scene, style, marks)


def neck_skin(scene: Scene, style: PreviewStyle, marks: Marks) -> Tensor:
    """Colour of the neck with the face's shadow on it: ``(3, h, w)``."""
    x, _ = scene.coarse_grid()
    light = _unit(style.light)
    neck = scene.share(Role.NECK)
    mass = neck.sum().clamp(min=1e-6)
    middle = float((neck * x).sum() / mass)
    spread = max(0.04, 1.9 * float(((neck * (x - middle) ** 2).sum() / mass).sqrt()))
    around = ((x - middle) / spread).clamp(-1.3, 1.3)
    lit = _lambert(0.75 * around, torch.full_like(scene.share(Role.NECK), 0.15), light)
    shadow = 0.75 * smoothstep(0.05, -0.5, lit - light[2])
    face = scene.share(*FACE)
    fall = 0.13 * marks.unit
    chin = scene.blur(face, 0.012, -0.35 * fall * _sign(light[0]), fall)
    chin = torch.maximum(smoothstep(0.25, 0.75, chin), 0.9 * scene.blur(face, 0.045, 0.0, 0.3 * fall))
    hair = scene.blur(scene.share(Role.HAIR), 0.02, -0.02 * light[0], 0.01)
    shadow = 1.0 - (1.0 - shadow) * (1.0 - 0.72 * chin.clamp(0.0, 1.0)) * (1.0 - 0.55 * hair.clamp(0.0, 1.0))
    bright = smoothstep(0.05, 0.3, lit - light[2]) * (1.0 - chin.clamp(0.0, 1.0))
    return _toned(style.skin, shadow, 0.5 * bright, 0.6)


def ear_skin(scene: Scene, style: PreviewStyle) -> Tensor:
    """Colour of the ears, a little redder than the face: ``(3, h, w)``."""
    ears = scene.share(Role.EAR)
    deep = scene.blur(ears, 0.012)
    hair = scene.blur(scene.share(Role.HAIR), 0.012, 0.0, 0.01)
    shadow = (0.30 + 0.35 * smoothstep(0.75, 0.98, deep) + 0.4 * hair).clamp(0.0, 0.9)
    return _toned(mixed(style.skin, (0.80, 0.36, 0.30), 0.14), shadow, torch.zeros_like(shadow), 0.0)


def backdrop(scene: Scene, style: PreviewStyle) -> Tensor:
    """The background: from one colour to the other, a pale disc behind the head, darker corners: ``(3, h, w)``."""
    x, y = scene.coarse_grid()
    height, width = (size / scene.side for size in scene.size)
    light = _unit(style.light)
    along = (y / height + 0.25 * _sign(light[0]) * (x / width - 0.5)).clamp(0.0, 1.0)
    above, below = (_column(color) for color in style.background)
    color = above + (below - above) * smoothstep(0.0, 1.0, along)
    away = ((x - scene.face.x) ** 2 + (y - scene.face.y + 0.04) ** 2).sqrt()
    glow = torch.exp(-((away / 0.46) ** 4))
    color = color + (1.0 - color) * (0.26 * glow)
    corner = ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) * 2.0
    return color * (1.0 - 0.14 * corner**2)


def _bumps(scene: Scene, marks: Marks) -> Tensor:
    """What stands out of the dome: nose and lips, cheekbones, brow and chin; eye sockets lie deep."""
    x, y = scene.coarse_grid()
    unit = marks.unit
    (left, left_y), (right, right_y) = marks.eyes
    between, level = (left + right) / 2, (left_y + right_y) / 2
    tip_x, tip_y = marks.tip
    # The ridge of the nose runs from between the eyes to the tip and grows.
    along = ((y - level) / max(tip_y - level, 1e-3)).clamp(-0.4, 1.15)
    ridge_x = between + (tip_x - between) * along
    width = 0.030 + 0.022 * along.clamp(0.0, 1.0)
    ridge = torch.exp(-(((x - ridge_x) / (width * unit)) ** 2))
    ridge = ridge * smoothstep(-0.35, 0.9, along) * smoothstep(1.15, 0.98, (y - level) / max(tip_y - level, 1e-3))
    total = 0.046 * ridge + 0.030 * _spot(x, y, tip_x, tip_y, 0.055 * unit, 0.050 * unit)
    for side, (eye_x, eye_y) in ((-1.0, marks.eyes[0]), (1.0, marks.eyes[1])):
        total = total - 0.021 * _spot(x, y, eye_x - 0.02 * unit * side, eye_y - 0.012 * unit, 0.10 * unit, 0.055 * unit)
        total = total + 0.015 * _spot(x, y, eye_x + 0.025 * unit * side, eye_y + 0.14 * unit, 0.11 * unit, 0.075 * unit)
        total = total + 0.012 * _spot(x, y, eye_x, eye_y - 0.10 * unit, 0.13 * unit, 0.045 * unit)
    mouth_x, mouth_y = marks.mouth
    chin_y = scene.face.y + 0.93 * scene.face.ry
    total = total + 0.022 * _spot(x, y, mouth_x, (0.30 * mouth_y + 0.70 * chin_y), 0.085 * unit, 0.060 * unit)
    total = total - 0.014 * _spot(x, y, mouth_x, mouth_y + 0.085 * unit, 0.09 * unit, 0.028 * unit)
    lips = scene.blur(scene.share(Role.UPPER_LIP, Role.LOWER_LIP, Role.LIPS, Role.MOUTH), 0.012)
    return (total + 0.010 * lips) * (unit / 0.7)


def _under(scene: Scene, unit: float) -> Tensor:
    """Soft shadow below nose and lower lip and at the edge of the hair: ``(h, w)`` in [0, 1]."""
    nose = scene.share(Role.NOSE)
    below = (scene.blur(nose, 0.010 * unit / 0.7, 0.0, 0.030 * unit) - nose).clamp(0.0, 1.0)
    lip = scene.share(Role.LOWER_LIP, Role.LIPS)
    beneath = (scene.blur(lip, 0.010, 0.0, 0.030 * unit) - lip).clamp(0.0, 1.0)
    hair = scene.blur(scene.share(Role.HAIR, Role.HAT), 0.022)
    return (0.40 * below + 0.34 * beneath + 0.45 * hair).clamp(0.0, 0.7)


def _cast(scene: Scene, light: Color, *roles: Role) -> Tensor:
    """Shadow that falls away from the light: ``(h, w)`` in [0, 1]."""
    above = scene.share(*roles)
    fallen = scene.blur(above, 0.010, -0.030 * _sign(light[0]), 0.034)
    return smoothstep(0.15, 0.85, fallen)


def _flush(color: Tensor, scene: Scene, style: PreviewStyle, marks: Marks) -> Tensor:
    """Redder cheeks and nose tip."""
    x, y = scene.coarse_grid()
    unit = marks.unit
    red = torch.zeros_like(color[0])
    for side, (eye_x, eye_y) in ((-1.0, marks.eyes[0]), (1.0, marks.eyes[1])):
        red = red + _spot(x, y, eye_x + 0.045 * unit * side, eye_y + 0.19 * unit, 0.12 * unit, 0.085 * unit)
    red = red + 0.55 * _spot(x, y, *marks.tip, 0.07 * unit, 0.05 * unit)
    amount = (0.7 * style.blush * red).clamp(0.0, 0.6)
    return color * (1.0 - amount * _column((-0.05, 0.24, 0.20)))


def _toned(color: Color, shadow: Tensor, bright: Tensor, shine: float) -> Tensor:
    """A colour in shadow and light: ``(3, h, w)``. Shadow goes over a warm half tone to a deep one."""
    base = _column(color)
    half, deep = base * _column(_SHADE), base * _column(_DEEP)
    dark = torch.lerp(base.expand(3, *shadow.shape), half, (shadow / 0.6).clamp(0.0, 1.0))
    dark = torch.lerp(dark, deep.expand_as(dark), ((shadow - 0.6) / 0.4).clamp(0.0, 1.0))
    light = base * 1.16 + (_column(_LIGHT) - base).clamp(min=0.0) * 0.22
    return torch.lerp(dark, light.clamp(max=1.0).expand_as(dark), shine * bright)


def _lambert(nx: Tensor, ny: Tensor, light: Color) -> Tensor:
    """Cosine between the light and a surface whose normal is ``(nx, ny, 1)``."""
    return (nx * light[0] + ny * light[1] + light[2]) / (1.0 + nx * nx + ny * ny).sqrt()


def _slopes(height: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
    """Derivatives of a coarse height along x and y, both in fractions of the longer side."""
    cells = float(max(height.shape))
    dy, dx = torch.gradient(height) if min(height.shape) > 1 else (torch.zeros_like(height),) * 2
    return dx * cells, dy * cells


def _spot(x: Tensor, y: Tensor, at_x: float, at_y: float, width: float, height: float) -> Tensor:
    """A soft round hill of height 1: ``(h, w)``."""
    return torch.exp(-(((x - at_x) / width) ** 2)) * torch.exp(-(((y - at_y) / height) ** 2))


def _column(color: Color) -> Tensor:
    return torch.tensor(color)[:, None, None]


def _unit(vector: Color) -> Color:
    length = math.hypot(*vector)
    return vector[0] / length, vector[1] / length, vector[2] / length


def _sign(value: float) -> float:
    return max(-1.0, min(1.0, value / 0.4))
