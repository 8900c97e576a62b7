"""SEAN: the published layout, the loops over pictures and classes that the axes replace, and the golden picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.semantic_vae.faces.network_generators import build_network
from pellucid.semantic_vae.faces.sean import ACE, SEANGenerator, StyleEncoder, draw_noise
from pellucid.semantic_vae.faces.spade import FaceNetworkConfig, MaskPyramid, one_hot

from .seeded_weights import seeded_noise, seeded_weights
from .test_spade import small_labels

REFERENCE = Path(__file__).parent / "reference"
SMALL = FaceNetworkConfig("sean", classes=5, width=2, hidden=4, style=6, size=32)


def seeded(module: torch.nn.Module) -> torch.nn.Module:
    module.load_state_dict(seeded_weights({key: value.shape for key, value in module.state_dict().items()}))
    return module.eval()


def test_the_layout_is_the_published_one() -> None:
    published = json.loads((REFERENCE / "sean_generator.json").read_text())
    with torch.device("meta"):
        network = SEANGenerator(FaceNetworkConfig("sean"))
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == published
    assert sum(parameter.numel() for parameter in network.parameters()) == 266_907_367


def by_loops(ace: ACE, x: Tensor, planes: Tensor, codes: Tensor, noise: Tensor) -> Tensor:
    """ACE as the paper tells it: every class of every picture paints its value, then the map is convolved."""
    x = ace.param_free_norm(x + (noise * ace.noise_var).transpose(1, 3))
    painted = torch.zeros(len(x), codes.shape[2], *x.shape[2:])
    for picture in range(len(x)):
        for place in range(codes.shape[1]):
            value = F.relu(ace.get_submodule(f"fc_mu{place}")(codes[picture, place]))
            painted[picture, :, planes[picture, place].bool()] = value[:, None]
    shared = ace.Spade.mlp_shared(planes)
    s_g, s_b = torch.sigmoid(ace.blending_gamma), torch.sigmoid(ace.blending_beta)
    gamma = s_g * ace.conv_gamma(painted) + (1 - s_g) * ace.Spade.mlp_gamma(shared)
    beta = s_b * ace.conv_beta(painted) + (1 - s_b) * ace.Spade.mlp_beta(shared)
    return x * (1 + gamma) + beta


def test_axes_do_what_loops_did() -> None:
    ace = seeded(ACE(7, SMALL, styled=True))
    labels = small_labels(3)[:, ::2, ::2]
    labels[1] = labels[1].clamp(max=3)  # class 4 is missing in one picture
    planes = one_hot(labels, 5)
    x, codes = seeded_noise("x", (3, 7, 16, 16)), seeded_noise("codes", (3, 5, 6))
    noise = seeded_noise("noise", (3, 16, 16, 1))
    with torch.no_grad():
        expected = by_loops(ace, x, planes, codes, noise)
        found = ace(x, MaskPyramid(planes), codes, noise)
        without = ace(x, MaskPyramid(planes), codes, None)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (without - found).abs().max() > 0.01


def test_gradients_reach_codes_and_every_style_layer() -> None:
    network = seeded(SEANGenerator(SMALL)).train()
    picture = torch.rand(2, 3, 32, 32) * 2 - 1
    planes = one_hot(small_labels(), 5)
    network(planes, picture).square().mean().backward()
    idle = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    # Without noise its strength has no gradient; the last block has no style to blend.
    assert {name for name in idle if "noise_var" not in name and "up_3" not in name} == set()
    assert network.Zencoder.model[1].weight.grad.abs().sum() > 0


def test_codes_are_means_over_classes() -> None:
    encoder = seeded(StyleEncoder(6))
    labels = small_labels(1)
    labels[labels == 2] = 0
    picture = seeded_noise("picture", (1, 3, 32, 32)).clamp(-1, 1)
    with torch.no_grad():
        codes = encoder(picture, MaskPyramid(one_hot(labels, 5)))
        features = encoder.model(picture)[0]  # at half the size
    small = labels[0, ::2, ::2]
    torch.testing.assert_close(codes[0, 3], features[:, small == 3].mean(1), atol=1e-6, rtol=0)
    assert codes[0, 2].abs().max() == 0  # not in the picture


def test_noise_follows_from_its_generator() -> None:
    one, two = (draw_noise((64, 32), torch.Generator().manual_seed(5), count=2) for _ in range(2))
    assert len(one) == 18
    assert one["head_0.ace_0"].shape == (2, 1, 2, 1)  # (B, w, h, 1)
    assert one["up_3.ace_s"].shape == (2, 32, 64, 1)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["G_middle_0.ace_0"], one["G_middle_1.ace_0"])


@pytest.mark.slow  # makes 267 million weights
def test_the_golden_picture() -> None:
    golden = np.load(REFERENCE / "sean_golden_0.npz")
    shapes = json.loads((REFERENCE / "sean_generator.json").read_text())
    network = build_network(FaceNetworkConfig("sean"), seeded_weights(shapes))
    assert isinstance(network, SEANGenerator)
    planes = one_hot(torch.from_numpy(golden["mask"])[None], 19)
    picture = torch.from_numpy(golden["rgb"]).permute(2, 0, 1)[None].float() / 127.5 - 1
    drawn = draw_noise((256, 256), torch.Generator())
    noise = {name: seeded_noise(f"noise:{name}", tuple(plane.shape)) for name, plane in drawn.items()}
    with torch.inference_mode():
        codes = network.encode(picture, planes)
        quiet, noisy = network(planes, codes), network(planes, codes, noise)
    assert np.abs(codes[0, :, ::8].numpy() - golden["style_codes_every8"]).max() < 1e-4
    assert np.abs(quiet[0, :, ::4, ::4].numpy() - golden["out_slice"]).max() < 1e-4
    assert np.abs(noisy[0, :, ::4, ::4].numpy() - golden["noise_out_slice"]).max() < 1e-4
