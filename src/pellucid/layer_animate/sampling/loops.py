"""Clips that go round: played forward and back, or with their ends faded into one another while they are sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pellucid.errors import ConfigError

Loop = Literal["none", "pingpong", "closed", "circular"]
LOOPS: tuple[str, ...] = get_args(Loop)


def play_order(frames: int, loop: str = "none") -> list[int]:
    """In which order the frames of a clip are shown: forward, and for ``pingpong`` back again.

    Both ends are shown once, so that no frame stands still: four frames give 0 1 2 3 2 1.

    Args:
        frames: F.
        loop: ``pingpong`` needs this; clips of the other kinds are shown as they are.

    Returns:
        Indices of frames, F of them, or 2F - 2 for ``pingpong``.

    Raises:
        ConfigError: the loop is not known.
    """
    if loop not in LOOPS:
        raise ConfigError(f"loop {loop!r} is not known", f"use one of {', '.join(LOOPS)}")
    forward = list(range(frames))
    return forward + forward[-2:0:-1] if loop == "pingpong" else forward


@dataclass(frozen=True)
class Fade:
    """Frames at one end of a clip that go over into the frame at the other end, so that the clip closes.

    Attributes:
        frames: indices of what changes, in the clip's order; never the base frame.
        weights: share of the frame at the other end, one each; the outermost frame has the most.
        target: the frame at the other end.
    """

    frames: tuple[int, ...]
    weights: tuple[float, ...]
    target: int

    @classmethod
    def closing(cls, frames: int, base_index: int | None, length: int | None = None) -> Fade | None:
        """Choose the end that has room beside the base frame; the last frames where both have.

        Args:
            frames: F.
            base_index: m, which must stay as it is; None when no frame is fixed.
            length: k, how many frames go over, fewer where the base frame is in the way; None is a quarter of the
                clip, and four at least. That closes even a straight drift: see `seam`.

        Returns:
            None when there is nothing to fade, in a clip of one frame.

        Raises:
            ConfigError: ``length`` is below 1.
        """
        length = max(4, frames // 4) if length is None else length
        if length < 1:
            raise ConfigError(f"a closed loop fades at least 1 frame, found {length}")
        after = frames - 1 if base_index is None else frames - 1 - base_index
        before = 0 if base_index is None else base_index
        if not max(after, before):
            return None
        late = after >= length or after >= before
        count = min(length, after if late else before)
        # Half a cosine, because a straight ramp leaves too large a step at the seam.
        weights = [0.5 - 0.5 * math.cos(math.pi * (place + 1) / (count + 1)) for place in range(count)]
        if late:
            return cls(tuple(range(frames - count, frames)), tuple(weights), 0)
        return cls(tuple(range(count)), tuple(reversed(weights)), frames - 1)

    def noise(self, noise: Tensor) -> Tensor:
        """Fade noise without making it weaker: the mixture of two draws is brought back to unit variance.

        Args:
            noise: (B, C, F, h, w), independent frames of unit variance.

        Returns:
            The same shape; only ``frames`` differ.
        """
        out = noise.clone()
        for frame, weight in zip(self.frames, self.weights, strict=True):
            mixed = (1 - weight) * noise[:, :, frame] + weight * noise[:, :, self.target]
            out[:, :, frame] = mixed / ((1 - weight) ** 2 + weight**2) ** 0.5
        return out

    def picture(self, clean: Tensor) -> Tensor:
        """Fade pictures, or the network's idea of them, linearly.

        Args:
            clean: (B, C, F, h, w), latents without noise.

        Returns:
            The same shape; only ``frames`` differ.
        """
        out = clean.clone()
        for frame, weight in zip(self.frames, self.weights, strict=True):
            out[:, :, frame] = torch.lerp(clean[:, :, frame], clean[:, :, self.target], weight)
        return out


def seam(frames: Tensor) -> float:
    """How much the step from the last frame to the first exceeds an ordinary step.

    Args:
        frames: (F, ...), pictures or latents over time.

    Returns:
        Root mean square distance of last and first frame over the median distance of neighbours; 1.5 and below looks
        closed. 0 for a clip of one frame.
    """
    if frames.shape[0] < 2:
        return 0.0
    steps = (frames.roll(-1, 0).double() - frames.double()).flatten(1).square().mean(1).sqrt()
    return float(steps[-1] / steps[:-1].median().clamp_min(1e-12))
