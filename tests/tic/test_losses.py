"""Eq. 1-4 against values worked out by hand, and gradients that stay finite."""

import math

import pytest
import torch
from kornia.color import rgb_to_lab
from torch import Tensor

from pellucid.errors import ConfigError
from pellucid.nn.vgg import CONVOLUTIONS
from pellucid.tic import losses


def itself(picture: Tensor) -> list[Tensor]:
    """Features that are the picture, so that Eq. 3 can be worked out."""
    return [picture]


def as_inputs(rgb: Tensor) -> tuple[Tensor, Tensor]:
    lab = rgb_to_lab(rgb)
    return lab[:, :1] / 50 - 1, lab[:, 1:] / 110


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    L_n, ab_hat, ab = (torch.rand(2, c, 4, 4, generator=generator) - 0.5 for c in (1, 2, 2))
    return L_n, ab_hat, ab, torch.randn(2, 1, 3, 3, generator=generator)


def test_eq_1_is_a_mean_in_either_unit() -> None:
    ab_hat, ab = torch.tensor([0.5, 0.0]).reshape(1, 2, 1, 1), torch.tensor([0.1, -0.2]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(losses.l1_loss(ab_hat, ab), torch.tensor(0.3))
    torch.testing.assert_close(losses.l1_loss(ab_hat, ab, "lab"), torch.tensor(33.0))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_eq_2_of_the_generator() -> None:
    logits = torch.tensor([[0.0, 2.0], [1.0, -3.0]]).reshape(2, 1, 1, 2)
    patches = sum(softplus(-x) for x in (0, 2, 1, -3)) / 4
    pictures = (softplus(-1) + softplus(1)) / 2  # means 1 and -1
    torch.testing.assert_close(losses.generator_gan_loss(logits), torch.tensor(patches))
    torch.testing.assert_close(losses.generator_gan_loss(logits, "mean_then_bce"), torch.tensor(pictures))


def test_eq_2_of_the_discriminator_has_no_half() -> None:
    undecided = torch.zeros(1, 1, 2, 2)
    torch.testing.assert_close(losses.discriminator_loss(undecided, undecided), torch.tensor(2 * math.log(2)))
    real, fake = torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), -1.0)
    for reduce in ("patch", "mean_then_bce"):
        found = losses.discriminator_loss(real, fake, reduce)  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.tensor(softplus(-3) + softplus(-1)))


