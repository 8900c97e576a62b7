"""Opaque clips of clips with alpha: the same pictures move over a ground that stands still or drifts.

AnimateDiff's modules learned from ordinary films, which have no alpha. Motion modules of our own learn from these, so
that the mismatch that Inter-Frame Attention is there to heal (Sec. III-B) is really there. The captions say so in words
of their own, or a network that sees both would put grounds behind what shall be transparent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.data.shards import Row
from pellucid.data.synthetic import draw_pictures
from pellucid.device import generator_of
from pellucid.layer_animate.data import Source

GROUND_WORDS = "on a background"  # added to every caption of an opaque clip
_PLAIN, _RAMP = 0.25, 0.5  # up to here of one colour, up to here of two, drawn pictures beyond
_FARTHEST = 0.25  # of the frame's side that a drifting ground moves by in a clip, at most


def draw_ground(height: int, width: int, *seed: int) -> Tensor:
    """Draw one ground: of one colour, of two that run into one another, or a drawn picture.

    Args:
        height: in pixels.
        width: in pixels.
        *seed: numbers that it follows from.

    Returns:
        ``(3, height, width)`` float32 in [0, 1].
    """
    random = generator_of(*seed, 0x6A0)
    kind = float(torch.rand((), generator=random))
    first, second = torch.rand(2, 3, 1, 1, generator=random)
    if kind < _PLAIN:
        return first.expand(3, height, width).clone()
    if kind < _RAMP:
        angle = float(torch.rand((), generator=random)) * 2.0 * torch.pi
        across, down = torch.linspace(-1.0, 1.0, width), torch.linspace(-1.0, 1.0, height)[:, None]
        direction = torch.tensor(angle)
        ramp = (direction.cos() * across + direction.sin() * down) * 0.35 + 0.5
        return torch.lerp(first, second, ramp.clamp(0.0, 1.0)[None])
    side = max(height, width, 8)
    number = int(torch.randint(2**31, (), generator=random))
    return draw_pictures(1, side, number)[0, :, :height, :width].contiguous()


def over_ground(frames: Tensor, *seed: int, drift: float = 0.0) -> Tensor:
    """Lay a clip over a ground.

    Args:
        frames: ``(F, 4, H, W)`` in [0, 1], straight alpha.
        *seed: numbers that ground and drift follow from.
        drift: share of clips whose ground moves, evenly and one way, as behind a camera that pans.

    Returns:
        ``(F, 4, H, W)`` in [0, 1], alpha 1 everywhere.
    """
    count, _, height, width = frames.shape
    draw, angle, far = torch.rand(3, generator=generator_of(*seed, 0xD21F)).tolist()
    if draw < drift and count > 1:
        ground = _drifting(count, height, width, angle, far, *seed)
    else:
        ground = draw_ground(height, width, *seed).expand(count, -1, -1, -1)
    ground, alpha = ground.to(frames), frames[:, 3:]
    return torch.cat([frames[:, :3] * alpha + ground * (1.0 - alpha), torch.ones_like(alpha)], dim=1)


@dataclass(frozen=True)
class Grounded:
    """Clips of another source over grounds; a `data.Source`. Each cut has a ground of its own.

    Attributes:
        source: of clips with alpha.
        seed: of the grounds.
        drift: see `over_ground`.
    """

    source: Source
    seed: int
    drift: float = 0.0

    @property
    def name(self) -> str:
        """Where the clips come from, in words."""
        return f"{self.source.name}, opaque over drawn grounds"

    @property
    def rows(self) -> Sequence[Row]:
        """Rows of the clips, for the credits."""
        return self.source.rows

    def texts(self) -> list[str]:
        """All captions, and the words of the ground."""
        return [*self.source.texts(), GROUND_WORDS]

    def facts(self) -> Any:
        """All that the clips follow from, for the name of a cache."""
        return [self.source.facts(), "ground", self.seed, self.drift]

    def __len__(self) -> int:
        return len(self.source)

    def cut(self, index: int, variant: int) -> tuple[Tensor, tuple[str, ...]]:
        """One opaque clip ``(F, 4, H, W)`` in [0, 1] and its captions.

        Raises:
            InputError: the clip below cannot be made.
        """
        frames, captions = self.source.cut(index, variant)
        told = tuple(f"{caption}, {GROUND_WORDS}" if caption else GROUND_WORDS for caption in captions)
        return over_ground(frames, self.seed, index, variant, drift=self.drift), told


def _drifting(count: int, height: int, width: int, angle: float, far: float, *seed: int) -> Tensor:
    """A ground that moves on evenly: windows ``(F, 3, H, W)`` of a larger one, between its pixels too."""
    margin = _FARTHEST / 2.0
    tall, wide = (round(side * (1.0 + 2.0 * margin)) for side in (height, width))
    ground = draw_ground(tall, wide, *seed)
    direction = torch.tensor(angle * 2.0 * torch.pi)
    # From one side of the middle to the other, in half sides of the larger ground; never beyond its edge.
    way = torch.linspace(-1.0, 1.0, count) * (0.4 + 0.6 * far)
    room_x, room_y = (wide - width) / wide, (tall - height) / tall
    places = torch.zeros(count, 2, 3)
    places[:, 0, 0], places[:, 1, 1] = width / wide, height / tall
    places[:, 0, 2], places[:, 1, 2] = way * direction.cos() * room_x, way * direction.sin() * room_y
    grid = F.affine_grid(places, [count, 3, height, width], align_corners=False)
    several = ground[None].expand(count, -1, -1, -1)
    return F.grid_sample(several, grid, padding_mode="border", align_corners=False).clamp(0.0, 1.0)
