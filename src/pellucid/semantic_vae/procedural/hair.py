"""Hair and hat of a drawn face: a cap behind the head, locks at its sides, and what falls over the face."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.semantic_vae.procedural.canvas import STRANDS, Sheet, Textures
from pellucid.semantic_vae.procedural.parameters import BALD, BRIM, MEDIUM, NO_HAT, FaceParameters
from pellucid.semantic_vae.procedural.parts import HAIR, HAT, Head, column_of

_WIDEST = 0.45  # row where a cap is widest
_NOWHERE = 9.0


class Cap(NamedTuple):
    """The outline of the hair, by row ``(N, n)``; ``x`` ``(N, 1)`` is its middle."""

    x: Tensor
    left: Tensor  # of the cap, and of locks below it
    right: Tensor
    end: tuple[Tensor, Tensor]  # where the locks end by column, left and right


def cap_of(p: FaceParameters, head: Head, shapes: Textures, axis: Tensor) -> Cap:
    """The outline that cap and locks share."""
    x = head.axis - 0.30 * head.radius * torch.sin(head.turn)
    width, top = column_of(p.hair_width), column_of(p.hair_top)
    loose = column_of(p.hair_style) >= MEDIUM
    up = ((_WIDEST - axis) / (_WIDEST - top)).clamp(0.0, 1.0)
    above = (1.0 - up**2.3) ** (1.0 / 2.3)
    # A short cap narrows to the sides of the face and ends there; long hair goes on downward.
    down = ((axis - _WIDEST + 0.10) / 0.28).clamp(0.0, 1.0)
    short = width + (1.02 * head.radius - width) * down
    below = torch.where(loose, width + column_of(p.lock_drift) * ((axis - _WIDEST) / 0.5).clamp(0.0, 1.5), short)
    half = torch.where(
        axis < _WIDEST - 0.10,
        width * above,
        torch.minimum(below, torch.where(axis < _WIDEST, width * above + 0.02, below)),
    )
    # Locks are rounded where they end.
    last = ((axis - column_of(p.hair_end) + 0.12) / 0.12).clamp(0.0, 1.5)
    half = half - torch.where(loose, 0.05 * last**2, 0.0)
    half = torch.where((axis > top) & (column_of(p.hair_style) != BALD), half, -_NOWHERE)
    wave = column_of(p.curl) * 0.8
    lean = column_of(p.hair_lean)
    left = x - half * (1.0 - lean) + wave * shapes.coarse[:, 3]
    right = x + half * (1.0 + lean) + wave * shapes.coarse[:, 4]
    tips = column_of(p.lock_tips)
    ends = [
        torch.where(loose, column_of(p.hair_end) + side * column_of(p.hair_end_lean), column_of(p.hair_bottom))
        + torch.where(loose, tips + 0.02, 0.02) * (0.7 * shapes.fine[:, line] + 0.5 * shapes.coarse[:, line])
        for side, line in ((-0.5, 5), (0.5, 6))
    ]
    return Cap(x, left, right, (ends[0], ends[1]))


def draw_back_hair(sheet: Sheet, p: FaceParameters, head: Head, cap: Cap, shapes: Textures) -> None:
    """What lies behind head, neck and clothes."""
    y = sheet.axis
    # A gap lets the ground show between neck and locks; else the hair closes behind the neck.
    gap = (column_of(p.hair_gap) == 1) & (column_of(p.hair_style) >= MEDIUM) & (y > 0.55)
    opened = ((y - 0.55) / 0.22).clamp(0.0, 1.0) ** 0.6
    lock = column_of(p.lock_width) + 0.02 * shapes.coarse[:, 7]
    left_inner = head.left.cummin(1).values * (1.0 - opened) + (cap.left + lock) * opened
    right_inner = head.right.cummax(1).values * (1.0 - opened) + (cap.right - lock) * opened
    left_inner = torch.where(gap, torch.minimum(left_inner, cap.x), cap.x)
    right_inner = torch.where(gap, torch.maximum(right_inner, cap.x), cap.x)
    sheet.paint(sheet.rows(cap.left, left_inner) & sheet.above(cap.end[0]), HAIR)
    sheet.paint(sheet.rows(right_inner - 0.004, cap.right) & sheet.above(cap.end[1]), HAIR)


def draw_front_hair(sheet: Sheet, p: FaceParameters, head: Head, cap: Cap, shapes: Textures) -> None:
    """Hairline, hair over the face's sides, locks before clothes, and strands; the caller keeps it off the features."""
    axis = sheet.axis
    haired = column_of(p.hair_style) != BALD
    within = (-1.0, 0.62)
    forehead = sheet.above(_hairline(p, head, shapes, axis), within)
    sheet.paint(sheet.rows(cap.left, cap.right, within) & forehead, HAIR, within)
    start = column_of(p.hairline) - 0.05
    end = column_of(p.strip_end) + 0.03 * shapes.fine[:, 8]
    taper = ((end - axis) / 0.12).clamp(0.0, 1.0)
    shown = haired & (axis > start) & (axis < end)
    within = (0.10, 1.0)
    # Below the cheeks hair hangs straight down; it does not follow the jaw.
    left, right = head.left.cummin(1).values, head.right.cummax(1).values
    for edge, width, line, side in ((left, p.strip_left, 9, 1.0), (right, p.strip_right, 10, -1.0)):
        reach = column_of(width) * (1.0 + 0.5 * shapes.coarse[:, line]) * taper
        inner = torch.where(shown, edge + side * reach, -side * _NOWHERE)
        outer = edge - side * 0.02 * taper
        low, high = (outer, inner) if side > 0 else (inner, outer)
        sheet.paint(sheet.rows(low, high, within), HAIR, within)
    _draw_front_locks(sheet, p, head, cap, shapes)
    _draw_strands(sheet, p, head, shapes)


