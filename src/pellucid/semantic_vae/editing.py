"""Edits of face parts as pure functions of their codes (Sec. 3.2 and 4.2 of the paper, Eq. 4), and their history.

A code is one row z_p of L numbers for each part p. An edit changes the rows of its parts and nothing else; what the
neighbours do about it is the decoder's business. Every history starts from the codes of the original mask: decoding
smooths a mask, and feeding the result back would add that up with each click.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.classes import ClassSet

Kind = Literal["reconstruct", "generate", "perturb", "interpolate", "swap", "remove", "add", "move"]
KINDS: tuple[str, ...] = get_args(Kind)
PRIORS = ("standard", "empirical")
DRAWING = ("generate", "perturb", "add")  # what needs a seed
_SEEDS = 2**31


@dataclass(frozen=True)
class Codes:
    """What the encoder says of a mask: one Gaussian for each part.

    Attributes:
        mu: ``(..., P, L)``; the rows follow `ClassSet.parts`. Leading axes are a batch.
        logvar: ``(..., P, L)``.
        present: ``(..., P)`` bool, which parts the mask has.
    """

    mu: Tensor
    logvar: Tensor
    present: Tensor

    def __post_init__(self) -> None:
        if self.mu.shape != self.logvar.shape or self.present.shape != self.mu.shape[:-1]:
            found = f"{tuple(self.mu.shape)}, {tuple(self.logvar.shape)}, {tuple(self.present.shape)}"
            raise InputError(f"codes must be mu (..., P, L), logvar of that shape and present (..., P), found {found}")

    def __getitem__(self, index: int) -> Codes:
        """Codes of one mask of a batch."""
        if self.mu.ndim < 3:
            raise InputError("these codes are of one mask, there is no batch to take one from")
        return Codes(self.mu[index], self.logvar[index], self.present[index])

    def sampled(self, seed: int) -> Tensor:
        """z = mu + exp(logvar / 2) eps, what the official code always does: ``(..., P, L)``."""
        eps = torch.randn(self.mu.shape, generator=generator_of(seed)).to(self.mu)
        return self.mu + torch.exp(0.5 * self.logvar) * eps


@dataclass(frozen=True)
class Operation:
    """One edit.

    Attributes:
        kind: ``reconstruct`` takes the parts' own codes again; ``generate`` draws new ones for parts that are there;
            ``perturb`` adds noise; ``interpolate`` is Eq. 4; ``swap`` is Eq. 4 with alpha 1; ``remove`` takes the code
            of an absent part; ``add`` draws although the part is absent; ``move`` goes along an attribute.
        parts: ids, names or groups of the class set. Only ``move`` may leave them out.
        amount: noise of ``perturb`` (1 in the paper), alpha of ``interpolate`` in [0, 1], steps of ``move`` in the
            attribute's unit.
        temperature: standard deviation of ``generate`` and ``add`` against the prior's; 1 is the paper's.
        seed: of the noise. None lets `seeded` choose.
        reference: name of the other mask of ``interpolate`` and ``swap``.
        attribute: what ``move`` changes, as `Directions` name it.
        spherical: ``interpolate`` on the sphere instead of the chord.
        prior: ``"standard"`` or ``"empirical"``, for ``generate`` and ``add``; None takes the empirical one if there
            is one.
        fit: from 0, drawn for itself, to 1, drawn so that it goes with the other parts; needs an empirical prior.

    Raises:
        ConfigError: a value is out of its range or belongs to another kind.
    """

    kind: Kind
    parts: tuple[str | int, ...] = ()
    amount: float = 1.0
    temperature: float = 1.0
    seed: int | None = None
    reference: str | None = None
    attribute: str | None = None
    spherical: bool = False
    prior: str | None = None
    fit: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"edit {self.kind!r} is not known", f"use one of {', '.join(KINDS)}")
        if isinstance(self.parts, (str, int)):
            object.__setattr__(self, "parts", (self.parts,))
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts and self.kind != "move":
            raise ConfigError(f"{self.kind} needs at least one part, found none")
        for name in ("amount", "temperature", "fit"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} of {self.kind} must be a number, found {getattr(self, name)}")
        if self.kind == "interpolate" and not 0.0 <= self.amount <= 1.0:
            raise ConfigError(f"amount of interpolate must be in [0, 1], found {self.amount}")
        if self.kind == "perturb" and self.amount < 0.0:
            raise ConfigError(f"amount of perturb must be at least 0, found {self.amount}")
        if self.temperature < 0.0:
            raise ConfigError(f"temperature must be at least 0, found {self.temperature}")
        if not 0.0 <= self.fit <= 1.0:
            raise ConfigError(f"fit must be in [0, 1], found {self.fit}")
        if self.prior is not None and self.prior not in PRIORS:
            raise ConfigError(f"prior {self.prior!r} is not known", f"use one of {', '.join(PRIORS)}")
        if (self.reference is not None) != (self.kind in ("interpolate", "swap")):
            if self.reference is None:
                raise ConfigError(f"{self.kind} needs a reference mask, found none")
            raise ConfigError(f"{self.kind} takes no reference mask, found {self.reference!r}")
        if (self.attribute is not None) != (self.kind == "move"):
            if self.attribute is None:
                raise ConfigError("move needs an attribute, found none")
            raise ConfigError(f"{self.kind} takes no attribute, found {self.attribute!r}")
        if self.spherical and self.kind != "interpolate":
            raise ConfigError(f"{self.kind} is never spherical", "interpolate is")

    def plain(self) -> dict[str, Any]:
        """As plain values for JSON; what is at its default is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        kept = {name: value for name, value in values.items() if name == "kind" or value != defaults[name]}
        return kept | ({"parts": list(self.parts)} if self.parts else {})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Operation:
        """Make one of `plain`'s values.

        Raises:
            ConfigError: a key is unknown, or a value is of another type.
        """
        wanted = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or "kind" not in values or not values.keys() <= wanted:
            found = ", ".join(map(str, values)) if isinstance(values, Mapping) else repr(values)
            raise ConfigError(f"an edit is an object with kind and some of {', '.join(sorted(wanted))}, found {found}")
        given = dict(values)
        for name, kinds in _TYPES.items():
            # bool is an int for Python; here "true" for an amount is a mistake.
            if name in given and (
                not isinstance(given[name], kinds) or isinstance(given[name], bool) != (kinds is bool)
            ):
                raise ConfigError(f"{name} of {given['kind']} must be {_NAMES[name]}, found {given[name]!r}")
        parts = given.get("parts", ())
        if not all(isinstance(part, (str, int)) and not isinstance(part, bool) for part in parts):
            raise ConfigError(f"parts of {given['kind']} must be names or ids, found {parts!r}")
        return cls(**given)


