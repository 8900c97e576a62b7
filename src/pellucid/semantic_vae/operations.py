"""Edits of face parts as plain values, and histories of them: what JSON keeps and a replay reads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import torch

from pellucid.device import generator_of
from pellucid.errors import ConfigError

Kind = Literal["reconstruct", "generate", "perturb", "interpolate", "swap", "remove", "add", "move"]
KINDS: tuple[str, ...] = get_args(Kind)
PRIORS = ("standard", "empirical")
DRAWING = ("generate", "perturb", "add")  # what needs a seed
_SEEDS = 2**31


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


def as_history(operations: Iterable[Operation | Mapping[str, Any]]) -> History:
    """Take edits as they are or as `Operation.plain` writes them.

    Raises:
        ConfigError: see `Operation.of`.
    """
    return tuple(one if isinstance(one, Operation) else Operation.of(one) for one in operations)


def seeded(operations: Iterable[Operation | Mapping[str, Any]], seed: int = 0) -> History:
    """Give a seed to every edit that draws and has none; plain values become edits.

    The seed follows from ``seed`` and the edit's place in the history, so undoing the last changes no other.
    """
    return tuple(
        replace(operation, seed=int(torch.randint(_SEEDS, (1,), generator=generator_of(seed, place))))
        if operation.kind in DRAWING and operation.seed is None
        else operation
        for place, operation in enumerate(as_history(operations))
    )


@dataclass(frozen=True)
class Asked:
    """A history as it is replayed: every edit that draws has its seed.

    Attributes:
        history: the edits.
        seed: that the seeds of the edits follow from.
        keep_unedited: whether what lies farther than ``radius`` from the edited parts is copied from the source.
        radius: in pixels of a mask of side 256.
        stray_guard: whether classes are forbidden that are neither in the source nor put there.

    Raises:
        ConfigError: the radius is below 0 or no number.
    """

    history: History
    seed: int = 0
    keep_unedited: bool = True
    radius: float = 12.0
    stray_guard: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.radius < math.inf:
            raise ConfigError(f"radius must be a number of at least 0, found {self.radius}")

    def parameters(self) -> dict[str, Any]:
        """As plain values, for the meta data."""
        return {
            "history": [operation.plain() for operation in self.history],
            "keep_unedited": self.keep_unedited,
            "radius": self.radius,
            "stray_guard": self.stray_guard,
        }
