"""Measuring: how well masks come through the codes (Sec. 4.2, Table 1), beside doing nothing and the paper.

A mask is encoded and decoded without an edit. The paper says neither whether the background counts nor over what the
mean is taken, so four mIoU are reported; its own figures are of 2,000 masks of CelebAMask-HQ, which we do not have.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import ConfigError, InputError
from pellucid.metrics.segmentation import SegmentationScores
from pellucid.semantic_vae.data import FRESH_SEED, PROCEDURAL, procedural_bank
from pellucid.semantic_vae.masks.celebamask import find_masks, load
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.fasseg import FASSEG, from_fasseg, read_fasseg, to_fasseg
from pellucid.semantic_vae.masks.label_geometry import resize_labels, square
from pellucid.semantic_vae.pipeline import FacePartsPipeline

log = logging.getLogger(__name__)

OPTIONS = ("split", "label_order")  # of `pellucid eval`
PROTOCOLS = {
    "parts-256": "padded to squares of 256 by PIL's nearest, padding not counted, pixels summed over the set",
    "fasseg-6": "the same with the six classes of FASSEG: the network's nineteen are merged before they are scored",
}
PAPER = {"accuracy": 0.9239, "mIoU": 0.7031}  # Table 1, the last row
COLUMNS = {  # of `SegmentationScores.figures`
    "accuracy": "accuracy",
    "miou": "mIoU",
    "miou_parts": "mIoU parts",
    "miou_image": "mIoU image",
    "miou_image_parts": "mIoU image parts",
}
_BATCH = 16
_TRAINING_LIKE = 512  # drawn masks whose most frequent classes are the baseline

Reconstruct = Callable[[Tensor], Tensor]  # label maps (N, S, S) -> label maps (N, S, S)


@dataclass(frozen=True)
class MaskSet:
    """Masks to measure on.

    Attributes:
        name: of the set and its split.
        seen: ``(N, S, S)`` uint8, what the network is given, ids of its own classes.
        truth: ``(N, S, S)`` uint8, ids of ``classes``.
        counted: ``(N, S, S)`` bool, false in padding.
        classes: those that are scored.
    """

    name: str
    seen: Tensor
    truth: Tensor
    counted: Tensor
    classes: ClassSet

    def __len__(self) -> int:
        return len(self.truth)


def is_drawn(set_dir: str | Path) -> bool:
    """Whether the name of a set stands for masks drawn by code: ``"procedural"`` or ``"procedural:200"``."""
    return str(set_dir).partition(":")[0] == PROCEDURAL


def evaluate(
    set_dir: str | Path,
    protocol: str = "parts-256",
    weights: str | Path | None = None,
    device: str = "auto",
    *,
    split: str | None = None,
    label_order: str | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure weights on a set of masks.

    Args:
        set_dir: a folder of masks, see `celebamask.find_masks`; ``"procedural"`` or ``"procedural:N"`` draws N masks
            (1,000) that no training has seen.
        protocol: a key of `PROTOCOLS`.
        weights: bundled name, folder or hub id.
        device: where to compute.
        split: ``"train"`` or ``"test"`` of a folder that has splits; its test masks when None.
        label_order: whose ids bare label maps hold, see `label_orders.ORDERS`.
        seed: of the sampled codes and of drawn masks.

    Returns:
        Rows of a table: all background, the most frequent class of each pixel, the weights with codes at their mean and
        with sampled codes, the paper; figures in [0, 1]. ``mIoU`` counts all classes over the pixels of the whole set,
        ``mIoU parts`` without background; ``mIoU image`` and ``mIoU image parts`` are means over masks of the mean over
        the classes that occur. Then a row of IoU for each class.

    Raises:
        ConfigError: the protocol is not known, or does not go with the set or the weights.
        InputError: the folder holds no masks, or one cannot be read.
        WeightsError: the weights cannot be loaded.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol {protocol!r} is not known", f"use one of {', '.join(PROTOCOLS)}")
    pipe = FacePartsPipeline.from_pretrained(weights, device=device, dtype="float32")
    masks = read_set(set_dir, protocol, pipe.classes, pipe.config.size, split, label_order, seed)
    return measure(masks, reconstructions(pipe, seed), f"ours ({pipe.weights})", protocol, pipe.classes)


def read_set(
    set_dir: str | Path,
    protocol: str = "parts-256",
    classes: ClassSet = CELEBAMASK_HQ,
    size: int = 256,
    split: str | None = None,
    label_order: str | None = None,
    seed: int = 0,
) -> MaskSet:
    """Read or draw the masks of a set for a network of some classes; see `evaluate` for what can go wrong."""
    fasseg = protocol == "fasseg-6"
    if is_drawn(set_dir):
        if fasseg or classes.fingerprint() != CELEBAMASK_HQ.fingerprint():
            raise ConfigError(
                f"drawn masks are of {CELEBAMASK_HQ.name!r} under parts-256, found {classes.name!r} under {protocol}"
            )
        labels = procedural_bank(_count(str(set_dir)), seed + FRESH_SEED, size).labels
        return MaskSet(str(set_dir), labels, labels, torch.ones_like(labels, dtype=torch.bool), classes)
    if fasseg:
        folder = Path(set_dir) / "labels" if (Path(set_dir) / "labels").is_dir() else Path(set_dir)
        files = sorted(folder.glob("*.png"))
        if not files:
            raise InputError(f"{folder} holds no PNG of FASSEG's colours")
        truth = [read_fasseg(path) for path in files]
        return _padded(Path(set_dir).name, truth, FASSEG, size, lambda labels: from_fasseg(labels, classes))
    found = find_masks(set_dir, classes, label_order)
    split = split or ("test" if any(item.split == "test" for item in found) else None)
    chosen = [item for item in found if split is None or item.split == split]
    if not chosen:
        raise InputError(f"{set_dir}: no masks of split {split!r}")
    name = f"{Path(set_dir).name}, {f'split {split!r}, ' if split else ''}{chosen[0].rule}"
    return _padded(name, [load(item, classes) for item in chosen], classes, size, lambda labels: labels)


def reconstructions(pipe: FacePartsPipeline, seed: int = 0) -> dict[str, Reconstruct]:
    """The two ways through the codes: at their mean, and sampled as the public code always does."""
    generator = generator_of(seed, 7)

    def mean(labels: Tensor) -> Tensor:
        return pipe.decode(pipe.encode(labels).mu)

    def sampled(labels: Tensor) -> Tensor:
        codes = pipe.encode(labels)
        noise = torch.randn(codes.mu.shape, generator=generator).to(codes.mu)
        return pipe.decode(codes.mu + torch.exp(0.5 * codes.logvar) * noise)

    return {"": mean, ", sampled codes": sampled}


def measure(
    masks: MaskSet, ways: dict[str, Reconstruct], name: str, protocol: str, classes: ClassSet
) -> list[dict[str, Any]]:
    """Measure reconstructions of a set, the baselines first; see `evaluate` for the rows."""
    own = masks.classes.fingerprint() == classes.fingerprint()
    merge: Callable[[Tensor], Tensor] = (lambda labels: labels) if own else (lambda labels: to_fasseg(labels, classes))
    empty = classes.background or 0
    systems: dict[str, Reconstruct] = {f"all {classes.names[empty]}": lambda seen: torch.full_like(seen, empty)}
    if classes.fingerprint() == CELEBAMASK_HQ.fingerprint():
        usual = usual_mask(masks.truth.shape[-1])
        systems["most frequent class of each pixel"] = lambda seen: usual.expand_as(seen)
    systems |= {f"{name}{way}": reconstruct for way, reconstruct in ways.items()}
    shared = {"set": masks.name, "protocol": protocol, "masks": len(masks)}
    rows, per_class = [], {}
    for system, reconstruct in systems.items():
        scores = SegmentationScores(len(masks.classes), masks.classes.background)
        for start in range(0, len(masks), _BATCH):
            part = slice(start, start + _BATCH)
            found = merge(reconstruct(masks.seen[part]).cpu())
            for ours, truth, counted in zip(found, masks.truth[part], masks.counted[part], strict=True):
                scores.update(ours[counted][None], truth[counted][None])
        figures = scores.figures()
        rows.append({"system": system, **shared} | {label: figures[key] for key, label in COLUMNS.items()})
        per_class[system] = scores.iou().tolist()
    rows.append({"system": "paper, Table 1", "set": "CelebAMask-HQ, 2,000", "protocol": "not named"} | PAPER)
    present = [int((masks.truth == index).flatten(1).any(1).sum()) for index in range(len(masks.classes))]
    for index, label in enumerate(masks.classes.names):
        # The weights are named above; a column's head has no room for them.
        found = {f"IoU {system.replace(name, 'ours')}": _known(values[index]) for system, values in per_class.items()}
        rows.append({"class": label, "in masks": present[index]} | found)
    return rows


def usual_mask(size: int = 256) -> Tensor:
    """The most frequent class of each pixel of drawn masks: ``(S, S)`` uint8. What a network that sees nothing says."""
    labels = procedural_bank(_TRAINING_LIKE, 0, size).labels
    return labels.mode(dim=0).values


def _known(value: float) -> float | None:
    return None if value != value else value  # a class that is neither true nor found


def _count(name: str) -> int:
    text = name.partition(":")[2] or "1000"
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"set {name!r}: expected procedural:N, found {text!r} masks", "for example procedural:200")
    return int(text)


def _padded(
    name: str, truths: Sequence[Tensor], classes: ClassSet, size: int, shown: Callable[[Tensor], Tensor]
) -> MaskSet:
    """Bring label maps of any size to squares of ``size``, and remember what is padding."""
    seen, truth, counted = [], [], []
    padded = 0
    for labels in truths:
        padded += labels.shape[0] != labels.shape[1]
        truth.append(resize_labels(square(labels)[0], size))
        seen.append(resize_labels(square(shown(labels))[0], size))
        counted.append(resize_labels(square(torch.ones_like(labels))[0], size) > 0)
    if padded:
        log.info("%s: %d of %d masks are not square; the padding is not counted", name, padded, len(truths))
    return MaskSet(name, torch.stack(seen), torch.stack(truth), torch.stack(counted), classes)