_TYPES: dict[str, Any] = {
    "kind": str,
    "parts": (list, tuple),
    "amount": (int, float),
    "temperature": (int, float),
    "fit": (int, float),
    "seed": (int, type(None)),
    "reference": (str, type(None)),
    "attribute": (str, type(None)),
    "prior": (str, type(None)),
    "spherical": bool,
}
_NAMES = {
    "kind": "a name",
    "parts": "a list",
    "amount": "a number",
    "temperature": "a number",
    "fit": "a number",
    "seed": "a whole number",
    "reference": "a name",
    "attribute": "a name",
    "prior": "a name",
    "spherical": "true or false",
}

History = tuple[Operation, ...]


def undo(history: Sequence[Operation]) -> History:
    """All but the last edit; nothing is left of nothing."""
    return tuple(history[:-1])


def history_to_json(history: Iterable[Operation]) -> str:
    """Write a history so that `history_from_json` gives it back."""
    return json.dumps([operation.plain() for operation in history], ensure_ascii=False)


def history_from_json(text: str) -> History:
    """Read a history.

    Raises:
        ConfigError: it is no JSON list of edits.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"a history must be JSON, found {text[:40]!r}: {error}") from error
    if not isinstance(found, list):
        raise ConfigError(f"a history must be a JSON list of edits, found {type(found).__name__}")
    return tuple(Operation.of(values) for values in found)


def seeded(operations: Iterable[Operation], seed: int = 0) -> History:
    """Give a seed to every edit that draws and has none.

    It follows from ``seed`` and the edit's place in the history, so undoing the last changes no other.
    """
    return tuple(
        replace(operation, seed=int(torch.randint(_SEEDS, (1,), generator=generator_of(seed, place))))
        if operation.kind in DRAWING and operation.seed is None
        else operation
        for place, operation in enumerate(operations)
    )


class Prior(Protocol):
    """What codes of parts are drawn from; `priors.Standard` and `priors.Empirical`."""

    def draw(
        self, row: int, generator: torch.Generator, temperature: float, *, z: Tensor, known: Tensor, fit: float
    ) -> Tensor:
        """Draw the code of the part in ``row``: ``(..., L)``, given z ``(..., P, L)`` where known ``(..., P)``."""
        ...


class DirectionSet(Protocol):
    """Attributes as directions in the codes; `directions.Directions`."""

    def offsets(self, attribute: str) -> Mapping[int, Tensor]:
        """Class id -> ``(L,)``, what is added for one unit of the attribute; ConfigError when it is not known."""
        ...


def apply(
    codes: Codes,
    operations: Iterable[Operation],
    classes: ClassSet,
    *,
    references: Mapping[str, Codes] | None = None,
    prior: Callable[[str | None], Prior] | Prior | None = None,
    directions: DirectionSet | None = None,
    absent_code: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Replay a history on the codes of the original mask (Sec. 4.1, 4.2, Eq. 4).

    The noise of a part follows from the edit's seed and the part's id: it does not change with what else is edited,
    and every mask of a batch gets the same.

    Args:
        codes: of the original mask.
        operations: the edits in order.
        classes: what the rows of the codes are.
        references: codes of the other masks, by the names that edits use.
        prior: what ``generate`` and ``add`` draw from: one for all, or a function from an edit's ``prior`` to one.
            N(0, I) when None.
        directions: of ``move``.
        absent_code: ``(L,)``, `SemanticVAE.absent_code`'s mean; of ``remove``.
        start: z ``(..., P, L)`` to begin with; mu when None.

    Returns:
        z ``(..., P, L)``.

    Raises:
        ConfigError: a part or reference is not known, the background is edited, or something that an edit needs is not
            given.
    """
    source = codes.mu if start is None else start
    z = source.clone()
    present = codes.present
    for operation in seeded(operations):
        rows = part_rows(operation, classes, directions)
        if operation.kind == "reconstruct":
            z[..., rows, :] = source[..., rows, :]
        elif operation.kind in ("generate", "add"):
            z = _drawn(operation, rows, z, present, classes, _prior_of(prior, operation))
        elif operation.kind == "perturb":
            for row in rows:
                generator = generator_of(operation.seed or 0, classes.parts[row])
                noise = torch.randn(z.shape[-1], generator=generator).to(z)
                moved = z[..., row, :] + operation.amount * noise
                z[..., row, :] = torch.where(present[..., row, None], moved, z[..., row, :])
        elif operation.kind in ("interpolate", "swap"):
            other = _reference(operation, references, codes).mu.to(z)
            mix = spherical_mix if operation.spherical else linear_mix
            alpha = 1.0 if operation.kind == "swap" else operation.amount
            # Eq. 4 is of source and target: an earlier edit of the same part is replaced, not mixed in.
            z[..., rows, :] = mix(source[..., rows, :], other[..., rows, :], alpha)
        elif operation.kind == "remove":
            if absent_code is None:
                raise ConfigError("remove needs the code of an absent part, found none")
            z[..., rows, :] = absent_code.to(z)
        elif operation.kind == "move":
            for part, offset in _offsets(operation, directions).items():
                row = classes.parts.index(part)
                if row in rows:
                    moved = z[..., row, :] + operation.amount * offset.to(z)
                    z[..., row, :] = torch.where(present[..., row, None], moved, z[..., row, :])
        present = _presence_after(operation, rows, present, codes, references)
    return z


