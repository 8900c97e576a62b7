"""Named pictures with alpha for the tiny CLIP, and batches in which no name is there twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.data.shards import Row, ShardIndex
from pellucid.device import generator_of
from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.clips.cuts import premultiply, resize_rgba
from pellucid.layer_animate.clips.drawn import make_drawings, render
from pellucid.layer_animate.clips.files import ClipFile, read
from pellucid.metrics.dynamic_degree import GREY

DRAWN = "drawn"
HELD_OUT_SEED = 1 << 20  # apart from every seed a recipe is likely to name
_SEEN = 0.5  # a frame must show this share of what the fullest frame of its animation shows
_AT_A_TIME = 256
_LEVELS = 1000


@dataclass(frozen=True)
class NamedPictures:
    """Pictures with alpha, each with a row that tells it.

    Attributes:
        pixels: ``(N, 4, S, S)`` uint8, straight alpha.
        rows: N rows of the data's tables: ``name``, ``captions``, ``author``; frames of one animation share theirs.
    """

    pixels: Tensor
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> list[str]:
        """What each is called."""
        return [str(row["name"]) for row in self.rows]

    def captions(self, index: int) -> list[str]:
        """Texts that tell a picture, its name first."""
        row = self.rows[index]
        return list(dict.fromkeys((str(row["name"]), *row.get("captions", ()))))

    def take(self, indices: Sequence[int]) -> NamedPictures:
        """Some of the pictures."""
        chosen = torch.tensor(list(indices), dtype=torch.long, device=self.pixels.device)
        return NamedPictures(self.pixels[chosen], tuple(self.rows[index] for index in indices))

    def to(self, device: torch.device | str) -> NamedPictures:
        """The pictures on another device."""
        return NamedPictures(self.pixels.to(device), self.rows)


def draw_named(count: int, size: int, seed: int) -> NamedPictures:
    """Draw ``count`` single shapes, called for example ``"red ring"``; see `drawn.make_drawings`."""
    parts: list[Tensor] = []
    rows: list[Row] = []
    for start in range(0, count, _AT_A_TIME):
        drawings = make_drawings(min(_AT_A_TIME, count - start), seed * 65536 + start, shapes=1)
        parts.append(_eight_bit(render(drawings, size)))
        rows += [{"name": text.split(" ", 1)[1], "captions": [text]} for text in drawings.captions()]
    return NamedPictures(torch.cat(parts), tuple(rows))


def read_named(
    root: str, table: str, size: int, split: str, *, frames: int = 1, count: int | None = None
) -> NamedPictures:
    """Read named pictures of tar shards; a row with ``sheet`` is an animation and gives some frames.

    Args:
        root: the data folder.
        table: which ``TABLE.jsonl``.
        size: side to which all are brought, premultiplied.
        split: ``"train"`` or ``"val"``.
        frames: of an animation, evenly spread; those that show less than half of the fullest are left out.
        count: the first so many rows; None for all.

    Raises:
        ConfigError: no such folder or table.
        InputError: no row has a name, or a picture is not square or cannot be read.
    """
    index = ShardIndex.open(root, table).select(split=split, where=lambda row: bool(row.get("name")))
    files = list(index)[:count]
    if not files:
        raise InputError(f"{root} has no named picture of split {split!r} in {table}.jsonl")
    parts: list[Tensor] = []
    rows: list[Row] = []
    for row in files:
        if "sheet" in row:
            shown = _some_frames(read(ClipFile(row["file"], "sheet", facts=row, shards=index)).frames, frames)
        else:
            shown = index.image(row, "RGBA")[None]
        if shown.shape[-1] != shown.shape[-2]:
            raise InputError(f"{row['file']} must be square, found {shown.shape[-1]}x{shown.shape[-2]}")
        parts.append(_eight_bit(resize_rgba(shown.float() / 255.0, (size, size))))
        rows += [row] * len(shown)
    return NamedPictures(torch.cat(parts), tuple(rows))


def joined(parts: Sequence[NamedPictures]) -> NamedPictures:
    """Several sets as one."""
    return NamedPictures(torch.cat([part.pixels for part in parts]), tuple(row for part in parts for row in part.rows))


def other_makers(pictures: NamedPictures, share: float) -> tuple[NamedPictures, NamedPictures]:
    """Hold out one maker's pictures of some names that other makers drew too.

    What is measured on them is whether a *known* name is seen in a *drawing by another hand*: a maker's flat and glossy
    version, and its animation, leave together.

    Args:
        pictures: to learn.
        share: of the names with several makers; which ones follows from the names alone.

    Returns:
        Those that are learned and those that are not.
    """
    keys = [(str(row["name"]), str(row.get("author", ""))) for row in pictures.rows]
    makers: dict[str, set[str]] = {}
    for name, maker in keys:
        makers.setdefault(name, set()).add(maker)
    away: set[tuple[str, str]] = set()
    for name, drawn_by in makers.items():
        number = crc32(name.encode())
        if len(drawn_by) > 1 and number % _LEVELS < share * _LEVELS:
            away.add((name, sorted(drawn_by)[number // _LEVELS % len(drawn_by)]))
    kept = [index for index, key in enumerate(keys) if key not in away]
    return pictures.take(kept), pictures.take([index for index, key in enumerate(keys) if key in away])


@dataclass(frozen=True)
class NamedBatches:
    """Batches as a pure function of seed, index and process; no name is in one twice: its texts would contradict.

    Attributes:
        pictures: to learn, on the device.
        tokens: token numbers of all captions, a list for each picture.
        batch: pictures a batch; at most as many as there are names.
        seed: of the run.
        unknown: number of the unknown word.
        process: index of this process and number of all.
        affine: see `recipe.DataSection`.
        word_drop: see `recipe.DataSection`.

    Raises:
        ConfigError: there are fewer names than a batch takes.
    """

    pictures: NamedPictures
    tokens: Sequence[Sequence[list[int]]]
    batch: int
    seed: int
    unknown: int
    process: tuple[int, int] = (0, 1)
    affine: float = 0.0
    word_drop: float = 0.0

    def __post_init__(self) -> None:
        called: dict[str, list[int]] = {}
        for index, name in enumerate(self.pictures.names):
            called.setdefault(name, []).append(index)
        if len(called) < self.batch:
            raise ConfigError(f"a batch of {self.batch} takes as many names, found {len(called)}", "lower train.batch")
        object.__setattr__(self, "_called", list(called.values()))

    def __call__(self, index: int) -> tuple[Tensor, list[list[int]]]:
        """Return pictures over grounds ``(B, 3, S, S)`` in [0, 1], and a text's token numbers for each."""
        rank, world = self.process
        random = generator_of(self.seed, index * world + rank)
        called: list[list[int]] = self._called  # type: ignore[attr-defined]
        drawn = torch.rand(self.batch, 2, generator=random).tolist()
        names = torch.randperm(len(called), generator=random)[: self.batch].tolist()
        chosen = [called[name][int(draw[0] * len(called[name]))] for name, draw in zip(names, drawn, strict=True)]
        texts = [
            self._heard(self.tokens[index][int(draw[1] * len(self.tokens[index]))], random)
            for index, draw in zip(chosen, drawn, strict=True)
        ]
        pixels = self.pictures.pixels
        rgba = pixels[torch.tensor(chosen, device=pixels.device)].float() / 255.0
        flat = premultiply(rgba)
        if self.affine:
            places = _places(self.batch, self.affine, random).to(flat)
            flat = F.grid_sample(
                flat, F.affine_grid(places, list(flat.shape), align_corners=False), align_corners=False
            )
        return _over(flat, grounds(self.batch, random).to(flat)), texts

    def _heard(self, numbers: list[int], random: torch.Generator) -> list[int]:
        """A text with some of its words unknown, never all."""
        words = len(numbers) - 3  # start, end and last stay
        if not self.word_drop or words < 2:
            return numbers
        lost = (torch.rand(words, generator=random) < self.word_drop).tolist()
        if all(lost):
            return numbers
        heard = [self.unknown if gone else number for gone, number in zip(lost, numbers[1:-2], strict=True)]
        return [numbers[0], *heard, *numbers[-2:]]


