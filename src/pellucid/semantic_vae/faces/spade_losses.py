"""The losses of mask-to-face training, alike for SPADE and SEAN (Sec. 5.3).

Legend: an answer of the discriminator is ``[scale][layer]``, features ``(B, C, h, w)``, the last layer the logits of
patches ``(B, 1, h, w)``; pictures are ``(B, 3, H, W)`` in [-1, 1]. All terms are means, first within a scale, then over
the scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError
from pellucid.nn.vgg import VGG19Features

Answer = Sequence[Sequence[Tensor]]
Features = Callable[[Tensor], Sequence[Tensor]]

VGG_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
VGG_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


def hinge_discriminator_loss(real: Answer, fake: Answer) -> Tensor:
    """max(0, 1 - D(real)) + max(0, 1 + D(fake)), means over patches and scales.

    Args:
        real: answers to true pictures.
        fake: answers to rendered ones, which must be detached from the generator.
    """
    terms = [F.relu(1 - true[-1]).mean() + F.relu(1 + made[-1]).mean() for true, made in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def hinge_generator_loss(fake: Answer) -> Tensor:
    """-D(fake), mean over patches and scales."""
    return torch.stack([-made[-1].mean() for made in fake]).mean()


def feature_matching_loss(real: Answer, fake: Answer) -> Tensor:
    """L1 between D's features of true and rendered pictures, logits left out: sum over layers, mean over scales.

    Args:
        real: answers to true pictures; no gradient goes there.
        fake: answers to rendered ones.
    """
    terms = [
        torch.stack([F.l1_loss(ours, theirs.detach()) for theirs, ours in zip(true[:-1], made[:-1], strict=True)]).sum()
        for true, made in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def perceptual_loss(features: Features, fake: Tensor, real: Tensor) -> Tensor:
    """L1 of VGG19 features at relu1_1 ... relu5_1, weighted 1/32, 1/16, 1/8, 1/4, 1.

    The public code shows VGG pictures in [-1, 1]; here they go in as the network was trained, [0, 1] and normalised.

    Args:
        features: `vgg_features`, or another frozen network with five answers.
        fake: rendered, in [-1, 1]; sides of at least 16.
        real: true.
    """
    with torch.no_grad():
        wanted = features((real + 1) / 2)
    found = features((fake + 1) / 2)
    terms = [weight * F.l1_loss(ours, theirs) for weight, ours, theirs in zip(VGG_WEIGHTS, found, wanted, strict=True)]
    return torch.stack(terms).sum()


def vgg_features(state: Mapping[str, Tensor]) -> VGG19Features:
    """The features of `perceptual_loss`, from torchvision's VGG19 weights.

    Raises:
        WeightsError: weights are missing or have another shape.
    """
    return VGG19Features(state, VGG_LAYERS, post_relu=True)


class FaceLoss:
    """The generator's loss: L_GAN + lambda_features L_FM + lambda_perceptual L_VGG + lambda_l1 L_1.

    Args:
        lambda_features: 10 in both papers; 0 leaves the term out.
        lambda_perceptual: 10 in both papers.
        lambda_l1: 0 in both; stands in where no VGG weights are at hand.
        features: of `perceptual_loss`; never random weights.

    Raises:
        ConfigError: a negative weight, or a perceptual term without features.
    """

    def __init__(
        self,
        lambda_features: float = 10.0,
        lambda_perceptual: float = 10.0,
        lambda_l1: float = 0.0,
        features: Features | None = None,
    ) -> None:
        weights = {"features": lambda_features, "perceptual": lambda_perceptual, "l1": lambda_l1}
        for name, weight in weights.items():
            if weight < 0:
                raise ConfigError(f"loss.lambda_{name} must be at least 0, found {weight}")
        if lambda_perceptual > 0 and features is None:
            raise ConfigError(
                "the perceptual loss needs weights of VGG19, found none",
                "set loss.vgg_weights to torchvision's vgg19-*.pth, or loss.lambda_perceptual = 0 and loss.lambda_l1",
            )
        self.weights, self.features = weights, features

    def __call__(self, fake: Tensor, real: Tensor, on_fake: Answer, on_real: Answer) -> dict[str, Tensor]:
        """Weigh every term; the loss is their sum.

        Args:
            fake: rendered pictures in [-1, 1].
            real: true pictures.
            on_fake: D's answer to them, with gradient to the generator.
            on_real: D's answer to the true ones.
        """
        terms = {"gan": hinge_generator_loss(on_fake)}
        if self.weights["features"]:
            terms["features"] = self.weights["features"] * feature_matching_loss(on_real, on_fake)
        if self.weights["perceptual"] and self.features is not None:
            terms["perceptual"] = self.weights["perceptual"] * perceptual_loss(self.features, fake, real)
        if self.weights["l1"]:
            terms["l1"] = self.weights["l1"] * F.l1_loss(fake, real)
        return terms