def presence(
    codes: Codes,
    operations: Iterable[Operation],
    classes: ClassSet,
    *,
    references: Mapping[str, Codes] | None = None,
    directions: DirectionSet | None = None,
) -> Tensor:
    """Which parts a history means to leave there: ``(..., P)`` bool. What is not among them is a stray."""
    present = codes.present
    for operation in operations:
        rows = part_rows(operation, classes, directions)
        present = _presence_after(operation, rows, present, codes, references)
    return present


def edited_parts(
    operations: Iterable[Operation], classes: ClassSet, directions: DirectionSet | None = None
) -> tuple[int, ...]:
    """Ids of all parts that a history touches, in the class set's order.

    ``reconstruct`` counts: it asks to see the network's version of its parts.
    """
    edited = {row for operation in operations for row in part_rows(operation, classes, directions)}
    return tuple(classes.parts[row] for row in sorted(edited))


def part_rows(operation: Operation, classes: ClassSet, directions: DirectionSet | None = None) -> list[int]:
    """Rows of the codes that an edit changes; those of its attribute when it names no part.

    Raises:
        ConfigError: a name is not of the class set, or is the background's.
    """
    parts = operation.parts
    ids = classes.ids(parts) if parts else tuple(_offsets(operation, directions))
    return [classes.parts.index(part) for part in ids]


