"""PatchGAN against the public one: keys, answers, sizes, and the norm that the colour paper adds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.errors import ConfigError
from pellucid.nn.patch_discriminator import PatchDiscriminator, convert_nlayer_keys

GOLDEN = Path(__file__).parent / "golden/patchgan_in3_ndf64_layers2.npz"


def norm(place: int, channels: int) -> dict[str, tuple[int, ...]]:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"model.{place}.{leaf}": (channels,) for leaf in leaves} | {f"model.{place}.num_batches_tracked": ()}


PUBLISHED = {
    "model.0.weight": (64, 3, 4, 4),
    "model.0.bias": (64,),
    "model.2.weight": (128, 64, 4, 4),
    **norm(3, 128),
    "model.5.weight": (256, 128, 4, 4),
    **norm(6, 256),
    "model.8.weight": (1, 256, 4, 4),
    "model.8.bias": (1,),
}


def size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_published_network_gives_its_golden_answer(weights_of_golden_files: Callable) -> None:
    network = PatchDiscriminator(first_norm=False).eval()
    network.load_state_dict(convert_nlayer_keys(weights_of_golden_files(PUBLISHED)), strict=True)
    with np.load(GOLDEN) as golden, torch.no_grad():
        found = network(torch.from_numpy(golden["x"]))
        torch.testing.assert_close(found, torch.from_numpy(golden["y"]), rtol=0, atol=1e-5)
    assert size(network) == 663_361


def test_a_key_of_something_else_is_left_for_loading_to_name() -> None:
    assert convert_nlayer_keys({"module.0.weight": torch.zeros(1)}).keys() == {"module.0.weight"}


def test_the_paper_has_a_norm_in_the_first_block_too() -> None:
    assert size(PatchDiscriminator()) == 663_361 + 128


@pytest.mark.parametrize(("layers", "answers", "parameters"), [(2, 62, 663_361), (3, 30, 2_765_633)])
def test_answers_a_picture(layers: int, answers: int, parameters: int) -> None:
    with torch.device("meta"):
        network = PatchDiscriminator(layers=layers, first_norm=False)
        assert network(torch.empty(2, 3, 256, 256)).shape == (2, 1, answers, answers)
    assert size(network) == parameters


def test_an_answer_sees_34_pixels() -> None:
    network = PatchDiscriminator(width=2, first_norm=False).eval()
    x = torch.rand(1, 3, 96, 96, requires_grad=True)
    network(x)[0, 0, 11, 11].backward()
    assert x.grad is not None
    seen = x.grad.abs().sum(dim=(0, 1))
    assert int((seen.sum(dim=0) > 0).sum()) == int((seen.sum(dim=1) > 0).sum()) == 34


@pytest.mark.parametrize("wrong", ["in_channels", "width", "layers"])
def test_sizes_that_make_no_network_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        PatchDiscriminator(**{wrong: 0})
