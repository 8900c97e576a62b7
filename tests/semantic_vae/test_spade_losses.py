"""The losses of mask-to-face training, by hand."""

import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError
from pellucid.semantic_vae.faces.spade_losses import (
    FaceLoss,
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    perceptual_loss,
)


def answer(*scales: tuple[float, float, float]) -> list[list[Tensor]]:
    """Two layers of features and the logits, each of one value."""
    return [[torch.full((1, 1, 2, 2), float(value), requires_grad=True) for value in scale] for scale in scales]


def test_hinge() -> None:
    real, fake = answer((0, 0, 0.5), (0, 0, 2)), answer((0, 0, -3), (0, 0, 0.25))
    # Scale 0: 1 - 0.5 and nothing below -1; scale 1: nothing above 1, and 1 + 0.25.
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx((0.5 + 1.25) / 2)
    assert hinge_generator_loss(fake).item() == pytest.approx((3 - 0.25) / 2)


def test_features_match_without_the_logits() -> None:
    real, fake = answer((1, 2, 100), (0, 0, 0)), answer((0, 4, 0), (1, 0, 50))
    loss = feature_matching_loss(real, fake)
    assert loss.item() == pytest.approx(((1 + 2) + 1) / 2)
    loss.backward()
    assert real[0][0].grad is None  # what is true is not pulled towards what is rendered
    assert fake[0][0].grad is not None
    assert fake[0][2].grad is None


def test_deep_features_weigh_most() -> None:
    def features(picture: Tensor) -> list[Tensor]:
        return [picture.mean() * 32, picture.mean() * 16, picture.mean() * 8, picture.mean() * 4, picture.mean()]

    white, black = torch.ones(1, 3, 4, 4), -torch.ones(1, 3, 4, 4)
    assert perceptual_loss(features, white, black).item() == pytest.approx(5.0)  # [-1, 1] became [0, 1]


def test_the_sum_and_what_it_needs() -> None:
    fake, real = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)
    terms = FaceLoss(10, 0, 2)(fake, real, answer((1, 0, -1)), answer((0, 0, 0)))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"gan": 1, "features": 10, "l1": 1})
    with pytest.raises(ConfigError, match="needs weights of VGG19"):
        FaceLoss()
    with pytest.raises(ConfigError, match="lambda_l1 must be at least 0, found -1"):
        FaceLoss(lambda_perceptual=0, lambda_l1=-1)
