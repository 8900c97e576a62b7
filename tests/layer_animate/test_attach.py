"""What is attached where, which keys it has, and how Inter-Frame Attention is kept in a file."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.layer_animate.attention import attach
from pellucid.layer_animate.attention.attach import IFA_FILE, attach_ifa, attach_transparent_attention, ifa_state
from pellucid.layer_animate.attention.processor import FrameContext, projections
from pellucid.layer_animate.attention.sharing import SharingUnit
from pellucid.layer_animate.attention.spatial import context_of, spatial_attentions, spatial_processors
from pellucid.layer_animate.model import build_unet, preset

MANIFESTS = json.loads(gzip.decompress((Path(__file__).parent / "golden" / "attention_manifests.json.gz").read_bytes()))
RANK = 4
FACTS = {"base": "sd15", "frames": 16, "base_index": 7, "scale": 1.0, "motion_adapter": "v1-5-2", "offset_scale": 1.0}


@pytest.fixture(scope="module")
def sd15() -> UNetMotionModel:
    with torch.device("meta"):
        return build_unet(preset("sd15"))


@pytest.fixture(scope="module")
def made() -> UNetMotionModel:
    torch.manual_seed(0)
    return build_unet(preset("tiny")).eval()


@pytest.fixture
def unet(made: UNetMotionModel) -> Iterator[UNetMotionModel]:
    before = {key: value.clone() for key, value in made.state_dict().items()}
    yield made
    for processor in spatial_processors(made).values():
        processor.unit = None
    attach.detach(made)
    made.load_state_dict(before)


def run(unet: UNetMotionModel, frames: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    latents, text = torch.randn(1, 4, frames, 8, 8, generator=draw), torch.randn(1, 5, 16, generator=draw)
    with torch.no_grad():
        return unet(latents, 500, encoder_hidden_states=text.repeat_interleave(frames, 0)).sample


def units_file(unet: UNetMotionModel, count: int = 1) -> dict[str, Tensor]:
    """A file as LayerDiffuse's for SD1.5, of the size of this network."""
    torch.manual_seed(2)
    state: dict[str, Tensor] = {}
    for i, attn in enumerate(spatial_attentions(unet, None).values()):
        layers = projections(attn)
        unit = SharingUnit(layers["to_q"].in_features, layers["to_k"].in_features, RANK, count)
        state |= {f"hookers.layers.{i}.{key}": value for key, value in unit.state_dict().items()}
    return state


def shapes(state: dict[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in state.items()}


def test_inter_frame_attention_of_sd15_has_the_manifests_keys(sd15: UNetMotionModel) -> None:
    names = attach_ifa(sd15, FrameContext())
    assert len(names) == 16
    assert shapes(ifa_state(sd15)) == MANIFESTS["ifa"]
    assert list(ifa_state(sd15)) == list(MANIFESTS["ifa"])
    assert {key for key in sd15.state_dict() if "_ifa." in key} == set(MANIFESTS["ifa"])
    assert sum(value.numel() for value in attach.ifa_parameters(sd15)) == 24_793_280
    attach.detach(sd15)


@pytest.mark.parametrize(("name", "layers", "control"), [("transparent_attn", 1, 0), ("joint", 3, 0), ("fg2bg", 2, 1)])
def test_layerdiffuses_files_fit_sd15_key_by_key(sd15: UNetMotionModel, name: str, layers: int, control: int) -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in MANIFESTS[name].items()}
    names = attach_transparent_attention(sd15, state, FrameContext(), fold=False)
    assert names == [entry[2] for entry in MANIFESTS["layer_order"]]
    held = {
        f"hookers.layers.{i}.{key}": list(value.shape)
        for i, processor in enumerate(spatial_processors(sd15).values())
        if processor.unit is not None
        for key, value in processor.unit.state_dict().items()
    }
    if control:
        held |= {
            f"kwargs_encoder.{key}": list(value.shape) for key, value in attach.ControlEncoder().state_dict().items()
        }
    assert held == MANIFESTS[name]
    attach.detach(sd15)


