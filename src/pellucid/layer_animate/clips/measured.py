"""The motion of a clip in a word, measured from its alpha alone: where it is, how large, which way its axis points.

The same measurement, with the same words, as the captions of the real animations of `data/rgba` were made with (equal
for 95 % of them); its limits are theirs: what moves inside a still outline has no motion here, and the words see no
turn of a round thing. Which of six motions a clip shows is a coarser question, which also asks how the outline turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.layer_animate.clips.motions import MOTIONS

WORDS = (
    "moving up and down",
    "bouncing up and down",
    "moving side to side",
    "sliding across",
    "moving around",
    "swinging",
    "turning",
    "growing and shrinking",
    "appearing and disappearing",
    "changing shape",
    "moving gently",
)
# Six motions that alpha can tell from one another, key of `MOTIONS` -> what a text says; chance is one in six.
SIX: dict[str, str] = {
    name: MOTIONS[name].words[0] for name in ("up_down", "side_side", "swinging", "turning", "growing", "fading")
}

_FLOOR = 0.02  # share of the frame from which there is enough to measure
_FAINT = 0.1  # of the fullest frame, where that is little itself
_ROUND = 0.0925  # mean elongation below which there is no axis to follow
_NEAR, _FAR, _AROUND = 0.035, 0.125, 0.04  # of the frame's side
_ONE_WAY = 1.3  # how many times as far along one side as along the other, to be a motion along it
_SWING, _TURN = 0.2, 1.2  # radians
_SWELL, _VANISH = 0.25, 0.9  # of the logarithm of the area
_STIR = 0.4  # change of alpha between neighbours of 24 frames, in per cent; the data's own 0.9 sees colour too
_WAVES = 8  # around the middle, of an outline
_UNEVEN = 0.03  # strength of the waves below which an outline is a disc
_ALIKE = 0.8  # how well an outline must fit the one before, to have turned and not changed
_WHOLE = 2.0  # radians, between the widest swing that `MOTIONS` makes and half a turn
_FRAMES = 24  # of the animations that the thresholds were found on


@dataclass(frozen=True)
class MeasuredMotion:
    """What alpha says of a clip; spans run from the 5th to the 95th percentile of the frames that show enough.

    Attributes:
        dx: span of the centre across, in sides of the frame.
        dy: the same, down.
        dlogarea: span of the logarithm of the area.
        dlogspread: span of the logarithm of the variance of place: as large as ``dlogarea`` for what grows, 0 for what
            fades.
        dangle: span of the main axis in radians, followed through whole turns; 0 for round things.
        dturn: span of the turn of the outline in radians, which also things without an axis have; 0 for discs.
        change: mean absolute difference of neighbouring frames in per cent, as if the clip had 24 frames.
        coverage: mean alpha.
        gone: share of frames that show less than `_FLOOR` of the frame.
    """

    dx: float
    dy: float
    dlogarea: float
    dlogspread: float
    dangle: float
    dturn: float
    change: float
    coverage: float
    gone: float

    @property
    def words(self) -> tuple[str, ...]:
        """Words of `WORDS`: at most one each of place, axis and size, and else what is left: never empty."""
        found = [self._place(), self._axis(), self._size()]
        rest = "changing shape" if self.change >= _STIR else "moving gently"
        return tuple(word for word in found if word) or (rest,)

    @property
    def word(self) -> str:
        """The one of `words` that is farthest beyond its threshold."""
        strength = {
            self._place(): max(self.dx, self.dy) / _NEAR,
            self._axis(): self.dangle / _SWING,
            self._size(): self.dlogarea / _SWELL,
        }
        return max(self.words, key=lambda word: strength.get(word, 0.0))

    @property
    def one_of_six(self) -> str | None:
        """The key of `SIX` that this looks most like, or None when nothing reaches its threshold.

        Wider than ``words``: how far it goes does not matter, and size and visibility are told apart by whether what
        is drawn spreads with its area. A swing moves its middle sideways, so its axis speaks before that.
        """
        fades = self.dlogspread < max(0.5 * self.dlogarea, _SWELL if self.gone > 0.0 else 0.0)
        turned = max(self.dangle, self.dturn)
        strength = {
            "up_down": self.dy / _NEAR if self.dy > self.dx else 0.0,
            "side_side": self.dx / _NEAR if self.dx >= self.dy and turned < _SWING else 0.0,
            "turning" if turned >= _WHOLE else "swinging": turned / _SWING,
            "fading" if fades else "growing": self.dlogarea / _SWELL + 2.0 * (0.0 < self.gone < 1.0),
        }
        best = max(strength, key=lambda name: strength[name])
        return best if strength[best] >= 1.0 else None

    def _place(self) -> str:
        far = max(self.dx, self.dy)
        if self.dy > _ONE_WAY * self.dx and far >= _NEAR:
            return "bouncing up and down" if far >= _FAR else "moving up and down"
        if self.dx > _ONE_WAY * self.dy and far >= _NEAR:
            return "sliding across" if far >= _FAR else "moving side to side"
        return "moving around" if far >= _AROUND else ""

    def _axis(self) -> str:
        return "turning" if self.dangle >= _TURN else "swinging" if self.dangle >= _SWING else ""

    def _size(self) -> str:
        grown = self.dlogarea
        return "appearing and disappearing" if grown >= _VANISH else "growing and shrinking" if grown >= _SWELL else ""


def measure_alpha(alpha: Tensor) -> MeasuredMotion:
    """Measure the motion of a clip.

    Args:
        alpha: ``(F, 1, H, W)`` or ``(F, H, W)`` in [0, 1], F at least 2.

    Raises:
        InputError: another shape.
    """
    if alpha.ndim == 4 and alpha.shape[1] == 1:
        alpha = alpha[:, 0]
    if alpha.ndim != 3 or len(alpha) < 2:
        raise InputError(f"alpha of a clip must be (F, 1, H, W) with two frames or more, found {tuple(alpha.shape)}")
    alpha = alpha.detach().double().clamp(0.0, 1.0).cpu()
    frames, height, width = alpha.shape
    change = 100.0 * float(alpha.diff(dim=0).abs().mean()) * frames / _FRAMES
    coverage = float(alpha.mean())
    filled = alpha.mean(dim=(1, 2))
    shown = alpha[filled >= max(min(_FLOOR, _FAINT * float(filled.max())), 1e-6)]
    gone = 1.0 - len(shown) / frames
    if len(shown) < 2:
        return MeasuredMotion(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, change, coverage, gone)
    area = shown.sum(dim=(1, 2))  # (N,)
    x = (torch.arange(width).double() + 0.5) / width
    y = (torch.arange(height).double() + 0.5) / height
    across, down = shown.sum(dim=1), shown.sum(dim=2)  # (N, W), (N, H)
    middle_x, middle_y = across @ x / area, down @ y / area
    xx, yy = across @ x.square() / area - middle_x.square(), down @ y.square() / area - middle_y.square()
    xy = torch.einsum("nhw,h,w->n", shown, y, x) / area - middle_x * middle_y
    spread = (xx + yy).clamp(min=1e-9)
    elongation = ((xx - yy).square() + 4.0 * xy.square()).sqrt() / spread
    angle = _followed(0.5 * torch.atan2(2.0 * xy, xx - yy))
    return MeasuredMotion(
        _span(middle_x),
        _span(middle_y),
        _span(area.log()),
        _span(spread.log()),
        _span(angle) if float(elongation.mean()) >= _ROUND else 0.0,
        _outline_turn(shown, middle_x * width, middle_y * height),
        change,
        coverage,
        gone,
    )


def _span(values: Tensor) -> float:
    low, high = torch.quantile(values, torch.tensor([0.05, 0.95], dtype=values.dtype))
    return float(high - low)


def _followed(angle: Tensor) -> Tensor:
    """Angles of an axis, which are the same after half a turn, as a path without jumps."""
    steps = angle.diff()
    steps = torch.remainder(steps + math.pi / 2, math.pi) - math.pi / 2
    return torch.cat([angle[:1], angle[0] + steps.cumsum(dim=0)])


def _outline_turn(shown: Tensor, middle_x: Tensor, middle_y: Tensor) -> float:
    """Span of the turn of ``(N, H, W)`` about its middle ``(N,)`` in pixels, from how alpha lies around it.

    Neighbouring frames are matched by their waves around the middle, alpha at a distance counting by that distance.
    """
    _, height, width = shown.shape
    dx = torch.arange(width).double() + 0.5 - middle_x[:, None, None]
    dy = torch.arange(height).double()[:, None] + 0.5 - middle_y[:, None, None]
    away = (dx.square() + dy.square()).sqrt()
    mass = shown * away
    turn = torch.complex(dx.expand_as(mass), -dy.expand_as(mass)) / away.clamp(min=1e-9)
    wave, several = mass.to(turn.dtype), []
    for _ in range(_WAVES):
        wave = wave * turn
        several.append(wave.sum(dim=(1, 2)))
    order = torch.arange(1, _WAVES + 1)
    waves = torch.stack(several, dim=1)
    waves = waves / mass.sum(dim=(1, 2)).clamp(min=1e-9)[:, None]  # (N, K)
    strength = waves.abs().square().sum(dim=1).sqrt()
    if float(strength.median()) < _UNEVEN:
        return 0.0
    lags = torch.linspace(-math.pi / 2, math.pi / 2, 181).double()
    shifts = torch.exp(1j * lags[:, None] * order)  # (L, K)
    alike = (waves[1:].conj() * waves[:-1]) @ shifts.conj().T  # (N - 1, L)
    alike = alike.real / (strength[1:] * strength[:-1]).clamp(min=1e-9)[:, None]
    # Of turns that fit as well, as those of a square do, the smaller one.
    best = (alike - 0.02 * lags.abs()).argmax(dim=1)
    if float(alike.gather(1, best[:, None]).median()) < _ALIKE:
        return 0.0
    return _span(torch.cat([torch.zeros(1, dtype=lags.dtype), lags[best].cumsum(dim=0)]))