def linear_mix(source: Tensor, target: Tensor, alpha: float) -> Tensor:
    """Eq. 4: alpha * target + (1 - alpha) * source."""
    return alpha * target + (1.0 - alpha) * source


def spherical_mix(source: Tensor, target: Tensor, alpha: float) -> Tensor:
    """Eq. 4 along the arc: directions turn evenly, lengths mix linearly: ``(..., L), (..., L) -> (..., L)``.

    Gaussian codes of many dimensions lie near a sphere; the chord of Eq. 4 leads through its inside, where shapes are
    more average. Codes that (nearly) point the same or opposite ways, or are zero, have no arc: they mix linearly.
    """
    lengths = source.norm(dim=-1, keepdim=True), target.norm(dim=-1, keepdim=True)
    a, b = (code / length.clamp(min=1e-12) for code, length in zip((source, target), lengths, strict=True))
    angle = torch.acos((a * b).sum(dim=-1, keepdim=True).clamp(-1.0, 1.0))
    sine = torch.sin(angle)
    turned = (torch.sin((1.0 - alpha) * angle) * a + torch.sin(alpha * angle) * b) / sine.clamp(min=1e-12)
    arc = turned * linear_mix(*lengths, alpha)
    straight = (sine < 1e-4) | (lengths[0] < 1e-6) | (lengths[1] < 1e-6)
    return torch.where(straight, linear_mix(source, target, alpha), arc)


def allowed_classes(present: Tensor, classes: ClassSet) -> Tensor:
    """Presence of parts as a mask over all classes, the background always in it: ``(..., P) -> (..., C)`` bool."""
    allowed = torch.ones(*present.shape[:-1], len(classes.names), dtype=torch.bool, device=present.device)
    allowed[..., list(classes.parts)] = present
    return allowed


def stray_guard(logits: Tensor, allowed: Tensor) -> Tensor:
    """Forbid classes: ``(..., C, H, W)`` and ``(..., C)`` bool -> logits, -inf where not allowed.

    The paper's Fig. 4 shows such strays. When no class is allowed, nothing is forbidden: an argmax needs one.
    """
    forbidden = ~allowed & allowed.any(dim=-1, keepdim=True)
    return logits.masked_fill(forbidden[..., None, None], float("-inf"))


def edited_region(source: Tensor, edited: Tensor, parts: Iterable[int], radius: float = 12.0) -> Tensor:
    """Pixels within ``radius`` of where the parts were or are: label maps ``(..., H, W) -> (..., H, W)`` bool.

    Args:
        source, edited: before and after.
        parts: ids.
        radius: Euclidean, in pixels of these maps.
    """
    inside = torch.zeros(source.shape, dtype=torch.bool, device=source.device)
    for part in parts:
        inside |= (source == part) | (edited == part)
    return dilated(inside, radius)


def keep_unedited(source: Tensor, edited: Tensor, parts: Iterable[int], radius: float = 12.0) -> Tensor:
    """Copy from the source whatever lies farther than ``radius`` from the old and new regions of the edited parts.

    The network smooths everything, also what nobody edited.

    Args:
        source, edited: label maps ``(..., H, W)``.
        parts: ids of the edited parts.
        radius: in pixels of these maps; 12 at 256.

    Returns:
        Label maps ``(..., H, W)``.
    """
    return torch.where(edited_region(source, edited, parts, radius), edited, source)


