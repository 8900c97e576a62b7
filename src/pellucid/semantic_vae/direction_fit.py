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
- All three are decoded on masks that the regression has not seen; the one whose masks follow best is kept and divided
  by the slope that it achieved, because decoding is not linear.
- What is told of it comes from a third set of masks: R², achieved over asked, the share of masks on which all of five
  steps go the right way, leakage on the other attributes. The rule of section 4.2 on the first and third accepts it.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import InputError
from pellucid.semantic_vae.attributes import ATTRIBUTES, Attribute, measure
from pellucid.semantic_vae.classes import ClassSet
from pellucid.semantic_vae.directions import LEAST_R2, Direction, Directions, holds

log = logging.getLogger(__name__)

Decode = Callable[[Tensor, Tensor], Tensor]  # z (B, P, L), present (B, P) -> label maps (B, S, S)

STEPS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of the attribute's standard deviation
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # in mean variances of a code's numbers
_SHARES = (0.7, 0.15)  # of the masks: to regress on, to choose and calibrate on; the rest tests
_LEAST_MASKS = 100
_SLACK = 0.1  # of an asked step; a smaller one back is the pixels' rounding
_CHUNK = 32
_TRIED = 12  # masks on which the candidates for a direction are compared


@dataclass(frozen=True)
class CodedMasks:
    """Codes of masks and what was measured on the masks.

    Attributes:
        mu: ``(N, P, L)``.
        present: ``(N, P)`` bool.
        values: attribute -> ``(N,)``, NaN where it was not measurable.

    Raises:
        InputError: the counts differ.
    """

    mu: Tensor
    present: Tensor
    values: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        counts = {len(self.mu), len(self.present), *map(len, self.values.values())}
        if len(counts) > 1 or self.present.shape != self.mu.shape[:2]:
            raise InputError(
                f"codes {tuple(self.mu.shape)}, presence {tuple(self.present.shape)} and attributes of "
                f"{sorted(counts)} masks do not belong together"
            )

    def take(self, index: Tensor) -> "CodedMasks":
        """Some of the masks, by their numbers or a bool for each."""
        return CodedMasks(
            self.mu[index], self.present[index], {name: values[index] for name, values in self.values.items()}
        )


@dataclass(frozen=True)
class Response:
    """What decoded masks did while a direction was followed.

    Attributes:
        amounts: ``(T,)``, asked.
        values: attribute -> ``(M, T)``, measured.
    """

    amounts: Tensor
    values: Mapping[str, Tensor]

    def slope(self, name: str) -> float:
        """Achieved over asked: the mean over masks of the least-squares slope; NaN when no mask shows every step."""
        shown = self._shown(name)
        asked = self.amounts - self.amounts.mean()
        return float((shown @ asked / asked.square().sum()).mean()) if len(shown) else float("nan")

    def monotone(self, name: str) -> float:
        """Share of masks on which the attribute rises from step to step."""
        values = self.values[name]
        steps, asked = values.diff(dim=1), self.amounts.diff()
        rises = (steps >= -_SLACK * asked).all(1) & (values[:, -1] > values[:, 0])  # NaN compares as false
        return float(rises.float().mean())

    def change(self, name: str) -> float:
        """Mean rise of an attribute from the first step to the last; 0 when no mask shows both."""
        rise = self.values[name][:, -1] - self.values[name][:, 0]
        rise = rise[rise.isfinite()]
        return float(rise.mean()) if len(rise) else 0.0

    def _shown(self, name: str) -> Tensor:
        values = self.values[name]
        return values[values.isfinite().all(1)]


def respond(
    masks: CodedMasks,
    rows: Iterable[int],
    offset: Tensor,
    amounts: Tensor,
    decode: Decode,
    classes: ClassSet,
    names: Iterable[str],
) -> Response:
    """Follow a direction on masks and measure what is decoded.

    Args:
        masks: M of them.
        rows: rows of the codes that move.
        offset: ``(len(rows), L)``, for an amount of 1; parts that a mask has not do not move.
        amounts: ``(T,)``.
        decode: the network.
        classes: the class set.
        names: attributes to measure.
    """
    rows, names = list(rows), list(names)
    z = masks.mu[:, None].repeat(1, len(amounts), 1, 1)  # (M, T, P, L)
    move = amounts[:, None, None] * offset  # (T, rows, L)
    z[:, :, rows] += move * masks.present[:, None, rows, None]
    present = masks.present[:, None].expand(-1, len(amounts), -1)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for codes, there in zip(z.flatten(0, 1).split(_CHUNK), present.flatten(0, 1).split(_CHUNK), strict=True):
        for name, values in measure(decode(codes, there), classes, names).items():
            found[name].append(values.cpu())
    return Response(amounts, {name: torch.cat(values).view(len(masks.mu), -1) for name, values in found.items()})


