"""Reaching a value: how far to move along an attribute until the decoded mask measures what was asked (section 4.2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.attributes import measure
from pellucid.semantic_vae.directions import Direction
from pellucid.semantic_vae.masks.classes import ClassSet

MAX_DECODES = 8
_REACH = 6.0  # standard deviations beyond which no code was ever seen
_CLOSE = 0.02  # of a standard deviation: nearer than a pixel


@dataclass(frozen=True)
class Reached:
    """What `reach` found.

    Attributes:
        amount: to move along the direction, in the attribute's unit.
        value: what the edited mask measures then.
        before: what it measured without moving.
        decodes: how many masks were decoded.
    """

    amount: float
    value: float
    before: float
    decodes: int


def reach(
    edit: Callable[[float], Tensor],
    direction: Direction,
    classes: ClassSet,
    wanted: float,
    *,
    max_decodes: int = MAX_DECODES,
) -> Reached:
    """Solve for the amount at which the edited mask measures ``wanted``, by bisection on the decoded mask.

    The first steps find an amount on the other side of ``wanted``; then the interval is divided, by the secant, but not
    closer to an end than a tenth. The nearest value seen is taken.

    Args:
        edit: amount -> label map ``(H, W)``, everything included that the user sees, such as `keep_unedited`.
        direction: an attribute's; a component measures nothing.
        classes: the class set.
        wanted: in the attribute's unit.
        max_decodes: calls of ``edit``.

    Raises:
        ConfigError: the direction is no attribute, or the value is not one; fewer than two decodes.
        InputError: the attribute cannot be measured on this mask.
    """
    if "/" in direction.name:
        raise ConfigError(f"{direction.name} is a component of codes and has no value to reach", "name an attribute")
    if max_decodes < 2 or wanted != wanted:
        raise ConfigError(f"expected a value to reach and at least 2 decodes, found {wanted} and {max_decodes}")
    seen: dict[float, float] = {}

    def value_at(amount: float) -> float:
        seen[amount] = float(measure(edit(amount)[None], classes, [direction.name])[direction.name][0])
        return seen[amount]

    before = value_at(0.0)
    if before != before:
        raise InputError(f"{direction.name} cannot be measured on this mask", "its parts are hidden or absent")
    limit, close = _REACH * direction.std, _CLOSE * direction.std
    near, far = (0.0, before), None
    step = max(-limit, min(limit, wanted - before))
    while len(seen) < max_decodes and min(abs(value - wanted) for value in _finite(seen)) > close:
        if far is None:
            amount = step
            if amount in seen:  # the limit, and still not there
                break
        else:
            amount = _between(near, far, wanted)
        value = value_at(amount)
        if value != value:  # the part is gone: too far
            far = (amount, float("inf") if amount > 0 else float("-inf"))
        elif (value - wanted) * (before - wanted) <= 0:
            far = (amount, value)
        else:
            near = (amount, value)
            step = max(-limit, min(limit, 2 * step))
    amount = min((one for one in seen if seen[one] == seen[one]), key=lambda one: abs(seen[one] - wanted))
    return Reached(amount, seen[amount], before, len(seen))


def _finite(seen: dict[float, float]) -> list[float]:
    return [value for value in seen.values() if value == value]


def _between(near: tuple[float, float], far: tuple[float, float], wanted: float) -> float:
    """An amount inside an interval whose ends lie on both sides of the value."""
    (a, at_a), (b, at_b) = near, far
    share = 0.5
    if math.isfinite(at_b) and at_a != at_b:
        # A secant that ends near one side may go on ending there.
        share = min(0.9, max(0.1, (wanted - at_a) / (at_b - at_a)))
    return a + (b - a) * share
