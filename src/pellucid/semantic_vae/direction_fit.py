"""Fits attribute directions to the codes of a mask set, and measures what the decoder makes of them (section 4.2).

Symbols: mu_c is the code of part c, x the codes of an attribute's parts side by side, a the measured attribute, S the
covariance of x over the masks.

- Ridge regression gives w with a ~ w.x + b. A nose's code knows how large the nose is in the picture and not where the
  chin is, so for parts other than the skin a is taken in heights of the mean face, R² too. Masks are measured in their
  own face heights when they are decoded.
- The specification's direction is w / |w|², along which the prediction grows by 1 for each unit. It also leads where no
  code of a mask ever lies, and there the decoder follows it but loosely. S w / (w.S w) has the same property and stays
  where codes vary; it is what codes do on average when the attribute grows by 1, and so brings along what usually comes
  with it. Solving for a prediction of 1 for the attribute and 0 for the others of the same parts keeps those apart.
- What the codes tell is not all that the decoder listens to, so w is also had from it: codes are pushed at random, and
  the change of what is measured is regressed on the pushes (`responses.probe`). Again alone and kept apart.
- All of them are decoded on masks that the regression has not seen; the one that masks follow most surely, with the
  least leakage, is kept and divided by the slope that it achieved, because decoding is not linear.
- What is told of it comes from a third set of masks: R², achieved over asked, the share of masks on which all of five
  steps go the right way, leakage on the other attributes. `directions.holds` then accepts it or not.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.semantic_vae.attributes import ATTRIBUTES, Attribute
from pellucid.semantic_vae.directions import LEAST_R2, Direction, Directions, holds
from pellucid.semantic_vae.masks.classes import ClassSet
from pellucid.semantic_vae.responses import CodedMasks, Decode, probe, respond

log = logging.getLogger(__name__)

STEPS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of the attribute's standard deviation
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # in mean variances of a code's numbers
_SHARES = (0.7, 0.15)  # of the masks: to regress on, to choose and calibrate on; the rest tests
_LEAST_MASKS = 100
_PUSHES = 6  # for each tested mask
_TRIED = 12  # masks on which the candidates for a direction are compared
_LEAK = 0.3  # what a candidate loses for changing three other attributes as much as its own
_STIFF = 0.1  # a way three times as long may be worth it when it changes nothing else
_FAINT = 0.05  # a slope that cannot be made one by going farther


def fit_directions(
    masks: CodedMasks,
    classes: ClassSet,
    decode: Decode,
    *,
    names: Iterable[str] | None = None,
    tested: int = 32,
    components: int = 8,
    seed: int = 0,
) -> Directions:
    """Fit a direction for every attribute that the class set has, and components of every part's codes.

    Args:
        masks: a few thousand.
        classes: the class set.
        decode: the network; it may forbid classes that a mask has not.
        names: attributes, all by default.
        tested: masks on which each direction is decoded, five times each; as many others calibrate it.
        components: principal components of each part's codes, ``nose/pc1`` and so on.
        seed: which masks test.

    Returns:
        Accepted directions and others. Attributes of fewer than 100 masks are left out.
    """
    names = [name for name in names or ATTRIBUTES if set(ATTRIBUTES[name].parts) <= set(classes.names)]
    order = torch.randperm(len(masks.mu), generator=generator_of(seed, len(masks.mu)))
    first, second = (round(sum(_SHARES[:count]) * len(order)) for count in (1, 2))
    thirds = masks.take(order[:first]), masks.take(order[first:second]), masks.take(order[second:])
    regressions: dict[str, _Regression] = {}
    for name in names:
        if (found := _regress(ATTRIBUTES[name], classes, *thirds)) is not None:
            regressions[name] = found
    spreads = {name: one.std for name, one in regressions.items()}
    entries: dict[str, Direction] = {}
    slopes: dict[tuple[int, ...], dict[str, Tensor]] = {}
    for name, found in regressions.items():
        siblings = [one for one in regressions.values() if one.rows == found.rows and one.r2 > LEAST_R2]
        candidates: list[Tensor] = []
        if found.r2 > LEAST_R2:
            if found.rows not in slopes:
                there = thirds[1].take(thirds[1].present[:, found.rows].all(1))
                root = _root(found.spread)
                slopes[found.rows] = probe(
                    there, found.rows, root, decode, classes, spreads, count=_PUSHES * tested, seed=seed
                )
            candidates = _candidates(found, siblings, slopes[found.rows], spreads)
        entries[name] = _direction(found, candidates, spreads, classes, decode, thirds[1:], tested)
        log.info("%s: %s", name, _told(entries[name]))
    for part, name in zip(classes.parts, classes.part_names, strict=True):
        row = classes.parts.index(part)
        entries |= _components(masks.mu[masks.present[:, row], row], part, name, components)
    return Directions(entries)


@dataclass(frozen=True)
class _Regression:
    """Of one attribute; vectors are of the codes of its parts side by side, ``(D,)``."""

    name: str
    rows: tuple[int, ...]
    weight: Tensor  # w
    spread: Tensor  # S (D, D), of the codes
    mean: float
    std: float
    r2: float


def _regress(
    attribute: Attribute, classes: ClassSet, train: CodedMasks, choose: CodedMasks, test: CodedMasks
) -> _Regression | None:
    rows = tuple(classes.parts.index(classes.id_of(name)) for name in attribute.parts)
    needs = [classes.parts.index(classes.id_of(name)) for name in attribute.needs]
    sets = [one.take(_usable(one, attribute.name, needs)) for one in (train, choose, test)]
    if len(sets[0].mu) < _LEAST_MASKS or not all(len(one.mu) > 10 for one in sets):
        log.info("%s: measurable on %d masks only, left out", attribute.name, sum(len(one.mu) for one in sets))
        return None
    there = sets[0].present[:, rows].double()[..., None]
    centre = (sets[0].mu[:, rows].double() * there).sum(0) / there.sum(0).clamp(min=1)  # (rows, L)
    xs = [((one.mu[:, rows].double() - centre) * one.present[:, rows, None]).flatten(1) for one in sets]
    mean, std = (
        float(value) for value in (sets[0].values[attribute.name].mean(), sets[0].values[attribute.name].std())
    )
    ys = _in_mean_faces(attribute, sets)
    spread = xs[0].T @ xs[0] / len(xs[0])
    scale = spread.diagonal().mean().clamp(min=1e-12)
    level = ys[0].mean()
    cross = xs[0].T @ (ys[0] - level) / len(xs[0])
    identity = torch.eye(len(spread), dtype=torch.float64)
    weights = [torch.linalg.solve(spread + ridge * scale * identity, cross) for ridge in _RIDGES]
    best = max(weights, key=lambda weight: _r2(xs[1] @ weight + level, ys[1]))
    return _Regression(attribute.name, rows, best, spread, mean, std, _r2(xs[2] @ best + level, ys[2]))


def _first(masks: CodedMasks, count: int) -> CodedMasks:
    return masks.take(torch.arange(min(count, len(masks.mu))))


def _in_mean_faces(attribute: Attribute, sets: Sequence[CodedMasks]) -> list[Tensor]:
    """The attribute in heights of the mean face instead of the mask's own, for parts whose codes know nothing of it."""
    power = {"face heights": 1, "face heights²": 2}.get(attribute.unit, 0)
    if "skin" in attribute.parts or "face_height" not in sets[0].values:
        power = 0
    if not power:
        return [one.values[attribute.name].double() for one in sets]
    mean = sets[0].values["face_height"].double().mean()
    return [one.values[attribute.name].double() * (one.values["face_height"].double() / mean) ** power for one in sets]


