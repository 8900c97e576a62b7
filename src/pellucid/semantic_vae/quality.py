"""Are edited masks still masks of faces? Figures that the paper does not give (spec of the room, section 4.3).

Each is read from label maps alone. What counts as usual comes from a set of reference masks: which classes ever touch,
into how many pieces a class falls, where it lies and how large it is. An edit's effect is told apart from the network's
smoothing by comparing with the decoded mask that nobody edited.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import InputError
from pellucid.semantic_vae.masks.classes import ClassSet
from pellucid.semantic_vae.masks.label_statistics import pieces, present, shapes, touching, wasserstein
from pellucid.semantic_vae.operations import Kind, Operation
from pellucid.semantic_vae.realism import LEAST_MASKS, real_or_edited
from pellucid.semantic_vae.unedited import dilated

if TYPE_CHECKING:
    from pellucid.semantic_vae.pipeline import FacePartsPipeline

TOUCH = 4  # pairs of neighbouring pixels that make two classes touch; fewer is a corner
KINDS = ("generate", "perturb", "swap")
REFERENCE = 256  # the side at which radii are given
_CHUNK = 32


def adjacency_violations(labels: Tensor, usual: Tensor) -> Tensor:
    """Pairs of classes that touch although they never do in reference masks: ``(N,)`` int64.

    Args:
        labels: ``(N, H, W)``.
        usual: `touching` of the reference, summed over its masks: ``(C, C)``.
    """
    touches = touching(labels, len(usual)) >= TOUCH
    return (touches & (usual == 0)).sum((1, 2)) // 2


def strays(source: Tensor, edited: Tensor, parts: Iterable[int], count: int) -> Tensor:
    """Classes in the edited mask that neither the source has nor the edit is about: ``(N,)`` int64."""
    allowed = present(source, count)
    allowed[:, list(parts)] = True
    return (present(edited, count) & ~allowed).sum(1)


def locality(before: Tensor, after: Tensor, parts: Sequence[int], radius: float = 12.0) -> Tensor:
    """Share of the picture that changed farther than ``radius`` from where the edited parts were or are: ``(N,)``.

    Args:
        before: the decoded mask that nobody edited, ``(N, H, W)``.
        after: the edited one.
        parts: ids.
        radius: in pixels.
    """
    region = torch.zeros(before.shape, dtype=torch.bool, device=before.device)
    for part in parts:
        region |= (before == part) | (after == part)
    return ((before != after) & ~dilated(region, radius)).float().mean((1, 2))


def outside_neighbours(before: Tensor, after: Tensor, parts: Sequence[int], count: int) -> Tensor:
    """Share of the changed pixels that belong to classes which do not touch the edited parts: ``(N,)``, 0 unchanged.

    A pixel counts when neither what it was nor what it became is an edited part or one of its neighbours.
    """
    pairs = torch.maximum(touching(before, count), touching(after, count)) >= TOUCH
    near = pairs[:, list(parts)].any(1)  # (N, C)
    near[:, list(parts)] = True
    rows = torch.arange(len(before), device=before.device)[:, None, None]
    far = ~near[rows, before.long()] & ~near[rows, after.long()]
    changed = before != after
    return (changed & far).sum((1, 2)) / changed.sum((1, 2)).clamp(min=1)


def diversity(samples: Tensor, parts: Sequence[int]) -> Tensor:
    """Mean of 1 - IoU over the pairs of several results for one mask: ``(N, K, H, W)`` -> ``(N,)``.

    The IoU is of the union of the edited parts; two results without any of them are equal.
    """
    of_parts = torch.zeros(samples.shape, dtype=torch.bool, device=samples.device)
    for part in parts:
        of_parts |= samples == part
    flat = of_parts.flatten(2).float()  # (N, K, H * W)
    both = flat @ flat.transpose(1, 2)
    areas = flat.sum(2)
    either = areas[:, :, None] + areas[:, None] - both
    iou = torch.where(either > 0, both / either.clamp(min=1), 1.0)
    upper = torch.triu_indices(samples.shape[1], samples.shape[1], 1)
    return 1 - iou[:, upper[0], upper[1]].mean(1)


def shape_distance(edited: Tensor, reference: Tensor, classes: ClassSet) -> dict[str, dict[str, float]]:
    """How far sizes and places of each part are from the reference's (section 4.3, realism).

    Returns:
        Part -> Wasserstein-1 distance of ``area``, ``x`` and ``y`` over the masks that have it, in picture sides.
    """
    ours, theirs = shapes(edited, len(classes)), shapes(reference, len(classes))
    found: dict[str, dict[str, float]] = {}
    for part, name in zip(classes.parts, classes.part_names, strict=True):
        here, there = ours["area"][:, part] > 0, theirs["area"][:, part] > 0
        found[name] = {key: wasserstein(ours[key][here, part], theirs[key][there, part]) for key in ours}
    return found


def edit_quality(
    pipe: "FacePartsPipeline",
    labels: Tensor,
    reference: Tensor,
    *,
    kinds: Iterable[str] = KINDS,
    parts: Iterable[str | int] | None = None,
    samples: int = 8,
    stray_guard: bool = True,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Edit masks in every way and measure the results (section 4.3).

    Args:
        pipe: the pipeline; its own settings of an edit are used, less ``keep_unedited``, which would hide what the
            network does elsewhere.
        labels: masks to edit ``(N, S, S)``, of the network's size, N at least 2.
        reference: masks that say what is usual, of the same size.
        kinds: edits; ``swap`` takes the part of the next mask.
        parts: names, ids or groups; the groups of the class set and the parts in none of them by default.
        samples: results for one mask that diversity compares.
        stray_guard: as in the pipeline.
        seed: of the noise.

    Returns:
        A row for each edit and part: ``edit``, ``part``, ``edits``, ``valid`` (share of masks whose every pixel is one
        class of the set), ``strays`` (classes, per 100 edits), ``violations`` (pairs of classes that should not touch,
        per 100 edits), ``pieces`` and ``pieces_before`` (of the edited parts), ``far`` and ``outside_neighbours`` (see
        `locality`), ``diversity`` (None for ``swap``), ``area_w1`` and ``place_w1`` (of the edited parts against the
        reference). The last row, ``edit`` and ``part`` ``"all"``, has the means, and ``real_or_edited``: the accuracy
        of a small network that tells edited masks from reference ones, where 0.5 is best; None with fewer than 8.

    Raises:
        InputError: too few masks.
    """
    if len(labels) < 2 or len(reference) < 2:
        raise InputError(f"at least 2 masks and 2 references are needed, found {len(labels)} and {len(reference)}")
    usual = touching(reference, len(pipe.classes)).sum(0)
    codes = pipe.encode(labels)
    before = pipe.decode(codes.mu)
    rows: list[dict[str, Any]] = []
    results: list[Tensor] = []
    for place, name in enumerate(parts if parts is not None else _targets(pipe.classes)):
        ids = pipe.classes.ids(name)
        here = present(labels, len(pipe.classes))[:, list(ids)].any(1)
        if int(here.sum()) < 2:
            continue
        for kind in kinds:
            edited = _edits(pipe, labels[here], kind, ids, 1 if kind == "swap" else samples, stray_guard, seed + place)
            first = edited[:, 0]
            rows.append(_row(kind, str(name), ids, labels[here], before[here], edited, reference, usual, pipe.classes))
            results.append(first)
    if rows:
        edited = torch.cat(results)
        chosen = edited[torch.randperm(len(edited), generator=generator_of(seed))[: len(reference)]]
        enough = min(len(chosen), len(reference)) >= LEAST_MASKS
        accuracy = real_or_edited(reference, chosen, len(pipe.classes), seed=seed) if enough else None
        rows.append(_summary(rows) | {"real_or_edited": accuracy})
    return rows


