"""The shapes of the parts of a drawn face: everything but hair and hat.

The head is an upright cylinder about as wide as the face. A feature sits at an angle on it and moves by the sine of
angle + turn, so a turned head has a narrow far side, a wide near side, one ear, and a nose that stands out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pellucid.semantic_vae.procedural.canvas import Array, Sheet, Textures, cover
from pellucid.semantic_vae.procedural.parameters import (
    CLEAR,
    HOOP,
    NO_EARRING,
    NO_GLASSES,
    RIMS,
    SHORT,
    FaceParameters,
)

SKIN, NOSE, GLASSES, EYE, BROW, EAR = 1, 2, 3, (4, 5), (6, 7), (8, 9)  # pairs: the one on the right first
MOUTH, UPPER_LIP, LOWER_LIP, HAIR, HAT, EARRING, NECKLACE, NECK, CLOTH = range(10, 19)

_FACE_ANGLE = 1.2  # where the face ends on the cylinder and the side of the head begins, radians
_EAR_ANGLE = 1.45
_NOSE_RADIUS = 1.14  # how far the nose's tip stands out, in radii
_FACE_MIDDLE = 0.53  # row where the face is widest
_NOWHERE = 9.0


class Head(NamedTuple):
    """Where the head's landmarks lie, ``(N, 1)`` float64, and the face's edges by row, ``(N, n)``."""

    axis: Tensor  # x of the cylinder's axis
    radius: Tensor
    turn: Tensor
    eye_x: tuple[Tensor, Tensor]  # right, left
    eye_scale: tuple[Tensor, Tensor]  # foreshortening
    middle_x: Tensor  # the face's middle line on the surface
    left: Tensor  # edges of the face
    right: Tensor


def column_of(value: Tensor) -> Tensor:
    """``(N,)`` of any type -> ``(N, 1)`` float64."""
    return value.double()[:, None]


def head_of(p: FaceParameters, axis: Tensor) -> Head:
    """Turn the cylinder and lay the eyes' middle near the picture's, as aligned portraits do."""
    turn = column_of(p.turn)
    radius = column_of(p.face_width) / torch.sin(torch.tensor(_FACE_ANGLE, dtype=torch.float64))
    eye = torch.asin(column_of(p.eye_spacing) / radius)
    eyes = [radius * torch.sin(eye + turn), radius * torch.sin(turn - eye)]
    centre = 0.5 - 0.9 * (eyes[0] + eyes[1]) / 2.0
    scale = (
        torch.cos(eye + turn).clamp(min=0.15) / torch.cos(eye),
        torch.cos(turn - eye).clamp(min=0.15) / torch.cos(eye),
    )
    half_pi = torch.pi / 2
    # The side that is turned to the viewer shows the cheek up to the ear.
    face = _FACE_ANGLE + 0.3 * turn.abs()
    edge_right = radius * torch.sin((turn + face).clamp(max=half_pi))
    edge_left = radius * torch.sin((turn - face).clamp(min=-half_pi))
    middle_x = centre + radius * torch.sin(turn)
    top, chin = column_of(p.face_top), column_of(p.chin)
    below = axis >= _FACE_MIDDLE
    far = torch.where(
        below, (axis - _FACE_MIDDLE) / (chin - _FACE_MIDDLE), (_FACE_MIDDLE - axis) / (_FACE_MIDDLE - top)
    )
    exponent = torch.where(below, column_of(p.jaw), 2.2)
    width = (1.0 - far.clamp(max=1.0) ** exponent) ** (1.0 / exponent)
    # Below the middle the outline leans toward the chin, which sits on the face's middle line.
    centre_line = centre + (edge_right + edge_left) / 2.0
    lean = torch.where(below, (middle_x - centre_line) * 0.55 * far.clamp(max=1.0) ** 2, 0.0)
    return Head(
        axis=centre,
        radius=radius,
        turn=turn,
        eye_x=(centre + eyes[0], centre + eyes[1]),
        eye_scale=scale,
        middle_x=middle_x,
        left=centre_line + lean + (edge_left - edge_right) / 2.0 * width,
        right=centre_line + lean + (edge_right - edge_left) / 2.0 * width,
    )


def draw_clothes(sheet: Sheet, p: FaceParameters, head: Head, shapes: Textures) -> None:
    """Clothes, then the neck over them, then the necklace on the neck."""
    x = y = sheet.axis
    within = (0.55, 2.0)
    neck_x = head.axis + 0.25 * (head.middle_x - head.axis)
    half = column_of(p.neck_width)
    below = (y - 0.86).clamp(min=0.0)
    width = half + column_of(p.neck_flare) * below * (below / 0.14).clamp(max=1.5) + 0.006 * shapes.coarse[:, 0]
    side = (x - neck_x).abs()
    dressed = column_of(p.cloth) > 0
    collar = column_of(p.neck_end) - column_of(p.collar) * (side / half).clamp(max=1.6) ** 2
    if bool(dressed.any()):
        begin, slope = column_of(p.cloth), column_of(p.cloth_slope)
        shoulder = begin + slope * (side - half).clamp(min=0.0) + 0.006 * shapes.coarse[:, 1]
        # Clothes do not roll with the head.
        shoulder = shoulder - torch.tan(column_of(p.roll)) * (x - 0.5)
        # No ground shows between the neck's end and the collar.
        shoulder = torch.where(side < 1.1 * half, torch.minimum(shoulder, collar - 0.01), shoulder)
        shoulder = torch.where(dressed, shoulder, _NOWHERE)
        sheet.paint(~sheet.above(shoulder, within), CLOTH, within)
    start = torch.full_like(collar, 0.68)
    end = torch.where(dressed, collar, _NOWHERE)
    neck = sheet.rows(neck_x - width, neck_x + width, within) & sheet.columns(start, end, within)
    sheet.paint(neck, NECK, within)
    if bool((p.necklace > 0).any()):
        sag = column_of(p.necklace_y) + 0.035 - 0.055 * (side / half) ** 2
        thick = column_of(p.necklace) * (1.0 + 0.5 * shapes.fine[:, 2])
        thick = torch.where(column_of(p.necklace) > 0, thick, -_NOWHERE)
        sheet.paint(sheet.columns(sag - thick, sag + thick, within), NECKLACE, within, only_on=NECK)


def draw_ears(sheet: Sheet, p: FaceParameters, head: Head) -> None:
    """Ears behind the face; hidden by most long hair, and on the far side of a turned head."""
    y = sheet.axis
    within = (0.40, 0.74)
    chance = torch.where(p.hair_style <= SHORT, 0.80, 0.22)
    for side, label in zip((1.0, -1.0), EAR, strict=True):
        x = head.axis + head.radius * torch.sin((side * _EAR_ANGLE + head.turn).clamp(-1.5, 1.5)) + side * 0.012
        shown = (p.ear_chance < chance) & (side * p.turn < 0.2)
        middle, height = column_of(p.ear_y), column_of(p.ear_height)
        up = ((y - middle) / height).clamp(-1.0, 1.0)
        wide = column_of(p.ear_width) * (1.0 + 1.1 * (-side * head.turn).clamp(min=0.0))
        wide = wide * (1.0 - up.abs() ** 2.2).sqrt() * (1.0 - 0.25 * up)
        wide = torch.where(shown[:, None], wide, -_NOWHERE)
        # The lobe lies nearer to the face than the top.
        x = x - side * 0.018 * up
        sheet.paint(sheet.rows(x - wide, x + wide, within), label, within)


def draw_skin(sheet: Sheet, head: Head) -> None:
    """The face."""
    sheet.paint(sheet.rows(head.left, head.right), SKIN)


def draw_earrings(sheet: Sheet, p: FaceParameters, head: Head) -> None:
    """A stud, a drop or a hoop below each ear that is not turned away."""
    if not bool((p.earring != NO_EARRING).any()):
        return
    y = sheet.axis
    within = (0.55, 0.90)
    for side in (1.0, -1.0):
        x = head.axis + head.radius * torch.sin((side * _EAR_ANGLE + head.turn).clamp(-1.5, 1.5)) + side * 0.006
        shown = column_of((p.earring != NO_EARRING) & (side * p.turn < 0.2)) > 0
        width, height = column_of(p.earring_width), column_of(p.earring_height)
        middle = column_of(p.ear_y) + 0.9 * column_of(p.ear_height) + height
        outer = width * (1.0 - ((y - middle) / height).clamp(-1.0, 1.0) ** 2).sqrt()
        outer = torch.where(shown, outer, -_NOWHERE)
        ring = sheet.rows(x - outer, x + outer, within)
        if bool((p.earring == HOOP).any()):
            inner = 0.72 * width * (1.0 - ((y - middle) / (0.72 * height)).clamp(-1.0, 1.0) ** 2).sqrt()
            inner = torch.where(column_of(p.earring) == HOOP, inner, -_NOWHERE)
            ring &= ~sheet.rows(x - inner, x + inner, within)
        sheet.paint(ring, EARRING, within)


def draw_eyes(sheet: Sheet, p: FaceParameters, head: Head) -> None:
    """Brows, eyes, glasses, and eyes again behind clear glass."""
    x = sheet.axis
    within = (0.30, 0.62)
    for k, label in enumerate(BROW):
        u, _ = _along(x, head, k, column_of(p.brow_length), column_of(p.brow_shift))
        arch = column_of(p.brow_arch) * (1.0 - (u - 0.25) ** 2) + column_of(p.brow_tilt) * u
        middle = column_of(p.eye_y) - column_of(p.brow_gap) - arch
        taper = (1.0 - u.abs().clamp(max=1.0) ** 3).sqrt() * (1.0 - 0.38 * u)
        half = torch.where(u.abs() < 1.0, column_of(p.brow_thickness) * taper, -_NOWHERE)
        sheet.paint(sheet.columns(middle - half, middle + half, within), label, within, only_on=SKIN)
    eyes = [_eye(sheet, p, head, k, within) for k in range(2)]
    for eye, label in zip(eyes, EYE, strict=True):
        sheet.paint(eye, label, within, only_on=SKIN)
    if bool((p.glasses != NO_GLASSES).any()):
        _draw_glasses(sheet, p, head, within)
        seen = (p.glasses == CLEAR).numpy()[:, None, None]
        for eye, label in zip(eyes, EYE, strict=True):
            sheet.paint(eye & seen, label, within, only_on=GLASSES)


def _along(x: Tensor, head: Head, k: int, half: Tensor, shift: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Places along a feature above or at eye ``k``: -1 at the inner end, 1 at the outer one."""
    side = 1.0 - 2.0 * k
    scale = head.eye_scale[k]
    return side * (x - head.eye_x[k] - side * shift * scale) / (half * scale), scale


