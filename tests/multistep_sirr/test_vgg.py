"""Features for the perceptual term: VGG19 by its published keys, and the filter bank that stands in for it."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from pellucid.errors import ConfigError, WeightsError
from pellucid.nn.filter_bank import FilterBankFeatures
from pellucid.nn.vgg import CONVOLUTIONS, VGG19Features

Shapes = dict[str, list[int]]
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state(reference_shapes: Callable[[str], Shapes], deterministic_weights: Callable[[Shapes], State]) -> State:
    shapes = reference_shapes("vgg19_features")
    return deterministic_weights({key: shape for key, shape in shapes.items() if int(key.split(".")[1]) <= 21})


def test_keys_and_shapes_are_the_published_ones(reference_shapes: Callable[[str], Shapes]) -> None:
    shapes = reference_shapes("vgg19_features")
    whole = VGG19Features({key: torch.zeros(shape) for key, shape in shapes.items()}, layers=("conv5_4",))
    ours = {key: list(value.shape) for key, value in whole.state_dict().items()}
    assert list(ours.items()) == list(shapes.items())
    assert sum(p.numel() for p in whole.parameters()) == 20_024_384


def test_layer_names_are_at_torchvisions_places() -> None:
    places = {name: entry[0] for name, entry in CONVOLUTIONS.items()}
    assert [places[n] for n in ("conv1_1", "conv1_2", "conv2_1", "conv3_4", "conv4_1", "conv5_4")] == [
        0,
        2,
        5,
        16,
        19,
        34,
    ]


def test_features_are_those_of_the_plain_sequence(state: State) -> None:
    pictures = torch.rand(2, 3, 40, 33, generator=torch.Generator().manual_seed(0))
    x = (pictures - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    before, after = {}, {}
    for place in (0, 2, "pool", 5, 7, "pool", 10, 12, 14, 16, "pool", 19):
        if place == "pool":
            x = F.max_pool2d(x, 2)
            continue
        x = F.conv2d(x, state[f"features.{place}.weight"], state[f"features.{place}.bias"], padding=1)
        before[place] = x
        x = after[place] = F.relu(x)
    for post_relu, expected in ((False, before), (True, after)):
        found = VGG19Features(state, ("conv4_1", "conv1_1"), post_relu)(pictures)
        assert torch.allclose(found[0], expected[19], atol=1e-5)
        assert torch.allclose(found[1], expected[0], atol=1e-5)
    assert found[0].shape == (2, 512, 5, 4)
    assert bool((before[0] < 0).any())


def test_it_stops_at_the_deepest_layer_and_ignores_the_rest(state: State) -> None:
    vgg = VGG19Features({**state, "classifier.0.weight": torch.zeros(1)}, layers=("conv1_1", "conv2_1"))
    assert list(vgg.state_dict()) == [f"features.{i}.{kind}" for i in (0, 2, 5) for kind in ("weight", "bias")]


def test_it_is_frozen_but_lets_the_gradient_through(state: State) -> None:
    vgg = VGG19Features(state)
    assert not any(parameter.requires_grad for parameter in vgg.parameters())
    picture = torch.rand(1, 3, 16, 16, requires_grad=True)
    torch.stack([f.mean() for f in vgg(picture)]).sum().backward()
    assert picture.grad is not None
    assert bool((picture.grad != 0).any())


def test_missing_weights_and_unknown_layers_are_named(state: State) -> None:
    with pytest.raises(WeightsError, match=r"features\.19\.weight is missing"):
        VGG19Features({key: value for key, value in state.items() if key != "features.19.weight"})
    with pytest.raises(WeightsError, match=r"features\.0\.weight expected \(64, 3, 3, 3\), found \(64, 1, 3, 3\)"):
        VGG19Features({**state, "features.0.weight": torch.zeros(64, 1, 3, 3)})
    with pytest.raises(ConfigError, match="relu1_1"):
        VGG19Features(state, layers=("relu1_1",))


def test_filter_bank_shapes_of_any_size() -> None:
    bank = FilterBankFeatures()
    assert [tuple(f.shape) for f in bank(torch.rand(2, 3, 33, 20))] == [(2, 36, 33, 20), (2, 36, 17, 10), (2, 36, 9, 5)]
    assert [tuple(f.shape) for f in bank(torch.rand(1, 3, 1, 1))] == [(1, 36, 1, 1)] * 3
    assert bank.state_dict() == {}


def test_filter_bank_sees_nothing_but_the_level_of_a_flat_picture() -> None:
    for response in FilterBankFeatures()(torch.full((1, 3, 24, 24), 0.7)):
        colours = response.reshape(3, 12, -1)
        assert torch.allclose(colours[:, 0], torch.tensor(0.7), atol=1e-6)
        assert colours[:, 1:].abs().max() < 1e-5


def test_filter_bank_differences_keep_colours_apart() -> None:
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    response = FilterBankFeatures(1)(picture)[0].reshape(3, 12, 16, 16)
    assert torch.allclose(response[:, 0], picture[0])
    assert torch.allclose(response[:, 1, :, :-1], picture[0].diff(dim=-1), atol=1e-6)
    assert torch.allclose(response[:, 2, :-1], picture[0].diff(dim=-2), atol=1e-6)


def test_gabor_filters_know_their_direction() -> None:
    stripes = (torch.arange(48) % 6 < 3).float().expand(48, 48)  # vertical stripes, 6 pixels apart
    for picture, strongest in ((stripes, 8), (stripes.T, 10)):
        response = FilterBankFeatures(1)(picture.expand(1, 3, -1, -1))[0].reshape(3, 12, 48, 48)
        assert response[0, 4:, 8:-8, 8:-8].abs().mean(dim=(1, 2)).argmax() + 4 == strongest
