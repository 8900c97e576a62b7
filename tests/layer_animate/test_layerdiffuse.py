"""LayerDiffuse's files told apart by their keys, and merged exactly."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pellucid.errors import WeightsError
from pellucid.layer_animate.attention.layerdiffuse import (
    diffusers_name,
    merge_deltas,
    read_deltas,
    recognise,
    require_transparent_attention,
)

MANIFESTS = json.loads(gzip.decompress((Path(__file__).parent / "golden" / "attention_manifests.json.gz").read_bytes()))
NAME = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
WEBUI = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Part(nn.Module):
    """The piece of a UNet that the files below change."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, 8, 3)
        block = nn.Module()
        block.attn1 = nn.Module()
        block.attn1.to_q = nn.Linear(6, 6, bias=False)
        block.attn1.to_out = nn.ModuleList([nn.Linear(6, 6)])
        inside = nn.Module()
        inside.transformer_blocks = nn.ModuleList([block])
        level = nn.Module()
        level.attentions = nn.ModuleList([inside])
        self.down_blocks = nn.ModuleList([nn.Module(), level])


def weight(module: nn.Module, key: str) -> Tensor:
    return dict(module.named_parameters())[key].detach().clone()


@pytest.mark.parametrize(
    ("name", "layers", "control", "word"),
    [
        ("transparent_attn", 1, False, "layer_sd15_transparent_attn"),
        ("joint", 3, False, "layer_sd15_joint"),
        ("fg2bg", 2, True, "fg2bg"),
    ],
)
def test_official_files_for_sd15_are_told_apart(name: str, layers: int, control: bool, word: str) -> None:
    found = recognise(MANIFESTS[name])
    assert found is not None
    assert (found.kind, found.family, found.layers, found.rank, found.control) == (
        "units",
        "sd15",
        layers,
        256,
        control,
    )
    assert word in found.title
    assert found.tensors == len(MANIFESTS[name])


def test_other_files_are_named_and_refused_where_units_are_needed() -> None:
    files: dict[str, dict[str, Tensor]] = {
        "patches for SDXL": {
            f"{WEBUI}.to_q.weight::lora::0": noise(6, 2),
            f"{WEBUI}.to_q.weight::lora::1": noise(2, 6),
        },
        "changes for SDXL": {f"{NAME}.to_q.weight": noise(6, 6), f"{NAME[:-1]}2.to_k.weight": noise(6, 2048)},
        "LoRA for SDXL": {
            f"unet.{NAME[:-1]}2.to_k.lora.down.weight": noise(2, 2048),
            f"unet.{NAME[:-1]}2.to_k.lora.up.weight": noise(6, 2),
        },
    }
    for title, state in files.items():
        found = recognise(state)
        assert found is not None
        assert title in found.title
        assert found.family == "sdxl"
        with pytest.raises(WeightsError, match=f"for SD1.5 is needed, found: .*{title}") as error:
            require_transparent_attention(state)
        assert "layer_sd15_transparent_attn" in error.value.hint
    whole = {"conv_in.weight": noise(8, 4, 3, 3), f"{NAME}.to_q.weight": noise(6, 6)}
    assert recognise(whole) is None
    assert recognise({}) is None
    with pytest.raises(WeightsError, match="2 tensors are no LayerDiffuse"):
        require_transparent_attention(whole)
    lora = recognise({f"unet.{NAME}.to_q.lora.down.weight": (4, 320), f"unet.{NAME}.to_q.lora.up.weight": (320, 4)})
    assert lora is not None
    assert (lora.family, lora.rank) == ("sd15", 4)


def test_patches_of_the_webui_are_merged_exactly() -> None:
    up, down, kernel, module = noise(6, 2), noise(2, 6, seed=1), noise(8, 4, 3, 3, seed=2), Part()
    state = {
        f"{WEBUI}.to_q.weight::lora::0": up,
        f"{WEBUI}.to_q.weight::lora::1": down,
        f"{WEBUI}.to_out.0.weight::lora::0": up,
        f"{WEBUI}.to_out.0.weight::lora::1": down,
        f"{WEBUI}.to_out.0.weight::lora::2": torch.tensor(1.0),  # alpha
        "diffusion_model.input_blocks.0.0.weight::diff::0": kernel,
    }
    query, out, first = (
        weight(module, key) for key in (f"{NAME}.to_q.weight", f"{NAME}.to_out.0.weight", "conv_in.weight")
    )
    changed = merge_deltas(module, read_deltas(state))
    assert set(changed) == {f"{NAME}.to_q.weight", f"{NAME}.to_out.0.weight", "conv_in.weight"}
    torch.testing.assert_close(weight(module, f"{NAME}.to_q.weight"), query + up @ down)
    torch.testing.assert_close(weight(module, f"{NAME}.to_out.0.weight"), out + 0.5 * up @ down)
    torch.testing.assert_close(weight(module, "conv_in.weight"), first + kernel)
    merge_deltas(module, read_deltas(state), -1.0)
    torch.testing.assert_close(weight(module, f"{NAME}.to_q.weight"), query)


