"""What the transparency networks and their VAE learn from (Sec. 2.3 of the design; LayerDiffuse's identity test).

Legend: A alpha and C padded colour of the truth, ``y`` = D's output (A, R, G, B), v the picture premultiplied on
mid-grey in [-1, 1], D_sd*(x) what the VAE decodes, in [-1, 1]. Everything is counted in float32 and is a mean over
pixels, so weights do not depend on the size.

    E and D:  L1(y, (A, C)) + gradient L1(y_A, A) + |D_sd*(x_a) - v| + L1 on a random colour
    VAE:      |D_sd*(x) - v| + 2 (D_sd*(x) - v)^2 + 1/2 gradient L1 + 1e-6 KL
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_SCALES = 3  # sizes at which gradients are compared: full, half, quarter


@dataclass(frozen=True)
class TransparencyWeights:
    """Factors of the terms of `transparency_loss`."""

    alpha: float = 1.0
    colour: float = 1.0
    gradient: float = 1.0
    identity: float = 1.0
    composite: float = 1.0


def gradient_loss(found: Tensor, truth: Tensor, scales: int = _SCALES) -> Tensor:
    """L1 between the differences of neighbouring pixels, at full size and shrunk by halves: sharp edges in place.

    Args:
        found: ``(N, C, H, W)``.
        truth: the same shape.
        scales: how many sizes; fewer where a side would fall under 2 pixels.
    """
    total, counted = found.new_zeros((), dtype=torch.float32), 0
    off = found.float() - truth.float()  # the differences of a difference: one pass instead of two
    for _ in range(scales):
        if min(off.shape[-2:]) < 2:
            break
        total = total + off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()
        counted += 1
        off = F.avg_pool2d(off, 2)
    return total / max(1, counted)


def composite_loss(found: Tensor, truth: Tensor, backdrop: Tensor) -> Tensor:
    """L1 of two pictures laid over the same colour, which asks for colour exactly where it is seen.

    Args:
        found: alpha, R, G, B, ``(N, 4, H, W)``, unclipped.
        truth: alpha, R, G, B.
        backdrop: ``(N, 3, 1, 1)`` in [0, 1].
    """

    def shown(picture: Tensor) -> Tensor:
        alpha = picture[:, :1]
        return alpha * picture[:, 1:] + (1.0 - alpha) * backdrop

    return F.l1_loss(shown(found.float()), shown(truth.float()))


def transparency_loss(
    found: Tensor,
    truth: Tensor,
    vae_picture: Tensor,
    grey: Tensor,
    backdrop: Tensor,
    weights: TransparencyWeights,
) -> dict[str, Tensor]:
    """The loss of E and D, with its terms by name.

    Args:
        found: y, ``(N, 4, H, W)``: alpha, R, G, B, unclipped.
        truth: (A, C): alpha and padded colour.
        vae_picture: D_sd*(x_a), ``(N, 3, H, W)``. It must stay what it was: a latent that the frozen VAE decodes with
            artefacts is none that a diffusion model of that VAE can make.
        grey: v.
        backdrop: ``(N, 3, 1, 1)``, a random colour for each picture.
        weights: of the terms.

    Returns:
        ``loss``, ``alpha``, ``colour``, ``gradient``, ``identity`` and ``composite``; the terms without their weights.
    """
    found, truth = found.float(), truth.float()
    terms = {
        "alpha": F.l1_loss(found[:, :1], truth[:, :1]),
        "colour": F.l1_loss(found[:, 1:], truth[:, 1:]),
        "gradient": gradient_loss(found[:, :1], truth[:, :1]),
        "identity": F.l1_loss(vae_picture.float(), grey.float()),
        "composite": composite_loss(found, truth, backdrop),
    }
    total = sum((getattr(weights, name) * term for name, term in terms.items()), found.new_zeros(()))
    return {"loss": total, **terms}


def vae_loss(
    vae_picture: Tensor,
    grey: Tensor,
    mean: Tensor,
    logvar: Tensor,
    *,
    square: float = 2.0,
    gradient: float = 0.5,
    kl: float = 1e-6,
) -> dict[str, Tensor]:
    """The loss of a small VAE on greyed pictures, with its terms by name.

    Args:
        vae_picture: D_sd(x) of a sampled x, ``(N, 3, H, W)`` in about [-1, 1].
        grey: v.
        mean: of the posterior, ``(N, C, h, w)``.
        logvar: its log-variance.
        square: factor of the mean square. With L1 alone a young VAE stays at plain grey: most of v is exactly that, and
            the L1's best constant is the median.
        gradient: factor of `gradient_loss`.
        kl: factor of the divergence, which is counted per number of the picture as the L1 is: summed over the latent,
            divided by 3HW.

    Returns:
        ``loss``, ``l1``, ``square``, ``gradient`` and ``kl``, all but the first without their factors.
    """
    mean, logvar = mean.float(), logvar.float()
    nats = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum() / grey.numel()
    terms = {
        "l1": F.l1_loss(vae_picture.float(), grey.float()),
        "square": F.mse_loss(vae_picture.float(), grey.float()),
        "gradient": gradient_loss(vae_picture, grey),
        "kl": nats,
    }
    total = terms["l1"] + square * terms["square"] + gradient * terms["gradient"] + kl * nats
    return {"loss": total, **terms}
