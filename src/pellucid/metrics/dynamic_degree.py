"""Dynamic degree: whether a clip moves, by the rule of VBench (Huang et al. 2024), and how far it moves.

VBench asks for each clip whether enough of its pairs of frames move fast enough, and reports the fraction of clips that
do. On a cut-out over grey most of the picture stands still, and the rule, made for whole pictures, says "still" to
small subjects. So the speed itself is reported beside it, over the whole picture and over what is visible alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import InputError
from pellucid.metrics.flow import Flow

GREY = 127.0 / 255.0  # what VBench's and CLIP's frames are laid on here
RATE = 8.0  # frames a second that a film is thinned out to
_TOP = 0.05  # the fastest part of a picture
_VISIBLE = 0.5  # alpha above which a pixel belongs to the subject


@dataclass(frozen=True)
class Motion:
    """How a clip moves.

    Attributes:
        dynamic: VBench's answer.
        scores: for each pair of neighbours the mean speed of the fastest 5 % of the picture, in pixels.
        visible_scores: the same among visible pixels alone; None for a pair without any.
        diagonal: of the picture, in pixels.
        flow: the label of the flow that was used.
    """

    dynamic: bool
    scores: tuple[float, ...]
    visible_scores: tuple[float | None, ...]
    diagonal: float
    flow: str

    @property
    def pixels(self) -> float:
        """Mean of `scores`; 0 for a single frame."""
        return fmean(self.scores) if self.scores else 0.0

    @property
    def percent(self) -> float:
        """`pixels` in per cent of the diagonal."""
        return 100.0 * self.pixels / self.diagonal

    @property
    def visible_pixels(self) -> float | None:
        """Mean of `visible_scores`; None when nothing is visible in any pair."""
        known = [score for score in self.visible_scores if score is not None]
        return fmean(known) if known else None


def pair_score(flow: Tensor, mask: Tensor | None = None) -> float | None:
    """Mean length of the longest 5 % of the vectors of a flow.

    Args:
        flow: ``(2, H, W)`` in pixels.
        mask: ``(H, W)`` bool; only these pixels are looked at.

    Returns:
        Pixels. Over the whole picture ``floor(0.05 H W)`` vectors count, as in VBench; in a mask at least one. None
        where there is none.
    """
    lengths = torch.linalg.vector_norm(flow.float(), dim=0)
    lengths = lengths.flatten() if mask is None else lengths[mask]
    count = int(len(lengths) * _TOP)
    if mask is not None and len(lengths):
        count = max(count, 1)
    return float(lengths.topk(count).values.mean()) if count else None


def thresholds(height: int, width: int, frames: int, fps: float = RATE) -> tuple[float, int]:
    """VBench's thresholds: how fast a moving pair is, in pixels, and how many such pairs a dynamic clip has.

    Args:
        height: of the frames, in pixels, before any padding.
        width: the same.
        frames: how many are looked at.
        fps: of the film they were taken from; below 8 the speed grows, since frames lie further apart.
    """
    return max(1.0, RATE / fps) * 6.0 * min(height, width) / 256.0, round(4 * frames / 16.0)


def is_dynamic(scores: Sequence[float], height: int, width: int, frames: int, fps: float = RATE) -> bool:
    """VBench's answer for the scores of a clip's pairs; a clip without pairs is not dynamic."""
    speed, count = thresholds(height, width, frames, fps)
    return len(scores) > 0 and sum(score > speed for score in scores) >= count


def thinned(clip: Tensor, fps: float) -> Tensor:
    """Every ``round(fps / 8)``-th frame of a film, as VBench reads video files."""
    return clip[:: max(1, round(fps / RATE))]


def on_colour(clip: Tensor, colour: float | Sequence[float] = GREY) -> Tensor:
    """Lay ``(..., 4, H, W)`` straight alpha over a plain colour in [0, 1]: ``(..., 3, H, W)``."""
    below = clip.new_tensor([colour] * 3 if isinstance(colour, int | float) else list(colour))[:, None, None]
    rgb, alpha = clip[..., :3, :, :], clip[..., 3:, :, :]
    return rgb * alpha + below * (1.0 - alpha)


def neighbour_flows(frames: Tensor, flow: Flow) -> Tensor:
    """Flow from each frame to the next.

    Args:
        frames: ``(F, 3, H, W)``, sRGB in [0, 1].
        flow: the flow.

    Returns:
        ``(F - 1, 2, H', W')``, where sides are padded to multiples of 8 by the edge, as VBench does before it measures.
    """
    height, width = frames.shape[-2:]
    tall, wide = -height % 8, -width % 8
    padded = F.pad(frames, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2), mode="replicate")
    if len(frames) < 2:
        return padded.new_zeros(0, 2, *padded.shape[-2:])
    return flow(padded[:-1], padded[1:])


def cropped(flows: Tensor, height: int, width: int) -> Tensor:
    """Take the padding of `neighbour_flows` away: ``(N, 2, H, W)``."""
    top, left = (flows.shape[-2] - height) // 2, (flows.shape[-1] - width) // 2
    return flows[..., top : top + height, left : left + width]


def measure_motion(clip: Tensor, flow: Flow, fps: float = RATE, *, flows: Tensor | None = None) -> Motion:
    """Measure the motion of a clip on grey.

    Args:
        clip: ``(F, 4, H, W)`` float32, straight alpha, sRGB in [0, 1]; not thinned out, see `thinned`.
        flow: between pictures.
        fps: frames a second.
        flows: of `neighbour_flows` of the clip on grey, where they are known already.

    Raises:
        InputError: another shape, or frames with less than 20 pixels, of which the fastest 5 % are none.
    """
    if clip.ndim != 4 or clip.shape[1] != 4 or clip.shape[-1] * clip.shape[-2] < 1 / _TOP:
        raise InputError(f"a clip is (F, 4, H, W) of at least 20 pixels, found {tuple(clip.shape)}")
    frames, _, height, width = clip.shape
    flows = neighbour_flows(on_colour(clip), flow) if flows is None else flows
    visible = torch.maximum(clip[:-1, 3], clip[1:, 3]).cpu() > _VISIBLE  # (F - 1, H, W)
    scores = tuple(pair_score(each) or 0.0 for each in flows)
    inside = cropped(flows, height, width)
    visible_scores = tuple(pair_score(each, mask) for each, mask in zip(inside, visible, strict=True))
    answer = is_dynamic(scores, height, width, frames, fps)
    return Motion(answer, scores, visible_scores, float(height**2 + width**2) ** 0.5, flow.label)