def _eye(sheet: Sheet, p: FaceParameters, head: Head, k: int, within: tuple[float, float]) -> Array:
    """A lens of two parabolas, the upper one higher."""
    u, _ = _along(sheet.axis, head, k, column_of(p.eye_width))
    middle = column_of(p.eye_y) - column_of(p.eye_tilt) * u
    height = column_of(p.eye_height).clamp(min=0.004) * (1.0 - u * u)
    return sheet.columns(middle - 1.15 * height, middle + 0.85 * height, within)


def _draw_glasses(sheet: Sheet, p: FaceParameters, head: Head, within: tuple[float, float]) -> None:
    x = sheet.axis
    worn = column_of(p.glasses) != NO_GLASSES
    half_height, rim = column_of(p.glasses_height), column_of(p.glasses_rim)
    middle = column_of(p.eye_y) + 0.012
    shape = np.zeros(1, bool)
    for k in range(2):
        half_width = column_of(p.glasses_width)
        u, scale = _along(x, head, k, half_width)
        outer = half_height * (1.0 - u.abs().clamp(max=1.0) ** 3) ** (1.0 / 3.0)
        outer = torch.where(worn & (u.abs() < 1.0), outer, -_NOWHERE)
        glass = sheet.columns(middle - outer, middle + outer, within)
        inner_u = u * half_width * scale / (half_width * scale - rim).clamp(min=0.01)
        inner = (half_height - rim) * (1.0 - inner_u.abs().clamp(max=1.0) ** 3) ** (1.0 / 3.0)
        inner = torch.where((column_of(p.glasses) == RIMS) & (inner_u.abs() < 1.0), inner, -_NOWHERE)
        shape = shape | (glass & ~sheet.columns(middle - inner, middle + inner, within))
    # The bridge and the temples: a bar across the face, left out where the glasses are.
    u_right, _ = _along(x, head, 0, column_of(p.glasses_width))
    u_left, _ = _along(x, head, 1, column_of(p.glasses_width))
    bar = torch.where(worn & (u_right.abs() > 1.0) & (u_left.abs() > 1.0), 0.008, -_NOWHERE)
    shape = shape | sheet.columns(middle - 0.018 - bar, middle - 0.018 + bar, within)
    part = sheet.labels[:, sheet.window(within)]
    cover(part, shape & (part > 0) & (part <= EAR[1]), GLASSES)


