"""The two U-Nets against the published pair: layout, and outputs from weights that follow from the key names."""

from collections.abc import Callable

import pytest
import torch

from pellucid.multistep_sirr.model import ReflectionPair, ReflectionPairConfig, convert_flashrr_keys

Shapes = dict[str, list[int]]
State = dict[str, torch.Tensor]

VARIANTS = {
    "sirr_pair_plain": (ReflectionPairConfig(width=32, final="leaky"), 17_242_790),
    "sirr_pair_se": (ReflectionPairConfig(width=32, se=True, final="leaky"), 22_487_718),
    "sirr_pair_plain_h8": (ReflectionPairConfig(width=8, final="leaky"), 1_079_342),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_published_key_has_its_place(name: str, reference_shapes: Callable[[str], Shapes]) -> None:
    config, count = VARIANTS[name]
    with torch.device("meta"):
        pair = ReflectionPair(config)
    published = {key: torch.empty(shape, device="meta") for key, shape in reference_shapes(name).items()}
    converted = {key: tuple(value.shape) for key, value in convert_flashrr_keys(published).items()}
    assert converted == {key: tuple(value.shape) for key, value in pair.state_dict().items()}
    assert len(converted) == len(published)
    assert sum(parameter.numel() for parameter in pair.parameters()) == count


@pytest.mark.parametrize("name", ["sirr_pair_plain", "sirr_pair_se"])
def test_golden_outputs(
    name: str,
    reference_shapes: Callable[[str], Shapes],
    deterministic_weights: Callable[[Shapes], State],
    reference_arrays: Callable[[str], State],
) -> None:
    pair = ReflectionPair(VARIANTS[name][0]).eval()
    pair.load_state_dict(convert_flashrr_keys(deterministic_weights(reference_shapes(name))), strict=True)
    golden = reference_arrays(name)
    with torch.no_grad():
        transmission, reflection = pair(golden["ambient"], golden["ranged_depth"])
    for found, expected in ((reflection, golden["reflection"]), (transmission, golden["transmission"])):
        assert (found - expected).abs().max() / expected.abs().max() < 1e-5
