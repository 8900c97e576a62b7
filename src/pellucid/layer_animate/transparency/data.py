"""Pictures with alpha to train on, held on the device: drawn by code, or tar shards of stills and sprite sheets."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.data.shards import Row, ShardIndex
from pellucid.device import generator_of
from pellucid.errors import InputError
from pellucid.layer_animate.clips.drawn import draw_rgba
from pellucid.layer_animate.clips.files import evenly
from pellucid.layer_animate.clips.grounds import draw_ground

log = logging.getLogger(__name__)

DRAWN = "drawn"
_DRAWN_AT_A_TIME = 256
_HELD_OUT_STEP = 12  # frames of a held-out animation from one that is measured to the next
_HELD_OUT_SEED = 1 << 20  # apart from every seed a recipe is likely to name


class RgbaBank:
    """Pictures with alpha as one tensor.

    Args:
        pictures: ``(N, 4, S, S)`` uint8, straight alpha.
        name: where they come from, in words.
        rows: of the files they were read from, for the credits; none of drawn ones.
    """

    def __init__(self, pictures: Tensor, name: str, rows: Sequence[Row] = ()) -> None:
        self.pictures, self.name, self.rows = pictures, name, tuple(rows)

    def __len__(self) -> int:
        return self.pictures.shape[0]

    def to(self, device: torch.device | str) -> RgbaBank:
        """The bank on another device."""
        return RgbaBank(self.pictures.to(device), self.name, self.rows)

    def take(self, indices: Tensor) -> Tensor:
        """Some pictures, ``(B, 4, S, S)`` float32 in [0, 1]."""
        return self.pictures[indices.to(self.pictures.device)].float() / 255.0


def draw_bank(count: int, size: int, seed: int) -> RgbaBank:
    """Draw ``count`` pictures of ``size``; see `drawn.draw_rgba`."""
    parts = [
        draw_rgba(min(_DRAWN_AT_A_TIME, count - start), size, seed * 65536 + start).mul(255.0).round().to(torch.uint8)
        for start in range(0, count, _DRAWN_AT_A_TIME)
    ]
    return RgbaBank(torch.cat(parts), "drawn by code")


def read_bank(
    root: str,
    table: str,
    size: int,
    split: str | None,
    *,
    count: int | None = None,
    only: tuple[str, ...] = (),
    every: int = 1,
) -> RgbaBank:
    """Read pictures of tar shards; a row with ``sheet`` = [rows, columns] is a sprite sheet and gives every frame.

    Args:
        root: the data folder.
        table: which ``TABLE.jsonl``.
        size: side to which all are brought, transparent margins making them square first.
        split: ``"train"`` or ``"val"``; None for all.
        count: at most so many rows, evenly over the table; None for all.
        only: names of ``file`` to keep; empty for all.
        every: frames of a sprite sheet from one that is taken to the next; neighbours are almost alike.

    Raises:
        ConfigError: no such folder or table.
        InputError: no row is left, or a picture cannot be read.
    """
    rows = ShardIndex.open(root, table).select(split=split, where=lambda row: not only or row["file"] in only)
    chosen = evenly(rows.rows, count)
    if not chosen:
        wanted = f" named {', '.join(only)}" if only else ""
        raise InputError(f"{root} has no pictures{wanted} of split {split!r} in {table}.jsonl")
    pictures = [
        frame for row in chosen for frame in [*_frames(rows.image(row, "RGBA"), row.get("sheet"), row["file"])][::every]
    ]
    changed = sum(picture.shape[1:] != (size, size) for picture in pictures)
    if changed:
        log.info("%d of %d pictures of %s brought to %dx%d", changed, len(pictures), root, size, size)
    squares = torch.stack([_square(picture, size) for picture in pictures])
    return RgbaBank(squares, f"{len(chosen)} files of {table}", chosen)


def open_banks(
    root: str,
    table: str,
    size: int,
    *,
    count: int | None,
    held_out: int,
    seed: int,
    only: tuple[str, ...] = (),
    sheets: str | None = None,
    every: int = 1,
) -> tuple[RgbaBank, RgbaBank]:
    """Pictures to train on and pictures to measure on; without a common one, unless ``only`` names what to learn.

    Args:
        root: `DRAWN`, or a data folder.
        table: see `read_bank`.
        size: side in pixels.
        count: pictures (of a folder: files) to train on; of drawn ones 1,024 when None, of a folder all.
        held_out: pictures (files) to measure on.
        seed: of the drawn pictures.
        only: see `read_bank`; with it the same pictures are measured, as learning them by heart is the purpose.
        sheets: one more table of the folder, of animations, whose frames are learned and measured as well.
        every: see `read_bank`; of animations of ``sheets`` that are held out at most every twelfth frame is measured.
    """
    if root == DRAWN:
        return draw_bank(count or 1024, size, seed), draw_bank(held_out, size, seed + _HELD_OUT_SEED)
    if only:
        bank = read_bank(root, table, size, None, count=count, only=only, every=every)
        return bank, bank
    train = read_bank(root, table, size, "train", count=count, every=every)
    held = read_bank(root, table, size, "val", count=held_out, every=every)
    if sheets is None:
        return train, held
    few = max(1, held_out // 4)  # a quarter as many: each gives several frames
    return (
        _joined(train, read_bank(root, sheets, size, "train", count=count, every=every)),
        _joined(held, read_bank(root, sheets, size, "val", count=few, every=max(every, _HELD_OUT_STEP))),
    )


def _joined(first: RgbaBank, second: RgbaBank) -> RgbaBank:
    pictures = torch.cat([first.pictures, second.pictures])
    return RgbaBank(pictures, f"{first.name}, {second.name}", (*first.rows, *second.rows))


@dataclass(frozen=True)
class RgbaBatches:
    """Batches as a pure function of seed, index and process.

    Attributes:
        bank: the pictures.
        batch: pictures a batch.
        seed: of the run.
        process: index of this process and number of all.
        affine: 0 for pictures as they are; else how far they are turned (times pi), scaled and shifted (times the half
            side), at most. Half of the pictures are mirrored then.
        opaque: share of pictures that are laid over one of ``grounds``: a stack whose motion modules learn from opaque
            clips needs a VAE that has seen such.
        grounds: ``(N, 3, S, S)`` uint8, see `draw_grounds`; needed when ``opaque`` is above 0.
    """

    bank: RgbaBank
    batch: int
    seed: int
    process: tuple[int, int] = (0, 1)
    affine: float = 0.0
    opaque: float = 0.0
    grounds: Tensor | None = None

    def __call__(self, index: int) -> tuple[Tensor, Tensor, int]:
        """Return pictures ``(B, 4, S, S)`` in [0, 1], backdrops ``(B, 3, 1, 1)``, and a seed for the step's noise."""
        rank, world = self.process
        random = generator_of(self.seed, index * world + rank)
        pictures = self.bank.take(torch.randint(len(self.bank), (self.batch,), generator=random))
        if self.affine:
            pictures = move(pictures, random_places(self.batch, self.affine, random))
        backdrop = torch.rand(self.batch, 3, 1, 1, generator=random).to(pictures.device)
        if self.opaque and self.grounds is not None:
            chosen = (torch.rand(self.batch, generator=random) < self.opaque).to(pictures.device)[:, None, None, None]
            places = torch.randint(len(self.grounds), (self.batch,), generator=random)
            ground = self.grounds[places.to(self.grounds.device)].to(pictures.device).float() / 255.0
            pictures = torch.where(chosen, _laid(pictures, ground), pictures)
        return pictures, backdrop, index * world + rank