def test_values_for_diffusers_are_added() -> None:
    module, delta = Part(), noise(6, 6)
    before = weight(module, f"{NAME}.to_q.weight")
    merge_deltas(module, read_deltas({f"{NAME}.to_q.weight": delta}), 0.5)
    torch.testing.assert_close(weight(module, f"{NAME}.to_q.weight"), before + 0.5 * delta)


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("unet.{}.to_out.0.lora.down.weight", "unet.{}.to_out.0.lora.up.weight"),
        ("unet.{}.to_out.0.lora_A.weight", "unet.{}.to_out.0.lora_B.weight"),
        ("{}.to_out.0.lora_A.default.weight", "{}.to_out.0.lora_B.default.weight"),
        ("unet.{}.processor.to_out_lora.down.weight", "unet.{}.processor.to_out_lora.up.weight"),
    ],
)
def test_a_lora_with_diffusers_names_old_and_new_is_merged(down: str, up: str) -> None:
    module, matrices = Part(), (noise(6, 2), noise(2, 6, seed=1))
    before = weight(module, f"{NAME}.to_out.0.weight")
    deltas = read_deltas({up.format(NAME): matrices[0], down.format(NAME): matrices[1]})
    assert merge_deltas(module, deltas) == [f"{NAME}.to_out.0.weight"]
    torch.testing.assert_close(weight(module, f"{NAME}.to_out.0.weight"), before + matrices[0] @ matrices[1])


def test_what_does_not_fit_is_named_and_changes_nothing() -> None:
    module = Part()
    before = weight(module, f"{NAME}.to_q.weight")
    state = {
        f"{WEBUI}.to_q.weight::diff::0": noise(6, 6),
        f"{WEBUI}.to_v.weight::diff::0": noise(6, 6),
        "diffusion_model.input_blocks.0.0.weight::diff::0": noise(8, 8, 3, 3),
    }
    found = recognise(state)
    assert found is not None
    assert found.control
    with pytest.raises(
        WeightsError, match=r"1 unknown: .*to_v.weight; 1 wrong-sized: conv_in.weight expected"
    ) as error:
        merge_deltas(module, read_deltas(state))
    assert "more input channels" in error.value.hint
    assert torch.equal(weight(module, f"{NAME}.to_q.weight"), before)
    with pytest.raises(WeightsError, match="one half of a low-rank pair"):
        read_deltas({f"{WEBUI}.to_q.weight::lora::0": noise(6, 2)})
    with pytest.raises(WeightsError, match="not known"):
        read_deltas({f"{WEBUI}.to_q.weight::diff::3": noise(6, 6)})
    with pytest.raises(WeightsError, match="transparent foreground"):
        read_deltas({key: torch.empty(shape, device="meta") for key, shape in MANIFESTS["transparent_attn"].items()})


def test_names_of_the_first_publication_are_translated() -> None:
    for _, theirs, ours in MANIFESTS["layer_order"]:
        assert diffusers_name(f"{theirs}.to_q.weight") == f"{ours}.to_q.weight"
    pairs = {
        "input_blocks.0.0.weight": "conv_in.weight",
        "time_embed.2.bias": "time_embedding.linear_2.bias",
        "label_emb.0.2.weight": "add_embedding.linear_2.weight",
        "out.0.weight": "conv_norm_out.weight",
        "input_blocks.3.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
        "input_blocks.5.0.in_layers.2.weight": "down_blocks.1.resnets.1.conv1.weight",
        "middle_block.2.out_layers.3.bias": "mid_block.resnets.1.conv2.bias",
        "output_blocks.2.1.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",
        "output_blocks.5.2.conv.weight": "up_blocks.1.upsamplers.0.conv.weight",
        "output_blocks.8.0.skip_connection.weight": "up_blocks.2.resnets.2.conv_shortcut.weight",
        "output_blocks.0.1.proj_in.weight": "up_blocks.0.attentions.0.proj_in.weight",
        "input_blocks.1.0.emb_layers.1.weight": "down_blocks.0.resnets.0.time_emb_proj.weight",
    }
    assert {key: diffusers_name(key) for key in pairs} == pairs
    for wrong in ("model.weight", "input_blocks.1.0.nothing.weight"):
        with pytest.raises(WeightsError, match="is no"):
            diffusers_name(wrong)