def grounds(n: int, random: torch.Generator) -> Tensor:
    """Colours to lay pictures over, ``(n, 3, 1, 1)``: the scores' grey, white and black, and as many random ones."""
    kind = torch.rand(n, 1, 1, 1, generator=random)
    colour = torch.rand(n, 3, 1, 1, generator=random)
    plain = torch.where(kind < 0.25, GREY, torch.where(kind < 0.375, 1.0, 0.0))
    return torch.where(kind < 0.5, plain.expand(-1, 3, -1, -1), colour)


def over_grey(pixels: Tensor) -> Tensor:
    """Pictures ``(N, 4, S, S)`` uint8 over the scores' grey: ``(N, 3, S, S)`` in [0, 1]."""
    return _over(premultiply(pixels.float() / 255.0), torch.tensor(GREY, device=pixels.device))


def _over(flat: Tensor, ground: Tensor) -> Tensor:
    return (flat[:, :3] + ground * (1.0 - flat[:, 3:])).clamp(0.0, 1.0)


def _places(n: int, amount: float, random: torch.Generator) -> Tensor:
    """Affine places ``(n, 2, 3)``, never mirrored: arrows and letters have a side."""
    turn, zoom, *shift = ((torch.rand(n, generator=random) * 2.0 - 1.0) * amount for _ in range(4))
    turn, zoom = turn * torch.pi, torch.exp(zoom)
    rows = [
        torch.stack([turn.cos() * zoom, -turn.sin() * zoom, shift[0]], dim=1),
        torch.stack([turn.sin() * zoom, turn.cos() * zoom, shift[1]], dim=1),
    ]
    return torch.stack(rows, dim=1)


def _some_frames(clip: Tensor, most: int) -> Tensor:
    """Evenly spread frames of a clip ``(T, 4, H, W)`` that show something."""
    shown = clip[:, 3].float().mean((1, 2))
    spread = torch.arange(0, most) * clip.shape[0] // most
    kept = [int(index) for index in spread.unique() if shown[index] >= _SEEN * shown.max()]
    return clip[kept or [int(shown.argmax())]]


def _eight_bit(rgba: Tensor) -> Tensor:
    return rgba.mul(255.0).round().to(torch.uint8)
