"""The ranged depth map against the vectors of its definition, and what the vectors do not show."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.errors import ConfigError, InputError
from pellucid.multistep_sirr.ranged_depth import RangedDepthMap

VECTORS = Path(__file__).parents[1] / "reference" / "reflection" / "ranged_depth_vectors.json"
CASES = json.loads(VECTORS.read_text())["cases"]


def row(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1)


def test_all_vectors_are_there() -> None:
    assert len(CASES) == 60


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['name']}-{c['K']}-{c['mode']}")
def test_vectors_exactly(case: dict) -> None:
    depth = row(case["depth"])
    assert RangedDepthMap(case["K"], case["mode"]).indices(depth).flatten().tolist() == case["index"]
    scalar = RangedDepthMap(case["K"], case["mode"])(depth)
    assert scalar.dtype == torch.float32
    np.testing.assert_allclose(scalar.flatten().numpy(), case["scalar"], atol=6e-7)  # written with six digits
    np.testing.assert_array_equal(scalar.flatten().numpy(), np.float32(case["index"]) / np.float32(case["K"] - 1))


def test_each_picture_has_its_own_extremes() -> None:
    depth = torch.cat([row([0.0, 1.0, 2.0, 3.0]), row([100.0, 300.0, 200.0, 400.0])])
    assert RangedDepthMap(4).indices(depth).squeeze().tolist() == [[0, 1, 2, 3], [0, 2, 1, 3]]


def test_onehot_shows_the_index() -> None:
    depth = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    ranged = RangedDepthMap(3, encoding="onehot")
    encoded = ranged(depth)
    assert encoded.shape == (2, 3, 5, 7)
    assert ranged.channels == 3
    assert torch.equal(encoded.argmax(dim=1, keepdim=True), ranged.indices(depth))
    assert torch.equal(encoded.sum(dim=1), torch.ones(2, 5, 7))


def test_continuous_is_depth_between_its_extremes() -> None:
    encoded = RangedDepthMap(encoding="continuous")(row([-4.0, -1.0, 0.0, 4.0]))
    assert encoded.flatten().tolist() == [0.0, 0.375, 0.5, 1.0]
    assert RangedDepthMap(encoding="continuous")(row([2.0, 2.0])).tolist() == [[[[0.0, 0.0]]]]


@pytest.mark.parametrize("mode", ["uniform", "quantile"])
def test_a_flat_picture_is_all_far_beside_one_that_is_not(mode: str) -> None:
    depth = torch.cat([row([7.0, 7.0, 7.0, 7.0]), row([0.0, 1.0, 2.0, 3.0])])
    index = RangedDepthMap(4, mode).indices(depth)  # type: ignore[arg-type]
    assert index.squeeze().tolist() == [[0, 0, 0, 0], [0, 1, 2, 3]]


def test_robust_ignores_a_wild_pixel() -> None:
    depth = torch.linspace(0, 1, 1000).reshape(1, 1, 20, 50).clone()
    depth[..., -1, -1] = 1e6
    assert RangedDepthMap(4).indices(depth).float().mean() < 0.01
    shares = RangedDepthMap(4, robust=True).indices(depth).flatten().bincount() / 1000
    assert torch.allclose(shares, torch.full((4,), 0.25), atol=0.02)


def test_quantiles_agree_with_numpy_on_many_values() -> None:
    depth = torch.rand(2, 1, 61, 83, generator=torch.Generator().manual_seed(1))
    index = RangedDepthMap(5, "quantile").indices(depth)
    for b in range(2):
        edges = np.quantile(depth[b].numpy(), np.arange(1, 5) / 5)
        expected = np.searchsorted(edges, depth[b].numpy().ravel().astype(np.float64), side="right")
        assert (index[b].numpy().ravel() != expected).mean() < 1e-3  # a value on an edge may round either way


def test_no_gradient_flows() -> None:
    depth = torch.rand(1, 1, 4, 4, requires_grad=True)
    for encoding in ("scalar", "onehot", "continuous"):
        assert not RangedDepthMap(encoding=encoding)(depth).requires_grad  # type: ignore[arg-type]


def test_bad_options_and_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2 ranges, found 1"):
        RangedDepthMap(1)
    with pytest.raises(ConfigError, match="mode 'even'"):
        RangedDepthMap(mode="even")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="encoding 'rgb'"):
        RangedDepthMap(encoding="rgb")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\(B, 1, H, W\), found \(1, 3, 4, 4\)"):
        RangedDepthMap()(torch.rand(1, 3, 4, 4))
