"""Two clips that any network must beat: the base picture standing still, and the base picture moved by code.

The first is perfect in content and transparency and has no motion; the second has motion that follows the words of
the text, but moves the whole picture as one sheet. Neither can show anything that the base picture does not.
"""

from __future__ import annotations

import logging
import re

import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.clips.drawn_clips import MANNERS
from pellucid.layer_animate.clips.motions import MOTIONS, move

log = logging.getLogger(__name__)

DEFAULT_MOTION = "gently"
_SEEN = 0.05  # alpha below which `move` finds nothing drawn


def static_clip(base: Tensor, frames: int) -> Tensor:
    """Show the base picture in every frame.

    Args:
        base: ``(4, H, W)`` float in [0, 1], straight alpha.
        frames: F.

    Returns:
        ``(F, 4, H, W)``.

    Raises:
        InputError: the picture has another shape.
        ConfigError: no frames.
    """
    _expect(base, frames)
    return base[None].repeat(frames, 1, 1, 1)


def warped_clip(base: Tensor, text: str, frames: int, *, base_index: int | None = None, seed: int = 0) -> Tensor:
    """Move the base picture as the text says, by a warp of the whole picture; frame m is the picture itself.

    The motion is the one of `motions.MOTIONS` that the text names first, and `DEFAULT_MOTION` when it names none; how
    far and how fast follows the first of the words of `drawn_clips.MANNERS`.

    Args:
        base: ``(4, H, W)`` float in [0, 1], straight alpha.
        text: what the clip should show.
        frames: F; frame F would be frame 0 again, so the clip loops.
        base_index: m; the middle ``(F - 1) // 2`` when None.
        seed: of what a motion leaves open, a side or a sense.

    Returns:
        ``(F, 4, H, W)`` float32 in [0, 1], straight alpha.

    Raises:
        InputError: the picture has another shape.
        ConfigError: no frames, or m is none of them.
    """
    _expect(base, frames)
    m = (frames - 1) // 2 if base_index is None else base_index
    if not 0 <= m < frames:
        raise ConfigError(f"base index {m} is not one of the {frames} frames from 0")
    if not bool((base[3] > _SEEN).any()):
        log.warning("nothing is drawn on the base picture (alpha below %g everywhere): it stands still", _SEEN)
        return static_clip(base, frames)
    motion = named_motion(text) or DEFAULT_MOTION
    amount, share = MANNERS[_first(text, [(word, word) for word in MANNERS if word]) or ""]
    clip = move(
        base.detach().float().cpu(),
        motion,
        frames,
        base_index=m,
        turns=max(1, min(round(share * frames), MOTIONS[motion].fastest)),
        amount=amount,
        seed=seed,
    )
    clip = clip.to(base)
    clip[m] = base  # not the resampled one
    return clip


def named_motion(text: str) -> str | None:
    """Which of `motions.MOTIONS` a text names first; of phrases that begin at one place the longest.

    Returns:
        Its name, or None when the text names no motion.
    """
    return _first(text, [(words, name) for name, motion in MOTIONS.items() for words in motion.words])


def _first(text: str, phrases: list[tuple[str, str]]) -> str | None:
    """What belongs to the phrase that comes first in a text, the longest of several at one place."""
    found: list[tuple[int, int, str]] = []
    for words, meant in phrases:
        place = re.search(rf"\b{re.escape(words)}\b", text.lower())
        if place:
            found.append((place.start(), -len(words), meant))
    return min(found)[2] if found else None


def _expect(base: Tensor, frames: int) -> None:
    if base.ndim != 3 or base.shape[0] != 4 or not torch.is_floating_point(base):
        raise InputError(f"a base picture must be (4, H, W) of floats, found {tuple(base.shape)} of {base.dtype}")
    if frames < 1:
        raise ConfigError(f"frames must be at least 1, found {frames}")
