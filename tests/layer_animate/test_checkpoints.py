"""Published parts from local files: the same networks in every form, and bad files told by name."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import MotionAdapter, UNetMotionModel
from safetensors.torch import load_file, save_file
from tests.layer_animate.published import LIKE, Published, publish
from torch import nn

from pellucid.errors import ConfigError, WeightsError
from pellucid.layer_animate.attention.attach import attach_ifa, attach_transparent_attention, ifa_state
from pellucid.layer_animate.attention.processor import FrameContext
from pellucid.layer_animate.model import LayerAnimate
from pellucid.layer_animate.published.checkpoints import Opened, open_components, read_components


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def opened(files: Published) -> Opened:
    return open_components(files.components())


def noise(model: LayerAnimate | UNetMotionModel, context: FrameContext) -> torch.Tensor:
    unet = model.unet if isinstance(model, LayerAnimate) else model
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 4, 3, 4, 4, generator=generator)
    text = torch.randn(3, 5, 16, generator=generator)
    context.num_frames, context.base_index = 3, 1
    with torch.no_grad():
        return unet.eval()(states, 10, text).sample


def test_a_folder_of_parts_is_the_network_they_came_from(files: Published, opened: Opened) -> None:
    context = FrameContext()
    expected = UNetMotionModel.from_unet2d(files.unet, files.adapter)
    attach_transparent_attention(expected, load_file(files.root / "attention.safetensors"), context)
    attach_ifa(expected, context)
    for name, value in ifa_state(expected).items():
        value.data.copy_(files.ifa[name])
    assert torch.allclose(noise(opened.model, opened.model.context), noise(expected, context), atol=1e-6)
    pixels = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        found, wanted = (vae.encode(pixels).latent_dist.mean for vae in (opened.model.vae, files.vae.eval()))
        assert torch.equal(found, wanted)
    assert opened.model.config.scaling_factor == 0.18215
    assert opened.model.config.decoder_widths == LIKE.decoder_widths
    assert opened.conditioner.encode(["a cat", ""]).shape == (2, 32, 16)
    assert opened.weights.startswith("layer_animate/components@")


def test_a_single_file_and_an_original_motion_module_give_the_same(files: Published, opened: Opened) -> None:
    changed = files.components("single.toml", base="sd.safetensors", motion_adapter="mm.ckpt", tokenizer="sd")
    single = open_components(changed, like=LIKE)
    expected, found = opened.model.state_dict(), single.model.state_dict()
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    assert single.conditioner.ids(["a cat"]).equal(opened.conditioner.ids(["a cat"]))


def test_half_precision_and_another_offset_scale_on_request(files: Published) -> None:
    model = open_components(files.components("two.toml", offset_scale=2), dtype=torch.float16).model
    assert {value.dtype for value in model.parameters()} == {torch.float16}
    assert model.config.offset_scale == 2


def test_without_trained_attention_it_begins_as_no_change(files: Published, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        path = files.components("bare.toml", inter_frame_attention=None, transparent_attention=None)
        model = open_components(path).model
    assert "hardly follow" in caplog.text
    assert "no alpha" in caplog.text
    expected = UNetMotionModel.from_unet2d(files.unet, files.adapter)
    assert torch.equal(noise(model, model.context), noise(expected, FrameContext()))


def test_the_offset_scale_goes_by_the_file_when_nothing_says_it(files: Published) -> None:
    (files.root / "ld_diffusers_encoder.safetensors").write_bytes((files.root / "encoder.safetensors").read_bytes())
    guessed = files.components("guess.toml", offset_scale=None, transparency_encoder="ld_diffusers_encoder.safetensors")
    assert open_components(guessed).model.config.offset_scale == 300


def test_an_older_vae_and_a_text_encoder_with_another_prefix_are_read(files: Published, tmp_path: Path) -> None:
    shutil.copytree(files.root / "sd", tmp_path / "sd")
    vae = load_file(tmp_path / "sd/vae/diffusion_pytorch_model.safetensors")
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for key, value in vae.items():
        for new, before in names.items():
            key = key.replace(f"attentions.0{new}", f"attentions.0{before}")
        old[key] = value
    assert old.keys() != vae.keys()
    save_file(old, tmp_path / "sd/vae/diffusion_pytorch_model.safetensors")
    text = load_file(tmp_path / "sd/text_encoder/model.safetensors")
    other = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in text.items()}
    other["text_model.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(other, tmp_path / "sd/text_encoder/model.safetensors")
    model = open_components(files.components("old.toml", base=str(tmp_path / "sd"))).model
    assert same(model.vae, files.vae)
    assert same(model.text, files.text)


def same(found: nn.Module, expected: nn.Module) -> bool:
    state = found.state_dict()
    return all(torch.equal(state[key], value) for key, value in expected.state_dict().items())


def damaged(files: Published, source: str, target: str, change: Any) -> str:
    state = load_file(files.root / source)
    change(state)
    save_file(state, files.root / target)
    return target


def test_missing_extra_and_wrong_keys_are_named(files: Published) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        state["blocks.99.weight"] = state.pop("blocks.2.weight")[:1].clone()

    encoder = damaged(files, "encoder.safetensors", "spoiled.safetensors", spoil)
    with pytest.raises(WeightsError, match=r"missing.*blocks\.") as caught:
        open_components(files.components("spoiled.toml", transparency_encoder=encoder))
    assert "\n" not in str(caught.value)


def test_a_motion_adapter_with_a_key_missing_is_named(files: Published, tmp_path: Path) -> None:
    state = files.adapter.state_dict()
    key = next(key for key in state if key.endswith("attn1.to_q.weight"))
    files.adapter.save_pretrained(tmp_path / "motion")
    save_file({k: v for k, v in state.items() if k != key}, tmp_path / "motion/diffusion_pytorch_model.safetensors")
    with pytest.raises(WeightsError, match=key.replace(".", r"\.")):
        open_components(files.components("spoiled.toml", motion_adapter=str(tmp_path / "motion")))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("base", "motion", "no base model but motion adapter"),
        ("motion_adapter", "encoder.safetensors", "no motion adapter but transparency encoder"),
        ("transparency_encoder", "decoder.safetensors", "no transparency encoder but transparency decoder"),
        ("transparent_attention", "ifa.safetensors", "no attention of LayerDiffuse but Inter-Frame"),
        ("inter_frame_attention", "decoder.safetensors", "do not fit"),
        ("base", "nothing", "is not there"),
    ],
)
def test_one_file_in_the_place_of_another_is_told(files: Published, key: str, value: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        open_components(files.components("swapped.toml", **{key: value}))


def test_a_file_for_sdxl_given_to_sd15_is_told(files: Published) -> None:
    patches = {"diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight::lora::0": torch.zeros(64, 4)}
    patches["diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight::lora::1"] = torch.zeros(4, 64)
    save_file(patches, files.root / "xl.safetensors")
    with pytest.raises(WeightsError, match="SDXL") as caught:
        open_components(files.components("xl.toml", transparent_attention="xl.safetensors"))
    assert "layer_sd15_transparent_attn" in caught.value.hint


def test_an_adapter_of_another_base_is_told(files: Published, tmp_path: Path) -> None:
    MotionAdapter(**(LIKE.motion | {"block_out_channels": (16, 16)})).save_pretrained(tmp_path / "other")
    with pytest.raises(WeightsError, match=r"widths \[16, 16\], the UNet has \[16, 32\]"):
        open_components(files.components("other.toml", motion_adapter=str(tmp_path / "other")))


def test_a_half_written_file_is_told_in_one_line(files: Published) -> None:
    whole = (files.root / "decoder.safetensors").read_bytes()
    (files.root / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="half\\.safetensors is damaged") as caught:
        open_components(files.components("half.toml", transparency_decoder="half.safetensors"))
    assert "\n" not in str(caught.value)
    assert "half written" in caught.value.hint


def test_a_single_file_needs_a_tokenizer(files: Published) -> None:
    with pytest.raises(WeightsError, match="no tokenizer"):
        open_components(files.components("single.toml", base="sd.safetensors"), like=LIKE)


def test_nothing_is_fetched_unless_allowed(files: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def fetch(*names: str, local_files_only: bool, **_: Any) -> str:
        asked.append((names, local_files_only))
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    path = files.components("hub.toml", transparency_decoder="org/name/decoder.safetensors")
    with pytest.raises(WeightsError, match="nor org/name/decoder") as caught:
        open_components(path)
    assert "download = true" in caught.value.hint
    path = files.components("hub.toml", above="download = true", motion_adapter="org/name")
    with pytest.raises(WeightsError):
        open_components(path)
    with pytest.raises(WeightsError):
        open_components(path, download=False)
    assert asked == [(("org/name", "decoder.safetensors"), True), (("org/name",), False), (("org/name",), True)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base = 1", "no table"),
        ('[components]\nbase = "x"', "missing motion_adapter, transparency_encoder, transparency_decoder"),
        ('[components]\nbase = "x"\nbsae = "y"', "unknown bsae"),
    ],
)
def test_a_components_file_that_says_too_little_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_components(tmp_path / "c.toml")


def test_values_of_components_are_checked(files: Published) -> None:
    for changes in ({"base": 1}, {"offset_scale": "1"}, {"offset_scale": 0}, {"offset_scale": True}):
        with pytest.raises(ConfigError, match="must be"):
            read_components(files.components("odd.toml", **changes))
    with pytest.raises(WeightsError, match="no TOML"):
        read_components(files.root / "sd.safetensors")
    with pytest.raises(WeightsError, match="not there"):
        read_components(files.root / "nothing.toml")
