"""RRDB against ESRGAN's, and what the paper adds to it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pellucid.errors import ConfigError
from pellucid.tic.rrdb import RRDB, DenseBlock

GOLDEN = Path(__file__).parent / "golden"
DENSE = {
    f"conv{number}.{leaf}": (channels, 64 + 32 * (number - 1), 3, 3) if leaf == "weight" else (channels,)
    for number, channels in enumerate((32, 32, 32, 32, 64), 1)
    for leaf in ("weight", "bias")
}
WHOLE = {f"RDB{number}.{key}": shape for number in (1, 2, 3) for key, shape in DENSE.items()}


@pytest.mark.parametrize(
    ("file", "network", "published", "parameters"),
    [
        ("esrgan_ResidualDenseBlock5C_nf64_gc32", DenseBlock(64, 32, 5, 0.2, norm=False), DENSE, 239_808),
        ("esrgan_RRDB_nf64_gc32", RRDB(norm=False), WHOLE, 719_424),
    ],
)
def test_without_norms_it_is_the_block_of_esrgan(
    file: str, network: nn.Module, published: dict, parameters: int, weights_of_golden_files: Callable
) -> None:
    network.load_state_dict(weights_of_golden_files(published), strict=True)
    with np.load(GOLDEN / f"{file}.npz") as golden, torch.no_grad():
        found = network(torch.from_numpy(golden["x"]))
        torch.testing.assert_close(found, torch.from_numpy(golden["y"]), rtol=0, atol=1e-5)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_paper_has_a_norm_after_each_convolution() -> None:
    block = RRDB()
    kinds = [type(child) for child in block.get_submodule("RDB2").children()]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d] * 5
    assert sum(parameter.numel() for parameter in block.parameters()) == 720_576


def test_norms_take_part() -> None:
    block = RRDB(4, 2, 1, 2)
    before = block.eval()(torch.ones(1, 4, 8, 8))
    nn.init.constant_(block.get_submodule("RDB1.norm2").bias, 5.0)
    # The bias passes both residuals: 5 beta^2.
    torch.testing.assert_close(block(torch.ones(1, 4, 8, 8)), before + 5 * 0.2**2)


def test_beta_scales_the_blocks_and_the_whole() -> None:
    block = RRDB(4, 2, 2, 2, beta=0.0)
    x = torch.rand(1, 4, 8, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("wrong", ["channels", "growth", "blocks", "convolutions"])
def test_sizes_that_make_no_network_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        RRDB(**{wrong: 0})
