"""Files as others publish them, at a tiny size and with random weights: what the loaders are tried on."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from pellucid.layer_animate.attention.attach import attach_ifa, ifa_state, save_ifa
from pellucid.layer_animate.attention.processor import FrameContext
from pellucid.layer_animate.attention.sharing import SharingUnit
from pellucid.layer_animate.attention.spatial import spatial_attentions
from pellucid.layer_animate.model import LayerAnimateConfig, preset
from pellucid.layer_animate.transparency.networks import TransparencyDecoder, TransparencyEncoder

# Two resnets a level, as Stable Diffusion has: the first publication's names count in threes.
TINY = preset("tiny")
LIKE: LayerAnimateConfig = preset(
    "tiny",
    unet=TINY.unet | {"layers_per_block": 2},
    motion=TINY.motion | {"motion_layers_per_block": 2},
    text=TINY.text | {"vocab_size": 300, "hidden_act": "quick_gelu"},
)
RANK = 4


@dataclass(frozen=True)
class Published:
    """Where the files are, and the networks that they were written from."""

    root: Path
    unet: UNet2DConditionModel
    adapter: MotionAdapter
    vae: AutoencoderKL
    text: CLIPTextModel
    ifa: dict[str, Tensor]

    def components(self, name: str = "components.toml", above: str = "", **changes: Any) -> Path:
        """Write a components file; a change of None leaves the key out."""
        table: dict[str, Any] = {
            "base": "sd",
            "motion_adapter": "motion",
            "transparent_attention": "attention.safetensors",
            "transparency_encoder": "encoder.safetensors",
            "transparency_decoder": "decoder.safetensors",
            "inter_frame_attention": "ifa.safetensors",
            "offset_scale": 1.0,
        }
        table = {key: value for key, value in (table | changes).items() if value is not None}
        lines = [above, "[components]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        (self.root / name).write_text("\n".join(lines))
        return self.root / name


def publish(root: Path) -> Published:
    """Write a base in both forms, a motion adapter in both, LayerDiffuse's files, and Inter-Frame Attention."""
    torch.manual_seed(0)
    channels = {"in_channels": 4, "out_channels": 4}
    unet = UNet2DConditionModel(**(LIKE.unet | channels))
    vae = AutoencoderKL(**(LIKE.vae | {"latent_channels": 4, "scaling_factor": 0.18215}))
    text = CLIPTextModel(CLIPTextConfig(**LIKE.text))
    adapter = MotionAdapter(**LIKE.motion)
    for part, network in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        network.save_pretrained(root / "sd" / part)
    (root / "sd" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    write_tokenizer(root / "sd" / "tokenizer")
    adapter.save_pretrained(root / "motion")
    state: dict[str, Tensor] = {original_unet_name(key): value for key, value in unet.state_dict().items()}
    state |= {original_vae_name(key): original_vae_value(key, value) for key, value in vae.state_dict().items()}
    state |= {
        f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}": value
        for key, value in text.state_dict().items()
    }
    save_file({key: value.contiguous() for key, value in state.items()}, root / "sd.safetensors")
    torch.save({"state_dict": original_motion(adapter)}, root / "mm.ckpt")
    units = {}
    motion = UNetMotionModel.from_unet2d(unet, adapter)
    for i, attn in enumerate(spatial_attentions(motion, None).values()):
        unit = SharingUnit(attn.to_q.in_features, attn.to_k.in_features, RANK, 1, False)
        units |= {
            f"hookers.layers.{i}.{key}": torch.randn(value.shape) * 0.1 for key, value in unit.state_dict().items()
        }
    save_file(units, root / "attention.safetensors")
    save_file(TransparencyEncoder(LIKE.encoder_channels).state_dict(), root / "encoder.safetensors")
    decoder = TransparencyDecoder(LIKE.decoder_widths, LIKE.decoder_layers, LIKE.decoder_attention)
    save_file(decoder.state_dict(), root / "decoder.safetensors")
    attach_ifa(motion, FrameContext())
    for value in ifa_state(motion).values():
        torch.nn.init.normal_(value)
    save_ifa(root / "ifa.safetensors", motion, {"frames": 16, "offset_scale": 1.0}, dtype="float32")
    return Published(root, unet, adapter, vae, text, dict(ifa_state(motion)))


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of single letters."""
    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", "model_max_length": 32, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def original_motion(adapter: MotionAdapter) -> dict[str, Tensor]:
    """A motion adapter under AnimateDiff's own names, with its position tables."""
    state = {}
    for key, value in adapter.state_dict().items():
        name = re.sub(r"(motion_modules\.\d+)\.", r"\1.temporal_transformer.", key)
        if key.endswith("pos_embed.pe"):
            for place in (0, 1):
                state[f"module.{name.replace('pos_embed.pe', f'attention_blocks.{place}.pos_encoder.pe')}"] = value
            continue
        for old, new in (
            (".norm1.", ".norms.0."),
            (".norm2.", ".norms.1."),
            (".norm3.", ".ff_norm."),
            (".attn1.", ".attention_blocks.0."),
            (".attn2.", ".attention_blocks.1."),
        ):
            name = name.replace(old, new)
        state[f"module.{name}"] = value
    return state


def original_unet_name(key: str) -> str:
    """A key of the UNet as Stable Diffusion 1.5 was first published."""
    heads = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    for new, old in heads.items():
        if key.startswith(f"{new}."):
            return f"model.diffusion_model.{old}{key.removeprefix(new)}"
    side, *rest = key.split(".")
    if side == "mid_block":
        kind, place, inner = rest[0], int(rest[1]), ".".join(rest[2:])
        at = "middle_block.1" if kind == "attentions" else f"middle_block.{2 * place}"
    else:
        level, kind, place, inner = int(rest[0]), rest[1], int(rest[2]), ".".join(rest[3:])
        way = "input" if side == "down_blocks" else "output"
        if kind == "downsamplers":
            return f"model.diffusion_model.input_blocks.{3 * (level + 1)}.0.{inner.replace('conv', 'op')}"
        if kind == "upsamplers":  # after the attention, which both levels of the tiny one have
            return f"model.diffusion_model.output_blocks.{3 * level + 2}.2.{inner}"
        number = 3 * level + place + (1 if way == "input" else 0)
        at = f"{way}_blocks.{number}.{1 if kind == 'attentions' else 0}"
    if kind == "resnets":
        names = {
            "norm1": "in_layers.0",
            "conv1": "in_layers.2",
            "time_emb_proj": "emb_layers.1",
            "norm2": "out_layers.0",
            "conv2": "out_layers.3",
            "conv_shortcut": "skip_connection",
        }
        head, _, tail = inner.partition(".")
        inner = f"{names[head]}.{tail}"
    return f"model.diffusion_model.{at}.{inner}"


def original_vae_name(key: str) -> str:
    """A key of the VAE as Stable Diffusion 1.5 was first published."""
    levels = len(LIKE.vae["block_out_channels"])
    name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda found: f"up.{levels - 1 - int(found[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{levels - 1 - int(found[1])}.upsample", name)
    if "attn_1" in name:
        for new, old in (("group_norm", "norm"), ("to_out.0", "proj_out"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v")):
            name = name.replace(f".{new}.", f".{old}.")
    return f"first_stage_model.{name}"


def original_vae_value(key: str, value: Tensor) -> Tensor:
    """The VAE's attention was made of 1x1 convolutions."""
    return value[:, :, None, None] if ".attentions." in key and value.ndim == 2 else value
