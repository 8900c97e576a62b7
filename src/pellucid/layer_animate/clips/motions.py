"""Motions that code gives to a still with alpha: loopable, in premultiplied colour, neutral at time 0.

A motion is a function of time in turns: time 1 is time 0 again, and at time 0 the picture is as it was given, up to the
resampling that all frames share. So a clip loops when it holds whole turns, and any frame can be the base frame.
Warps are inverse: a function says where each output pixel comes from. Lengths are in units in which the longer side of
the picture is 2; x goes right, y down, as seen from the middle of what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.device import generator_of
from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.clips.cuts import premultiply, straighten

_TAU = 2.0 * math.pi
_TILES = 4  # a side, of what falls apart
_SEEN = 0.05  # alpha from which a pixel counts as drawn


@dataclass(frozen=True)
class Stage:
    """What a warp knows of the picture.

    Attributes:
        x: ``(1, H', W')`` distance of each output pixel from the middle of what is drawn, to the right.
        y: ``(1, H', W')`` the same, down.
        wide: half the width of what is drawn.
        high: half its height.
        leave: ``(x, y)`` how far it goes until it has left the picture, wholly and on either side.
        time: ``(F, 1, 1)`` in turns.
        amount: factor on how far it moves.
        draws: ``(64,)`` in [0, 1], the same in all frames; on the CPU, where choices are made.
    """

    x: Tensor
    y: Tensor
    wide: float
    high: float
    leave: tuple[float, float]
    time: Tensor
    amount: float
    draws: Tensor

    @property
    def wave(self) -> Tensor:
        """A sine of time: 0 at time 0."""
        return torch.sin(_TAU * self.time)

    @property
    def swell(self) -> Tensor:
        """From 0 at time 0 to 1 in the middle of the turn and back."""
        return 0.5 - 0.5 * torch.cos(_TAU * self.time)


Warp = tuple[Tensor, Tensor, Tensor | float]  # where a pixel comes from: x, y; and what its colour and alpha are times
Rule = Callable[[Stage], Warp]


@dataclass(frozen=True)
class Motion:
    """One motion.

    Attributes:
        name: its name here.
        words: texts that say it; the first is the word of the real animations' captions where they have one.
        rule: the warp; None for what falls apart, which moves piece by piece.
        fastest: most turns in 16 frames at which eight frames a second still show it.
    """

    name: str
    words: tuple[str, ...]
    rule: Rule | None
    fastest: int = 3


def _turned(s: Stage, angle: Tensor, px: float = 0.0, py: float = 0.0) -> Warp:
    """Turn by ``angle`` (clockwise as seen) about a point."""
    x, y, cos, sin = s.x - px, s.y - py, torch.cos(angle), torch.sin(angle)
    return cos * x + sin * y + px, cos * y - sin * x + py, 1.0


def _scaled(s: Stage, along_x: Tensor | float, along_y: Tensor | float, px: float = 0.0, py: float = 0.0) -> Warp:
    return (s.x - px) / along_x + px, (s.y - py) / along_y + py, 1.0


def _swinging(s: Stage) -> Warp:
    top = -s.high if s.draws[0] < 0.6 else s.high  # hangs from above, or stands and rocks
    return _turned(s, 0.45 * s.amount * s.wave, 0.0, top)


def _bouncing(s: Stage) -> Warp:
    lift = torch.sin(math.pi * s.time).abs()  # on the ground at time 0
    squash = 1.0 - 0.22 * s.amount * (1.0 - lift).clamp(min=0.0) ** 6 * (1.0 - torch.cos(_TAU * s.time * 2) ** 8)
    x, y, _ = _scaled(s, 1.0 / squash, squash, 0.0, s.high)
    return x, y + 0.5 * s.amount * lift, 1.0


def _jumping(s: Stage) -> Warp:
    lift = s.wave.clamp(min=0.0)
    crouch = 1.0 - 0.3 * s.amount * (-s.wave).clamp(min=0.0)
    x, y, _ = _scaled(s, crouch**-0.5, crouch, 0.0, s.high)
    return x, y + 0.55 * s.amount * lift, 1.0


def _growing(s: Stage) -> Warp:
    scale = torch.exp(0.4 * s.amount * s.wave)
    return _scaled(s, scale, scale)


def _pulsing(s: Stage) -> Warp:
    beat = 1.0 + 0.3 * s.amount * (torch.exp(4.0 * (s.swell - 1.0)) - math.exp(-4.0))
    return _scaled(s, beat, beat)


def _flipping(s: Stage) -> Warp:
    turn = torch.cos(_TAU * s.time)
    edge = torch.where(turn.abs() < 0.04, torch.where(turn < 0, -0.04, 0.04), turn)  # never wholly on its edge
    return _scaled(s, edge, 1.0)


def _wobbling(s: Stage) -> Warp:
    """Lobes that swell and shrink around the middle: the outline changes, the place does not."""
    lobes = 2 + int(s.draws[0] * 3)
    swell = 0.22 * s.amount * s.wave * torch.cos(lobes * torch.atan2(s.y, s.x) + _TAU * s.draws[1])
    return s.x / (1.0 + swell), s.y / (1.0 + swell), 1.0


def _waving(s: Stage) -> Warp:
    """A wave that runs through it like through a flag."""
    bend = torch.sin(_TAU * (1.2 * s.y - s.time)) - torch.sin(_TAU * 1.2 * s.y)
    return s.x + 0.09 * s.amount * bend, s.y, 1.0


def _melting(s: Stage) -> Warp:
    """Sinks into itself and spreads at the foot, drop by drop."""
    a = (s.swell * min(s.amount, 1.4)).clamp(max=1.3)
    foot = ((s.y + s.high) / (2.0 * s.high + 1e-6)).clamp(0.0, 1.0)
    droop = 0.12 * a * torch.sin(_TAU * (1.3 * s.x + s.draws[0])) * (1.0 - foot)
    x, y, _ = _scaled(s, 1.0 + 0.35 * a * foot, 1.0 - 0.5 * a, 0.0, s.high)
    return x, y + droop, 1.0


def _sliding(s: Stage, dx: float, dy: float) -> Warp:
    """Leaves on one side and comes in on the other."""
    step_x, step_y = (2.0 * s.leave[0] * dx, 2.0 * s.leave[1] * dy)
    near = torch.remainder(s.time + 0.5, 1.0) - 0.5  # out of sight at half a turn
    return s.x - step_x * near, s.y - step_y * near, 1.0


def _circling(s: Stage) -> Warp:
    way = 1.0 if s.draws[0] < 0.5 else -1.0
    return s.x - way * 0.28 * s.amount * s.wave, s.y - 0.28 * s.amount * (2.0 * s.swell - 0.0), 1.0


def _shaking(s: Stage) -> Warp:
    x, y, _ = _turned(s, 0.06 * s.amount * torch.sin(_TAU * 2 * s.time))
    return x - 0.07 * s.amount * s.wave, y, 1.0


def _gently(s: Stage) -> Warp:
    x, y, _ = _turned(s, 0.05 * s.amount * s.wave, 0.0, s.high)
    return x, y - 0.03 * s.amount * torch.sin(_TAU * 2 * s.time), 1.0


def _blinking(s: Stage) -> Warp:
    shown = (torch.cos(_TAU * s.time) > -0.3).float()
    return s.x.expand_as(shown * s.x), s.y, shown


MOTIONS: dict[str, Motion] = {
    motion.name: motion
    for motion in (
        Motion(
            "up_down", ("moving up and down", "going up and down"), lambda s: (s.x, s.y - 0.3 * s.amount * s.wave, 1.0)
        ),
        Motion(
            "side_side",
            ("moving side to side", "moving from side to side"),
            lambda s: (s.x - 0.3 * s.amount * s.wave, s.y, 1.0),
        ),
        Motion("bouncing", ("bouncing up and down", "bouncing"), _bouncing),
        Motion("jumping", ("jumping", "jumping up"), _jumping),
        Motion("swinging", ("swinging", "rocking"), _swinging),
        Motion("turning", ("turning", "spinning", "rotating"), lambda s: _turned(s, _sense(s) * _TAU * s.time), 2),
        Motion("growing", ("growing and shrinking",), _growing),
        Motion("pulsing", ("pulsing", "beating"), _pulsing),
        Motion("shape", ("changing shape", "wobbling"), _wobbling),
        Motion("waving", ("waving", "rippling"), _waving),
        Motion("melting", ("melting",), _melting, 2),
        Motion("flipping", ("flipping", "turning around"), _flipping, 2),
        Motion(
            "fading",
            ("appearing and disappearing", "fading in and out"),
            lambda s: (s.x, s.y, 1.0 - s.swell * min(1.0, 0.95 * s.amount)),
        ),
        Motion("blinking", ("blinking",), _blinking),
        Motion("across", ("sliding across",), lambda s: _sliding(s, _sense(s), 0.0), 2),
        Motion("left", ("sliding left", "moving left"), lambda s: _sliding(s, -1.0, 0.0), 2),
        Motion("right", ("sliding right", "moving right"), lambda s: _sliding(s, 1.0, 0.0), 2),
        Motion("floating", ("floating up", "rising"), lambda s: _sliding(s, 0.0, -1.0), 2),
        Motion("circling", ("moving around", "flying in a circle"), _circling),
        Motion("shaking", ("shaking", "trembling"), _shaking, 4),
        Motion("gently", ("moving gently",), _gently),
        Motion("apart", ("falling apart",), None, 2),
    )
}


def _sense(s: Stage) -> float:
    return 1.0 if s.draws[0] < 0.5 else -1.0


def move(
    still: Tensor,
    motion: str,
    frames: int = 16,
    *,
    base_index: int | None = None,
    turns: int = 1,
    amount: float = 1.0,
    phase: float = 0.0,
    seed: int = 0,
    oversample: int = 2,
) -> Tensor:
    """Move a still.

    Args:
        still: ``(4, H, W)`` float in [0, 1], straight alpha; anything with something drawn on it. The clip is made on
            its device.
        motion: a key of `MOTIONS`.
        frames: F; frame F would be frame 0 again.
        base_index: the frame at which time is ``phase``; the middle ``(F - 1) // 2`` when None.
        turns: whole turns in the clip, so that it loops.
        amount: factor on how far it moves.
        phase: time of the base frame in turns; at 0 it shows the still as it is.
        seed: of what a motion leaves open: a side, a sense, the number of lobes.
        oversample: pixels drawn for each pixel of the result, in both directions, and averaged.

    Returns:
        ``(F, 4, H, W)`` float32 in [0, 1], straight alpha.

    Raises:
        ConfigError: the motion is not known.
        InputError: the still has another shape, or nothing is drawn on it.
    """
    if motion not in MOTIONS:
        raise ConfigError(f"motion {motion!r} is not known", f"use one of {', '.join(MOTIONS)}")
    if still.ndim != 3 or still.shape[0] != 4:
        raise InputError(f"a still must be (4, H, W), found {tuple(still.shape)}")
    box = _box(still)
    middle = (frames - 1) // 2 if base_index is None else base_index
    time = (torch.arange(frames, dtype=torch.float32, device=still.device) - middle) / frames * turns + phase
    stage = _stage(still, box, time, amount, seed, oversample)
    rule = MOTIONS[motion].rule
    source = premultiply(still.float())
    moved = _fallen(source, stage, box) if rule is None else _warped(source, rule(stage), box)  # (F, 4, rH, rW)
    if oversample > 1:
        moved = F.avg_pool2d(moved, oversample)
    return straighten(moved)


def _box(still: Tensor) -> tuple[float, float, float, float]:
    """Middle and half sizes ``(x, y, wide, high)`` of what is drawn, in units in which the longer side is 2."""
    seen = still[3] > _SEEN
    if not bool(seen.any()):
        raise InputError("a still needs something drawn on it, found alpha below 0.05 everywhere")
    height, width = seen.shape
    unit = 2.0 / max(height, width)
    rows, columns = (seen.any(dim=side).nonzero().flatten() for side in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    x, y = ((left + right - width) / 2 * unit, (top + bottom - height) / 2 * unit)
    return x, y, (right - left) / 2 * unit, (bottom - top) / 2 * unit


def _stage(
    still: Tensor, box: tuple[float, float, float, float], time: Tensor, amount: float, seed: int, oversample: int
) -> Stage:
    height, width = still.shape[-2:]
    longer = max(height, width)
    x = ((torch.arange(width * oversample, device=still.device) + 0.5) / oversample * 2.0 - width) / longer - box[0]
    y = ((torch.arange(height * oversample, device=still.device) + 0.5) / oversample * 2.0 - height) / longer - box[1]
    # As far as the side that is farther away, plus itself: then nothing of it is seen at half a turn.
    leave = (width / longer + abs(box[0]) + box[2], height / longer + abs(box[1]) + box[3])
    return Stage(
        x[None, None, :].expand(1, height * oversample, -1),
        y[None, :, None].expand(1, -1, width * oversample),
        box[2],
        box[3],
        leave,
        time[:, None, None],
        amount,
        torch.rand(64, generator=generator_of(seed)),
    )


def _warped(source: Tensor, warp: Warp, box: tuple[float, float, float, float]) -> Tensor:
    """Premultiplied ``(4, H, W)`` through a warp: ``(F, 4, rH, rW)``."""
    x, y, gain = warp
    height, width = source.shape[-2:]
    longer = max(height, width)
    x, y = torch.broadcast_tensors((x + box[0]) * longer / width, (y + box[1]) * longer / height)
    if isinstance(gain, Tensor):
        gain = gain.expand(max(gain.shape[0], x.shape[0]), 1, 1)[:, None]  # (F, 1, 1, 1)
        x, y = x.expand(gain.shape[0], -1, -1), y.expand(gain.shape[0], -1, -1)
    grid = torch.stack([x, y], dim=-1)  # (F, rH, rW, 2)
    several = source[None].expand(grid.shape[0], -1, -1, -1)
    # Bicubic keeps the lines of small drawings; it overshoots, hence the limits of premultiplied colour.
    moved = F.grid_sample(several, grid, mode="bicubic", padding_mode="zeros", align_corners=False).clamp(0.0, 1.0)
    return torch.cat([torch.minimum(moved[:, :3], moved[:, 3:]), moved[:, 3:]], dim=1) * gain


def _fallen(source: Tensor, s: Stage, box: tuple[float, float, float, float]) -> Tensor:
    """Square pieces fly off, each turning on its own way, and come together again."""
    total: Tensor | None = None
    for row in range(_TILES):
        for column in range(_TILES):
            draw = s.draws[(row * _TILES + column) * 3 :][:3]
            middle_x = ((column + 0.5) / _TILES * 2.0 - 1.0) * s.wide
            middle_y = ((row + 0.5) / _TILES * 2.0 - 1.0) * s.high
            away_x = s.amount * s.swell * (0.7 * middle_x + 0.3 * (draw[0] - 0.5))
            away_y = s.amount * s.swell * (0.7 * middle_y + 0.3 * (draw[1] - 0.5) + 0.15)
            angle = s.amount * s.swell * 2.4 * (draw[2] - 0.5)
            dx, dy = s.x - middle_x - away_x, s.y - middle_y - away_y
            x = torch.cos(angle) * dx + torch.sin(angle) * dy
            y = torch.cos(angle) * dy - torch.sin(angle) * dx
            piece = (_within(x, s.wide, column) & _within(y, s.high, row)).float()[:, None]  # (F, 1, rH, rW)
            drawn = _warped(source, (x + middle_x, y + middle_y, 1.0), box) * piece
            # Pieces lie over one another; at rest they touch, so nothing shows twice.
            total = drawn if total is None else drawn + total * (1.0 - drawn[:, 3:])
    assert total is not None
    return total


def _within(distance: Tensor, half: float, number: int) -> Tensor:
    """Whether a pixel belongs to a piece, by the distance from its middle; the outer ones hold soft edges too."""
    side = half / _TILES + 1e-4
    before = side + 0.2 if number == 0 else side
    after = side + 0.2 if number == _TILES - 1 else side
    return (distance >= -before) & (distance <= after)