def test_eq_3_compares_srgb_pictures_of_the_same_luminance() -> None:
    rgb, other = torch.rand(2, 2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    L_n, ab = as_inputs(rgb)
    _, ab_hat = as_inputs(other)
    seen: list[Tensor] = []
    losses.perceptual_loss(lambda picture: seen.append(picture) or [picture], L_n, ab_hat, ab)
    torch.testing.assert_close(seen[0], rgb, rtol=0, atol=1e-4)
    torch.testing.assert_close(rgb_to_lab(rgb)[:, :1], 50 * (L_n + 1), rtol=0, atol=1e-3)
    found = losses.perceptual_loss(itself, L_n, ab_hat, ab)
    torch.testing.assert_close(found, (seen[0] - seen[1]).abs().mean())
    assert losses.perceptual_loss(itself, L_n, ab, ab) == 0


def test_eq_3_may_stack_the_normalised_channels() -> None:
    L_n, ab_hat, ab = torch.full((1, 1, 2, 2), -1.0), torch.full((1, 2, 2, 2), 0.5), torch.full((1, 2, 2, 2), 0.1)
    seen: list[Tensor] = []
    found = losses.perceptual_loss(lambda picture: seen.append(picture) or [picture], L_n, ab_hat, ab, "labn")
    torch.testing.assert_close(seen[1][0, :, 0, 0], torch.tensor([0.0, 0.75, 0.75]))
    torch.testing.assert_close(found, torch.tensor(0.4 / 2 * 2 / 3))


def test_vgg_sees_colours_brighter_than_white_but_none_below_black() -> None:
    L_n, ab = torch.zeros(1, 1, 1, 2), torch.tensor([1.0, -1.0]).expand(1, 2, 1, 2)
    seen: list[Tensor] = []
    losses.perceptual_loss(lambda picture: seen.append(picture) or [picture], L_n, ab, ab)
    assert seen[0].max() > 1.1
    assert 0 < seen[0].min() < 1e-4


def test_other_scales_mean_the_same_colours() -> None:
    L_n, ab_hat, ab, _ = inputs()
    ours = losses.ColorizationLoss(itself, units="lab")(L_n, ab_hat, ab)
    scales = losses.Scales(l_centre=0, l_scale=100, ab_scale=55)
    theirs = losses.ColorizationLoss(itself, units="lab", scales=scales)((L_n + 1) / 2, 2 * ab_hat, 2 * ab)
    for name, term in ours.items():
        torch.testing.assert_close(theirs[name], term)


def test_gradients_are_finite_at_black_at_white_and_far_outside_of_srgb() -> None:
    L_n = torch.tensor([-1.0, -0.99, 0.0, 0.999, 1.0, 1.0]).reshape(1, 1, 1, 6)
    ab_hat = torch.tensor([0.0, 0.9, -1.0, 1.0, 0.0, -1.0]).expand(1, 2, 1, 6).clone().requires_grad_()
    losses.perceptual_loss(itself, L_n, ab_hat, torch.zeros(1, 2, 1, 6)).backward()
    assert ab_hat.grad is not None
    assert ab_hat.grad.isfinite().all()
    assert (ab_hat.grad[..., 3].abs() > 0).all()


def test_vgg_layers_by_their_usual_names() -> None:
    shapes = {f"features.{place}": (c_out, c_in) for place, c_in, c_out in CONVOLUTIONS.values() if place <= 25}
    state = {f"{key}.weight": torch.zeros(*shape, 3, 3) for key, shape in shapes.items()}
    state |= {f"{key}.bias": torch.full(shape[:1], -1.0) for key, shape in shapes.items()}
    for layer, side in (("relu4_1", 4), ("relu2_2", 16), ("relu4_4", 4)):
        features = losses.vgg_features(state, layer)  # type: ignore[arg-type]
        (found,) = features(torch.rand(1, 3, 32, 32))
        assert found.shape[-1] == side
        assert found.max() == 0  # -1 before its ReLU
    with pytest.raises(ConfigError, match="'relu4'"):
        losses.vgg_features(state, "relu4")  # type: ignore[arg-type]


def test_eq_4_weighs_and_names_its_terms() -> None:
    L_n, ab_hat, ab, logits = inputs()
    loss = losses.ColorizationLoss(itself, 0.1, 2.0, 10.0, units="lab", reduce="mean_then_bce", colours="labn")
    terms = loss(L_n, ab_hat, ab, logits)
    assert terms.keys() == {"l1", "perceptual", "gan"}
    torch.testing.assert_close(terms["l1"], 10 * losses.l1_loss(ab_hat, ab, "lab"))
    torch.testing.assert_close(terms["perceptual"], 2 * losses.perceptual_loss(itself, L_n, ab_hat, ab, "labn"))
    torch.testing.assert_close(terms["gan"], 0.1 * losses.generator_gan_loss(logits, "mean_then_bce"))


def test_terms_that_are_off_are_not_there() -> None:
    L_n, ab_hat, ab, logits = inputs()
    assert losses.ColorizationLoss(None, 0.0, 0.0)(L_n, ab_hat, ab, logits).keys() == {"l1"}
    assert losses.ColorizationLoss(itself)(L_n, ab_hat, ab).keys() == {"l1", "perceptual"}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({}, "VGG19 weights"),
        ({"lambda_perceptual": 0, "lambda_l1": -1.0}, "lambda_l1"),
        ({"lambda_perceptual": 0, "units": "mm"}, "'mm'"),
        ({"lambda_perceptual": 0, "reduce": "sum"}, "'sum'"),
        ({"lambda_perceptual": 0, "colours": "hsv"}, "'hsv'"),
    ],
)
def test_a_loss_that_cannot_be_meant_is_refused(wrong: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        losses.ColorizationLoss(**wrong)
