"""More masks out of a set of masks: N variants of each mask by parts and edits, optionally so that rare classes gain.

Every new mask comes with a record that tells what was done to which mask, so that it can be made again or left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import ConfigError
from pellucid.semantic_vae.editing import DRAWING, Codes, Kind, Operation
from pellucid.semantic_vae.masks.classes import ClassSet
from pellucid.semantic_vae.pipeline import RADIUS, FacePartsPipeline

log = logging.getLogger(__name__)

BALANCED = ("generate", "perturb")  # what balancing picks from for parts that are there; `add` for the others
_TRIES = 4  # seeds tried for one balanced mask
_MIXING = ("swap", "interpolate")
_OTHERS = 64  # masks before, from which swaps take parts
_SEEDS = 2**31


@dataclass(frozen=True)
class Augmented:
    """One new mask.

    Attributes:
        name: made of the source's name and a running number; a file name without its end.
        labels: ``(H, W)`` uint8, of the source's size.
        record: plain values for one JSON line: ``name``, ``source``, ``operation``, ``seed`` and ``iou``, the overlap
            with the source for each class that either has.
    """

    name: str
    labels: Tensor
    record: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is done to each mask.

    Attributes:
        kinds: edits; ``swap`` and ``interpolate`` take the other mask from the last ones before.
        parts: each entry is edited by itself; a group as one. Empty is every part that a mask has.
        count: N, variants of each mask, part and edit; with ``balance`` new masks of each mask.
        seed: one seed, one set.
        balance: pick part and edit of each new mask so that the classes with fewest pixels gain most.
        amount, temperature, prior, fit: as in `editing.Operation`.
        keep_unedited, radius, stray_guard: as in `FacePartsPipeline.edit`.

    Raises:
        ConfigError: no edit, one that a batch cannot make, or a count below 1.
    """

    kinds: tuple[Kind, ...] = ("generate", "perturb")
    parts: tuple[str | int, ...] = ()
    count: int = 1
    seed: int = 0
    balance: bool = False
    amount: float = 1.0
    temperature: float = 1.0
    prior: str | None = None
    fit: float = 0.0
    keep_unedited: bool = True
    radius: float = RADIUS
    stray_guard: bool = True

    def __post_init__(self) -> None:
        possible = ("generate", "perturb", "add", "remove", "swap", "interpolate")
        if not self.kinds or not set(self.kinds) <= set(possible):
            raise ConfigError(
                f"augmenting takes some of {', '.join(possible)}, found {', '.join(self.kinds) or 'none'}"
            )
        if self.count < 1:
            raise ConfigError(f"count must be at least 1, found {self.count}")
        if self.balance and not set(self.kinds) & {*BALANCED, "add"}:
            raise ConfigError(f"balancing picks from {', '.join((*BALANCED, 'add'))}, found {', '.join(self.kinds)}")

    def operation(self, kind: Kind, part: str | int, seed: int, reference: str | None = None) -> Operation:
        """One edit of one part."""
        drawn = kind in ("generate", "add")
        return Operation(
            kind,
            (part,),
            amount=self.amount if kind in ("perturb", "interpolate") else 1.0,
            temperature=self.temperature if drawn else 1.0,
            seed=seed if kind in DRAWING else None,
            reference=reference,
            prior=self.prior if drawn else None,
            fit=self.fit if drawn else 0.0,
        )


def augment(
    pipe: FacePartsPipeline, masks: Iterable[tuple[str, Tensor]], plan: Plan | None = None
) -> Iterator[Augmented]:
    """Make new masks, one source after the other.

    Args:
        pipe: edits them.
        masks: name and label map ``(H, W)`` of each, all of the pipeline's class set.
        plan: what is done.

    Yields:
        New masks. A part that a mask has not is left out (``add``: one that it has), and so is a ``swap`` or
        ``interpolate`` before there is a second mask.
    """
    plan = plan or Plan()
    pixels = torch.zeros(len(pipe.classes), dtype=torch.float64)
    others: dict[str, Codes] = {}
    for index, (name, labels) in enumerate(masks):
        codes = pipe.encode(labels)
        pixels += _pixels(labels, pipe.classes)
        if plan.balance:
            found = _balanced(pipe, labels, codes, plan, index, pixels)
        else:
            found = _planned(pipe, labels, codes, plan, index, others)
        for number, (operation, edited) in enumerate(found):
            pixels += _pixels(edited, pipe.classes)
            record = {
                "name": f"{name}-{number:03d}",
                "source": name,
                "operation": operation.plain(),
                "seed": plan.seed,
                "iou": overlap(labels, edited, pipe.classes),
            }
            yield Augmented(record["name"], edited, record)
        others[name] = codes
        if len(others) > _OTHERS:
            del others[next(iter(others))]


