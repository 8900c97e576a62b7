"""Clips made by code: drawings or stills with a motion of `motions`, and captions in the words of the real animations.

What everything learns from without a download, and what makes many clips of few real ones: the pictures of a data
folder, moved. Every choice follows from a seed, the picture's number and the variant's number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.data.shards import Row, ShardIndex
from pellucid.device import generator_of
from pellucid.errors import ConfigError
from pellucid.layer_animate.clips.cuts import resize_rgba
from pellucid.layer_animate.clips.drawn import Drawings, make_drawings, render
from pellucid.layer_animate.clips.motions import MOTIONS, move

TEMPLATES = ("{name}, {motion}", "{name} {motion}", "{name}, {motion}")
# How it moves: words -> factor on the amount, and turns in a clip as a share of its frames.
MANNERS: dict[str, tuple[float, float]] = {
    "": (1.0, 1 / 8),
    "slowly": (1.0, 1 / 16),
    "fast": (1.0, 3 / 16),
    "gently": (0.5, 1 / 8),
    "wildly": (1.5, 3 / 16),
}
_CPU = torch.device("cpu")
_PLAIN_SHARE = 0.6  # of clips without a word of manner
_MARGIN = (0.55, 0.8)  # of the frame's side that the still takes, so that it has room to move


@dataclass(frozen=True)
class MotionDraw:
    """One motion with everything it leaves open.

    Attributes:
        motion: key of `MOTIONS`.
        words: what the caption says of it.
        turns: whole turns in the clip.
        amount: factor on how far.
        phase: time of the base frame, in turns.
        scale: of the still in the frame.
        shift: (x, y) of the still's middle, in half sides of the frame.
        seed: of what the motion leaves open.
    """

    motion: str
    words: str
    turns: int
    amount: float
    phase: float
    scale: float
    shift: tuple[float, float]
    seed: int


def draw_motion(
    *seed: int, frames: int = 16, motions: Sequence[str] | None = None, anywhere: float = 0.0, still: float = 0.0
) -> MotionDraw:
    """Choose a motion, the same for the same numbers.

    Args:
        *seed: numbers that the choice follows from.
        frames: F; faster than five frames a turn is not chosen, and no word of manner that would then be untrue.
        motions: keys of `MOTIONS` to choose from; all when None.
        anywhere: share of clips whose base frame is at any time of the turn instead of at rest.
        still: share of clips that stand still ("motionless").

    Raises:
        ConfigError: a motion is not known.
    """
    names = tuple(motions) if motions is not None else tuple(MOTIONS)
    if unknown := [name for name in names if name not in MOTIONS]:
        raise ConfigError(f"motion {unknown[0]!r} is not known", f"use some of {', '.join(MOTIONS)}")
    draws = torch.rand(10, generator=generator_of(*seed, 0x407)).tolist()
    motion = MOTIONS[names[int(draws[0] * len(names))]]
    fastest = max(1, min(motion.fastest, frames // 5))
    manners = {word: (amount, max(1, round(share * frames))) for word, (amount, share) in MANNERS.items()}
    usual = min(manners[""][1], fastest)
    # "slowly" and "fast" are said only where they are slower and faster than without the word.
    told = [
        word
        for word, (amount, turns) in manners.items()
        if word and turns <= fastest and (turns != usual or amount != 1.0)
    ]
    manner = "" if draws[1] < _PLAIN_SHARE or not told else told[int(draws[2] * len(told))]
    amount, turns = manners[manner]
    words = motion.words[int(draws[3] ** 2 * len(motion.words))]  # the first word more often: the real captions' one
    words = f"{words} {manner}" if manner else words
    if draws[4] < still:
        words, amount = "motionless", 0.0
    scale = _MARGIN[0] + (_MARGIN[1] - _MARGIN[0]) * draws[5]
    spare = 0.5 * (1.0 - scale)
    return MotionDraw(
        motion.name,
        words,
        min(turns, fastest) if manner else usual,
        amount * (0.85 + 0.3 * draws[6]),
        draws[7] if draws[8] < anywhere else 0.0,
        scale,
        ((draws[9] * 2.0 - 1.0) * spare, (math.fmod(draws[9] * 7.0, 1.0) * 2.0 - 1.0) * spare),
        int(draws[6] * 2**20),
    )


def moved(still: Tensor, draw: MotionDraw, frames: int, size: int, *, base_index: int | None = None) -> Tensor:
    """Put a still into a frame and move it.

    Args:
        still: ``(4, H, W)`` in [0, 1], straight alpha.
        draw: how.
        frames: F.
        size: side of the square frames.
        base_index: see `motions.move`.

    Returns:
        ``(F, 4, size, size)`` in [0, 1], straight.
    """
    longest = max(still.shape[-2:])
    inner = max(1, round(size * draw.scale))
    height, width = (max(1, round(side * inner / longest)) for side in still.shape[-2:])
    small = resize_rgba(still, (height, width))
    left = round((size - width) / 2 + draw.shift[0] * size / 2)
    top = round((size - height) / 2 + draw.shift[1] * size / 2)
    framed = F.pad(small, (left, size - width - left, top, size - height - top))
    if draw.amount == 0.0:
        # Through the same resampling as every clip, or stillness could be told by its sharpness.
        return move(framed, "up_down", 1).expand(frames, -1, -1, -1)
    return move(
        framed,
        draw.motion,
        frames,
        base_index=base_index,
        turns=draw.turns,
        amount=draw.amount,
        phase=draw.phase,
        seed=draw.seed,
    )


def told(names: Sequence[str], words: str) -> tuple[str, ...]:
    """Captions of something that moves: every name in every template, each once."""
    return tuple(dict.fromkeys(pattern.format(name=name, motion=words) for name in names for pattern in TEMPLATES))


@dataclass(frozen=True)
class MovedClips:
    """Stills of a kind, each moved in its own way; a source of `data.fill_bank`.

    Attributes:
        stills: the pictures: drawings when None, else rows of a shard folder.
        count: how many clips.
        frames: F.
        size: side of the square frames.
        seed: of all choices.
        base_index: frame at which a clip is at rest; the middle one when None.
        motions: keys of `MOTIONS`; all when None.
        anywhere: see `draw_motion`.
        named: share of clips that are told by the name alone, without the motion.
        device: where the clips are made; a GPU moves thousands a minute.
    """

    stills: ShardIndex | None
    count: int
    frames: int
    size: int
    seed: int
    base_index: int | None = None
    motions: tuple[str, ...] | None = None
    anywhere: float = 0.0
    named: float = 0.0
    device: torch.device = _CPU

    @property
    def name(self) -> str:
        """Where the clips come from, in words."""
        where = "drawings" if self.stills is None else f"stills of {self.stills.root}"
        return f"{self.count} {where}, moved by code"

    @property
    def rows(self) -> tuple[Row, ...]:
        """Rows of the stills, for the credits."""
        return () if self.stills is None else tuple(self.stills.rows[: self.count])

    def texts(self) -> list[str]:
        """Every name, every motion, every manner: what any of the captions is made of."""
        names = [name for index in range(self.count) for name in self._named(index)]
        motions = [words for name in self.motions or MOTIONS for words in MOTIONS[name].words]
        return [*names, *motions, *filter(None, MANNERS)]

    def facts(self) -> list[Any]:
        """All that the clips follow from, for the name of a cache."""
        made = [self.count, self.frames, self.size, self.seed, self.base_index, self.motions, self.anywhere, self.named]
        return [made, [row["file"] for row in self.rows]]

    def __len__(self) -> int:
        return self.count

    def cut(self, index: int, variant: int) -> tuple[Tensor, tuple[str, ...]]:
        """One clip ``(F, 4, S, S)`` in [0, 1] and its captions.

        Raises:
            InputError: the still cannot be read, or nothing is drawn on it.
        """
        draw = draw_motion(self.seed, index, variant, frames=self.frames, motions=self.motions, anywhere=self.anywhere)
        if self.stills is None:
            still = render(self._drawing(index), 2 * self.size)[0]
        else:
            still = self.stills.image(self.stills[index], "RGBA").float() / 255.0
        clip = moved(still.to(self.device), draw, self.frames, self.size, base_index=self.base_index)
        names = self._named(index)
        alone = float(torch.rand((), generator=generator_of(self.seed, index, variant, 0x4A3E))) < self.named
        return clip, tuple(names) if alone else told(names, draw.words)

    def _drawing(self, index: int) -> Drawings:
        return make_drawings(1, self.seed * 65536 + index, shapes=1)

    def _named(self, index: int) -> list[str]:
        return self._drawing(index).captions() if self.stills is None else _names(self.stills[index])


def _names(row: Row) -> list[str]:
    """What a still shows: its name, and the name with measured colours or the style, as its captions put it."""
    name = str(row.get("name") or row["file"])
    captions = [str(text) for text in row.get("captions", ()) if ":" not in str(text)]
    return list(dict.fromkeys([name, *captions]))