def _targets(classes: ClassSet) -> list[str]:
    grouped = {part for ids in classes.groups.values() for part in ids if len(ids) > 1}
    groups = {ids: name for name, ids in classes.groups.items() if len(ids) > 1}
    # Of two groups of which one holds the other, the larger.
    whole = [name for ids, name in groups.items() if not any(set(ids) < set(other) for other in groups)]
    return [*(classes.names[part] for part in classes.parts if part not in grouped), *whole]


def _edits(
    pipe: "FacePartsPipeline", labels: Tensor, kind: str, ids: tuple[int, ...], count: int, guard: bool, seed: int
) -> Tensor:
    """Results ``(N, count, S, S)`` of one edit, with other noise each time."""
    options: dict[str, Any] = {"keep_unedited": False, "stray_guard": guard}
    results: list[Tensor] = []
    for index, mask in enumerate(labels):
        codes = pipe.encode(mask)
        if kind == "swap":
            swap, others = [Operation("swap", ids, reference="other")], {"other": labels[index - 1]}
            results.append(pipe.edit(mask, swap, references=others, codes=codes, **options)[None])
            continue
        seeds = torch.randint(2**31, (count,), generator=generator_of(seed, index)).tolist()
        edit = [Operation(cast(Kind, kind), ids)]
        results.append(torch.stack([pipe.edit(mask, edit, seed=one, codes=codes, **options) for one in seeds]))
    return torch.stack(results)


