"""The paper's figures of edits, made again with any weights: Fig. 3, 5 and 6 (section 3.5 of the spec of the room).

A figure is a grid of pictures with what each cell was made of, so that a sheet can be drawn and every cell made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import ConfigError
from pellucid.semantic_vae.editing import Kind, Operation
from pellucid.semantic_vae.faces.generators import Generator
from pellucid.semantic_vae.look import Look
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.pipeline import FacePartsPipeline
from pellucid.semantic_vae.procedural.masks import procedural_masks

EDITED = ("hair", "nose", "mouth_group", "brows", "eyes", "skin")  # Fig. 3, and in turn Fig. 6
MIXED = ("hair", "nose", "eyes", "mouth_group", "skin")  # Fig. 5
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
COUNTS = {3: 6, 5: 2, 6: 6}  # figure -> masks
DRAWN_SEED = 4_000_003  # of the masks that are drawn when none are given: none that a training or a fit draws
_TRIED = 64  # drawn masks among which those with every part are looked for
_SEEDS = 2**31


@dataclass(frozen=True)
class NamedMask:
    """A mask of a figure: its name, and ids ``(H, W)`` of the pipeline's class set."""

    name: str
    labels: Tensor


@dataclass(frozen=True)
class Cell:
    """One picture of a figure: sRGB ``(3, H, W)`` in [0, 1], its caption, and the edit as plain values."""

    caption: str
    pixels: Tensor
    made: Any = None


@dataclass(frozen=True)
class Figure:
    """Rows of cells, each row with a title.

    Attributes:
        rows: all of the same length.
        parameters: plain values that tell how the figure was made; the cells' own are in ``plain``.
    """

    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    parameters: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        """Everything but the pictures, for JSON."""
        cells = [
            {"row": title, "cells": [{"caption": cell.caption, "edit": cell.made} for cell in row]}
            for title, row in self.rows
        ]
        return self.parameters | {"rows": cells}


@dataclass(frozen=True)
class Way:
    """How the edits of a figure are made; see `editing.Operation` and `FacePartsPipeline.edit`.

    The paper shows what its decoder gives for the whole mask, so nothing is copied back unless asked for.
    """

    seed: int = 0
    amount: float = 1.0
    temperature: float = 1.0
    prior: str | None = None
    fit: float = 0.0
    keep_unedited: bool = False
    stray_guard: bool = True

    def operation(self, kind: Kind, part: str, *place: int) -> Operation:
        """An edit whose noise follows from its place in the figure."""
        seed = int(torch.randint(_SEEDS, (1,), generator=generator_of(self.seed, *place)))
        if kind == "generate":
            return Operation(kind, (part,), seed=seed, temperature=self.temperature, prior=self.prior, fit=self.fit)
        return Operation(kind, (part,), amount=self.amount if kind == "perturb" else 1.0, seed=seed)


def drawn_masks(count: int, classes: ClassSet, parts: Sequence[str] = EDITED, size: int = 256) -> list[NamedMask]:
    """Draw masks that have every part; the same ones every time.

    Raises:
        ConfigError: the class set is not the one that masks are drawn for, or too few of them have the parts.
    """
    if classes.fingerprint() != CELEBAMASK_HQ.fingerprint():
        raise ConfigError(
            f"no masks can be drawn for the class set {classes.name!r}, only for {CELEBAMASK_HQ.name!r}", "give masks"
        )
    needed = [part for part in classes.ids(parts) if part not in classes.groups.get("mouth_group", ())]
    labels, _ = procedural_masks(_TRIED, DRAWN_SEED, size)
    whole = [
        NamedMask(f"drawn {index}", labels[index])
        for index in range(_TRIED)
        if all(bool((labels[index] == part).any()) for part in needed)
    ]
    if len(whole) < count:
        raise ConfigError(f"{count} drawn masks with {', '.join(parts)} are wanted, {len(whole)} are there")
    return whole[:count]


def figure_3(
    pipe: FacePartsPipeline, masks: Sequence[NamedMask], way: Way | None = None, parts: Sequence[str] = EDITED
) -> Figure:
    """Fig. 3: each mask, its reconstruction, and for each part the mask with it drawn anew and perturbed.

    Raises:
        ConfigError: a part is not of the class set, or no mask is given.
    """
    way = way or Way()
    _check(pipe, masks, parts, 1)
    rows = []
    for index, mask in enumerate(masks):
        paint = _Painter(pipe, mask, way)
        cells = [paint.original(), paint.edited("reconstructed", Operation("reconstruct", ("all",)))]
        for place, part in enumerate(parts):
            for turn, kind in enumerate(("generate", "perturb")):
                operation = way.operation(kind, part, index, place, turn)
                cells.append(paint.edited(f"{part} {'generated' if kind == 'generate' else 'perturbed'}", operation))
        rows.append((mask.name, tuple(cells)))
    return Figure(tuple(rows), _parameters(3, pipe, masks, way))


