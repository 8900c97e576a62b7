"""Films: ab of one frame carried on to the next along the motion, so that colours do not flicker.

Motion is found by comparing blocks of L at 64x64, then refined at 128x128; ab is smooth, so no finer motion is needed.
"""

import logging

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.nn.guided import box_mean

log = logging.getLogger(__name__)

SHARE = 0.6  # of the past where lightness agrees exactly
TOLERANCE = 0.05  # of L / 100, in which the trust in the past falls by a factor of e
CUT = 0.4  # distance of two histograms of L, 0..1, from which on the frames show different scenes
_BINS = 32
_LEVELS = ((64, 3), (128, 1))  # side in pixels, and how far a block is looked for at that side
_BLOCK = 3  # pixels around a pixel that are compared with it
_PENALTY = 2e-3  # of L / 100, per pixel of motion: where blocks are flat, nothing moves


class TemporalSmoother:
    """Blends each frame's ab with that of the frames before.

    Args:
        share: share of the past where its lightness agrees, in [0, 1); it falls as exp(-|L - warped L| / 0.05).
    """

    def __init__(self, share: float = SHARE) -> None:
        self.share = share
        self._before: tuple[Tensor, Tensor] | None = None
        self._frame = 0

    def __call__(self, L: Tensor, ab: Tensor) -> Tensor:
        """Smooth the next frame.

        Args:
            L: ``(1, 1, h, w)`` in 0..100, at the network's size.
            ab: what the network says of this frame ``(1, 2, h, w)``.

        Returns:
            ``(1, 2, h, w)``; the frame's own ab at the beginning and after a cut.
        """
        L = L / 100.0
        if self._before is not None and self.share > 0:
            past_L, past_ab = self._before
            if is_cut(past_L, L):
                log.info("cut before frame %d: colours start anew", self._frame)
            else:
                warped = warp(torch.cat([past_L, past_ab], dim=1), motion(past_L, L))
                trust = self.share * torch.exp((L - warped[:, :1]).abs() / -TOLERANCE)
                ab = torch.lerp(ab, warped[:, 1:], trust)
        self._before = (L, ab)
        self._frame += 1
        return ab


def is_cut(before: Tensor, after: Tensor) -> bool:
    """Whether the histograms of two pictures ``(1, 1, h, w)`` in [0, 1] are more than `CUT` apart."""
    one, other = (torch.histc(x.float(), _BINS, 0.0, 1.0) / x.numel() for x in (before, after))
    return float((one - other).abs().sum()) / 2 > CUT


def motion(before: Tensor, after: Tensor) -> Tensor:
    """Where each pixel of ``after`` was in ``before``.

    Args:
        before: ``(1, 1, h, w)`` in [0, 1].
        after: the same shape.

    Returns:
        ``(1, 2, 128, 128)``: shift right and down as shares of width and height.
    """
    flow = before.new_zeros(1, 2, 1, 1)
    for side, radius in _LEVELS:
        one, other = (F.interpolate(x, (side, side), mode="bilinear", antialias=True) for x in (before, after))
        flow = F.interpolate(flow, (side, side), mode="bilinear", align_corners=False)
        padded = F.pad(warp(one, flow), (radius,) * 4, mode="replicate")
        steps = [(dy, dx) for dy in range(-radius, radius + 1) for dx in range(-radius, radius + 1)]
        steps.sort(key=lambda step: abs(step[0]) + abs(step[1]))  # of equals, argmin takes the shortest
        shifted = [padded[..., radius + dy :, radius + dx :][..., :side, :side] for dy, dx in steps]
        difference = (torch.cat(shifted, dim=1) - other).abs()  # (1, shifts, side, side)
        cost = box_mean(difference, _BLOCK)
        table = torch.tensor([(dx, dy) for dy, dx in steps], dtype=before.dtype, device=before.device)  # (shifts, 2)
        best = (cost + _PENALTY * table.abs().sum(1)[:, None, None]).argmin(dim=1)  # (1, side, side)
        found = table[best].movedim(-1, 1) / side  # (1, 2, side, side)
        flow = box_mean(flow + found, 1)
    return flow


def warp(picture: Tensor, flow: Tensor) -> Tensor:
    """Fetch each pixel of ``(1, C, h, w)`` from where ``flow`` points, in shares of width and height."""
    height, width = picture.shape[-2:]
    flow = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
    ys = (torch.arange(height, dtype=flow.dtype, device=flow.device) + 0.5) / height
    xs = (torch.arange(width, dtype=flow.dtype, device=flow.device) + 0.5) / width
    grid = torch.stack([xs.expand(height, width) + flow[0, 0], ys[:, None].expand(height, width) + flow[0, 1]], dim=-1)
    return F.grid_sample(picture, grid[None] * 2 - 1, mode="bilinear", padding_mode="border", align_corners=False)