def test_merged_and_separate_units_give_the_same_picture(unet: UNetMotionModel) -> None:
    state, plain = units_file(unet), run(unet)
    attach_transparent_attention(unet, state, FrameContext(), fold=False)
    separate = run(unet)
    attach.detach(unet)
    torch.testing.assert_close(run(unet), plain, rtol=0, atol=0)
    attach_transparent_attention(unet, state, FrameContext())
    torch.testing.assert_close(run(unet), separate, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(separate, plain, atol=1e-2)
    with pytest.raises(ConfigError, match="cannot be taken out"):
        attach.detach(unet)


@pytest.mark.parametrize("fold", [True, False])
def test_the_new_queries_start_as_copies_of_the_merged_ones(unet: UNetMotionModel, fold: bool) -> None:
    context, name = FrameContext(3, 1), "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    attn, state = spatial_attentions(unet)[name], units_file(unet)
    low = [state[f"hookers.layers.0.to_q_lora.0.{part}.weight"].double() for part in ("up", "down")]
    merged = (attn.to_q.weight.double() + low[0] @ low[1]).float()
    attach_transparent_attention(unet, state, context, fold=fold)
    before = run(unet)
    attach_ifa(unet, context)
    assert torch.equal(run(unet), before)
    assert torch.equal(ifa_state(unet)[f"{name}.processor.to_q_ifa.weight"], merged)
    attach.detach_ifa(unet)
    assert not ifa_state(unet)
    assert torch.equal(run(unet), before)


def test_what_is_attached_comes_in_one_order_and_with_one_context(unet: UNetMotionModel) -> None:
    state, context = units_file(unet), FrameContext(3, 1)
    attach_ifa(unet, context)
    assert context_of(unet) is context
    with pytest.raises(ConfigError, match="before Inter-Frame Attention"):
        attach_transparent_attention(unet, state, context)
    with pytest.raises(ConfigError, match="another frame context"):
        attach_ifa(unet, FrameContext())
    attach.detach(unet)
    assert context_of(unet) is None
    attach_transparent_attention(unet, units_file(unet, 3), context)
    with pytest.raises(ConfigError, match="several layers"):
        attach_ifa(unet, context)
    with pytest.raises(ConfigError, match="attached already"):
        attach_transparent_attention(unet, state, context)


def test_layers_are_chosen_by_name_beginning_or_function(unet: UNetMotionModel) -> None:
    decoder = [name for name in spatial_attentions(unet) if name.startswith("up_blocks.")]
    assert attach_ifa(unet, FrameContext(), ["up_blocks"]) == decoder
    assert {key.split(".processor")[0] for key in ifa_state(unet)} == set(decoder)
    assert attach_ifa(unet, attach_context(unet), lambda name: name == decoder[0]) == decoder[:1]
    with pytest.raises(ConfigError, match="is called up_bloks"):
        attach_ifa(unet, attach_context(unet), ["up_bloks"])
    with pytest.raises(ConfigError, match="no spatial self-attention was chosen"):
        attach_ifa(unet, attach_context(unet), lambda name: False)


def attach_context(unet: UNetMotionModel) -> FrameContext:
    context = context_of(unet)
    assert context is not None
    return context


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("hookers.layers.3.temporal_o.bias"), "1 missing: hookers.layers.3.temporal_o.bias"),
        (lambda state: state.update({"hookers.extra": torch.zeros(2)}), r"1 extra: hookers.extra \(2\)"),
        (
            lambda state: state.update({"hookers.layers.0.temporal_i.weight": torch.zeros(3, 3)}),
            r"1 wrong-shaped: hookers.layers.0.temporal_i.weight expected \(16, 16\), found \(3, 3\)",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(unet: UNetMotionModel, change: Any, message: str) -> None:
    state = units_file(unet)
    change(state)
    with pytest.raises(WeightsError, match=message):
        attach_transparent_attention(unet, state, FrameContext())
    assert not spatial_processors(unet)


def test_inter_frame_attention_is_saved_alone_and_comes_back(unet: UNetMotionModel, tmp_path: Path) -> None:
    context = FrameContext(3, 1)
    attach_ifa(unet, context)
    with torch.no_grad():
        for value in attach.ifa_parameters(unet):
            value.add_(torch.randn_like(value)).copy_(value.half())
    voiced = run(unet)
    file = attach.save_ifa(tmp_path / "ifa", unet, FACTS)
    assert file == tmp_path / "ifa" / IFA_FILE
    assert {value.dtype for value in load_file(file).values()} == {torch.float16}
    with pytest.raises(InputError, match="exists already"):
        attach.save_ifa(tmp_path / "ifa", unet, FACTS)
    attach.detach(unet)
    with pytest.raises(ConfigError, match="frame context"):
        attach.load_ifa(unet, file)
    facts = attach.load_ifa(unet, tmp_path / "ifa", context)
    assert facts.items() >= FACTS.items()
    assert torch.equal(run(unet), voiced)
    # a second file into what is attached
    other = attach.save_ifa(tmp_path / "other.safetensors", unet, FACTS, dtype="float32")
    attach.load_ifa(unet, other)
    assert torch.equal(run(unet), voiced)


def test_a_file_without_biases_and_without_facts_is_taken_and_said(
    unet: UNetMotionModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attach_ifa(unet, FrameContext(), ["mid_block"])
    with torch.no_grad():
        for value in attach.ifa_parameters(unet):
            value.fill_(0.5)
    state = {key: value.detach().clone() for key, value in ifa_state(unet).items() if not key.endswith(".bias")}
    save_file(state, tmp_path / "old.safetensors")
    attach.detach(unet)
    with caplog.at_level("INFO"):
        assert attach.load_ifa(unet, tmp_path / "old.safetensors", FrameContext()) == {}
    assert "no biases" in caplog.text
    assert "old.json is missing" in caplog.text
    loaded = ifa_state(unet)
    assert len(loaded) == 3
    assert all(bool((value == (0 if key.endswith(".bias") else 0.5)).all()) for key, value in loaded.items())


def test_a_file_that_does_not_fit_changes_nothing(unet: UNetMotionModel, tmp_path: Path) -> None:
    attach_ifa(unet, FrameContext())
    state = {key: torch.ones_like(value) for key, value in ifa_state(unet).items()}
    gone = state.pop(next(iter(state)))
    save_file(state | {"down_blocks.9.attn1.processor.to_q_ifa.weight": gone}, tmp_path / "bad.safetensors")
    before = {key: value.detach().clone() for key, value in ifa_state(unet).items()}
    with pytest.raises(WeightsError, match=r"1 missing: down_blocks.0.*; 1 extra: down_blocks.9"):
        attach.load_ifa(unet, tmp_path / "bad.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in ifa_state(unet).items())
    whole = (tmp_path / "bad.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        attach.load_ifa(unet, tmp_path / "half.safetensors")
    attach.detach(unet)
    with pytest.raises(WeightsError, match=r"extra: down_blocks\.9"):
        attach.load_ifa(unet, tmp_path / "bad.safetensors", FrameContext())
    assert not spatial_processors(unet)


def test_values_too_large_for_half_precision_are_not_saved(unet: UNetMotionModel, tmp_path: Path) -> None:
    attach_ifa(unet, FrameContext(), ["mid_block"])
    with torch.no_grad():
        attach.ifa_parameters(unet)[0].fill_(1e6)
    with pytest.raises(WeightsError, match="float16 cannot hold"):
        attach.save_ifa(tmp_path / "ifa.safetensors", unet, FACTS)
    assert not list(tmp_path.iterdir())
