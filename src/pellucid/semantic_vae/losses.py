"""What training minimises: a weighted cross-entropy of the mask and the KL divergence of the codes (Sec. 3.1, Eq. 1-3).

Legend: logits ``(B, C, H, W)`` over all classes, the background among them; labels ``(B, H, W)`` of ids 0..C-1; mu and
log-variance ``(B, P, L)`` of q(z | mask), P parts of L numbers; w_c the weight of class c; lambda ``kl_weight``.
Everything is counted in float32, whatever precision the network runs in.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.model import Posterior

Weights = Literal["eq1", "official", "inverse", "effective", "none"]

KL_WEIGHT = 5e-4  # lambda (Sec. 3.1)
COLLAPSED = 0.5  # nats below which a part's code says next to nothing

# The public code's list for CelebAMask-HQ. Eq. 1 would give about 0.75 for the background, and never more than 1.
OFFICIAL_WEIGHTS: tuple[float, ...] = (
    *(1.0, 0.6899, 0.9764, 0.9987, 0.9992, 0.9992, 0.9968, 0.9968, 0.9970, 0.9975, 0.9982),
    *(0.9968, 0.9935, 0.6729, 0.9905, 0.9991, 1.0019, 0.9703, 0.9783),
)
_BETA = 0.9999  # of the effective number: beyond some ten thousand pixels, more of the same class count little
_PIXELS = 256 * 256  # of the paper's masks


def class_weights(masks: Tensor, classes: int, kind: Weights = "eq1") -> Tensor:
    """Weight of each class in the cross-entropy, ``(C,)`` float32.

    ``"eq1"`` is the paper's: w_c = 1 - (mean fraction of pixels of class c over the training set). All its weights lie
    near 1, so two stronger ones are offered, both scaled to a mean of 1 over the classes that occur: ``"inverse"``,
    1 / fraction; ``"effective"``, the inverse of the effective number of samples (Cui et al. 2019) with a sample a
    pixel of a 256x256 mask and beta = 0.9999.

    Args:
        masks: of the training set: label maps ``(N, H, W)``, or pixels per class ``(N, C)`` or ``(C,)``.
        classes: C.
        kind: see above; ``"official"`` is the published list, ``"none"`` is 1 for all.

    Raises:
        ConfigError: an unknown kind, or the official list for another number of classes.
        InputError: no masks, or ids or counts that are not of C classes.
    """
    if kind not in get_args(Weights):
        raise ConfigError(f"class weights {kind!r} are not known", f"use {', '.join(get_args(Weights))}")
    if kind == "none":
        return torch.ones(classes)
    if kind == "official":
        if classes != len(OFFICIAL_WEIGHTS):
            raise ConfigError(
                f"the official class weights are for {len(OFFICIAL_WEIGHTS)} classes, found {classes}", "use eq1"
            )
        return torch.tensor(OFFICIAL_WEIGHTS)
    fractions = _fractions(masks, classes)
    if kind == "eq1":
        return (1 - fractions).float()
    occurs = fractions > 0
    rarity = 1 / fractions if kind == "inverse" else 1 / (1 - _BETA ** (fractions * _PIXELS))
    return torch.where(occurs, rarity / rarity[occurs].mean(), 1.0).float()


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy over all classes (Eq. 2): sum of w_t (-log p_t) over all pixels, divided by the sum of their w_t.

    Args:
        logits: ``(B, C, H, W)``.
        labels: the ids t, ``(B, H, W)``, any whole-number type.
        weights: w_c, ``(C,)``; all equal when None.
    """
    return F.cross_entropy(logits.float(), labels.long(), weights)


def kl_per_class(posterior: Posterior) -> Tensor:
    """KL divergence of q(z_p | mask) from N(0, I), in nats, for each mask and part: ``(B, P)``, not negative."""
    mu, logvar = posterior[0].float(), posterior[1].float()
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(dim=2)


def kl_divergence(posterior: Posterior) -> Tensor:
    """KL divergence summed over all numbers of all parts, mean over the batch, in nats (Sec. 3.1)."""
    return kl_per_class(posterior).sum(dim=1).mean()


def collapsed(nats: Tensor) -> list[int]:
    """Places among the parts of those whose code carries less than half a nat.

    Args:
        nats: of each part, ``(P,)``, or of each mask and part, ``(B, P)``, which are averaged.
    """
    mean = nats if nats.ndim == 1 else nats.mean(dim=0)
    return torch.nonzero(mean < COLLAPSED).flatten().tolist()


class SemanticVAELoss(nn.Module):
    """L = CE_w + lambda KL (Eq. 3).

    Args:
        weights: w_c, ``(C,)``; None weighs all classes alike.
        kl_weight: lambda.
    """

    weights: Tensor | None

    def __init__(self, weights: Tensor | None = None, kl_weight: float = KL_WEIGHT) -> None:
        super().__init__()
        self.register_buffer("weights", None if weights is None else weights.float())
        self.kl_weight = kl_weight

    def forward(self, logits: Tensor, labels: Tensor, posterior: Posterior, scale: float = 1.0) -> dict[str, Tensor]:
        """Return ``loss`` and its terms ``ce`` and ``kl``; ``scale`` is a factor on lambda, for a warm-up."""
        ce, kl = weighted_cross_entropy(logits, labels, self.weights), kl_divergence(posterior)
        return {"loss": ce + self.kl_weight * scale * kl, "ce": ce, "kl": kl}


def _fractions(masks: Tensor, classes: int) -> Tensor:
    """Mean fraction of pixels of each class, ``(C,)`` float64; every mask counts the same."""
    if masks.ndim == 3 and masks.numel() and not masks.is_floating_point():
        if int(masks.max()) >= classes or int(masks.min()) < 0:
            raise InputError(f"labels: expected ids 0..{classes - 1}, found {int(masks.max())}")
        masks = torch.stack([torch.bincount(mask.flatten().long(), minlength=classes) for mask in masks])
    if masks.ndim not in (1, 2) or masks.shape[-1] != classes:
        raise InputError(
            f"class weights need label maps (N, H, W) or pixels (N, {classes}), found {tuple(masks.shape)}"
        )
    counts = masks.double().cpu().reshape(-1, classes)
    pixels = counts.sum(dim=1, keepdim=True)
    if not len(counts) or bool((pixels <= 0).any()):
        raise InputError("class weights need masks with pixels")
    return (counts / pixels).mean(dim=0)
