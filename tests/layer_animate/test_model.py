"""The networks together: published layouts, sizes that ship, and one seed, one set of weights."""

import gzip
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from pellucid.errors import ConfigError
from pellucid.hub.pretrained import load_config
from pellucid.layer_animate.model import (
    PRESETS,
    LayerAnimate,
    LayerAnimateConfig,
    build,
    build_unet,
    middle,
    motion_off,
    preset,
)

GOLDEN = Path(__file__).parent / "golden" / "base_manifests.json.gz"


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in module.state_dict().items()}


def count(module: torch.nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def test_sd15_has_the_published_keys_and_shapes() -> None:
    manifests = json.loads(gzip.decompress(GOLDEN.read_bytes()))
    with torch.device("meta"):
        model = build(PRESETS["sd15"], ifa=False)
    assert shapes(model.unet) == manifests["unet_motion_sd15_v2"]
    assert shapes(model.vae) == manifests["sd15_vae_diffusers"]
    text = {key.removeprefix("text_model."): value for key, value in shapes(model.text).items()}
    assert text == manifests["clip_vit_l14_text"]
    assert count(model.encoder) == 1_181_764
    assert count(model.decoder) == 104_104_804


def test_inter_frame_attention_of_sd15_is_as_large_as_stated() -> None:
    with torch.device("meta"):
        model = build(PRESETS["sd15"])
    added = [value.numel() for key, value in model.named_parameters() if "_ifa." in key]
    assert (len(added), sum(added)) == (48, 24_793_280)


def test_the_small_stack_is_as_large_as_planned() -> None:
    with torch.device("meta"):
        model = build(PRESETS["small"])
    millions = {name: round(count(part) / 1e6, 1) for name, part in model.named_children()}
    assert millions == {"vae": 2.2, "encoder": 1.2, "decoder": 3.3, "text": 1.3, "unet": 9.2}
    layers = [key for key in model.state_dict() if key.endswith("to_q_ifa.weight")]
    assert len(layers) == 10


@pytest.mark.parametrize("channels", [8, 16])
def test_latent_channels_are_one_key(channels: int) -> None:
    model = build(preset("tiny", latent_channels=channels))
    with torch.no_grad():
        latents = model.encode(torch.rand(4, 16, 16))
        assert latents.shape == (1, channels, 2, 2)
        assert model.decode(latents).shape == (1, 4, 16, 16)
        with model.base_unet() as unet:
            assert unet(latents[:, :, None], 3, torch.zeros(1, 2, 16)).sample.shape == (1, channels, 1, 2, 2)


def test_one_seed_is_one_set_of_weights_and_the_global_generator_stays() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (build(PRESETS["tiny"], generator_seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.rand(1) == expected
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["unet.conv_in.weight"], other["unet.conv_in.weight"])


def test_all_weights_are_under_five_names(tiny_model: LayerAnimate) -> None:
    assert {key.partition(".")[0] for key in tiny_model.state_dict()} == {"vae", "encoder", "decoder", "text", "unet"}


def test_odd_sizes_come_back(tiny_model: LayerAnimate) -> None:
    latents = tiny_model.encode(torch.rand(2, 4, 21, 34))
    assert latents.shape == (2, 4, 3, 5)
    assert tiny_model.decode(latents, size=(21, 34)).shape == (2, 4, 21, 34)


def test_latents_are_scaled(tiny_model: LayerAnimate) -> None:
    picture = torch.rand(4, 16, 16)
    twice = LayerAnimate(
        replace(tiny_model.config, scaling_factor=2 * tiny_model.config.scaling_factor),
        **{name: getattr(tiny_model, name) for name in ("vae", "encoder", "decoder", "text", "unet")},
    )
    assert torch.allclose(twice.encode(picture), 2 * tiny_model.encode(picture))
    assert torch.allclose(twice.decode(twice.encode(picture)), tiny_model.decode(tiny_model.encode(picture)))


def test_stage_1_keeps_pictures_apart_and_puts_motion_back(tiny_model: LayerAnimate) -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 4, 3, 4, 4, generator=generator)
    text = torch.randn(3, 5, 16, generator=generator)
    changed = states.clone()
    changed[:, :, 2] += 1

    def run(given: torch.Tensor) -> torch.Tensor:
        return tiny_model.unet(given, 7, text).sample[:, :, 0]

    with torch.no_grad(), tiny_model.context.changed(num_frames=3, base_index=0):
        assert not torch.equal(run(states), run(changed))  # motion modules look at other frames
        with motion_off(tiny_model.unet):
            assert torch.equal(run(states), run(changed))
        assert not torch.equal(run(states), run(changed))


def test_stage_1_runs_without_inter_frame_attention() -> None:
    model = build(PRESETS["tiny"], generator_seed=0)
    states, text = torch.randn(1, 4, 1, 4, 4), torch.randn(1, 5, 16)
    with torch.no_grad():
        with model.base_unet() as unet:
            before = unet(states, 7, text).sample
        for key, value in model.unet.named_parameters():
            if "_ifa." in key:
                value.fill_(1.0)
        with model.base_unet() as unet:
            assert torch.equal(unet(states, 7, text).sample, before)
    assert model.context.enabled
    assert model.context.num_frames == 16


def test_a_config_comes_back_from_its_file(tmp_path: Path) -> None:
    for config in PRESETS.values():
        document = {"method": "layer_animate", "format": 1, "config": asdict(config)}
        (tmp_path / "config.json").write_text(json.dumps(document))
        assert load_config(tmp_path, LayerAnimateConfig) == config


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="text vectors of 8 numbers, the text encoder gives 16"):
        preset("tiny", unet=PRESETS["tiny"].unet | {"cross_attention_dim": 8})
    with pytest.raises(ConfigError, match="same widths"):
        preset("tiny", motion=PRESETS["tiny"].motion | {"block_out_channels": (16, 16)})
    with pytest.raises(ConfigError, match="above 0"):
        preset("tiny", scaling_factor=0.0)
    with pytest.raises(ConfigError, match="preset 'huge'"):
        preset("huge")


def test_the_middle_frame_is_the_eighth_of_sixteen() -> None:
    assert [middle(frames) for frames in (1, 2, 3, 16, 33)] == [0, 0, 1, 7, 16]
    assert PRESETS["small"].base_index == 7


def test_a_unet_alone_has_no_inter_frame_attention() -> None:
    assert not any("_ifa." in key for key in build_unet(PRESETS["tiny"]).state_dict())