def figure_5(
    pipe: FacePartsPipeline,
    masks: Sequence[NamedMask],
    way: Way | None = None,
    parts: Sequence[str] = MIXED,
    alphas: Sequence[float] = ALPHAS,
    spherical: bool = False,
) -> Figure:
    """Fig. 5: parts of the first mask led over to those of the second (Eq. 4), one row a part.

    Raises:
        ConfigError: a part is not of the class set, or fewer than two masks are given.
    """
    way = way or Way()
    _check(pipe, masks, parts, 2)
    source, target = masks[:2]
    paint = _Painter(pipe, source, way, {target.name: target.labels})
    rows = []
    for part in parts:
        steps = [
            paint.edited(
                f"alpha {alpha:g}",
                Operation("interpolate", (part,), amount=alpha, reference=target.name, spherical=spherical),
            )
            for alpha in alphas
        ]
        ends = (
            Cell(f"source: {source.name}", paint.colored(source.labels)),
            Cell(f"target: {target.name}", paint.colored(target.labels)),
        )
        rows.append((part, (ends[0], *steps, ends[1])))
    return Figure(tuple(rows), _parameters(5, pipe, masks[:2], way) | {"alphas": list(alphas)})


def figure_6(
    pipe: FacePartsPipeline,
    masks: Sequence[NamedMask],
    way: Way | None = None,
    parts: Sequence[str] = EDITED,
    generator: str | Generator = "preview",
    photos: Sequence[str | Path | None] = (),
) -> Figure:
    """Fig. 6: masks before and after an edit, and the faces of both in one style; row k draws part k anew.

    Args:
        pipe: edits and renders.
        masks: of the faces.
        way: of the edits.
        parts: what is drawn anew, in turn.
        generator: see `generators.open_generator`.
        photos: the picture of each mask, whose style its faces take. Without one the preview draws a style, a network
            takes its mean style.

    Raises:
        ConfigError: a part is not of the class set, or no mask is given.
        WeightsError: the generator cannot be opened, or knows no mean style.
    """
    way = way or Way(keep_unedited=True)
    _check(pipe, masks, parts, 1)
    backend = pipe.generator(generator)
    rows, styles = [], []
    for index, mask in enumerate(masks):
        part = parts[index % len(parts)]
        operation = way.operation("generate", part, index)
        paint = _Painter(pipe, mask, way)
        photo = photos[index] if index < len(photos) else None
        draw = getattr(backend, "random_style", None)
        style = None if photo is not None or draw is None else draw(way.seed + index)
        look = Look.make(backend, mask.labels, photo, style, seed=way.seed)
        labels = paint.labels_of(operation)
        rows.append(
            (
                mask.name,
                (
                    paint.original(),
                    Cell(f"{part} generated", paint.colored(labels), operation.plain()),
                    Cell("rendered", look.picture(mask.labels)),
                    Cell("rendered, same style", look.picture(labels), operation.plain()),
                ),
            )
        )
        styles.append(str(photo) if photo is not None else "mean" if style is None else f"drawn, {way.seed + index}")
    name = generator if isinstance(generator, str) else type(generator).__name__
    return Figure(tuple(rows), _parameters(6, pipe, masks, way) | {"generator": name, "styles": styles})


class _Painter:
    """One mask, encoded once, and pictures of what edits make of it."""

    def __init__(
        self, pipe: FacePartsPipeline, mask: NamedMask, way: Way, others: dict[str, Tensor] | None = None
    ) -> None:
        self.pipe, self.mask, self.way = pipe, mask, way
        self.codes = pipe.encode(mask.labels)
        self.others = {name: pipe.encode(labels) for name, labels in (others or {}).items()}

    def labels_of(self, operation: Operation) -> Tensor:
        return self.pipe.edit(
            self.mask.labels,
            (operation,),
            codes=self.codes,
            references=self.others,
            keep_unedited=self.way.keep_unedited,
            stray_guard=self.way.stray_guard,
        )

    def edited(self, caption: str, operation: Operation) -> Cell:
        return Cell(caption, self.colored(self.labels_of(operation)), operation.plain())

    def original(self) -> Cell:
        return Cell("mask", self.colored(self.mask.labels))

    def colored(self, labels: Tensor) -> Tensor:
        return self.pipe.classes.colored(labels.cpu())


def _check(pipe: FacePartsPipeline, masks: Sequence[NamedMask], parts: Sequence[str], least: int) -> None:
    if len(masks) < least:
        raise ConfigError(f"the figure needs at least {least} mask{'s' if least > 1 else ''}, found {len(masks)}")
    for part in parts:
        pipe.classes.ids(part)


def _parameters(number: int, pipe: FacePartsPipeline, masks: Sequence[NamedMask], way: Way) -> dict[str, Any]:
    return {
        "figure": number,
        "paper": "Automatic Generation of Semantic Parts for Face Image Synthesis (ICIAP 2023)",
        "weights": pipe.weights,
        "classes": pipe.classes.name,
        "masks": [mask.name for mask in masks],
        "drawn_seed": DRAWN_SEED if any(mask.name.startswith("drawn ") for mask in masks) else None,
        "way": asdict(way),
    }