def draw_grounds(count: int, size: int, seed: int) -> Tensor:
    """Draw grounds for opaque pictures, ``(count, 3, size, size)`` uint8; see `grounds.draw_ground`."""
    grounds = [draw_ground(size, size, seed, number).mul(255.0).round().to(torch.uint8) for number in range(count)]
    return torch.stack(grounds)


def _laid(pictures: Tensor, ground: Tensor) -> Tensor:
    alpha = pictures[:, 3:]
    return torch.cat([pictures[:, :3] * alpha + ground * (1.0 - alpha), torch.ones_like(alpha)], dim=1)


def random_places(n: int, amount: float, random: torch.Generator) -> Tensor:
    """Draw affine places ``(n, 2, 3)`` for `move`: turned, scaled, shifted, half of them mirrored."""
    turn, zoom, *shift = ((torch.rand(n, generator=random) * 2.0 - 1.0) * amount for _ in range(4))
    mirror = torch.where(torch.rand(n, generator=random) < 0.5, -1.0, 1.0)
    turn, zoom = turn * torch.pi, torch.exp(zoom)
    rows = [
        torch.stack([mirror * turn.cos() * zoom, -turn.sin() * zoom, shift[0]], dim=1),
        torch.stack([mirror * turn.sin() * zoom, turn.cos() * zoom, shift[1]], dim=1),
    ]
    return torch.stack(rows, dim=1)


def move(pictures: Tensor, places: Tensor) -> Tensor:
    """Move pictures ``(n, 4, S, S)`` by affine places ``(n, 2, 3)``; premultiplied, so that no dark fringe comes in."""
    grid = F.affine_grid(places.to(pictures), list(pictures.shape), align_corners=False)
    alpha = pictures[:, 3:]
    moved = F.grid_sample(torch.cat([pictures[:, :3] * alpha, alpha], dim=1), grid, align_corners=False)
    return _straight(moved)


def _straight(premultiplied: Tensor) -> Tensor:
    alpha = premultiplied[:, 3:]
    colour = torch.where(alpha > 0, premultiplied[:, :3] / alpha.clamp(min=1e-6), 0.0)
    return torch.cat([colour, alpha], dim=1).clamp(0.0, 1.0)


def _frames(picture: Tensor, sheet: object, name: str) -> Iterator[Tensor]:
    if sheet is None:
        yield picture
        return
    if not isinstance(sheet, list) or len(sheet) != 2 or not all(isinstance(side, int) and side > 0 for side in sheet):
        raise InputError(f"{name}: sheet must be [rows, columns], found {sheet!r}")
    rows, columns = sheet
    if picture.shape[1] % rows or picture.shape[2] % columns:
        raise InputError(f"{name}: {picture.shape[1]}x{picture.shape[2]} does not divide into {rows}x{columns} frames")
    for strip in picture.chunk(rows, dim=1):
        yield from strip.chunk(columns, dim=2)


def _square(picture: Tensor, size: int) -> Tensor:
    """Bring ``(4, H, W)`` uint8 to ``(4, size, size)``: transparent margins, then a premultiplied resize."""
    height, width = picture.shape[1:]
    if height == width == size:
        return picture
    longest = max(height, width)
    down, across = longest - height, longest - width
    pixels = F.pad(picture, (across // 2, across - across // 2, down // 2, down - down // 2))[None].float() / 255.0
    alpha = pixels[:, 3:]
    premultiplied = torch.cat([pixels[:, :3] * alpha, alpha], dim=1)
    small = F.interpolate(premultiplied, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return _straight(small)[0].mul(255.0).round().to(torch.uint8)