def class_shares(masks: Iterable[Tensor], classes: ClassSet) -> dict[str, float]:
    """Share of all pixels that each class has in a set of label maps."""
    pixels = torch.zeros(len(classes), dtype=torch.float64)
    for labels in masks:
        pixels += _pixels(labels, classes)
    return dict(zip(classes.names, (pixels / pixels.sum().clamp(min=1)).tolist(), strict=True))


def pixel_worth(pixels: Tensor) -> Tensor:
    """What one pixel more of each class is worth to balance: ``(C,)`` counts -> ``(C,)``, one over the count.

    A class that is not there counts as if it had a millionth of all pixels.
    """
    return 1.0 / pixels.clamp(min=float(pixels.sum()) * 1e-6)


def overlap(one: Tensor, other: Tensor, classes: ClassSet) -> dict[str, float]:
    """Intersection over union of each class that either label map ``(H, W)`` has."""
    one, other = one.long().flatten(), other.long().flatten().to(one.device)
    size = len(classes)
    both = torch.bincount(one * size + other, minlength=size * size).reshape(size, size).double()
    union = both.sum(dim=0) + both.sum(dim=1) - both.diagonal()
    ious = (both.diagonal() / union.clamp(min=1)).tolist()
    return {name: round(ious[index], 4) for index, name in enumerate(classes.names) if union[index] > 0}


def _planned(
    pipe: FacePartsPipeline, labels: Tensor, codes: Codes, plan: Plan, index: int, others: Mapping[str, Codes]
) -> Iterator[tuple[Operation, Tensor]]:
    """N variants x parts x edits."""
    there = _present(codes, pipe.classes)
    generator = generator_of(plan.seed, index)
    for part in plan.parts or tuple(pipe.classes.names[one] for one in pipe.classes.parts):
        ids = set(pipe.classes.ids([part]))
        for kind in plan.kinds:
            for _ in range(plan.count):
                # Drawn for everything that is planned, so that a set's masks do not depend on what is left out.
                seed = _draw(generator, _SEEDS)
                other = list(others)[_draw(generator, len(others))] if others else None
                if (ids <= there if kind == "add" else not ids & there) or (other is None and kind in _MIXING):
                    log.debug("%s %s is left out: nothing to do", kind, part)
                    continue
                operation = plan.operation(kind, part, seed, other if kind in _MIXING else None)
                yield operation, _edited(pipe, labels, codes, operation, plan, others)


def _balanced(
    pipe: FacePartsPipeline, labels: Tensor, codes: Codes, plan: Plan, index: int, pixels: Tensor
) -> Iterator[tuple[Operation, Tensor]]:
    """N masks, each an edit of a part drawn by rarity; of a few seeds the one after which rare classes have most."""
    classes, generator = pipe.classes, generator_of(plan.seed, index)
    there = _present(codes, classes)
    changes = bool(set(plan.kinds) & set(BALANCED))
    wanted = classes.ids(plan.parts) if plan.parts else classes.parts
    possible = [part for part in wanted if (changes if part in there else "add" in plan.kinds)]
    if not possible:
        log.info("a mask has nothing to balance with")
        return
    before = _pixels(labels, classes)
    for _ in range(plan.count):
        worth = pixel_worth(pixels)
        odds = worth[list(possible)].sqrt()  # the root: the rarest class does not take every turn
        part = possible[int(torch.multinomial(odds, 1, generator=generator))]
        picks: list[Kind] = [kind for kind in plan.kinds if kind in BALANCED] if part in there else ["add"]
        kind = picks[_draw(generator, len(picks))]
        best: tuple[float, Operation, Tensor] | None = None
        for _ in range(_TRIES):
            operation = plan.operation(kind, classes.names[part], _draw(generator, _SEEDS))
            edited = _edited(pipe, labels, codes, operation, plan, {})
            gain = float(((_pixels(edited, classes) - before) * worth).sum())
            if best is None or gain > best[0]:
                best = gain, operation, edited
        assert best is not None
        yield best[1], best[2]


def _edited(
    pipe: FacePartsPipeline, labels: Tensor, codes: Codes, operation: Operation, plan: Plan, others: Mapping[str, Codes]
) -> Tensor:
    return pipe.edit(
        labels,
        (operation,),
        references=others,
        codes=codes,
        keep_unedited=plan.keep_unedited,
        radius=plan.radius,
        stray_guard=plan.stray_guard,
    )


def _present(codes: Codes, classes: ClassSet) -> set[int]:
    return {part for part, there in zip(classes.parts, codes.present.tolist(), strict=True) if there}


def _pixels(labels: Tensor, classes: ClassSet) -> Tensor:
    return torch.bincount(labels.flatten().long().cpu(), minlength=len(classes)).double()


def _draw(generator: torch.Generator, below: int) -> int:
    return int(torch.randint(below, (1,), generator=generator))
