"""What the decoder shows when codes are moved: along one direction, or at random (spec of the room, section 4.2)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import InputError
from pellucid.semantic_vae.attributes import measure
from pellucid.semantic_vae.masks.classes import ClassSet

Decode = Callable[[Tensor, Tensor], Tensor]  # z (B, P, L), present (B, P) -> label maps (B, S, S)

_SLACK = 0.1  # of an asked step; a smaller one back is the pixels' rounding
_CHUNK = 32
_RIDGE = 0.3  # of the probes' number; a push is of unit size in every direction


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
    found = _measured(z.flatten(0, 1), present.flatten(0, 1), decode, classes, names)
    return Response(amounts, {name: values.view(len(masks.mu), -1) for name, values in found.items()})


def probe(
    masks: CodedMasks,
    rows: Iterable[int],
    root: Tensor,
    decode: Decode,
    classes: ClassSet,
    names: Iterable[str],
    *,
    count: int = 200,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Push the codes of some parts at random and regress what the decoded masks show on the pushes.

    Each push is made there and back on one mask, which cancels what the masks differ in.

    Args:
        masks: to push, taken in turn; all must have the parts.
        rows: rows of the codes.
        root: ``(D, D)``, a square root of the covariance of the parts' codes side by side: pushes are as large as codes
            differ between masks.
        decode, classes: the network and its classes.
        names: attributes to measure.
        count: pushes, decoded twice each.
        seed: of the pushes.

    Returns:
        Attribute -> ``(D,)``, its slope along u where codes move by root @ u. Zeros when it could not be measured.
    """
    rows, names = list(rows), list(names)
    pushes = torch.randn(count, len(root), generator=generator_of(seed, *rows), dtype=torch.float64)
    moves = (pushes @ root.T).float().view(count, len(rows), -1)
    which = torch.arange(count) % len(masks.mu)
    some = masks.take(which)
    sides: list[dict[str, Tensor]] = []
    for sign in (1.0, -1.0):
        z = some.mu.clone()
        z[:, rows] += sign * moves * some.present[:, rows, None]
        sides.append(_measured(z, some.present, decode, classes, names))
    slopes: dict[str, Tensor] = {}
    for name in names:
        rise = (sides[0][name] - sides[1][name]).double() / 2
        shown = rise.isfinite()
        u, rise = pushes[shown], rise[shown]
        gram = u.T @ u + _RIDGE * count * torch.eye(len(root), dtype=torch.float64)
        slopes[name] = torch.linalg.solve(gram, u.T @ rise)
    return slopes


def _measured(z: Tensor, present: Tensor, decode: Decode, classes: ClassSet, names: Iterable[str]) -> dict[str, Tensor]:
    """Attributes ``(B,)`` of decoded codes ``(B, P, L)``."""
    names = list(names)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for codes, there in zip(z.split(_CHUNK), present.split(_CHUNK), strict=True):
        for name, values in measure(decode(codes, there), classes, names).items():
            found[name].append(values.cpu())
    return {name: torch.cat(values) for name, values in found.items()}
