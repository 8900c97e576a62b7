import pytest
import torch

from pellucid.layer_animate.transparency.losses import (
    TransparencyWeights,
    composite_loss,
    gradient_loss,
    transparency_loss,
    vae_loss,
)

NOTHING = TransparencyWeights(alpha=0, colour=0, gradient=0, identity=0, composite=0)


def test_gradients_are_counted_at_every_size_and_not_the_level() -> None:
    truth = torch.zeros(1, 1, 4, 4)
    assert float(gradient_loss(truth + 0.7, truth)) == 0
    step = torch.zeros(1, 1, 4, 4)
    step[..., 2:] = 1
    # Full size: one of three differences across is 1. Half size: one of one. A quarter has no neighbours.
    assert float(gradient_loss(step, truth)) == pytest.approx((1 / 3 + 1) / 2)
    assert float(gradient_loss(step, truth, scales=1)) == pytest.approx(1 / 3)
    assert float(gradient_loss(step[..., :1, :1], truth[..., :1, :1])) == 0


def test_colour_counts_in_a_composite_where_it_is_seen() -> None:
    truth = torch.zeros(1, 4, 2, 2)
    truth[:, 0, 0] = 1  # the upper row is opaque black
    found = truth.clone()
    found[:, 1:] = 0.5
    backdrop = torch.full((1, 3, 1, 1), 0.2)
    assert float(composite_loss(found, truth, backdrop)) == pytest.approx(0.25)  # half of the pixels, off by 0.5
    found = truth.clone()
    found[:, 0] = 0  # a missing alpha shows the backdrop
    assert float(composite_loss(found, truth, backdrop)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("term", "wanted"), [("alpha", 0.25), ("colour", 0.5), ("identity", 0.125), ("gradient", 0.0), ("composite", 0.025)]
)
def test_each_term_is_what_its_name_says(term: str, wanted: float) -> None:
    truth = torch.zeros(1, 4, 4, 4)
    found = truth.clone()
    found[:, 0] = 0.25
    found[:, 1:] = 0.5
    grey = torch.zeros(1, 3, 4, 4)
    weights = TransparencyWeights(**{**vars(NOTHING), term: 2.0})
    terms = transparency_loss(found, truth, grey + 0.125, grey, torch.full((1, 3, 1, 1), 0.4), weights)
    assert float(terms[term]) == pytest.approx(wanted)
    assert float(terms["loss"]) == pytest.approx(2 * wanted)


def test_vae_loss_by_hand() -> None:
    grey = torch.zeros(1, 3, 2, 2)
    mean, logvar = torch.full((1, 4, 1, 1), 2.0), torch.zeros(1, 4, 1, 1)
    terms = vae_loss(grey + 0.5, grey, mean, logvar, square=3.0, gradient=1.0, kl=0.1)
    assert float(terms["kl"]) == pytest.approx(4 * 2.0 / 12)  # four latents of 2 nats, twelve numbers
    assert float(terms["loss"]) == pytest.approx(0.5 + 3 * 0.25 + 0.1 * 8 / 12)
    assert float(vae_loss(grey, grey, 0 * mean, logvar)["loss"]) == 0
