"""What codes of parts are drawn from: N(0, I) as in the paper, or Gaussians fitted to the codes of real masks.

The KL term's weight of 0.0005 leaves the codes of a training set off N(0, I), so drawing from there draws shapes that
no mask had. The empirical prior keeps, for each part, mean and covariance of mu over the masks that have the part, plus
the mean of exp(logvar). The covariance is kept as K axes and the variances left over. How the scores on those axes go
together across parts is one correlation matrix; it gives p(z_p | z_others), parts that fit the face. Which optional
parts come together is a table of the combinations seen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.semantic_vae.editing import PRIORS, Prior

log = logging.getLogger(__name__)

RANK = 16
_SHRUNK = 0.95  # of a correlation at fit 1: estimates from a sample, stored in half precision, are never quite certain
_HALF = ("axes", "joint")  # stored in half precision


@dataclass(frozen=True)
class Standard:
    """N(0, temperature^2 I), the paper's prior."""

    def draw(
        self, row: int, generator: torch.Generator, temperature: float, *, z: Tensor, known: Tensor, fit: float
    ) -> Tensor:
        """Draw a code ``(L,)``.

        Raises:
            ConfigError: ``fit`` is not 0; independent numbers fit nothing.
        """
        if fit:
            raise ConfigError("fit needs the empirical prior, found the standard one")
        return temperature * torch.randn(z.shape[-1], generator=generator).to(z)


