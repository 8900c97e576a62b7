"""Nearest training pictures: what a made clip looks like among the pictures that were learned, so that copying shows.

A copy that was moved or scaled is a copy. So each picture is cut to what is visible of it before two are compared,
either pixel by pixel or by the features of a CLIP.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.data.shards import ShardIndex
from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.transparency.data import DRAWN, draw_bank, read_bank
from pellucid.metrics.clip_score import Scorer
from pellucid.metrics.dynamic_degree import GREY, on_colour

log = logging.getLogger(__name__)

_SIDE = 24  # px that pictures are compared at
_VISIBLE = 0.05  # alpha from which a pixel counts
_AREA = 0.01  # share of visible pixels below which there is nothing to compare
_MARGIN = 0.05  # around what is cut out for a CLIP, of its longer side
_CLIP_SIDE = 64  # px of what a CLIP is shown
_DRAWN_COUNT = 256
_EVERY = 6  # of an animation's frames one in so many is kept
_ROWS = 512  # distances that are computed at a time


@dataclass(frozen=True)
class PictureBank:
    """Pictures that something was trained on.

    Attributes:
        pictures: ``(M, 4, S, S)`` uint8, straight alpha.
        names: of each, with whose it is.
    """

    pictures: Tensor
    names: tuple[str, ...]
    _features: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.pictures.ndim != 4 or self.pictures.shape[1] != 4 or self.pictures.dtype != torch.uint8:
            found = f"{tuple(self.pictures.shape)} {self.pictures.dtype}"
            raise InputError(f"a bank of pictures must be (M, 4, S, S) uint8, found {found}")
        if len(self.names) != len(self.pictures):
            raise InputError(f"{len(self.pictures)} pictures have {len(self.names)} names")

    def __len__(self) -> int:
        return len(self.pictures)

    def features(self, scorer: Scorer | None) -> tuple[Tensor, Tensor]:
        """Features ``(M, D)`` and whether each picture shows anything ``(M,)``; computed once for each scorer."""
        space = "pixels" if scorer is None else scorer.label
        if space not in self._features:
            self._features[space] = picture_features(self.pictures.float() / 255.0, scorer)
        return self._features[space]


@dataclass(frozen=True)
class Nearest:
    """The training picture that is most like a sample.

    Attributes:
        sample: number of the sample (of a clip: of its frame).
        picture: number in the bank.
        name: of the picture.
        distance: root mean square difference of colour and alpha in [0, 1]; of CLIP's features 1 - cosine, in [0, 2].
    """

    sample: int
    picture: int
    name: str
    distance: float


def nearest_pictures(samples: Tensor, bank: PictureBank, *, scorer: Scorer | None = None) -> list[Nearest | None]:
    """Find the picture of a bank that is nearest to each sample.

    Args:
        samples: ``(N, 4, H, W)``, straight alpha, sRGB in [0, 1].
        bank: what was learned.
        scorer: compare in a CLIP's space; in that of pixels when None.

    Returns:
        One for each sample; None where a sample shows nothing.

    Raises:
        InputError: samples are of another shape, or the bank shows nothing.
    """
    if samples.ndim != 4 or samples.shape[1] != 4:
        raise InputError(f"samples must be (N, 4, H, W), found {tuple(samples.shape)}")
    learned, there = bank.features(scorer)
    if not bool(there.any()):
        raise InputError("no picture of the bank shows anything")
    asked, visible = picture_features(samples.float().cpu(), scorer)
    found: list[Nearest | None] = []
    for start in range(0, len(asked), _ROWS):
        rows = asked[start : start + _ROWS]
        if scorer is None:
            apart = torch.cdist(rows, learned) / rows.shape[1] ** 0.5
        else:
            apart = (1.0 - F.normalize(rows, dim=1) @ F.normalize(learned, dim=1).T).clamp_min(0.0)
        least, places = apart.masked_fill(~there[None], torch.inf).min(dim=1)
        for offset, (distance, place) in enumerate(zip(least.tolist(), places.tolist(), strict=True)):
            sample = start + offset
            shown = bool(visible[sample])
            found.append(Nearest(sample, place, bank.names[place], distance) if shown else None)
    return found


def nearest_of_clip(
    clip: Tensor, bank: PictureBank, *, base_index: int | None = None, scorer: Scorer | None = None
) -> Nearest | None:
    """The frame of a clip that is nearest to a picture of a bank, and that picture.

    Args:
        clip: ``(F, 4, H, W)`` in [0, 1].
        bank: what was learned.
        base_index: a frame that was given and not made, which is not looked at.
        scorer: see `nearest_pictures`.

    Returns:
        None when no made frame shows anything.
    """
    made = [frame for frame in range(len(clip)) if frame != base_index]
    found = [each for each in nearest_pictures(clip[made], bank, scorer=scorer) if each is not None]
    if not found:
        return None
    best = min(found, key=lambda each: each.distance)
    return Nearest(made[best.sample], best.picture, best.name, best.distance)


def picture_features(pictures: Tensor, scorer: Scorer | None = None) -> tuple[Tensor, Tensor]:
    """Describe pictures, each cut to what is visible of it.

    Args:
        pictures: ``(N, 4, H, W)`` float in [0, 1], straight alpha.
        scorer: a CLIP; pixels when None.

    Returns:
        ``(N, D)``: premultiplied colour and alpha, or a CLIP's features of the cut on grey. And ``(N,)`` bool, False
        where a picture shows nothing, whose features are then of the whole.
    """
    side, margin = (_SIDE, 0.0) if scorer is None else (_CLIP_SIDE, _MARGIN)
    shown = (pictures[:, 3] > _VISIBLE).flatten(1).float().mean(1) >= _AREA
    cuts = torch.stack([_cut(picture, side, margin) for picture in pictures])  # premultiplied
    if scorer is None:
        return cuts.flatten(1), shown
    alpha = cuts[:, 3:]
    straight = torch.cat([torch.where(alpha > 0, cuts[:, :3] / alpha.clamp_min(1e-6), GREY), alpha], dim=1)
    return scorer.images(on_colour(straight.clamp(0.0, 1.0))), shown


def open_bank(root: str | Path, tables: Sequence[str] = ("stills",), size: int = 64) -> PictureBank:
    """Read the pictures that are trained on.

    Args:
        root: a data folder of tar shards with splits, or ``"drawn"``.
        tables: which ``TABLE.jsonl`` of it; sprite sheets give one frame in six.
        size: side they are held at, in pixels.

    Raises:
        ConfigError: no such folder or table, or no table is named.
        InputError: no pictures, or one cannot be read.
    """
    if str(root) == DRAWN:
        pictures = draw_bank(_DRAWN_COUNT, size, 0).pictures
        return PictureBank(pictures, tuple(f"drawn {number}" for number in range(len(pictures))))
    if not tables:
        raise ConfigError(f"no table of {root} is named", 'give tables = ["stills"]')
    parts: list[Tensor] = []
    names: list[str] = []
    for table in tables:
        pictures = read_bank(str(root), table, size, "train").pictures
        called = [
            (f"{row.get('name', row['file'])} ({row.get('author', Path(str(root)).name)})", frame)
            for row in ShardIndex.open(root, table).select(split="train")
            for frame in range(_frames(row.get("sheet")))
        ]
        kept = [place for place, (_, frame) in enumerate(called) if frame % _EVERY == 0]
        parts.append(pictures[kept].clone())
        names += [called[place][0] for place in kept]
    log.info("%d training pictures of %s are looked through for copies", len(names), root)
    return PictureBank(torch.cat(parts), tuple(names))


def _frames(sheet: object) -> int:
    return sheet[0] * sheet[1] if isinstance(sheet, list) else 1


def _cut(picture: Tensor, side: int, margin: float) -> Tensor:
    """Cut ``(4, H, W)`` to a square around what is visible, premultiplied and ``side`` pixels wide."""
    premultiplied = torch.cat([picture[:3] * picture[3:], picture[3:]])
    seen = picture[3] > _VISIBLE
    if bool(seen.any()):
        rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        left, right = int(columns[0]), int(columns[-1]) + 1
        premultiplied = premultiplied[:, top:bottom, left:right]
    height, width = premultiplied.shape[1:]
    longest = max(height, width) + 2 * round(max(height, width) * margin)
    down, across = longest - height, longest - width
    square = F.pad(premultiplied, (across // 2, across - across // 2, down // 2, down - down // 2))
    return F.interpolate(square[None], (side, side), mode="bilinear", antialias=True, align_corners=False)[0]
