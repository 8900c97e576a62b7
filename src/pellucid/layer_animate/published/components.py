"""Published networks from local files, each checked key by key before it is used (spec §3.2).

A network is made without values, its file is read, renamed where it uses older names, and every missing, unexpected or
wrongly shaped key is named. Nothing here reaches for a network, and pickles are read as tensors alone.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pellucid.errors import WeightsError
from pellucid.hub.convert import load_foreign, rename
from pellucid.hub.pretrained import CONFIG, expect_state
from pellucid.layer_animate.attention.layerdiffuse import diffusers_name
from pellucid.layer_animate.model import LayerAnimateConfig
from pellucid.layer_animate.published.describe import FAMILIES, describe
from pellucid.layer_animate.transparency.networks import TransparencyDecoder, TransparencyEncoder

log = logging.getLogger(__name__)

State = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_ENDS = (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
_UNET, _TEXT = "model.diffusion_model.", "cond_stage_model.transformer."
# AutoencoderKL files from before diffusers 0.15.
_OLD_VAE = (
    (r"\.attentions\.0\.query\.", ".attentions.0.to_q."),
    (r"\.attentions\.0\.key\.", ".attentions.0.to_k."),
    (r"\.attentions\.0\.value\.", ".attentions.0.to_v."),
    (r"\.attentions\.0\.proj_attn\.", ".attentions.0.to_out.0."),
)
# AnimateDiff's own names -> diffusers'.
_ORIGINAL_MOTION = (
    (".temporal_transformer", ""),
    (".norms.0", ".norm1"),
    (".norms.1", ".norm2"),
    (".ff_norm", ".norm3"),
    (".attention_blocks.0", ".attn1"),
    (".attention_blocks.1", ".attn2"),
)


@dataclass(frozen=True, eq=False)
class Base:
    """A base model, with the settings that its networks were made with.

    Attributes:
        unet: state under diffusers' names, and ``unet_config``.
        vae: ready to use, and ``vae_config`` with ``scaling_factor``.
        text: ready to use, and ``text_config``.
        tokenizer: None when there is none beside it, as in single files.
    """

    unet: State
    unet_config: dict[str, Any]
    vae: AutoencoderKL
    vae_config: dict[str, Any]
    text: CLIPTextModel
    text_config: dict[str, Any]
    tokenizer: Any | None


def read_base(path: str | Path, like: LayerAnimateConfig) -> Base:
    """Read a base model: a folder as diffusers keeps it, or one file with the first publication's names.

    Args:
        path: the folder, or a ``.safetensors`` or ``.ckpt`` file.
        like: what a single file is expected to hold, since its sizes are written nowhere.

    Raises:
        WeightsError: it is another family than ``like`` (SDXL, for example), is missing or damaged, or keys or shapes
            do not fit.
    """
    place = Path(path)
    found = describe(place)
    if found.kind != "base":
        raise WeightsError(f"{place} is no base model but {found.title}", "name a folder or file of SD1.5")
    if found.family in ("sd2", "sdxl"):
        raise WeightsError(
            f"{place} is {FAMILIES[found.family]}, but motion adapter and attention are for SD1.5",
            "name an SD1.5 base, such as stable-diffusion-v1-5",
        )
    return _base_of_folder(place) if place.is_dir() else _base_of_file(place, like)


def read_motion(path: str | Path, widths: Sequence[int], like: LayerAnimateConfig) -> tuple[State, dict[str, Any]]:
    """Read a motion adapter: a folder of diffusers, one of its files, or an original ``.ckpt``.

    Args:
        path: the folder or file.
        widths: of the UNet's levels, which it must fit.
        like: says heads and norm groups, which an original file does not.

    Returns:
        State under diffusers' names, and keyword arguments of ``MotionAdapter``.

    Raises:
        WeightsError: it is something else, is of another base, or keys or shapes do not fit.
    """
    place = Path(path)
    found = describe(place)
    if found.kind != "motion_adapter":
        hint = "v3_sd15_adapter is a LoRA; the motion modules are in v3_sd15_mm" if "LoRA" in found.title else ""
        raise WeightsError(f"{place} is no motion adapter but {found.title}", hint)
    if list(found.facts["widths"]) != list(widths):
        raise WeightsError(
            f"{place} is a {found.title} of widths {found.facts['widths']}, the UNet has {list(widths)}",
            "name an adapter for the base: animatediff-motion-adapter-v1-5-2 for SD1.5",
        )
    state = read_folder(place) if place.is_dir() else load_foreign(place)
    if found.facts["original"]:
        state = _renamed_motion(state)
    length = found.facts["motion_length"] or 32
    config = _settings(MotionAdapter, _json(place / CONFIG)) if (place / CONFIG).is_file() else {}
    config = like.motion | _motion_settings(state, widths) | {"motion_max_seq_length": length} | config
    adapter = empty(MotionAdapter, **config)
    # Position tables follow from the length, and original files are read without theirs.
    tables = {key: value for key, value in adapter.state_dict().items() if key.endswith(".pos_embed.pe")}
    state = tables | state
    expect_state(adapter, state, origin=f" in {place}")
    return state, config


def fit(network: Network, state: Mapping[str, Tensor], origin: str) -> Network:
    """Put tensors into a network made by `empty`.

    Raises:
        WeightsError: keys are missing, unexpected or wrong-shaped; they are named.
    """
    expect_state(network, state, origin=origin)
    network.load_state_dict(dict(state), assign=True)
    return network.eval()


def empty(cls: Any, *arguments: Any, **settings: Any) -> Any:
    """Make a network whose parameters have no values and take no memory; buffers have theirs.

    Raises:
        WeightsError: the settings contradict each other.
    """
    with init_empty_weights(include_buffers=False):
        try:
            return cls(*arguments, **settings)
        except (ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise WeightsError(f"no {cls.__name__} can be made with these settings: {reason}") from error


def motion_unet(
    unet: State, unet_config: dict[str, Any], motion: State, motion_config: dict[str, Any]
) -> UNetMotionModel:
    """Put the base's UNet and a motion adapter together, without a second copy in memory."""
    with torch.device("meta"):
        spatial, adapter = UNet2DConditionModel(**unet_config), MotionAdapter(**motion_config)
    with init_empty_weights(include_buffers=False):
        network = cast(UNetMotionModel, UNetMotionModel.from_unet2d(spatial, adapter, load_weights=False))
    return fit(network, unet | motion, " of UNet and motion adapter")


