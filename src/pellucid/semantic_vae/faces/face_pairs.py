"""Masks with pictures, to train a mask-to-face network on: drawn by code, or a prepared folder (Sec. 5.3, 6.2)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.device import generator_of
from pellucid.errors import InputError
from pellucid.io.image import load_image
from pellucid.semantic_vae.data import ELLIPSES, PROCEDURAL, open_bank
from pellucid.semantic_vae.masks.classes import ClassSet
from pellucid.semantic_vae.preview.renderer import PreviewRenderer
from pellucid.semantic_vae.preview.style import random_style

log = logging.getLogger(__name__)


class PairBank:
    """Label maps and their pictures, of one size, on one device.

    Args:
        labels: ``(N, S, S)`` uint8, ids of ``classes``.
        pictures: ``(N, 3, S, S)`` uint8, sRGB.
        classes: what the ids mean.
        name: what the card and the log call the set.

    Raises:
        InputError: the two do not go together, there are none, or an id is beyond the set.
    """

    def __init__(self, labels: Tensor, pictures: Tensor, classes: ClassSet, name: str) -> None:
        count, *size = labels.shape
        if tuple(pictures.shape) != (count, 3, *size) or labels.dtype != torch.uint8 or pictures.dtype != torch.uint8:
            raise InputError(
                f"{name}: expected labels (N, S, S) and pictures (N, 3, S, S), both uint8, found {tuple(labels.shape)} "
                f"{labels.dtype}, {tuple(pictures.shape)} {pictures.dtype}"
            )
        if not count:
            raise InputError(f"{name}: there are no pairs")
        if (largest := int(labels.max())) >= len(classes):
            raise InputError(f"{name}: found id {largest}, the last of {classes.name!r} is {len(classes) - 1}")
        self.labels, self.pictures, self.classes, self.name = labels, pictures, classes, name

    def __len__(self) -> int:
        return self.labels.shape[0]

    def to(self, device: torch.device | str) -> PairBank:
        """Return the bank on another device."""
        return PairBank(self.labels.to(device), self.pictures.to(device), self.classes, self.name)

    def split(self, held_out: int) -> tuple[PairBank, PairBank]:
        """Divide into pairs to train on and the last ``held_out`` ones.

        Raises:
            InputError: nothing would be left to train on.
        """
        if held_out >= len(self):
            raise InputError(f"{self.name}: {len(self)} pairs, of which {held_out} are to be held out")
        kept = len(self) - held_out
        return (
            PairBank(self.labels[:kept], self.pictures[:kept], self.classes, self.name),
            PairBank(self.labels[kept:], self.pictures[kept:], self.classes, self.name),
        )

    def class_colors(self) -> Tensor:
        """Mean colour of each class over the whole bank: ``(K, 3)`` in [0, 1]; grey for classes that are not there."""
        sums, counts = torch.zeros(len(self.classes), 3, dtype=torch.float64), torch.zeros(len(self.classes))
        for labels, picture in zip(self.labels.cpu(), self.pictures.cpu(), strict=True):
            flat = labels.flatten().long()
            sums.index_add_(0, flat, picture.flatten(1).T.double() / 255)
            counts += torch.bincount(flat, minlength=len(self.classes))
        colors = (sums / counts.clamp(min=1)[:, None]).float()
        colors[counts == 0] = 0.5
        return colors


@dataclass(frozen=True)
class FaceBatch:
    """What a step sees.

    Attributes:
        labels: ``(B, S, S)`` uint8.
        pictures: ``(B, 3, S, S)`` float32 in [-1, 1].
        noise: generator of the step's noise, on the CPU.
    """

    labels: Tensor
    pictures: Tensor
    noise: torch.Generator


@dataclass(frozen=True)
class FaceBatches:
    """Batches of a bank as a pure function of the index: pairs are drawn with replacement.

    Attributes:
        bank: on the training device.
        batch: pairs in a batch of one process.
        seed: of the draws.
        process: number of this process.
        mirror: share of pairs that are mirrored, with left and right parts exchanged.
    """

    bank: PairBank
    batch: int
    seed: int = 0
    process: int = 0
    mirror: float = 0.0

    def __call__(self, index: int) -> FaceBatch:
        """Give the batch of a micro-step."""
        generator = generator_of(self.seed, index, self.process)
        device = self.bank.labels.device
        places = torch.randint(len(self.bank), (self.batch,), generator=generator).to(device)
        chosen = (torch.rand(self.batch, generator=generator) < self.mirror).to(device)
        labels, pictures = self.bank.labels[places], self.bank.pictures[places]
        labels = torch.where(chosen[:, None, None], self.bank.classes.mirrored(labels), labels)
        pictures = torch.where(chosen[:, None, None, None], pictures.flip(-1), pictures)
        return FaceBatch(labels, pictures.float() / 127.5 - 1, generator)


def drawn_pairs(root: str, classes: ClassSet, size: int, count: int, styles: int = 1, seed: int = 0) -> PairBank:
    """Draw masks and preview pictures of them.

    Args:
        root: `data.PROCEDURAL` or `data.ELLIPSES`.
        classes: the class set.
        size: side in pixels.
        count: how many.
        styles: colours and lights to take turns with. A SPADE network cannot know them, and learns their mean.
        seed: of masks and styles.
    """
    masks = open_bank(root, classes, size, count=count, seed=seed)
    renderer = PreviewRenderer(classes)
    looks = [random_style(seed + place) for place in range(styles)]
    pictures = torch.stack(
        [
            (renderer.render(mask, looks[place % styles], seed + place) * 255).round().to(torch.uint8)
            for place, mask in enumerate(masks.labels)
        ]
    )
    return PairBank(masks.labels, pictures, classes, f"{masks.name}, preview pictures in {styles} styles")


def folder_pairs(root: str | Path, split: str, classes: ClassSet, size: int, count: int | None = None) -> PairBank:
    """Read masks that come with pictures, in a layout of `celebamask.find_masks`; both pressed to ``size``.

    Args:
        root: the folder.
        split: ``"train"`` or ``"test"``.
        classes: the class set of the files.
        size: side in pixels.
        count: the first so many.

    Raises:
        InputError: nothing with a picture is there, or a mask is not square.
    """
    from pellucid.semantic_vae.masks.celebamask import find_masks, load
    from pellucid.semantic_vae.masks.mask_files import resize_labels

    found = [item for item in find_masks(root) if item.split in (split, None)]
    paired = [item for item in found if item.image is not None]
    if len(paired) < len(found):
        log.warning("%s: %d of %d masks have no picture and are left out", root, len(found) - len(paired), len(found))
    if not paired:
        raise InputError(f"{root}: no masks with pictures in split {split!r}", "expected labels/ beside images/")
    labels, pictures = [], []
    for item in paired[:count]:
        mask, image = load(item), item.image
        assert image is not None
        if mask.shape[0] != mask.shape[1]:
            raise InputError(f"{item.path}: a mask to train on must be square, found {tuple(mask.shape)}")
        labels.append(resize_labels(mask, size))
        pixels = load_image(image).layers[0].pixels.clamp(0, 1)  # (3, H, W)
        small = F.interpolate(pixels[None], (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
        pictures.append((small * 255).round().to(torch.uint8))
    return PairBank(torch.stack(labels), torch.stack(pictures), classes, f"{Path(root).name}, split {split!r}")


def open_pairs(
    root: str, classes: ClassSet, size: int, *, count: int | None, held_out: int, styles: int, seed: int
) -> tuple[PairBank, PairBank]:
    """Open the pairs that a recipe names: to train on, and held out.

    Raises:
        InputError: the folder is not there or holds no pairs; or nothing is left to train on.
    """
    if root in (PROCEDURAL, ELLIPSES):
        whole = drawn_pairs(root, classes, size, (count or 1024) + held_out, styles, seed)
    else:
        whole = folder_pairs(root, "train", classes, size, None if count is None else count + held_out)
    return whole.split(held_out)