def _hairline(p: FaceParameters, head: Head, shapes: Textures, axis: Tensor) -> Tensor:
    """Row where hair ends over the forehead, by column ``(N, n)``."""
    aside = axis - (head.middle_x + column_of(p.parting))
    sag = column_of(p.hairline_sag) * (aside.abs() - 0.06).clamp(min=0.0) ** 2
    sweep = column_of(p.sweep)
    swept = sweep.abs() * ((torch.where(sweep > 0, aside, -aside) + 0.05) / 0.34).clamp(0.0, 1.05)
    sag = sag * torch.where(sweep != 0, 0.5, 1.0)
    fringe = column_of(p.fringe)
    rough = column_of(p.hairline_rough) * (0.012 + 0.022 * fringe)
    return column_of(p.hairline) + sag + swept + rough * (shapes.fine[:, 11] + 0.6 * shapes.coarse[:, 11])


def _draw_front_locks(sheet: Sheet, p: FaceParameters, head: Head, cap: Cap, shapes: Textures) -> None:
    place = column_of(p.lock_place)
    loose = column_of(p.hair_style) >= MEDIUM
    if not bool((loose & (place > 0)).any()):
        return
    axis = sheet.axis
    within = (0.36, 2.0)
    width = column_of(p.lock_width) * (1.0 + 0.25 * shapes.coarse[:, 0]) * ((axis - 0.36) / 0.3).clamp(0.0, 1.0)
    left = torch.where(loose & (place > 0), cap.left, _NOWHERE)
    right = torch.where(loose & (place == 1), cap.right, -_NOWHERE)
    sheet.paint(sheet.rows(left, cap.left + width, within) & sheet.above(cap.end[0], within), HAIR, within)
    sheet.paint(sheet.rows(cap.right - width, right, within) & sheet.above(cap.end[1], within), HAIR, within)


def _draw_strands(sheet: Sheet, p: FaceParameters, head: Head, shapes: Textures) -> None:
    """Thin bent wedges from the hairline down."""
    y = sheet.axis
    within = (0.10, 0.85)
    for k in range(STRANDS):
        shown = (column_of(p.strands) > k) & (column_of(p.hair_style) != BALD)
        if not bool(shown.any()):
            return
        at, lean, bow, length, width, start = shapes.strands[:, k].unbind(1)
        x0 = head.axis + head.radius * 1.6 * (at[:, None] - 0.5)
        y0 = column_of(p.hairline) - 0.04 + 0.5 * (at[:, None] - 0.5).abs() ** 2 + 0.03 * start[:, None]
        t = (y - y0) / (0.06 + 0.26 * length[:, None])
        inside = (t > 0.0) & (t < 1.0)
        t = t.clamp(0.0, 1.0)
        x = x0 + 0.16 * (lean[:, None] - 0.5) * t + 0.16 * (bow[:, None] - 0.5) * t * t
        half = (0.004 + 0.016 * width[:, None]) * (1.0 - t) ** 0.8
        half = torch.where(shown & inside, half, -_NOWHERE)
        sheet.paint(sheet.rows(x - half, x + half, within), HAIR, within)


def draw_hat(sheet: Sheet, p: FaceParameters, cap: Cap, head: Head, shapes: Textures) -> None:
    """A cap over the hair down to a line, and a brim on some."""
    worn = column_of(p.hat) != NO_HAT
    if not bool(worn.any()):
        return
    y = sheet.axis
    line, top = column_of(p.hat_line), column_of(p.hair_top) - 0.02
    within = (-1.0, 0.50)
    width = torch.maximum(column_of(p.hair_width), 1.08 * head.radius).clamp(max=0.40) + 0.015
    up = ((_WIDEST - y) / (_WIDEST - top)).clamp(0.0, 1.0)
    half = torch.where(worn & (y > top), width * (1.0 - up**2.6) ** (1.0 / 2.6), -_NOWHERE)
    bow = line + 0.25 * (y - cap.x) ** 2 + 0.004 * shapes.coarse[:, 1]
    bottom = torch.where(worn, bow, -_NOWHERE)
    crown = sheet.rows(cap.x - half, cap.x + half, within) & sheet.above(bottom, within)
    sheet.paint(crown, HAT, within)
    u = (y - cap.x) / torch.maximum(column_of(p.hat_brim), width + 0.02)
    thick = torch.where(
        (column_of(p.hat) == BRIM) & (u.abs() < 1.0), 0.030 * (1.0 - u.abs().clamp(max=1.0) ** 2).sqrt(), -_NOWHERE
    )
    sheet.paint(sheet.columns(bow - thick, bow + thick, within), HAT, within)