def fit_directions(
    masks: CodedMasks,
    classes: ClassSet,
    decode: Decode,
    *,
    names: Iterable[str] | None = None,
    tested: int = 48,
    components: int = 8,
    seed: int = 0,
) -> Directions:
    """Fit a direction for every attribute that the class set has, and components of every part's codes.

    Args:
        masks: a few thousand.
        classes: the class set.
        decode: the network; it may forbid classes that a mask has not.
        names: attributes, all by default.
        tested: masks on which each direction is decoded, five times each; half as many choose and calibrate it.
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
    for name, found in regressions.items():
        entries[name] = _direction(name, found, regressions, spreads, classes, decode, thirds[1:], tested)
        log.info("%s: %s", name, _told(entries[name]))
    for part, name in zip(classes.parts, classes.part_names, strict=True):
        row = classes.parts.index(part)
        entries |= _components(masks.mu[masks.present[:, row], row], part, name, components)
    return Directions(entries)


@dataclass(frozen=True)
class _Regression:
    """Of one attribute; vectors are of the codes of its parts side by side, ``(D,)``."""

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
    return _Regression(rows, best, spread, mean, std, _r2(xs[2] @ best + level, ys[2]))


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


def _candidates(name: str, regressions: Mapping[str, _Regression]) -> list[Tensor]:
    """Directions along which the predicted attribute grows by 1, ``(rows, L)`` each."""
    one = regressions[name]
    along = one.spread @ one.weight
    found = [one.weight / one.weight.square().sum(), along / (one.weight @ along)]
    siblings = [other for other in regressions.values() if other.rows == one.rows and other.r2 > LEAST_R2]
    if len(siblings) > 1 and one.r2 > LEAST_R2:
        weights = torch.stack([other.weight for other in siblings])  # (A, D)
        moved = one.spread @ weights.T  # (D, A)
        asked = torch.tensor([float(other is one) for other in siblings], dtype=torch.float64)
        gram = weights @ moved
        gram = gram + 1e-3 * torch.diag(gram.diagonal())  # two attributes may be nearly one
        found.append(moved @ torch.linalg.solve(gram, asked))
    return [direction.view(len(one.rows), -1).float() for direction in found]


def _direction(
    name: str,
    found: _Regression,
    regressions: Mapping[str, _Regression],
    spreads: Mapping[str, float],
    classes: ClassSet,
    decode: Decode,
    held_out: tuple[CodedMasks, CodedMasks],
    tested: int,
) -> Direction:
    attribute = ATTRIBUTES[name]
    needs = [classes.parts.index(classes.id_of(part)) for part in attribute.needs]
    choose, test = (one.take(_usable(one, name, needs)) for one in held_out)
    choose, test = (
        choose.take(torch.arange(min(tested // 2, len(choose.mu)))),
        test.take(torch.arange(min(tested, len(test.mu)))),
    )
    amounts = torch.tensor(STEPS) * found.std
    candidates = _candidates(name, regressions)
    figures = {"r2": found.r2, "slope": 0.0, "monotone": 0.0, "masks": float(len(test.mu))}
    offset, leakage = candidates[0], {}
    if found.r2 > LEAST_R2:
        offset = _calibrated(name, candidates, choose, found, amounts, decode, classes)
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
    candidates: list[Tensor],
    masks: CodedMasks,
    found: _Regression,
    amounts: Tensor,
    decode: Decode,
    classes: ClassSet,
) -> Tensor:
    """The candidate that the decoder follows best, in units that it achieves."""
    few = masks.take(torch.arange(min(len(masks.mu), _TRIED)))
    tried = [respond(few, found.rows, offset, amounts, decode, classes, [name]) for offset in candidates]
    # A direction that is followed weakly is followed less surely once it is made longer.
    scores = [
        (round(one.monotone(name), 1), min(one.slope(name), 1.0) if one.slope(name) > 0 else 0.0) for one in tried
    ]
    best = max(range(len(candidates)), key=lambda index: scores[index])
    offset = candidates[best]
    for _ in range(2):  # the slope of a longer or shorter way is another one
        slope = respond(masks, found.rows, offset, amounts[::2], decode, classes, [name]).slope(name)
        if not 0.05 < slope < 20:
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