@dataclass(frozen=True)
class Priors:
    """Gaussians of the codes of a training set, for P parts of L numbers and K axes.

    Attributes:
        mean: ``(P, L)``.
        axes: ``(P, K, L)``, orthonormal principal axes of mu; zeros where there are fewer.
        scale: ``(P, K)``, standard deviations along them.
        rest: ``(P, L)``, variances of what the axes leave, and of the posterior.
        joint: ``(P * K, P * K)``, correlations of the scores of all parts, ones on the diagonal.
        combinations: ``(M, P)`` bool, sets of parts that were seen together.
        frequency: ``(M,)``, their shares, adding up to 1.
    """

    mean: Tensor
    axes: Tensor
    scale: Tensor
    rest: Tensor
    joint: Tensor
    combinations: Tensor
    frequency: Tensor

    def __post_init__(self) -> None:
        parts, axes, latent = self.axes.shape
        shapes = {
            "mean": (parts, latent),
            "scale": (parts, axes),
            "rest": (parts, latent),
            "joint": (parts * axes, parts * axes),
            "combinations": (len(self.frequency), parts),
        }
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise WeightsError(f"prior: {name} must be {shape}, found {tuple(getattr(self, name).shape)}")

    def __call__(self, name: str | None) -> Prior:
        """The prior of that name; the empirical one for None."""
        if name not in (None, *PRIORS):
            raise ConfigError(f"prior {name!r} is not known", f"use one of {', '.join(PRIORS)}")
        return Standard() if name == "standard" else self

    def draw(
        self, row: int, generator: torch.Generator, temperature: float, *, z: Tensor, known: Tensor, fit: float
    ) -> Tensor:
        """Draw the code of one part, alone or so that it goes with others.

        Args:
            row: the part's.
            generator: of the noise; the same numbers are drawn whatever ``fit`` and the other parts are.
            temperature: factor on the standard deviation around the mean.
            z: ``(..., P, L)``, the codes of the other parts.
            known: ``(..., P)`` bool, which of them count.
            fit: factor on the correlations, in [0, 1].

        Returns:
            ``(L,)`` when ``fit`` is 0, else ``(..., L)``.
        """
        own, shared = self._noise(generator)
        if not fit:
            return self._code(row, temperature * shared, temperature * own).to(z)
        flat = z.reshape(-1, *z.shape[-2:]).cpu().float()
        seen = known.reshape(-1, known.shape[-1]).cpu()
        scores = self.scores(flat)  # (N, P, K)
        correlation = self._correlation(fit)
        codes = []
        for index in range(len(flat)):
            mean, root = self._given(row, scores[index], seen[index], correlation)
            codes.append(self._code(row, mean + temperature * (root @ shared), temperature * own))
        return torch.stack(codes).reshape(*z.shape[:-2], -1).to(z)

    def scores(self, z: Tensor) -> Tensor:
        """Codes on the axes, in standard deviations: ``(N, P, L) -> (N, P, K)``; 0 on axes without spread."""
        raw = torch.einsum("npl,pkl->npk", z - self.mean, self.axes)
        return torch.where(self.scale > 0, raw / self.scale.clamp(min=1e-12), torch.zeros_like(raw))

    def draw_presence(self, generator: torch.Generator) -> Tensor:
        """Draw which parts are there, as often as they were seen together: ``(P,)`` bool."""
        index = torch.multinomial(self.frequency, 1, generator=generator)
        return self.combinations[int(index)].clone()

    def draw_all(self, seed: int, index: int, parts: tuple[int, ...], temperature: float, fit: float) -> Tensor:
        """Draw the codes of all parts at once: ``(P, L)``; they go together as `draw` lets one go with the others.

        Args:
            seed, index: the noise follows from these and the ids of the parts.
            parts: ids, the P rows.
            temperature, fit: as in `draw`.
        """
        noises = [self._noise(generator_of(seed, index, part)) for part in parts]
        shared = torch.cat([one for _, one in noises])  # (P * K,)
        if fit:
            # The rows of a Cholesky factor say how each part follows from those before it.
            shared = torch.linalg.cholesky(self._correlation(fit)) @ shared
        scores = shared.reshape(len(parts), -1)
        return torch.stack(
            [self._code(row, temperature * scores[row], temperature * own) for row, (own, _) in enumerate(noises)]
        )

    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps, see `fitting.save_editing`; axes and correlations in half precision."""
        return {
            name: getattr(self, name).to(torch.float16) if name in _HALF else getattr(self, name)
            for name in self.__dataclass_fields__
        }

    def plain(self) -> dict[str, Any]:
        """What JSON keeps: sizes, for those who read it."""
        parts, axes, latent = self.axes.shape
        return {"parts": parts, "axes": axes, "latent": latent, "combinations": len(self.frequency)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> Priors:
        """Make the prior of `tensors` and `plain` again.

        Raises:
            WeightsError: a tensor is missing or of another shape.
        """
        names = list(cls.__dataclass_fields__)
        if missing := [name for name in names if name not in tensors]:
            raise WeightsError(
                f"the empirical prior lacks {', '.join(missing)}", "fit it again with pellucid parts fit"
            )
        return cls(**{name: tensors[name] if name == "combinations" else tensors[name].float() for name in names})

    def _noise(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noise for one part: ``(L,)`` for what the axes leave, ``(K,)`` for the axes."""
        own = torch.randn(self.mean.shape[1], generator=generator)
        return own, torch.randn(self.scale.shape[1], generator=generator)

    def _code(self, row: int, scores: Tensor, own: Tensor) -> Tensor:
        return self.mean[row] + (scores * self.scale[row]) @ self.axes[row] + self.rest[row].sqrt() * own

    def _correlation(self, fit: float) -> Tensor:
        weight = _SHRUNK * fit
        return weight * self.joint + (1.0 - weight) * torch.eye(len(self.joint))

    def _given(self, row: int, scores: Tensor, known: Tensor, correlation: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``(K,)`` and root of the covariance ``(K, K)`` of one part's scores given those of the known parts."""
        count = scores.shape[1]
        known = known.clone()
        known[row] = False
        mine = torch.arange(row * count, (row + 1) * count)
        theirs = (known.nonzero() * count + torch.arange(count)).flatten()
        own = correlation[mine][:, mine]
        if not len(theirs):
            return torch.zeros(count), torch.linalg.cholesky(own)
        cross = correlation[mine][:, theirs]
        gain = torch.linalg.solve(correlation[theirs][:, theirs], cross.T).T  # (K, n)
        left = own - gain @ cross.T
        return gain @ scores.flatten()[theirs], torch.linalg.cholesky((left + left.T) / 2)


def fit_priors(mu: Tensor, logvar: Tensor, present: Tensor, *, rank: int = RANK) -> Priors:
    """Fit the empirical prior to the codes of a training set (spec of the room, 4.1).

    Args:
        mu, logvar: ``(N, P, L)``, of the encoder.
        present: ``(N, P)`` bool; a part counts only where it is there.
        rank: K, axes a part.

    Raises:
        InputError: the shapes do not fit, or there are fewer than two masks.
    """
    if mu.ndim != 3 or mu.shape != logvar.shape or present.shape != mu.shape[:2] or len(mu) < 2:
        found = f"{tuple(mu.shape)}, {tuple(logvar.shape)}, {tuple(present.shape)}"
        raise InputError(f"codes must be (N, P, L) twice and (N, P) with at least two masks, found {found}")
    mu, logvar, present = mu.cpu().double(), logvar.cpu().double(), present.cpu().bool()
    count, parts, latent = mu.shape
    rank = min(rank, latent)
    mean, rest = torch.zeros(parts, latent).double(), torch.ones(parts, latent).double()
    axes, scale = torch.zeros(parts, rank, latent).double(), torch.zeros(parts, rank).double()
    scores = torch.zeros(count, parts, rank).double()
    for row in range(parts):
        there = present[:, row]
        if int(there.sum()) < 2:
            log.warning("row %d of the codes is in %d masks: its prior stays N(0, I)", row, int(there.sum()))
            continue
        of_part = mu[there, row]
        mean[row] = of_part.mean(dim=0)
        centred = of_part - mean[row]
        covariance = centred.T @ centred / (len(centred) - 1)
        variances, vectors = torch.linalg.eigh(covariance)  # ascending
        main = _upright(vectors.flip(1)[:, :rank].T)  # (K, L)
        spread = variances.flip(0)[:rank].clamp(min=0)
        real = spread > 1e-9 * spread[0].clamp(min=1e-12)
        axes[row, real], scale[row, real] = main[real], spread[real].sqrt()
        along = axes[row].square().T @ scale[row].square()  # what the axes hold of each number's variance
        rest[row] = (covariance.diagonal() - along).clamp(min=0) + logvar[there, row].exp().mean(dim=0)
        scores[there, row] = (centred @ axes[row].T) / torch.where(real, scale[row], torch.ones(rank).double())
    combinations, counts = torch.unique(present, dim=0, return_counts=True)
    return Priors(
        mean=mean.float(),
        axes=axes.float(),
        scale=scale.float(),
        rest=rest.float(),
        joint=_joint(scores.flatten(1)).float(),
        combinations=combinations,
        frequency=(counts / count).float(),
    )


def _joint(scores: Tensor) -> Tensor:
    """Correlations ``(N, D) -> (D, D)``; scores of absent parts are 0, their mean.

    Divided by the root of both counts, the matrix stays positive, and parts that are seldom seen together come out
    nearly independent, which is all that is known of them.
    """
    gram = scores.T @ scores
    size = gram.diagonal().sqrt()
    used = size > 0
    size = torch.where(used, size, torch.ones_like(size))
    joint = gram / size[:, None] / size
    joint.fill_diagonal_(1.0)
    return joint


def _upright(vectors: Tensor) -> Tensor:
    """Turn axes ``(K, L)`` so that the largest number of each is positive: signs of eigenvectors are arbitrary."""
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)