def read_encoder(path: str | Path) -> tuple[TransparencyEncoder, tuple[int, ...]]:
    """Read a transparency encoder; its widths are told by its shapes.

    Raises:
        WeightsError: it is something else, or keys do not fit.
    """
    state = _expected(path, "transparency_encoder")
    weights = sorted(
        (int(key.split(".")[1]), value.shape[0]) for key, value in state.items() if key.endswith(".weight")
    )
    channels = tuple(width for _, width in weights)
    network = empty(TransparencyEncoder, channels[:-1], latent_channels=channels[-1])
    return fit(network, state, f" in {path}"), channels[:-1]


def read_decoder(path: str | Path, latent_level: int) -> tuple[TransparencyDecoder, dict[str, Any]]:
    """Read a transparency decoder; its widths, layers and attention are told by its keys and shapes.

    Returns:
        The network, and ``decoder_widths``, ``decoder_layers`` and ``decoder_attention`` of a `LayerAnimateConfig`.

    Raises:
        WeightsError: it is something else, or keys do not fit.
    """
    state = _expected(path, "transparency_decoder")
    pattern = re.compile(r"down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight")
    found = [(int(match[1]), int(match[2]), key) for key in state if (match := pattern.fullmatch(key))]
    widths = tuple(state[key].shape[0] for level, layer, key in sorted(found) if layer == 0)
    layers = 1 + max((layer for _, layer, _ in found), default=0)
    attention = len({key.split(".")[1] for key in state if re.match(r"down_blocks\.\d+\.attentions\.", key)})
    channels = state["latent_conv_in.weight"].shape[1]
    sizes = {"layers": layers, "attention": attention, "latent_channels": channels, "latent_level": latent_level}
    network = empty(TransparencyDecoder, widths, **sizes)
    facts = {"decoder_widths": widths, "decoder_layers": layers, "decoder_attention": attention}
    return fit(network, state, f" in {path}"), facts