def _row(
    kind: str,
    name: str,
    ids: tuple[int, ...],
    source: Tensor,
    before: Tensor,
    edited: Tensor,
    reference: Tensor,
    usual: Tensor,
    classes: ClassSet,
) -> dict[str, Any]:
    count, several = len(classes), edited.shape[1]
    flat = edited.flatten(0, 1)  # (N * K, S, S)
    sources, befores = (one.repeat_interleave(several, 0) for one in (source, before))
    distances = shape_distance(flat, reference, classes)
    of_parts = [distances[classes.names[part]] for part in ids]
    scale = flat.shape[-1] / REFERENCE
    return {
        "edit": kind,
        "part": name,
        "edits": len(flat),
        "valid": float((flat < count).flatten(1).all(1).float().mean()),
        "strays": 100 * float(strays(sources, flat, ids, count).float().mean()),
        "violations": 100 * float(adjacency_violations(flat, usual).float().mean()),
        "pieces": _pieces(flat, ids, count),
        "pieces_before": _pieces(source, ids, count),
        "far": float(locality(befores, flat, ids, 12 * scale).mean()),
        "outside_neighbours": float(outside_neighbours(befores, flat, ids, count).mean()),
        "diversity": float(diversity(edited, ids).mean()) if several > 1 else None,
        "area_w1": _mean([one["area"] for one in of_parts]),
        "place_w1": _mean([one[key] for one in of_parts for key in ("x", "y")]),
    }


def _pieces(labels: Tensor, ids: tuple[int, ...], count: int) -> float:
    """Mean number of pieces of a class where it is there at all."""
    found = torch.cat([pieces(chunk, count)[:, list(ids)] for chunk in labels.split(_CHUNK)])
    return _mean(found[found > 0].float().tolist())


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    edits = sum(row["edits"] for row in rows)
    found: dict[str, Any] = {"edit": "all", "part": "all", "edits": edits}
    for key in ("valid", "strays", "violations"):
        found[key] = sum(row[key] * row["edits"] for row in rows) / edits
    for key in ("pieces", "pieces_before", "far", "outside_neighbours", "diversity", "area_w1", "place_w1"):
        found[key] = _mean([row[key] for row in rows if row[key] is not None])
    return found


def _mean(values: Sequence[float]) -> float:
    """Mean of the numbers among the values; NaN without any."""
    numbers = [value for value in values if value == value]
    return sum(numbers) / len(numbers) if numbers else float("nan")
