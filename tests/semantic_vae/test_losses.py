"""Eq. 1 to 3 against values worked out by hand, and the weights we add."""

import math

import pytest
import torch

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.losses import (
    OFFICIAL_WEIGHTS,
    SemanticVAELoss,
    class_weights,
    collapsed,
    kl_divergence,
    kl_per_class,
    weighted_cross_entropy,
)
from pellucid.semantic_vae.model import Posterior

MASKS = torch.tensor([[[0, 0], [1, 2]], [[0, 1], [1, 1]]], dtype=torch.uint8)  # fractions 3/8, 4/8, 1/8


def test_weights_are_one_less_the_mean_fraction() -> None:
    wanted = torch.tensor([5 / 8, 4 / 8, 7 / 8, 1.0])
    torch.testing.assert_close(class_weights(MASKS, 4), wanted)
    counts = torch.tensor([[2, 1, 1, 0], [1, 3, 0, 0]])
    torch.testing.assert_close(class_weights(counts, 4), wanted)
    torch.testing.assert_close(class_weights(counts.sum(0), 4), wanted)
    # A mask twice as large does not count twice.
    torch.testing.assert_close(class_weights(torch.tensor([[4, 2, 2, 0], [1, 3, 0, 0]]), 4), wanted)


def test_stronger_weights_follow_rarity() -> None:
    inverse = class_weights(MASKS, 4, "inverse")
    assert inverse[2] / inverse[1] == pytest.approx(4)
    assert inverse[:3].mean() == pytest.approx(1)
    assert inverse[3] == 1
    effective = class_weights(MASKS, 4, "effective")
    wanted = (1 - 0.9999 ** (65536 / 2)) / (1 - 0.9999 ** (65536 / 8))
    assert effective[2] / effective[1] == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(class_weights(MASKS, 4, "none"), torch.ones(4))
    torch.testing.assert_close(class_weights(MASKS, 19, "official"), torch.tensor(OFFICIAL_WEIGHTS))


def test_the_cross_entropy_is_divided_by_the_weights_it_met() -> None:
    logits = torch.zeros(1, 3, 1, 2)
    logits[0, 1, 0, 1] = 2.0
    labels, weights = torch.tensor([[[0, 1]]], dtype=torch.uint8), torch.tensor([0.25, 0.5, 9.0])
    first, second = math.log(3), math.log(2 + math.e**2) - 2
    wanted = (0.25 * first + 0.5 * second) / 0.75
    assert float(weighted_cross_entropy(logits, labels, weights)) == pytest.approx(wanted)
    assert float(weighted_cross_entropy(logits, labels)) == pytest.approx((first + second) / 2)
    assert weighted_cross_entropy(logits.bfloat16(), labels, weights).dtype == torch.float32


def test_the_divergence_of_the_prior_is_zero_and_of_a_constant_known() -> None:
    prior = Posterior(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    assert float(kl_divergence(prior)) == 0
    mu = torch.zeros(2, 3, 4)
    mu[:, 1] = 2.0
    mu[1, 2] = 1.0
    of_variance = 0.5 * (0.25 - 1 - math.log(0.25))
    nats = kl_per_class(Posterior(mu, torch.full((2, 3, 4), math.log(0.25))))
    wanted = 4 * of_variance + torch.tensor([[0.0, 8.0, 0.0], [0.0, 8.0, 2.0]])
    torch.testing.assert_close(nats, wanted)
    assert float(kl_divergence(Posterior(mu, torch.zeros(2, 3, 4)))) == pytest.approx((8 + 10) / 2)


def test_parts_that_say_nothing_are_listed() -> None:
    assert collapsed(torch.tensor([0.1, 3.0, 0.49, 0.5])) == [0, 2]
    assert collapsed(torch.tensor([[0.0, 3.0], [2.0, 0.0]])) == []


def test_the_loss_adds_lambda_times_the_divergence() -> None:
    posterior = Posterior(torch.ones(1, 2, 4), torch.zeros(1, 2, 4))  # 4 nats
    logits, labels = torch.randn(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8)
    terms = SemanticVAELoss(torch.tensor([0.5, 1.0, 1.0]), kl_weight=0.1)(logits, labels, posterior)
    assert float(terms["kl"]) == pytest.approx(4)
    assert float(terms["loss"]) == pytest.approx(float(terms["ce"]) + 0.4)
    warmer = SemanticVAELoss(kl_weight=0.1)(logits, labels, posterior, scale=0.5)
    assert float(warmer["loss"]) == pytest.approx(float(warmer["ce"]) + 0.2)


def test_what_gives_no_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match="eq1, official"):
        class_weights(MASKS, 4, "most")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="19 classes, found 4"):
        class_weights(MASKS, 4, "official")
    with pytest.raises(InputError, match=r"ids 0\.\.1, found 2"):
        class_weights(MASKS, 2)
    with pytest.raises(InputError, match="found \\(2, 3\\)"):
        class_weights(torch.ones(2, 3), 4)
    with pytest.raises(InputError, match="with pixels"):
        class_weights(torch.zeros(2, 4), 4)
