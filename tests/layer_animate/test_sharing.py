"""LayerDiffuse's attention unit against the official code's answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from tests.layer_animate.filled import fill, parameter
from torch import Tensor

from pellucid.errors import ConfigError
from pellucid.layer_animate.attention.processor import FrameContext, SpatialAttentionProcessor, projections
from pellucid.layer_animate.attention.sharing import ControlEncoder, SharingUnit

GOLDEN = Path(__file__).parent / "golden"
WIDTH, HEADS, RANK, TEXT = 32, 4, 8, 24
UNITS = [("attn1", 1, None), ("attn2", 1, TEXT), ("attn1_joint3", 3, None)]


def make(layers: int, text: int | None, control: bool = False) -> tuple[Attention, SpatialAttentionProcessor]:
    attn = Attention(WIDTH, cross_attention_dim=text, heads=HEADS, dim_head=WIDTH // HEADS, out_bias=True)
    processor = SpatialAttentionProcessor("attn", FrameContext())
    processor.unit = SharingUnit(WIDTH, text or WIDTH, RANK, layers, control)
    fill(attn)
    fill(processor.unit)
    attn.set_processor(processor)  # pyright: ignore[reportArgumentType]
    return attn, processor


@pytest.mark.parametrize(("name", "layers", "text"), UNITS)
def test_a_unit_gives_the_official_answer(name: str, layers: int, text: int | None) -> None:
    golden = np.load(GOLDEN / f"attention_sharing_unit_{name}.npz")
    attn, _ = make(layers, text)
    context = torch.from_numpy(golden["context"]) if text else None
    out = attn(torch.from_numpy(golden["x"]), encoder_hidden_states=context)
    torch.testing.assert_close(out, torch.from_numpy(golden["out"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "layers", "text"), UNITS[:2])
def test_a_folded_unit_gives_the_official_answer_with_one_matrix_of_its_own(
    name: str, layers: int, text: int | None
) -> None:
    golden = np.load(GOLDEN / f"attention_sharing_unit_{name}.npz")
    attn, processor = make(layers, text)
    assert processor.unit is not None
    processor.unit.fold(projections(attn))
    processor.unit.fold(projections(attn))  # a second time changes nothing
    context = torch.from_numpy(golden["context"]) if text else None
    out = attn(torch.from_numpy(golden["x"]), encoder_hidden_states=context)
    torch.testing.assert_close(out, torch.from_numpy(golden["out"]), rtol=1e-4, atol=1e-5)
    assert set(processor.unit.state_dict()) == {
        f"{layer}.{kind}" for layer in ("temporal", "temporal_n") for kind in ("weight", "bias")
    }
    own = parameter("to_q.weight", (WIDTH, WIDTH)).double()
    low = [
        parameter(f"to_q_lora.0.{part}.weight", (WIDTH, RANK)[:: 1 if part == "up" else -1]) for part in ("up", "down")
    ]
    torch.testing.assert_close(attn.to_q.weight, (own + low[0].double() @ low[1].double()).float(), rtol=0, atol=0)


def test_inter_frame_attention_is_added_to_the_units_answer_with_its_keys_and_values() -> None:
    attn, processor = make(1, None)
    assert processor.unit is not None
    states = torch.randn(5, 12, WIDTH, generator=torch.Generator().manual_seed(0))
    unit_alone = attn(states)
    merged = processor.unit.merged
    key, value = (states[2] @ merged(which, getattr(attn, which).weight).T for which in ("to_k", "to_v"))
    processor.add_ifa(merged("to_q", attn.to_q.weight.detach()), WIDTH)
    processor.context.num_frames, processor.context.base_index = 5, 2
    torch.testing.assert_close(attn(states), unit_alone, rtol=0, atol=0)
    assert processor.to_q_ifa is not None
    assert processor.to_out_ifa is not None
    torch.nn.init.eye_(processor.to_out_ifa.weight)

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(-3, -2)

    query = split(states @ merged("to_q", attn.to_q.weight).T)
    weights = (query @ split(key).transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(-1)
    expected = unit_alone + (weights @ split(value)).transpose(-3, -2).flatten(-2)
    torch.testing.assert_close(attn(states), expected, rtol=1e-4, atol=1e-5)


def test_a_unit_of_three_layers_cannot_be_merged_and_wants_whole_groups() -> None:
    attn, processor = make(3, None)
    assert processor.unit is not None
    with pytest.raises(ConfigError, match="3 layers"):
        processor.unit.fold(projections(attn))
    with pytest.raises(ConfigError, match="groups of 3"):
        attn(torch.zeros(4, 12, WIDTH))


def test_control_features_change_the_answer_and_are_asked_for() -> None:
    attn, processor = make(2, None, control=True)
    states = torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match="4 tokens"):
        attn(states)
    encoder = ControlEncoder()
    found = encoder(torch.zeros(1, 3, 128, 128))
    assert sorted(found) == [4, 16, 64, 256]
    processor.context.control = {4: torch.zeros(1, 256, 2, 2)}
    before = attn(states)
    processor.context.control = {4: torch.ones(1, 256, 2, 2)}
    assert not torch.allclose(attn(states), before)