def dilated(inside: Tensor, radius: float) -> Tensor:
    """Grow a region by a disc: ``(..., H, W)`` bool -> pixels at most ``radius`` away from one inside.

    One run of sums per row offset of the disc; exact, and without a distance transform.
    """
    height, width = inside.shape[-2:]
    grown = inside.clone()
    if radius <= 0:
        return grown
    sums = torch.nn.functional.pad(inside.to(torch.int32).cumsum(dim=-1), (1, 0))  # (..., H, W + 1)
    columns = torch.arange(width, device=inside.device)
    reach = min(int(radius), height - 1)
    for offset in range(reach + 1):
        half = int(math.sqrt(radius * radius - offset * offset))
        right = (columns + half + 1).clamp(max=width)
        left = (columns - half).clamp(min=0)
        row_hit = sums[..., right] > sums[..., left]  # (..., H, W): something inside within half columns
        grown[..., offset:, :] |= row_hit[..., : height - offset, :]
        grown[..., : height - offset, :] |= row_hit[..., offset:, :]
    return grown


def _drawn(
    operation: Operation, rows: list[int], z: Tensor, present: Tensor, classes: ClassSet, prior: Prior | None
) -> Tensor:
    z = z.clone()
    known = present.clone()
    known[..., rows] = False
    for row in rows:
        generator = generator_of(operation.seed or 0, classes.parts[row])
        if prior is None:
            if operation.fit:
                raise ConfigError("fit needs an empirical prior, found none", "fit one with pellucid parts fit")
            code = operation.temperature * torch.randn(z.shape[-1], generator=generator).to(z)
        else:
            code = prior.draw(row, generator, operation.temperature, z=z, known=known, fit=operation.fit)
        if operation.kind == "generate":  # of parts that are there; `add` is for the others
            code = torch.where(present[..., row, None], code, z[..., row, :])
            known[..., row] = present[..., row]
        else:
            known[..., row] = True
        z[..., row, :] = code
    return z


def _prior_of(prior: Callable[[str | None], Prior] | Prior | None, operation: Operation) -> Prior | None:
    if prior is None:
        if operation.prior == "empirical":
            raise ConfigError("these weights have no empirical prior", "fit one with pellucid parts fit")
        return None
    # A set of priors is called with the name; it may be drawn from itself too.
    return prior(operation.prior) if callable(prior) else prior


def _presence_after(
    operation: Operation, rows: list[int], present: Tensor, codes: Codes, references: Mapping[str, Codes] | None
) -> Tensor:
    if operation.kind in ("generate", "perturb", "move"):
        return present
    present = present.clone()
    if operation.kind == "reconstruct":
        present[..., rows] = codes.present[..., rows]
    elif operation.kind == "add":
        present[..., rows] = True
    elif operation.kind == "remove":
        present[..., rows] = False
    else:
        theirs = _reference(operation, references, codes).present.to(present.device)[..., rows]
        ours = codes.present[..., rows]
        alpha = 1.0 if operation.kind == "swap" else operation.amount
        present[..., rows] = theirs if alpha == 1.0 else ours if alpha == 0.0 else ours | theirs
    return present


def _reference(operation: Operation, references: Mapping[str, Codes] | None, codes: Codes) -> Codes:
    name = operation.reference or ""
    if references is None or name not in references:
        known = ", ".join(references or ()) or "none"
        raise ConfigError(f"{operation.kind} names the reference {name!r}, there are: {known}")
    found = references[name]
    if found.mu.shape[-2:] != codes.mu.shape[-2:]:
        raise InputError(
            f"reference {name!r} has {found.mu.shape[-2]} parts of {found.mu.shape[-1]} numbers, "
            f"the mask {codes.mu.shape[-2]} of {codes.mu.shape[-1]}",
            "encode both with the same weights",
        )
    return found


def _offsets(operation: Operation, directions: DirectionSet | None) -> Mapping[int, Tensor]:
    if directions is None:
        raise ConfigError(
            f"these weights have no attribute {operation.attribute!r}", "fit attributes with pellucid parts fit"
        )
    return directions.offsets(operation.attribute or "")
