"""The features of a face, drawn on its skin: eyes, brows, nose, mouth and the folds of the ears.

Each is drawn on its own piece of the canvas, which is changed in place. What a mask leaves open, such as where an iris
looks, follows from the part's place and size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.semantic_vae.preview.roles import Role
from pellucid.semantic_vae.preview.scene import Box, Feature, Scene, smoothstep
from pellucid.semantic_vae.preview.skin import Marks, ear_skin
from pellucid.semantic_vae.preview.style import Color, PreviewStyle, mixed, scaled

_INK: Color = (0.13, 0.08, 0.08)
_SCLERA: Color = (0.965, 0.945, 0.925)
_TEETH: Color = (0.965, 0.945, 0.915)
_CAVE: Color = (0.30, 0.09, 0.10)


def draw_features(canvas: Tensor, scene: Scene, style: PreviewStyle, marks: Marks) -> None:
    """Draw every feature that the mask has on the skin."""
    if scene.has(Role.NOSE):
        _draw_nose(canvas, scene, style)
    for beard in scene.features(Role.BEARD, 0.1):
        stubble = torch.randn(beard.cover.shape, generator=generator_of(scene.seed, 0xBE))
        _lay(canvas, beard.box, style.brows, (beard.cover * (0.75 + 0.12 * stubble)).clamp(0.0, 0.95))
    _draw_mouth(canvas, scene, style)
    for brow in scene.features(Role.BROW, 0.3):
        _draw_brow(canvas, brow, scene, style, marks)
    for eye in scene.features(Role.EYE, 0.7):
        _draw_eye(canvas, eye, scene, style, marks)


def ear_color(scene: Scene, style: PreviewStyle, box: Box) -> Tensor:
    """Colour of the ears with their rim and hollow: ``(3, H, W)`` on a piece of the canvas."""
    canvas = torch.zeros(3, *scene.size)
    canvas[:, box.rows, box.columns] = scene.up(ear_skin(scene, style), box)
    shade = _shade(style.skin)
    for ear in scene.features(Role.EAR, 0.1):
        if ear.box.right <= box.left or ear.box.left >= box.right:
            continue  # the other one
        x, y = ear.grid()
        u, v = x / (0.5 * ear.width), y / (0.5 * ear.height)
        outwards = 1.0 if ear.x > scene.face.x * scene.side else -1.0
        # The hollow lies towards the face, inside the rim, and is deepest at the middle.
        hollow = smoothstep(1.25, 0.45, (((u + 0.18 * outwards) / 0.60) ** 2 + ((v + 0.10) / 0.68) ** 2).sqrt())
        deep = smoothstep(1.3, 0.3, (((u + 0.40 * outwards) / 0.36) ** 2 + ((v - 0.05) / 0.34) ** 2).sqrt())
        fold = torch.exp(
            -((((((u + 0.30 * outwards) / 0.5) ** 2 + ((v + 0.06) / 0.52) ** 2).sqrt() - 0.9) / 0.16) ** 2)
        )
        _lay(canvas, ear.box, shade, 0.50 * hollow * ear.cover)
        _lay(canvas, ear.box, mixed(style.skin, (1.0, 0.9, 0.82), 0.2), 0.28 * fold * ear.cover)
        _lay(canvas, ear.box, _shade(shade), 0.55 * deep * ear.cover)
    return canvas[:, box.rows, box.columns]


def _draw_eye(canvas: Tensor, eye: Feature, scene: Scene, style: PreviewStyle, marks: Marks) -> None:
    x, y = eye.grid()
    cover, box = eye.cover, eye.box
    width, height = eye.width, max(eye.height, 0.16 * eye.width)
    outwards = 1.0 if eye.x > scene.side * (marks.eyes[0][0] + marks.eyes[1][0]) / 2 else -1.0
    lash = mixed(_INK, style.brows, 0.25)
    shade = _shade(style.skin)
    # The lid above and its fold, which follow the eye's upper edge.
    lid = _moved(cover, 0, -round(0.42 * height))
    _lay(
        canvas, box, shade, 0.30 * (torch.maximum(lid, _moved(cover, 0, -round(0.2 * height))) - cover).clamp(0.0, 1.0)
    )
    fold = (_moved(lid, 0, -max(1, round(0.09 * height))) - lid).clamp(0.0, 1.0)
    _lay(canvas, box, _shade(shade), 0.70 * fold * smoothstep(0.62, 0.40, (x / width).abs()))
    low = (_moved(cover, 0, max(1, round(0.16 * height))) - cover).clamp(0.0, 1.0)
    _lay(canvas, box, _shade(shade), 0.42 * low * smoothstep(-0.55, 0.25, outwards * x / width))
    # The white, in the shadow of the lid above, and rosy in the corners.
    _lay(canvas, box, mixed(_SCLERA, style.skin, 0.10), cover)
    corner = smoothstep(0.30, 0.52, (x / width).abs())
    _lay(canvas, box, mixed(style.skin, (0.85, 0.45, 0.42), 0.5), 0.45 * corner * cover)
    # The iris, cut by the lids as the mask says.
    radius = max(0.225 * width, 0.42 * height)
    up = y + 0.06 * height
    away = (x * x + up * up).sqrt() / radius
    soft = 0.9 / radius * scene.scale
    inside = smoothstep(1.0 + soft, 1.0 - soft, away) * cover
    angle = torch.atan2(up, x)
    rays = 0.10 * torch.sin(19.0 * angle + 1.7) + 0.08 * torch.sin(31.0 * angle) + 0.06 * torch.sin(47.0 * angle + 0.6)
    glow = (0.62 + 0.55 * smoothstep(-0.5, 0.9, up / radius)) * (1.0 + rays * smoothstep(0.35, 0.7, away))
    glow = glow * (1.0 - 0.55 * smoothstep(0.72, 1.0, away))
    iris = torch.tensor(style.iris)[:, None, None] * 1.25 * glow
    piece = canvas[:, box.rows, box.columns]
    piece.copy_(torch.lerp(piece, iris.clamp(0.0, 1.0), inside))
    _lay(canvas, box, (0.03, 0.02, 0.03), smoothstep(0.44 + soft, 0.44 - soft, away) * cover)
    shadow = cover * (1.0 - _moved(cover, 0, round(0.30 * height)))
    _lay(canvas, box, scaled(shade, 0.45), 0.50 * shadow)
    # Lashes: a line on the upper edge that grows thicker and goes on towards the outer corner.
    thick = max(1, round(0.13 * height))
    line = (_moved(cover, 0, -thick) - cover).clamp(0.0, 1.0) + cover * (1.0 - _moved(cover, 0, max(1, thick // 2)))
    wing = _moved(cover, round(0.07 * width * outwards), -thick - round(0.03 * width))
    wing = (wing - cover).clamp(0.0, 1.0) * smoothstep(0.05, 0.5, outwards * x / width)
    _lay(canvas, box, lash, 0.92 * torch.maximum(line, wing).clamp(0.0, 1.0))
    bottom = cover * (1.0 - _moved(cover, 0, -max(1, thick // 2)))
    _lay(canvas, box, lash, 0.35 * bottom)
    # What shines: the light, and its second, weaker reflection.
    side = -1.0 if style.light[0] <= 0.0 else 1.0
    spark = _disc(x - 0.36 * radius * side, up + 0.34 * radius, 0.27 * radius, scene)
    second = _disc(x + 0.38 * radius * side, up - 0.42 * radius, 0.14 * radius, scene)
    _lay(canvas, box, (1.0, 1.0, 1.0), 0.95 * spark * smoothstep(0.3, 0.7, cover))
    _lay(canvas, box, (1.0, 1.0, 1.0), 0.45 * second * cover)


def _draw_brow(canvas: Tensor, brow: Feature, scene: Scene, style: PreviewStyle, marks: Marks) -> None:
    x, y = brow.grid()
    outwards = 1.0 if brow.x > scene.side * (marks.eyes[0][0] + marks.eyes[1][0]) / 2 else -1.0
    along = outwards * x / brow.width  # -0.5 at the inner end, 0.5 at the outer one
    # Short hairs: upright at the inner end, lying flat towards the outer one.
    lean = 0.55 + 1.6 * (along + 0.5).clamp(0.0, 1.0)
    stroke = (outwards * x + lean * y) / max(1.5, 0.020 * brow.width)
    table = torch.randn(258, generator=generator_of(scene.seed, 0xB0))
    at = stroke % 256.0
    low = at.floor()
    hairs = torch.lerp(table[low.long()], table[low.long() + 1], at - low)
    strength = smoothstep(-0.62, -0.30, along) * 0.88
    cover = smoothstep(0.15, 0.85, brow.cover + 0.13 * hairs * (1.0 - brow.cover) * 4.0 * brow.cover)
    _lay(canvas, brow.box, style.brows, (strength * cover * (0.88 + 0.12 * hairs)).clamp(0.0, 0.95))


def _draw_nose(canvas: Tensor, scene: Scene, style: PreviewStyle) -> None:
    nose = scene.feature(scene.ids[Role.NOSE], 0.2)
    if nose is None:
        return
    x, y = nose.grid()
    box, cover = nose.box, nose.cover
    bottom = nose.box.top + float((cover.amax(dim=1) > 0.5).nonzero()[-1]) + 1 - nose.y  # from the middle
    low = cover * smoothstep(bottom - 0.40 * nose.height, bottom - 0.30 * nose.height, y)
    weight = low.sum().clamp(min=1e-6)
    tip = float((low * x).sum() / weight)  # the nose's own middle near its end, also when it is turned
    half = float(2.0 * ((low * (x - tip) ** 2).sum() / weight).sqrt()) * 0.9
    shade = _shade(style.skin)
    side = -1.0 if style.light[0] <= 0.0 else 1.0
    # The wings: a line round the lower third.
    edge = 4.0 * cover * (1.0 - cover)
    wings = smoothstep(bottom - 0.36 * nose.height, bottom - 0.10 * nose.height, y)
    wings = wings * smoothstep(0.25 * half, 0.75 * half, (x - tip).abs())
    _lay(canvas, box, _shade(shade), 0.60 * edge * wings)
    _lay(canvas, box, _shade(shade), 0.30 * edge * smoothstep(bottom - 0.10 * nose.height, bottom, y))
    under = cover * smoothstep(bottom - 0.15 * nose.height, bottom, y)
    _lay(canvas, box, shade, 0.45 * under)
    for at in (-0.48, 0.48):
        u = (x - tip - at * half) / (0.27 * half)
        v = (y - bottom + 0.085 * nose.height - 0.10 * u * u * half + 0.05 * half) / (0.13 * half)
        _lay(canvas, box, scaled(_shade(shade), 0.5), 0.85 * smoothstep(1.35, 0.6, (u * u + v * v).sqrt()) * cover)
    # The light on the ridge and on the tip.
    light = mixed(style.skin, (1.0, 0.97, 0.93), 0.7)
    shift = 0.10 * half * side
    spot = torch.exp(
        -(((x - tip - shift) / (0.30 * half)) ** 2 + ((y - bottom + 0.30 * nose.height) / (0.24 * half)) ** 2)
    )
    _lay(canvas, box, light, 0.55 * spot)
    ridge = torch.exp(-(((x - 0.8 * tip - 0.6 * shift) / (0.13 * half)) ** 2))
    ridge = ridge * smoothstep(bottom - 0.98 * nose.height, bottom - 0.6 * nose.height, y)
    _lay(canvas, box, light, 0.26 * ridge * smoothstep(bottom - 0.28 * nose.height, bottom - 0.42 * nose.height, y))


def _draw_mouth(canvas: Tensor, scene: Scene, style: PreviewStyle) -> None:
    parts = (Role.UPPER_LIP, Role.LOWER_LIP, Role.LIPS, Role.MOUTH)
    everything = tuple(one for role in parts for one in scene.ids.get(role, ()))
    whole = scene.feature(everything, 0.25) if everything else None
    if whole is None:
        return
    x, y = whole.grid()
    box = whole.box
    upper, lower, both, mouth = (_cover(scene, role, box) for role in parts)
    dark = scaled(mixed(style.lips, (0.35, 0.08, 0.12), 0.35), 0.62)
    if both is not None:
        # One class for both lips: the line between them is put a little above its middle.
        split = smoothstep(-0.8 * scene.scale, 0.8 * scene.scale, y + 0.06 * whole.height)
        upper, lower = both * (1.0 - split), both * split
    zero = torch.zeros_like(whole.cover)
    upper, lower, inner = (
        upper if upper is not None else zero,
        lower if lower is not None else zero,
        mouth if mouth is not None else zero,
    )
    across = x / (0.5 * whole.width)
    _lay(canvas, box, _CAVE, torch.maximum(inner, whole.cover))
    if mouth is not None:
        _draw_teeth(canvas, scene, box, inner)
    # The upper lip lies in shadow, the lower one is round and shines.
    _lay(canvas, box, mixed(scaled(style.lips, 0.78), dark, 0.15), upper)
    edge = max(1, round(0.012 * whole.width))
    _lay(canvas, box, dark, 0.40 * upper * (1.0 - _moved(upper, 0, -4 * edge)))
    _lay(canvas, box, style.lips, lower)
    _lay(canvas, box, dark, 0.55 * lower * (1.0 - _moved(lower, 0, -5 * edge)) * (0.4 + 0.6 * across.abs()))
    _lay(canvas, box, dark, 0.45 * (upper + lower) * smoothstep(0.55, 1.05, across.abs()))
    # Where the lips meet.
    seam = (4.0 * upper * lower).clamp(0.0, 1.0)
    _lay(canvas, box, scaled(dark, 0.55), 0.95 * seam)
    corner = smoothstep(0.86, 1.0, across.abs()) * whole.cover
    _lay(canvas, box, scaled(dark, 0.6), 0.6 * corner)
    weight = lower.sum()
    if float(weight) > 1.0:
        side = -1.0 if style.light[0] <= 0.0 else 1.0
        middle = float((lower * y).sum() / weight)
        spread = float(((lower * (y - middle) ** 2).sum() / weight).sqrt())
        rows = (y - middle + 0.35 * spread - 0.9 * spread * across * across) / max(0.75 * spread, 1.0)
        gloss = torch.exp(-(rows**2)) * torch.exp(-(((across - 0.10 * side) / 0.34) ** 2))
        _lay(canvas, box, mixed(style.lips, (1.0, 0.96, 0.95), 0.75), 0.55 * gloss * lower)
        bow = torch.exp(-(((across - 0.14 * side) / 0.10) ** 2)) * upper * (1.0 - _moved(upper, 0, 3 * edge))
        _lay(canvas, box, (1.0, 0.95, 0.93), 0.30 * bow)


def _draw_teeth(canvas: Tensor, scene: Scene, box: Box, inner: Tensor) -> None:
    """Teeth in the upper part of an open mouth, darker at the sides, with faint gaps."""
    columns, rows = (inner.amax(dim=0) > 0.5).nonzero()[:, 0], (inner.amax(dim=1) > 0.5).nonzero()[:, 0]
    if columns.numel() == 0:
        return
    width, height = float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1)
    middle = float(columns[0]) + 0.5 * width + box.left  # of the canvas
    across = (torch.arange(box.left, box.right)[None, :] + 0.5 - middle) / (0.5 * width)
    teeth = inner * _moved(inner, 0, -max(1, round(0.30 * height))) * smoothstep(1.0, 0.75, across.abs())
    bright = 1.0 - 0.45 * across**2
    color = torch.tensor(_TEETH)[:, None, None] * bright
    piece = canvas[:, box.rows, box.columns]
    piece.copy_(torch.lerp(piece, color.expand_as(piece), 0.95 * teeth))
    gaps = smoothstep(0.10, 0.02, ((across * (4.6 - 0.6 * across.abs()) + 0.5) % 1.0 - 0.5).abs())
    _lay(canvas, box, (0.62, 0.50, 0.46), 0.30 * gaps * teeth)
    shadow = inner * (1.0 - _moved(inner, 0, max(1, round(0.22 * height))))
    _lay(canvas, box, _CAVE, 0.50 * shadow)


def _cover(scene: Scene, role: Role, box: Box) -> Tensor | None:
    ids = scene.ids.get(role)
    found = scene.feature(ids, box=box, edge=0.7) if ids else None
    return None if found is None else found.cover


def _lay(canvas: Tensor, box: Box, color: Color, alpha: Tensor) -> None:
    """Lay a colour over a piece of the canvas."""
    piece = canvas[:, box.rows, box.columns]
    for plane, value in zip(piece, color, strict=True):
        plane.add_(alpha * (value - plane))


def _moved(plane: Tensor, right: int, down: int) -> Tensor:
    """A plane moved by whole pixels; what comes in is empty."""
    height, width = plane.shape
    result = torch.zeros_like(plane)
    if abs(down) >= height or abs(right) >= width:
        return result
    to_rows, from_rows = slice(max(0, down), height + min(0, down)), slice(max(0, -down), height - max(0, down))
    to_columns = slice(max(0, right), width + min(0, right))
    from_columns = slice(max(0, -right), width - max(0, right))
    result[to_rows, to_columns] = plane[from_rows, from_columns]
    return result


def _disc(x: Tensor, y: Tensor, radius: float, scene: Scene) -> Tensor:
    soft = 0.7 * scene.scale
    return smoothstep(radius + soft, max(0.0, radius - soft), (x * x + y * y).sqrt())


def _shade(color: Color) -> Color:
    """Skin in shadow: darker and redder."""
    return color[0] * 0.74, color[1] * 0.55, color[2] * 0.52
