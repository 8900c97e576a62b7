"""Attributes as directions in the codes of parts (spec of the room, section 4.2)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pellucid.errors import ConfigError


@dataclass(frozen=True)
class Direction:
    """What is added to the codes of some parts to change one attribute by one unit.

    Attributes:
        name: of `ATTRIBUTES`, or ``"nose/pc1"`` for a principal component of a part's codes.
        parts: ids of the classes whose codes move.
        offset: ``(len(parts), L)``, what one unit of the attribute adds.
        unit: of the amount.
        mean: of the attribute over the masks of the fit.
        std: standard deviation over them: what a slider's range is made of.
        accepted: whether it holds on masks that the fit has not seen; others are hidden.
        figures: measured on those masks: ``r2``, ``slope`` (achieved over asked), ``monotone`` (share of masks).
        leakage: for other attributes, by how many of their standard deviations they change when this one is moved by
            one of its own.
    """

    name: str
    parts: tuple[int, ...]
    offset: Tensor
    unit: str = "standard deviations"
    mean: float = 0.0
    std: float = 1.0
    accepted: bool = True
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    leakage: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Directions:
    """All directions of one network, by name."""

    entries: Mapping[str, Direction]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the directions that were accepted."""
        return tuple(name for name, one in self.entries.items() if one.accepted)

    def __getitem__(self, name: str) -> Direction:
        """The accepted direction of that name.

        Raises:
            ConfigError: there is none, or it was not accepted.
        """
        if name not in self.entries:
            raise ConfigError(f"attribute {name!r} is not known", f"there are {', '.join(self.names)}")
        return self.entries[name]

    def offsets(self, attribute: str) -> dict[int, Tensor]:
        """Class id -> ``(L,)``, what one unit of the attribute adds to that part's code.

        Raises:
            ConfigError: there is no such attribute, or it was not accepted.
        """
        one = self[attribute]
        return dict(zip(one.parts, one.offset, strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """The offsets, as a file holds them."""
        return {name: one.offset for name, one in self.entries.items()}

    def plain(self) -> dict[str, Any]:
        """Everything else, as JSON holds it."""
        return {}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> "Directions":
        """Make the directions of `tensors` and `plain` again."""
        return cls({})
