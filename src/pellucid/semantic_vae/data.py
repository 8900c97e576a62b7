"""Masks in bulk: a whole set as one uint8 tensor on the training device, and batches of it (Sec. 4.1; spec, section 1).

A label map of 256 x 256 is 64 KB, so 20,000 of them are 1.3 GB and CelebAMask-HQ's 28,000 are 1.8 GB: no loader runs.
Masks are drawn by code (`procedural`), read from a folder, or, for class sets of which nothing is known, ellipses.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import ConfigError, InputError
from pellucid.io.files import atomic_path
from pellucid.semantic_vae.masks.celebamask import find_masks, load
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.label_geometry import resize_labels, square
from pellucid.semantic_vae.procedural.masks import draw_masks
from pellucid.semantic_vae.procedural.parameters import FaceParameters, parameters_of

log = logging.getLogger(__name__)

PROCEDURAL, ELLIPSES = "procedural", "ellipses"  # names that stand in the place of a folder
HELD_OUT_SEED, FRESH_SEED = 1_000_003, 2_000_003  # added to a set's seed: masks that no training has seen
_CHUNK = 128  # masks drawn or counted at a time


class MaskBank:
    """Label maps of one size on one device.

    Args:
        labels: ``(N, S, S)`` uint8, ids of ``classes``.
        classes: what the ids mean.
        name: what the card and the log call the set.
        parameters: the numbers that drawn faces were made from, exact labels of what the masks show.

    Raises:
        InputError: the labels have another form, there are none, or an id is beyond the set.
    """

    def __init__(self, labels: Tensor, classes: ClassSet, name: str, parameters: FaceParameters | None = None) -> None:
        if labels.ndim != 3 or labels.dtype != torch.uint8 or not len(labels):
            raise InputError(f"{name}: expected label maps (N, S, S) uint8, found {tuple(labels.shape)} {labels.dtype}")
        if (largest := int(labels.max())) >= len(classes):
            raise InputError(f"{name}: found id {largest}, the last of {classes.name!r} is {len(classes) - 1}")
        self.labels, self.classes, self.name, self.parameters = labels, classes, name, parameters
        self._counts: Tensor | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    def to(self, device: torch.device | str) -> MaskBank:
        """Return the bank on another device."""
        moved = MaskBank(self.labels.to(device), self.classes, self.name, self.parameters)
        moved._counts = self._counts
        return moved

    def split(self, held_out: int) -> tuple[MaskBank, MaskBank]:
        """Divide into masks to train on and ``held_out`` others, which lie evenly spread over the set.

        Raises:
            InputError: nothing would be left to train on.
        """
        if held_out >= len(self):
            raise InputError(
                f"{self.name}: {len(self)} masks, of which {held_out} are to be held out", "lower held_out"
            )
        places = torch.arange(held_out) * len(self) // held_out
        kept = torch.ones(len(self), dtype=torch.bool)
        kept[places] = False
        here = self.labels.device
        return (
            MaskBank(self.labels[kept.to(here)], self.classes, self.name),
            MaskBank(self.labels[places.to(here)], self.classes, self.name),
        )

    def pixel_counts(self) -> Tensor:
        """Pixels of each class in each mask: ``(N, C)`` int64 on the CPU."""
        if self._counts is None:
            self._counts = torch.cat([count_pixels(part, len(self.classes)) for part in self.labels.split(_CHUNK)])
        return self._counts

    def fractions(self) -> Tensor:
        """Mean share of the pixels of each class: ``(C,)`` float64; what Eq. 1 is made of."""
        return self.pixel_counts().double().mean(dim=0) / (self.labels.shape[1] * self.labels.shape[2])

    def presence(self) -> Tensor:
        """Which class each mask has: ``(N, C)`` bool on the CPU."""
        return self.pixel_counts() > 0


def count_pixels(labels: Tensor, classes: int) -> Tensor:
    """Count the pixels of each class in each label map: ``(N, H, W)`` -> ``(N, C)`` int64 on the CPU."""
    rows = torch.arange(len(labels), device=labels.device)[:, None] * classes
    return torch.bincount((labels.flatten(1) + rows).flatten(), minlength=len(labels) * classes).view(-1, classes).cpu()


def open_bank(
    root: str | Path,
    classes: ClassSet = CELEBAMASK_HQ,
    size: int = 256,
    *,
    split: str | None = "train",
    count: int | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
    order: str | None = None,
) -> MaskBank:
    """Open the masks that a recipe names.

    Args:
        root: `PROCEDURAL`, `ELLIPSES`, or a folder.
        classes: the class set; procedural masks are of CelebAMask-HQ's.
        size: side in pixels.
        split: of a folder.
        count: masks to draw, 4,096 when None; of a folder the first so many, None for all.
        seed: of drawn masks.
        cache: where drawn masks are kept, see `procedural_bank`.
        order: label order of a folder's bare ids, see `celebamask.find_masks`.

    Raises:
        ConfigError: procedural masks of another class set.
        InputError: the folder is not there or holds no masks of the split.
    """
    if str(root) == PROCEDURAL:
        if classes.fingerprint() != CELEBAMASK_HQ.fingerprint():
            raise ConfigError(
                f"procedural masks have the classes of {CELEBAMASK_HQ.name!r}, found class set {classes.name!r}",
                f"name a folder of masks, or {ELLIPSES!r}",
            )
        return procedural_bank(count or 4096, seed, size, cache)
    if str(root) == ELLIPSES:
        return MaskBank(ellipses(count or 4096, seed, size, classes), classes, f"{ELLIPSES} of seed {seed}")
    return folder_bank(root, split, classes, size, count, order)


def procedural_bank(count: int, seed: int = 0, size: int = 256, cache: str | Path | None = None) -> MaskBank:
    """Draw face masks by code; mask k is the same whatever ``count`` is.

    Args:
        count: how many.
        seed: which.
        size: side in pixels.
        cache: a folder that keeps them as one safetensors file for the next run, ``"auto"`` for the user's cache
            folder; None draws them anew. The file's name holds a digest of the code that draws, so that changed code
            never meets old masks.
    """
    name = f"{count} procedural masks of seed {seed}"
    parameters = parameters_of(seed, range(count))
    if cache is None:
        return MaskBank(_drawn(parameters, size), CELEBAMASK_HQ, name, parameters)
    folder = cache_folder() if str(cache) == "auto" else Path(cache).expanduser()
    path = folder / f"procedural-{drawing_digest()}-{size}-{seed}-{count}.safetensors"
    try:
        labels = load_file(path)["labels"]
        log.info("%s: read from %s", name, path)
        return MaskBank(labels, CELEBAMASK_HQ, name, parameters)
    except FileNotFoundError:
        pass
    except (OSError, SafetensorError, KeyError) as error:
        log.warning("%s cannot be read and is drawn anew: %s", path, error)
    labels = _drawn(parameters, size)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, True) as temporary:
        save_file({"labels": labels}, temporary)
    log.info("%s: kept in %s, %.0f MB", name, path, labels.numel() / 1e6)
    return MaskBank(labels, CELEBAMASK_HQ, name, parameters)


def cache_folder() -> Path:
    """The user's folder for what can be made again: ``PELLUCID_CACHE``, else ``pellucid`` in the system's."""
    home = os.environ.get("PELLUCID_CACHE")
    return Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pellucid"


def drawing_digest() -> str:
    """Twelve hexadecimal digits that change with the code that draws masks."""
    files = sorted((Path(__file__).parent / "procedural").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def _drawn(parameters: FaceParameters, size: int) -> Tensor:
    count = len(parameters)
    labels = torch.empty(count, size, size, dtype=torch.uint8)
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        labels[part] = draw_masks(parameters[part], size)
        if start // _CHUNK % 16 == 15:
            log.info("%d of %d masks drawn", start + _CHUNK, count)
    return labels


def folder_bank(
    root: str | Path,
    split: str | None = None,
    classes: ClassSet = CELEBAMASK_HQ,
    size: int = 256,
    count: int | None = None,
    order: str | None = None,
) -> MaskBank:
    """Read a folder of masks in one of the layouts of `celebamask.find_masks`, pressed to ``size`` by Pillow's nearest.

    Args:
        root: the folder.
        split: ``"train"`` or ``"test"``; None for all. A folder without splits gives all it has, and a log line.
        classes: the class set of the files.
        size: side in pixels; masks that are not square are padded with background first.
        count: the first so many.
        order: label order of bare ids, see `celebamask.find_masks`.

    Raises:
        InputError: the folder is not there, holds no masks of the split, or one cannot be read.
        ConfigError: the ids may be of another order, and none is named.
    """
    found = find_masks(root, classes, order)
    wanted = [item for item in found if split is None or item.split == split]
    if not wanted and all(item.split is None for item in found):
        log.info("%s has no splits: all %d masks stand for %r", root, len(found), split)
        wanted, split = found, None
    if not wanted:
        splits = ", ".join(sorted({str(item.split) for item in found}))
        raise InputError(f"{root}: no masks of split {split!r}, found split {splits}")
    padded = 0
    labels = torch.empty(len(wanted[:count]), size, size, dtype=torch.uint8)
    for place, item in enumerate(wanted[:count]):
        mask = load(item, classes)
        padded += mask.shape[0] != mask.shape[1]
        labels[place] = resize_labels(square(mask, fill=classes.background)[0], size)
        if place % 4096 == 4095:
            log.info("%s: %d of %d masks read", root, place + 1, len(labels))
    if padded:
        log.info("%s: %d masks are not square and were padded", root, padded)
    name = f"{Path(root).name}, {f'split {split!r}, ' if split else ''}{wanted[0].rule}"
    return MaskBank(labels, classes, name)


def ellipses(count: int, seed: int, size: int, classes: ClassSet) -> Tensor:
    """Draw an ellipse for each part, for class sets of which nothing is known: ``(N, S, S)`` uint8.

    Every part has its place and size in the picture, from which each mask departs a little, so that there is something
    to learn. Parts are painted in the order of their ids, and each is missing in a tenth of the masks.
    """
    parts = classes.parts
    home = torch.rand(len(parts), 4, generator=generator_of(seed, 0))
    radii = 0.25 * (1 - torch.arange(len(parts)) / len(parts)) + 0.04  # later parts are smaller and stay visible
    axis = (torch.arange(size) + 0.5) / size
    labels = torch.full((count, size, size), classes.background or 0, dtype=torch.uint8)
    for place in range(count):
        moved = torch.randn(len(parts), 4, generator=generator_of(seed, 1, place)) * 0.03
        there = torch.rand(len(parts), generator=generator_of(seed, 2, place)) > 0.1
        for index, part in enumerate(parts):
            x, y = (0.2 + 0.6 * home[index, :2] + moved[index, :2]).tolist()
            wide, high = ((0.7 + 0.6 * home[index, 2:]) * radii[index] * (1 + 4 * moved[index, 2:])).tolist()
            inside = ((axis[None] - x) / wide) ** 2 + ((axis[:, None] - y) / high) ** 2 <= 1
            if there[index]:
                labels[place][inside] = part
    return labels


@dataclass(frozen=True)
class MaskBatches:
    """Batches of a bank as a pure function of the index: each round of the set in a new order.

    Attributes:
        bank: on the training device.
        batch: masks in a batch of one process.
        seed: of the orders and the mirroring.
        process: index and number of processes; each takes every so many-th place of the order.
        mirror: share of masks that are mirrored, with left and right parts exchanged.
    """

    bank: MaskBank
    batch: int
    seed: int = 0
    process: tuple[int, int] = (0, 1)
    mirror: float = 0.0

    def __call__(self, index: int) -> Tensor:
        """Give the batch of a micro-step: label maps ``(B, S, S)`` uint8 on the bank's device."""
        number, of = self.process
        first = (index * of + number) * self.batch
        places = [self._place(position) for position in range(first, first + self.batch)]
        labels = self.bank.labels[torch.tensor(places, device=self.bank.labels.device)]
        if self.mirror > 0:
            drawn = torch.rand(self.batch, generator=generator_of(self.seed, 1, index, number))
            chosen = (drawn < self.mirror).to(labels.device)
            labels = torch.where(chosen[:, None, None], self.bank.classes.mirrored(labels), labels)
        return labels

    def _place(self, position: int) -> int:
        turn, within = divmod(position, len(self.bank))
        return int(self._order(turn)[within])

    def _order(self, turn: int) -> Tensor:
        orders: dict[int, Tensor] = self.__dict__.setdefault("_orders", {})
        if turn not in orders:
            if len(orders) > 1:
                orders.clear()
            orders[turn] = torch.randperm(len(self.bank), generator=generator_of(self.seed, 0, turn))
        return orders[turn]
