"""Attributes as directions in the codes of parts: z + t d changes a nose's length by t (spec of the room, section 4.2).

The paper leaves "long nose" and "curly hair" to future work. Here a ridge regression from the codes to the measured
attribute gives the direction, and what the decoder then does with it decides whether a user sees the slider: see
`pellucid.semantic_vae.direction_fit`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from pellucid.errors import ConfigError, WeightsError

LEAST_R2 = 0.3
LEAST_MONOTONE = 0.8
LEAST_SLOPE = 0.5  # beyond the specification's rule: a slider that does half of what it says is none


@dataclass(frozen=True)
class Direction:
    """What is added to the codes of some parts to change one attribute by one unit.

    Attributes:
        name: of `ATTRIBUTES`, or ``"nose/pc1"`` for a principal component of a part's codes.
        parts: ids of the classes whose codes move.
        offset: ``(len(parts), L)``, what one unit of the attribute adds.
        unit: of the amount, see `Attribute.unit`; ``"standard deviations"`` of a component.
        mean: of the attribute over the masks of the fit.
        std: standard deviation over them; a slider from -2 to 2 of these stays among faces that occur.
        accepted: whether it holds on masks that the fit has not seen; others are hidden.
        figures: measured on those masks: ``r2`` of the regression; of the decoded masks ``slope`` (achieved over asked)
            and ``monotone`` (share of masks on which each of five steps goes the right way); ``masks``, their number. A
            component has ``share``, the part of its class's variance.
        leakage: for the other attributes, by how many of their standard deviations they change when this one is moved
            by one of its own.
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

    def plain(self) -> dict[str, Any]:
        """All but the offset, for JSON."""
        return {
            "parts": list(self.parts),
            "unit": self.unit,
            "mean": self.mean,
            "std": self.std,
            "accepted": self.accepted,
            "figures": {name: round(value, 4) for name, value in self.figures.items()},
            "leakage": {name: round(value, 3) for name, value in self.leakage.items()},
        }

    def why_not(self) -> str:
        """What keeps the direction from being accepted, in words."""
        r2, share = self.figures.get("r2", 0.0), 100 * self.figures.get("monotone", 0.0)
        if r2 <= LEAST_R2:
            return f"its R² on held-out masks is {r2:.2f}, expected above {LEAST_R2}"
        if share <= 100 * LEAST_MONOTONE:
            return f"it is monotone on {share:.0f} % of held-out masks, expected above {100 * LEAST_MONOTONE:.0f} %"
        slope = self.figures.get("slope", 0.0)
        return f"it achieves {slope:.2f} of what is asked, expected {LEAST_SLOPE} to {1 / LEAST_SLOPE:g}"


def holds(figures: Mapping[str, float]) -> bool:
    """Whether the figures of a direction on held-out masks let it be shown (section 4.2)."""
    return (
        figures.get("r2", 0.0) > LEAST_R2
        and figures.get("monotone", 0.0) > LEAST_MONOTONE
        and LEAST_SLOPE <= figures.get("slope", 0.0) <= 1 / LEAST_SLOPE
    )


@dataclass(frozen=True)
class Directions:
    """All directions of one network, by name, those that were not accepted among them."""

    entries: Mapping[str, Direction]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the directions that were accepted: the sliders."""
        return tuple(name for name, one in self.entries.items() if one.accepted)

    def __getitem__(self, name: str) -> Direction:
        """The accepted direction of that name.

        Raises:
            ConfigError: there is none (the hint gives the nearest), or it was not accepted.
        """
        one = self.entries.get(name)
        if one is not None and one.accepted:
            return one
        near = get_close_matches(name, self.names, 4, 0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(self.names) or 'none'}"
        if one is None:
            raise ConfigError(f"attribute {name!r} is not known to these weights", hint)
        raise ConfigError(f"attribute {name!r} cannot be moved with these weights: {one.why_not()}", hint)

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
        return {name: one.plain() for name, one in self.entries.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> "Directions":
        """Make the directions of `tensors` and `plain` again.

        Raises:
            WeightsError: the two do not belong together.
        """
        if tensors.keys() != plain.keys():
            odd = sorted(tensors.keys() ^ plain.keys())
            raise WeightsError(f"directions: {', '.join(odd[:5])} in one of the two files only", "fit them again")
        entries: dict[str, Direction] = {}
        for name, values in plain.items():
            try:
                entries[name] = Direction(
                    name=name,
                    parts=tuple(int(part) for part in values["parts"]),
                    offset=tensors[name].float(),
                    unit=str(values["unit"]),
                    mean=float(values["mean"]),
                    std=float(values["std"]),
                    accepted=bool(values["accepted"]),
                    figures={key: float(value) for key, value in values["figures"].items()},
                    leakage={key: float(value) for key, value in values["leakage"].items()},
                )
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise WeightsError(f"direction {name!r} is damaged: {error!r}", "fit it again") from error
            if entries[name].offset.ndim != 2 or len(entries[name].offset) != len(entries[name].parts):
                shape = tuple(entries[name].offset.shape)
                raise WeightsError(f"direction {name!r}: expected {len(entries[name].parts)} codes, found {shape}")
        return cls(entries)