def draw_nose(sheet: Sheet, p: FaceParameters, head: Head) -> None:
    """A bridge that widens downward into wings, ended round; its tip stands out when the head turns."""
    y = sheet.axis
    within = (0.38, 0.72)
    top, tip = column_of(p.eye_y) + column_of(p.nose_top), column_of(p.nose_tip)
    t = (y - top) / (tip - top)
    inside = (t > 0.0) & (t < 1.0)
    t = t.clamp(0.0, 1.0)
    bridge = column_of(p.nose_bridge)
    half = column_of(p.nose_width) * (bridge + (1.0 - bridge) * (t / 0.84).clamp(max=1.0) ** column_of(p.nose_flare))
    half = half * (1.0 - ((t - 0.79) / 0.21).clamp(min=0.0) ** 2.4).clamp(min=0.0).sqrt()
    half = torch.where(inside, half * torch.cos(head.turn).clamp(min=0.6), -_NOWHERE)
    out = 1.0 + (_NOSE_RADIUS - 1.0) * t
    x = head.axis + out * head.radius * torch.sin(head.turn)
    sheet.paint(sheet.rows(x - half, x + half, within), NOSE, within)


def draw_mouth(sheet: Sheet, p: FaceParameters, head: Head) -> None:
    """Upper lip with its notch, lower lip, and the inside between them when the mouth is open."""
    x = sheet.axis
    within = (0.62, 0.92)
    middle_x = head.axis + 1.03 * head.radius * torch.sin(head.turn)
    angle = torch.asin(column_of(p.mouth_width) / head.radius)
    reach = (
        head.radius * (torch.sin(angle + head.turn) - torch.sin(head.turn)),
        head.radius * (torch.sin(head.turn) - torch.sin(head.turn - angle)),
    )
    u = (x - middle_x) / torch.where(x > middle_x, *reach).clamp(min=0.02)
    inside = u.abs() < 1.0
    u = u.clamp(-1.0, 1.0)
    lens = 1.0 - u * u
    line = column_of(p.mouth_y) + column_of(p.smile) * (0.5 - u * u)
    gap = column_of(p.mouth_open) * lens
    notch = 1.0 - column_of(p.lip_notch) * torch.exp(-((u / 0.16) ** 2))
    upper = line - 0.5 * gap - column_of(p.upper_lip) * lens**0.75 * notch
    lower = line + 0.5 * gap + column_of(p.lower_lip) * lens**0.7
    for top, bottom, label in (
        (upper, line - 0.5 * gap, UPPER_LIP),
        (line + 0.5 * gap, lower, LOWER_LIP),
        (line - 0.5 * gap, line + 0.5 * gap, MOUTH),
    ):
        bottom = torch.where(inside, bottom, -_NOWHERE)
        sheet.paint(sheet.columns(top, bottom, within), label, within, only_on=SKIN)
