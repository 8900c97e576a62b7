"""What can be said about the transparency of a clip without a true one, from its base frame and its motion.

A generated clip has no truth, but it must not paint where the subject cannot be, must not have holes where it is, and
its alpha must change only as it moves. Where the subject can be is told by the base frame's mask, carried along by the
flow of the clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import InputError
from pellucid.metrics.flow import warp

_OPAQUE = 0.9  # alpha of the base frame that has to stay
_SEEN = 0.5  # alpha below which it has become a hole
_RING = 1 / 32  # width of the border ring, of the shorter side
_REACH = 1 / 16  # how far the swept area is dilated, of the shorter side: flow is blurred near edges


@dataclass(frozen=True)
class CutOut:
    """Transparency of a clip without truth; every figure is in [0, 1] and 0 is best.

    Attributes:
        border: mean alpha in the ring along the border; None when the base frame itself reaches it.
        leak: mean alpha outside the area that the base frame's mask can have swept; None when that is the whole frame.
        holes: share of what is opaque in the base frame and inside its mask, that is less than half opaque elsewhere;
            None when nothing is that far inside, or there is one frame.
        change: mean change of alpha between neighbours.
        flicker: the part of it that the flow does not explain.
        base_alpha: mean error of alpha at the base frame.
        base_colour: mean error of premultiplied colour there.
    """

    border: float | None
    leak: float | None
    holes: float | None
    change: float
    flicker: float
    base_alpha: float
    base_colour: float


def measure_cut_out(clip: Tensor, base: Tensor, base_index: int, forward: Tensor, backward: Tensor) -> CutOut:
    """Measure a clip that was made from a base frame.

    Args:
        clip: ``(F, 4, H, W)``, straight alpha, sRGB in [0, 1].
        base: ``(4, H, W)``, what the clip was made from.
        base_index: m, which frame of the clip it is.
        forward: ``(F - 1, 2, H, W)``, flow of the clip from each frame to the next, in pixels.
        backward: ``(F - 1, 2, H, W)``, flow from each frame but the first to the one before.

    Raises:
        InputError: shapes that do not belong together, or a base index outside the clip.
    """
    frames, _, height, width = clip.shape
    if base.shape != clip.shape[1:] or base.shape[0] != 4:
        raise InputError(f"the base frame must be {tuple(clip.shape[1:])}, found {tuple(base.shape)}")
    if forward.shape != (frames - 1, 2, height, width) or backward.shape != forward.shape:
        expected = (frames - 1, 2, height, width)
        raise InputError(f"flows must be {expected}, found {tuple(forward.shape)} and {tuple(backward.shape)}")
    if not 0 <= base_index < frames:
        raise InputError(f"base index must be in 0..{frames - 1}, found {base_index}")
    alpha, own = clip[:, 3:], base[3:]
    carried = carry(own, base_index, forward, backward)  # (F, 1, H, W)
    change, flicker = changes(alpha, forward)
    return CutOut(
        border=_border(alpha, own),
        leak=_mean(alpha, ~swept(carried)),
        holes=_holes(alpha, carried, base_index),
        change=change,
        flicker=flicker,
        base_alpha=float((clip[base_index, 3:] - own).abs().mean()),
        base_colour=float((clip[base_index, :3] * clip[base_index, 3:] - base[:3] * own).abs().mean()),
    )


def carry(alpha: Tensor, base_index: int, forward: Tensor, backward: Tensor) -> Tensor:
    """Carry the base frame's alpha along the flow to all frames.

    Args:
        alpha: ``(1, H, W)`` of the base frame.
        base_index: m.
        forward: see `measure_cut_out`.
        backward: see `measure_cut_out`.

    Returns:
        ``(F, 1, H, W)``: where each frame shows what the base frame shows.
    """
    frames = {base_index: alpha}
    for place in range(base_index + 1, len(forward) + 1):  # frame t fetches from t - 1
        frames[place] = warp(frames[place - 1][None], backward[place - 1][None])[0]
    for place in range(base_index - 1, -1, -1):  # and from t + 1
        frames[place] = warp(frames[place + 1][None], forward[place][None])[0]
    return torch.stack([frames[place] for place in sorted(frames)])


def swept(carried: Tensor) -> Tensor:
    """The area that a carried mask ``(F, 1, H, W)`` covers at any time, dilated: ``(1, H, W)`` bool."""
    reach = _pixels(carried, _REACH)
    covered = (carried > 0.01).any(0).float()
    return F.max_pool2d(covered, 2 * reach + 1, 1, reach) > 0.0


def changes(alpha: Tensor, forward: Tensor) -> tuple[float, float]:
    """How much alpha changes between neighbours, and how much of that the flow does not explain.

    A change is explained as far as fetching alpha from where the flow leads makes it smaller; flow can not make it
    larger, so that one that is wrong in empty places costs nothing.

    Args:
        alpha: ``(F, 1, H, W)`` in [0, 1].
        forward: ``(F - 1, 2, H, W)``, flow from each frame to the next.

    Returns:
        Mean change and mean unexplained change; 0 and 0 for a single frame.
    """
    if len(alpha) < 2:
        return 0.0, 0.0
    plain = (alpha[1:] - alpha[:-1]).abs()
    moved = (warp(alpha[1:], forward) - alpha[:-1]).abs()
    return float(plain.mean()), float(torch.minimum(plain, moved).mean())


def _border(alpha: Tensor, base: Tensor) -> float | None:
    ring = torch.ones_like(base, dtype=torch.bool)
    width = _pixels(base, _RING)
    ring[:, width:-width, width:-width] = False
    return None if bool((base[ring] > 0.01).any()) else _mean(alpha, ring)


def _holes(alpha: Tensor, carried: Tensor, base_index: int) -> float | None:
    reach = _pixels(alpha, _RING)
    opaque = (carried > _OPAQUE).float()
    inside = -F.max_pool2d(-opaque, 2 * reach + 1, 1, reach) > 0.5  # eroded, (F, 1, H, W)
    inside[base_index] = False
    return float((alpha[inside] < _SEEN).float().mean()) if bool(inside.any()) else None


def _mean(alpha: Tensor, where: Tensor) -> float | None:
    """Mean of ``(F, 1, H, W)`` over ``(1, H, W)`` bool."""
    return float(alpha[:, where].mean()) if bool(where.any()) else None


def _pixels(like: Tensor, share: float) -> int:
    return max(1, round(share * min(like.shape[-2:])))