def _usable(masks: CodedMasks, name: str, needs: list[int]) -> Tensor:
    return masks.values[name].isfinite() & masks.present[:, needs].all(1)


def _r2(found: Tensor, wanted: Tensor) -> float:
    """Coefficient of determination."""
    return float(1 - (found - wanted).square().sum() / (wanted - wanted.mean()).square().sum().clamp(min=1e-12))


def _candidates(
    one: _Regression, siblings: Sequence[_Regression], slopes: Mapping[str, Tensor], spreads: Mapping[str, float]
) -> list[Tensor]:
    """Directions along which the attribute should grow by 1, ``(rows, L)`` each.

    Args:
        one: the attribute's regression.
        siblings: those of all attributes of the same parts that can be told from the codes, itself among them.
        slopes: of all attributes in the decoded masks, see `probe`.
        spreads: standard deviations of all attributes.
    """
    along = one.spread @ one.weight
    found = [one.weight / one.weight.square().sum(), along / (one.weight @ along)]
    if len(siblings) > 1:
        weights = torch.stack([other.weight for other in siblings])  # (A, D)
        asked = torch.tensor([float(other is one) for other in siblings], dtype=torch.float64)
        gram = weights @ one.spread @ weights.T
        # Of two attributes that are nearly one, neither can be moved alone.
        gram = gram + torch.diag(1e-2 * gram.diagonal())
        found.append(one.spread @ weights.T @ torch.linalg.solve(gram, asked))
    root, slope = _root(one.spread), slopes[one.name]
    others = [slopes[name] / spread for name, spread in spreads.items() if name != one.name and spread > 0]
    leaks = torch.stack([torch.zeros_like(slope), *others])  # (A, D)
    # Short, and with little change of the others: both in standard deviations, so that the two can be added up.
    cost = _STIFF * (slope / one.std).square().sum() * torch.eye(len(root), dtype=torch.float64) + leaks.T @ leaks
    for way in (slope, torch.linalg.solve(cost, slope) if float(slope.square().sum()) > 0 else slope):
        found.append(root @ way / (slope @ way).clamp(min=1e-12))
    return [direction.view(len(one.rows), -1).float() for direction in found]