def generate_all(
    count: int,
    seed: int,
    parts: tuple[int, ...],
    absent_code: Tensor,
    priors: Priors | None = None,
    *,
    prior: str | None = None,
    temperature: float = 1.0,
    fit: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Draw every part of new masks; mask k of a seed does not depend on how many are drawn.

    Args:
        count: how many.
        seed: of presence and codes.
        parts: ids of the P parts.
        absent_code: ``(L,)``, the code of parts that a mask has not.
        priors: fitted ones; without them every part is there and drawn from N(0, I).
        prior: ``"standard"`` or ``"empirical"``; None takes the empirical one if there is one. Presence is drawn from
            the table of combinations in both cases.
        temperature, fit: see `editing.Operation`.

    Returns:
        z ``(count, P, L)`` and presence ``(count, P)``.

    Raises:
        ConfigError: the empirical prior, or a fit, is asked for and was not fitted.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, found {count}")
    if priors is None and (prior == "empirical" or fit):
        raise ConfigError("these weights have no empirical prior", "fit one with pellucid parts fit")
    if prior == "standard" and fit:
        raise ConfigError("fit needs the empirical prior, found the standard one")
    absent = absent_code.detach().cpu().float()
    drawn, there = [], []
    for index in range(count):
        if priors is None:
            present = torch.ones(len(parts), dtype=torch.bool)
        else:
            present = priors.draw_presence(generator_of(seed, index))
        if priors is None or prior == "standard":
            noise = [torch.randn(len(absent), generator=generator_of(seed, index, part)) for part in parts]
            z = temperature * torch.stack(noise)
        else:
            z = priors.draw_all(seed, index, parts, temperature, fit)
        drawn.append(torch.where(present[:, None], z, absent))
        there.append(present)
    return torch.stack(drawn), torch.stack(there)
