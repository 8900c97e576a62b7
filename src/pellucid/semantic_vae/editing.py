"""Edits of face parts as pure functions of their codes (Sec. 3.2 and 4.2 of the paper, Eq. 4).

A code is one row z_p of L numbers for each part p. An edit changes the rows of its parts and nothing else; what the
neighbours do about it is the decoder's business. Every history starts from the codes of the original mask: decoding
smooths a mask, and feeding the result back would add that up with each click.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.classes import ClassSet
from pellucid.semantic_vae.operations import (
    DRAWING,
    KINDS,
    PRIORS,
    History,
    Kind,
    Operation,
    history_from_json,
    history_to_json,
    seeded,
    undo,
)
from pellucid.semantic_vae.unedited import allowed_classes, dilated, edited_region, keep_unedited, stray_guard

__all__ = [
    "DRAWING",
    "KINDS",
    "PRIORS",
    "Codes",
    "DirectionSet",
    "History",
    "Kind",
    "Operation",
    "Prior",
    "allowed_classes",
    "apply",
    "dilated",
    "edited_parts",
    "edited_region",
    "history_from_json",
    "history_to_json",
    "keep_unedited",
    "linear_mix",
    "part_rows",
    "presence",
    "seeded",
    "spherical_mix",
    "stray_guard",
    "undo",
]

log = logging.getLogger(__name__)


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
        _tell_absent(operation, rows, present, classes)
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
            offsets = _offsets(operation, directions)
            if not offsets.keys() & {classes.parts[row] for row in rows}:
                moved = ", ".join(classes.names[part] for part in offsets)
                raise ConfigError(f"attribute {operation.attribute!r} moves {moved}, and none of these is named")
            for part, offset in offsets.items():
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


def _tell_absent(operation: Operation, rows: list[int], present: Tensor, classes: ClassSet) -> None:
    if operation.kind in ("generate", "perturb", "move"):
        absent = [classes.names[classes.parts[row]] for row in rows if not bool(present[..., row].any())]
        if absent:
            level = logging.WARNING if len(absent) == len(rows) else logging.INFO
            log.log(
                level, "%s: no %s in the mask, left as it is; add puts one there", operation.kind, ", ".join(absent)
            )


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