def _root(spread: Tensor) -> Tensor:
    variances, vectors = torch.linalg.eigh(spread)
    return vectors * variances.clamp(min=0).sqrt()


def _direction(
    found: _Regression,
    candidates: Sequence[Tensor],
    spreads: Mapping[str, float],
    classes: ClassSet,
    decode: Decode,
    held_out: tuple[CodedMasks, CodedMasks],
    tested: int,
) -> Direction:
    name, attribute = found.name, ATTRIBUTES[found.name]
    needs = [classes.parts.index(classes.id_of(part)) for part in attribute.needs]
    choose, test = (_first(one.take(_usable(one, name, needs)), tested) for one in held_out)
    figures = {"r2": found.r2, "slope": 0.0, "monotone": 0.0, "masks": float(len(test.mu))}
    along = found.spread @ found.weight  # kept for the record where nothing was tried
    offset = (along / (found.weight @ along).clamp(min=1e-12)).view(len(found.rows), -1).float()
    leakage: dict[str, float] = {}
    if candidates:
        amounts = torch.tensor(STEPS) * found.std
        offset = _calibrated(name, candidates, choose, found, spreads, amounts, decode, classes)
        response = respond(test, found.rows, offset, amounts, decode, classes, spreads)
        figures |= {"slope": response.slope(name), "monotone": response.monotone(name)}
        asked = STEPS[-1] - STEPS[0]
        leakage = {
            other: response.change(other) / (spread * asked)
            for other, spread in spreads.items()
            if other != name and spread > 0
        }
    return Direction(
        name=name,
        parts=tuple(classes.parts[row] for row in found.rows),
        offset=offset,
        unit=attribute.unit,
        mean=found.mean,
        std=found.std,
        accepted=holds(figures),
        figures=figures,
        leakage=leakage,
    )


def _calibrated(
    name: str,
    candidates: Sequence[Tensor],
    masks: CodedMasks,
    found: _Regression,
    spreads: Mapping[str, float],
    amounts: Tensor,
    decode: Decode,
    classes: ClassSet,
) -> Tensor:
    """The candidate that the decoder follows best, in units that it achieves."""
    few = _first(masks, _TRIED)
    others = [one for one in spreads if one != name and spreads[one] > 0]
    scores: list[float] = []
    for offset in candidates:
        one = respond(few, found.rows, offset, amounts[::2], decode, classes, [name, *others])
        rise = one.change(name) / found.std
        if not _FAINT < one.slope(name) < 1 / _FAINT:
            scores.append(-1.0)
            continue
        leaks = [abs(one.change(other)) / spreads[other] / rise for other in others] if rise > 0 else [1.0]
        worst = sorted(leaks)[-3:]
        scores.append(one.monotone(name) - _LEAK * min(1.0, sum(worst) / max(1, len(worst))))
    offset = candidates[max(range(len(candidates)), key=lambda index: scores[index])]
    for _ in range(2):  # the slope of a longer or shorter way is another one
        slope = respond(masks, found.rows, offset, amounts[::2], decode, classes, [name]).slope(name)
        if not _FAINT < slope < 1 / _FAINT:
            break
        offset = offset / slope
    return offset


def _components(mu: Tensor, part: int, name: str, count: int) -> dict[str, Direction]:
    """Principal components of a part's codes ``(N, L)``, one standard deviation long."""
    if len(mu) < _LEAST_MASKS:
        return {}
    centred = mu.double() - mu.double().mean(0)
    variances, vectors = torch.linalg.eigh(centred.T @ centred / (len(mu) - 1))  # ascending
    total = float(variances.clamp(min=0).sum())
    entries: dict[str, Direction] = {}
    if total < 1e-8:  # every mask has it in the same shape and place, or the code collapsed
        return entries
    for place in range(min(count, len(variances))):
        variance, vector = variances[-1 - place].clamp(min=0), vectors[:, -1 - place]
        if float(variance) < 1e-6 * total:
            break
        vector = vector * vector[vector.abs().argmax()].sign()  # the sign of an eigenvector is arbitrary
        key = f"{name}/pc{place + 1}"
        share = float(variance) / total
        entries[key] = Direction(key, (part,), (vector * variance.sqrt()).float()[None], figures={"share": share})
    return entries


def _told(one: Direction) -> str:
    leak = max(one.leakage.items(), key=lambda item: abs(item[1]), default=("none", 0.0))
    return (
        f"{'accepted' if one.accepted else 'hidden'}, R² {one.figures['r2']:.2f}, slope {one.figures['slope']:.2f}, "
        f"monotone {100 * one.figures['monotone']:.0f} %, leaks most on {leak[0]} ({leak[1]:+.2f})"
    )
