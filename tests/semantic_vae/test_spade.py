"""SPADE: the published layout, one value by hand, spectral norm, and the golden picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.errors import ConfigError
from pellucid.semantic_vae.faces.network_generators import build_network
from pellucid.semantic_vae.faces.spade import (
    SPADE,
    FaceNetworkConfig,
    MaskPyramid,
    SPADEGenerator,
    draw_weights,
    first_size,
    fold_spectral,
    one_hot,
    settle_spectral,
)

from .seeded_weights import seeded_weights

REFERENCE = Path(__file__).parent / "reference"
SMALL = FaceNetworkConfig("spade", classes=5, width=2, hidden=4, size=32)


def small_labels(count: int = 2, side: int = 32, classes: int = 5) -> torch.Tensor:
    coarse = torch.randint(classes, (count, 4, 4), generator=torch.Generator().manual_seed(3))
    return coarse.repeat_interleave(side // 4, 1).repeat_interleave(side // 4, 2).to(torch.uint8)


def test_the_layout_is_the_published_one() -> None:
    published = json.loads((REFERENCE / "spade_generator.json").read_text())
    with torch.device("meta"):
        network = SPADEGenerator(FaceNetworkConfig("spade"))
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == published
    assert sum(parameter.numel() for parameter in network.parameters()) == 92_538_819


def test_one_value_by_hand() -> None:
    norm = SPADE(1, 2, 3).eval()
    norm.param_free_norm.running_mean.fill_(2.0)
    norm.param_free_norm.running_var.fill_(4.0 - 1e-5)
    with torch.no_grad():
        for layer in (norm.mlp_shared[0], norm.mlp_gamma, norm.mlp_beta):
            layer.weight.zero_()
            layer.bias.zero_()
        norm.mlp_shared[0].weight[0, 1, 1, 1] = 1.0  # the first hidden plane is class 1 itself
        norm.mlp_gamma.weight[0, 0, 1, 1] = 0.5
        norm.mlp_beta.bias.fill_(-1.0)
        mask = MaskPyramid(one_hot(torch.tensor([[[0, 1]]], dtype=torch.uint8), 2))
        out = norm(torch.full((1, 1, 1, 2), 6.0), mask)
    # (6 - 2) / 2 = 2; where class 1 is, times 1.5; minus 1.
    assert out.flatten().tolist() == pytest.approx([1.0, 2.0])


def test_a_mask_shrinks_to_the_pixel_that_torch_takes() -> None:
    labels = torch.arange(4, dtype=torch.uint8).repeat(4, 1)[None]
    small = MaskPyramid(one_hot(labels, 4)).at((2, 2)).argmax(1)
    assert small[0].tolist() == [[0, 2], [0, 2]]  # even columns; Pillow's rule would take 1 and 3


def test_folded_weights_render_the_same() -> None:
    torch.manual_seed(0)
    network = SPADEGenerator(SMALL)
    draw_weights(network, 1.0)
    planes = one_hot(small_labels(), 5)
    with torch.no_grad():
        network(planes)  # in training: moves the statistics and the spectral vectors
        expected = network.eval()(planes)
        folded = build_network(SMALL, network.state_dict())(planes)
    assert expected.std() > 0.01
    torch.testing.assert_close(folded, expected, atol=1e-5, rtol=0)


def test_settled_vectors_give_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 3, 2, 2)
    # Vectors as an average leaves them: too short, and not singular.
    state = {"a.weight_orig": weight, "a.weight_u": torch.ones(6) / 9, "a.weight_v": torch.ones(12) / 9}
    folded = fold_spectral(settle_spectral(state, iterations=200))
    assert set(folded) == {"a.weight"}
    assert float(torch.linalg.matrix_norm(folded["a.weight"].flatten(1), 2)) == pytest.approx(1.0, abs=1e-4)


def test_what_is_no_class_has_no_plane() -> None:
    planes = one_hot(torch.tensor([[[1, 255]]], dtype=torch.uint8), 3)
    assert planes[0, :, 0].T.tolist() == [[0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("values", [{"layout": "pix2pix"}, {"width": 0}, {"size": 100}])
def test_sizes_that_make_no_network(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(values.values())))):
        FaceNetworkConfig(**values)  # type: ignore[arg-type]


def test_a_side_that_is_no_multiple_of_32() -> None:
    with pytest.raises(ConfigError, match="found 64x40"):
        first_size(torch.zeros(1, 3, 64, 40))


@pytest.mark.slow  # makes 92 million weights
def test_the_golden_picture() -> None:
    golden = np.load(REFERENCE / "spade_golden_0.npz")
    shapes = json.loads((REFERENCE / "spade_generator.json").read_text())
    network = build_network(FaceNetworkConfig("spade"), seeded_weights(shapes))
    found: dict[str, torch.Tensor] = {}
    for name in ("head_0", "up_0", "up_3"):
        network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: found.update({name: out}))
    with torch.inference_mode():
        out = network(one_hot(torch.from_numpy(golden["mask"])[None], 19))
    assert np.abs(out[0, :, ::4, ::4].numpy() - golden["out_slice"]).max() < 1e-4
    for name, features in found.items():
        assert np.abs(features.mean((2, 3)).numpy() - golden[f"{name}_mean"]).max() < 1e-4
        assert np.abs(features.std((2, 3)).numpy() - golden[f"{name}_std"]).max() < 1e-4