def read_tokenizer(path: str | Path) -> Any:
    """Read a tokenizer of CLIP from its folder, or from the folder of a base model.

    Raises:
        WeightsError: there is none.
    """
    place = Path(path)
    place = place / "tokenizer" if (place / "tokenizer").is_dir() else place
    if not any((place / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise WeightsError(f"{place} is no folder of a tokenizer: vocab.json is missing")
    try:
        return CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain exceptions of its own
        raise WeightsError(f"the tokenizer in {place} cannot be read: {str(error).splitlines()[0]}") from error


def read_folder(folder: str | Path) -> State:
    """Read the tensors of one folder of diffusers or transformers: whole or in shards, safetensors before pickles.

    Raises:
        WeightsError: there are none, or a file is damaged.
    """
    place = Path(folder)
    for stem in _STEMS:
        for end in _ENDS:
            if (file := place / f"{stem}{end}").is_file():
                return load_foreign(file)
        if (index := place / f"{stem}.safetensors.index.json").is_file():
            shards = sorted(set(_json(index).get("weight_map", {}).values()))
            return {key: value for shard in shards for key, value in load_foreign(place / shard).items()}
    raise WeightsError(f"{place} holds no weights", f"expected {_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors")


def _base_of_folder(place: Path) -> Base:
    for part in ("unet", "vae", "text_encoder"):
        if not (place / part / CONFIG).is_file():
            raise WeightsError(f"{place} is no whole base model: {part}/{CONFIG} is missing")
    unet_config = _settings(UNet2DConditionModel, _json(place / "unet" / CONFIG))
    vae_config = _settings(AutoencoderKL, _json(place / "vae" / CONFIG))
    text_config = _text_settings(_json(place / "text_encoder" / CONFIG))
    unet = read_folder(place / "unet")
    with torch.device("meta"):
        expect_state(UNet2DConditionModel(**unet_config), unet, origin=f" in {place / 'unet'}")
    vae = rename(read_folder(place / "vae"), _OLD_VAE)
    tokenizer = read_tokenizer(place) if (place / "tokenizer").is_dir() else None
    return Base(
        unet,
        unet_config,
        fit(empty(AutoencoderKL, **vae_config), vae, f" in {place / 'vae'}"),
        vae_config,
        _text(read_folder(place / "text_encoder"), text_config, f" in {place / 'text_encoder'}"),
        text_config,
        tokenizer,
    )


def _base_of_file(place: Path, like: LayerAnimateConfig) -> Base:
    state = load_foreign(place)
    channels = {"in_channels": like.latent_channels, "out_channels": like.latent_channels}
    unet_config: dict[str, Any] = like.unet | channels
    vae_config: dict[str, Any] = like.vae | {
        "latent_channels": like.latent_channels,
        "scaling_factor": like.scaling_factor,
    }
    unet = {diffusers_name(key.removeprefix(_UNET)): value for key, value in state.items() if key.startswith(_UNET)}
    with torch.device("meta"):
        expect_state(UNet2DConditionModel(**unet_config), unet, origin=f" in {place}")
    vae = convert_ldm_vae_checkpoint(state, vae_config)
    text = {key.removeprefix(_TEXT): value for key, value in state.items() if key.startswith(_TEXT)}
    return Base(
        unet,
        unet_config,
        fit(empty(AutoencoderKL, **vae_config), vae, f" in {place}"),
        vae_config,
        _text(text, like.text, f" in {place}"),
        like.text,
        None,
    )


def _text(state: State, settings: dict[str, Any], origin: str) -> CLIPTextModel:
    """The text encoder; files and versions of transformers differ in a ``text_model.`` before every key."""
    network = empty(CLIPTextModel, CLIPTextConfig(**settings))
    prefix = "text_model."
    bare = {
        key.removeprefix(prefix): value for key, value in state.items() if not key.endswith("embeddings.position_ids")
    }
    wanted = prefix if all(key.startswith(prefix) for key in network.state_dict()) else ""
    return fit(network, {wanted + key: value for key, value in bare.items()}, origin)


def _renamed_motion(state: State) -> State:
    renamed: State = {}
    for key, value in state.items():
        if "pos_encoder" in key:
            continue
        name = key.removeprefix("module.")
        for old, new in _ORIGINAL_MOTION:
            name = name.replace(old, new)
        renamed[name] = value
    return renamed


def _motion_settings(state: State, widths: Sequence[int]) -> dict[str, Any]:
    layers = {match[1] for key in state if (match := re.match(r"down_blocks\.0\.motion_modules\.(\d+)\.", key))}
    return {
        "block_out_channels": list(widths),
        "motion_layers_per_block": max(1, len(layers)),
        "use_motion_mid_block": any(key.startswith("mid_block.") for key in state),
    }


def _expected(path: str | Path, kind: str) -> State:
    found = describe(path)
    if found.kind != kind:
        raise WeightsError(f"{path} is no {kind.replace('_', ' ')} but {found.title}")
    place = Path(path)
    return read_folder(place) if place.is_dir() else load_foreign(place)


def _settings(cls: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a ``config.json`` its class takes; the rest is said."""
    known = set(inspect.signature(cls.__init__).parameters) - {"self"}
    odd = [key for key in config if key not in known and not key.startswith("_")]
    if odd:
        log.info("%s does not know %s of its config.json", cls.__name__, ", ".join(odd))
    return {key: value for key, value in config.items() if key in known}


def _text_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "projection_dim",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "hidden_act",
        "layer_norm_eps",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
    )
    return {name: config[name] for name in names if name in config}


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
