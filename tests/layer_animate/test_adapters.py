"""Adapters of Still-Moving: where they sit, what their scale does, that nothing of the network changes, files."""

from pathlib import Path

import pytest
import torch
from diffusers import UNetMotionModel

from pellucid.errors import ConfigError, WeightsError
from pellucid.layer_animate.baselines.adapters import (
    Adapters,
    adaptable,
    load_adapters,
    make_adapters,
    save_adapters,
)
from pellucid.layer_animate.model import LayerAnimate, build, preset


@pytest.fixture(scope="module")
def model() -> LayerAnimate:
    return build(preset("tiny"), generator_seed=0)


@pytest.fixture(scope="module")
def unet(model: LayerAnimate) -> UNetMotionModel:
    model.context.num_frames, model.context.base_index = 4, 1
    return model.unet


def _run(unet: UNetMotionModel) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    noise = torch.randn(1, 4, 4, 4, 4, generator=random)
    text = torch.randn(1, 5, 16, generator=random).repeat_interleave(4, dim=0)
    return unet(noise, 500, text).sample


def _trained(unet: UNetMotionModel, place: str, rank: int = 4) -> Adapters:
    """Adapters as if trained: ``up`` is not zero."""
    torch.manual_seed(5)
    adapters = make_adapters(unet, place, rank)  # pyright: ignore[reportArgumentType]
    for name, parameter in adapters.named_parameters():
        if name.endswith("up"):
            torch.nn.init.normal_(parameter, std=0.3)
    return adapters


def test_spatial_adapters_sit_in_spatial_transformers_and_motion_adapters_in_temporal_attention(
    unet: UNetMotionModel,
) -> None:
    spatial, motion = adaptable(unet, "spatial"), adaptable(unet, "motion")
    assert not any("motion_modules" in name for name in spatial)
    assert all("motion_modules" in name for name in motion)
    ends = {name.split(".transformer_blocks.0.")[1] for name in spatial}
    heads = {"to_q", "to_k", "to_v", "to_out.0"}
    assert ends == {f"attn{i}.{end}" for i in (1, 2) for end in heads} | {"ff.net.0.proj", "ff.net.2"}
    assert {name.rsplit(".", 1)[1] for name in motion} == {"to_q", "to_k", "to_v"}
    attentions = sum(name.endswith("attn1.to_q") for name in spatial)
    assert len(spatial) == 10 * attentions
    assert len(adaptable(unet, "spatial", feed_forward=False)) == 8 * attentions
    # Every motion module of the network has two attentions, three layers each.
    modules = [name for name, module in unet.named_modules() if type(module).__name__ == "AnimateDiffTransformer3D"]
    assert len(motion) == 6 * len(modules)


@torch.no_grad()
@pytest.mark.parametrize("place", ["spatial", "motion"])
def test_untrained_scaled_to_nothing_or_taken_off_they_leave_the_network_as_it_was(
    unet: UNetMotionModel, place: str
) -> None:
    before, keys = _run(unet), list(unet.state_dict())
    fresh = make_adapters(unet, place, 4)  # pyright: ignore[reportArgumentType]
    fresh.attach(unet)
    assert torch.equal(_run(unet), before)
    fresh.detach()

    adapters = _trained(unet, place)
    adapters.attach(unet)
    assert list(unet.state_dict()) == keys
    changed = _run(unet)
    assert not torch.allclose(changed, before, atol=1e-4)
    with adapters.scaled(0.0):
        assert torch.equal(_run(unet), before)
    steps = []
    for scale in (0.05, -0.05):
        with adapters.scaled(scale):
            steps.append((_run(unet) - before).flatten())
    assert adapters.scale == 1.0
    # Around 0 the effect is nearly linear in the scale: below 0 it goes the other way.
    assert float(torch.cosine_similarity(*steps, dim=0)) < -0.8
    adapters.detach()
    assert torch.equal(_run(unet), before)


@torch.no_grad()
def test_an_adapted_layer_has_the_matrix_w_plus_scale_times_up_down(unet: UNetMotionModel) -> None:
    adapters = _trained(unet, "spatial")
    name = next(name for name in adapters.names if name.endswith("attn1.to_k"))
    layer = unet.get_submodule(name)
    assert isinstance(layer, torch.nn.Linear)
    low_rank = adapters.layers[name.replace(".", "/")]
    states = torch.randn(2, 3, layer.in_features)
    adapters.attach(unet)
    with adapters.scaled(-0.5):
        found = layer(states)
    adapters.detach()
    weight = layer.weight - 0.5 * low_rank.up @ low_rank.down
    torch.testing.assert_close(found, torch.nn.functional.linear(states, weight, layer.bias))


def test_gradients_reach_all_adapters_and_nothing_else(unet: UNetMotionModel) -> None:
    unet.requires_grad_(False)
    sets = {"motion": _trained(unet, "motion"), "spatial": _trained(unet, "spatial")}
    for adapters in sets.values():
        adapters.attach(unet)
    try:
        _run(unet).square().mean().backward()
        for adapters in sets.values():
            assert all(p.grad is not None and bool(p.grad.any()) for p in adapters.parameters())
        assert all(p.grad is None for p in unet.parameters())
    finally:
        for adapters in sets.values():
            adapters.detach()


@torch.no_grad()
def test_a_folder_holds_all_that_was_trained(unet: UNetMotionModel, tmp_path: Path) -> None:
    sets = {"motion": _trained(unet, "motion", 2), "spatial": _trained(unet, "spatial", 3)}
    loaded = load_adapters(save_adapters(tmp_path / "weights", sets, "A card."), unet)
    assert {title: adapters.rank for title, adapters in loaded.items()} == {"motion": 2, "spatial": 3}
    results: list[torch.Tensor] = []
    for some in (sets, loaded):
        for adapters in some.values():
            adapters.attach(unet)
        results.append(_run(unet))
        for adapters in some.values():
            adapters.detach()
    assert torch.equal(*results)


def test_files_of_another_network_and_damaged_ones_are_named(unet: UNetMotionModel, tmp_path: Path) -> None:
    folder = save_adapters(tmp_path / "a", {"motion": make_adapters(unet, "motion", 2)}, "A card.")
    file = folder / "model.safetensors"
    other = build(
        preset(
            "tiny",
            unet=preset("tiny").unet | {"block_out_channels": (8, 32)},
            motion=preset("tiny").motion | {"block_out_channels": (8, 32)},
        ),
        ifa=False,
    ).unet
    with pytest.raises(WeightsError, match=r"wrong-shaped"):
        load_adapters(folder, other)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        load_adapters(file, unet)
    with pytest.raises(WeightsError, match="no adapters: x"):
        load_adapters({"x": torch.zeros(1)}, unet)
    with pytest.raises(WeightsError, match=r"no linear layer nowhere\.to_q"):
        load_adapters({"motion.nowhere.to_q.down": torch.zeros(1, 1)}, unet)


def test_attached_twice_or_to_nothing_is_refused(unet: UNetMotionModel) -> None:
    adapters = make_adapters(unet, "motion", 2)
    adapters.attach(unet)
    with pytest.raises(ConfigError, match="attached already"):
        adapters.attach(unet)
    adapters.detach()
    with pytest.raises(ConfigError, match="no linear layer"):
        adapters.attach(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="no layers for motion adapters"):
        make_adapters(torch.nn.Linear(2, 2), "motion")
