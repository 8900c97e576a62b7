"""Components files: one TOML that says where the published parts of a model are (spec §3.2).

For example::

    [components]
    base = "stable-diffusion-v1-5"
    motion_adapter = "animatediff-motion-adapter-v1-5-2"
    transparent_attention = "layer_sd15_transparent_attn.safetensors"
    transparency_encoder = "layer_sd15_vae_transparent_encoder.safetensors"
    transparency_decoder = "layer_sd15_vae_transparent_decoder.safetensors"
    inter_frame_attention = "inter_frame_attention.safetensors"
    offset_scale = 1.0

Paths are relative to the file. With ``download = true`` above the table, names such as ``org/name`` or
``org/name/file.safetensors`` that are no paths are fetched from the hub.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pellucid.errors import ConfigError, WeightsError
from pellucid.hub.convert import load_foreign
from pellucid.layer_animate.attention.attach import attach_ifa, attach_transparent_attention, load_ifa
from pellucid.layer_animate.attention.layerdiffuse import merge_deltas, read_deltas
from pellucid.layer_animate.model import METHOD, PRESETS, LayerAnimate, LayerAnimateConfig
from pellucid.layer_animate.published.components import (
    motion_unet,
    read_base,
    read_decoder,
    read_encoder,
    read_motion,
    read_tokenizer,
)
from pellucid.layer_animate.published.describe import describe
from pellucid.layer_animate.text import ClipConditioner
from pellucid.layer_animate.transparency.coding import OFFSET_SCALES
from pellucid.layer_animate.transparency.networks import TransparencyEncoder

log = logging.getLogger(__name__)

TABLE = "components"
NEEDED = ("base", "motion_adapter", "transparency_encoder", "transparency_decoder")
OPTIONAL = ("transparent_attention", "inter_frame_attention", "tokenizer")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w./-]+)?")
# Whole repositories hold the same weights several times over.
_FETCHED = [
    "*.json",
    "*.txt",
    "unet/*",
    "vae/*",
    "text_encoder/*",
    "tokenizer/*",
    "diffusion_pytorch_model.safetensors",
]
_LEFT = ["*.bin", "*.ckpt", "*.msgpack", "*.fp16.safetensors", "*non_ema*", "safety_checker/*"]


@dataclass(frozen=True)
class Components:
    """What a components file says.

    Attributes:
        base: folder or single file of the base model.
        motion_adapter: folder, or original ``.ckpt``.
        transparency_encoder: E.
        transparency_decoder: D.
        transparent_attention: LayerDiffuse's attention for stage 1; None draws no transparent pictures.
        inter_frame_attention: what was trained for stage 2; None begins untrained.
        tokenizer: folder; needed beside a base in a single file.
        offset_scale: of E and D; None guesses by the name of the file.
        download: whether what is no path may be fetched.
        place: the file itself.
    """

    base: str
    motion_adapter: str
    transparency_encoder: str
    transparency_decoder: str
    transparent_attention: str | None = None
    inter_frame_attention: str | None = None
    tokenizer: str | None = None
    offset_scale: float | None = None
    download: bool = False
    place: Path = Path()


@dataclass(frozen=True, eq=False)
class Opened:
    """Networks made of published parts, what reads prompts for them, and the identity of the weights."""

    model: LayerAnimate
    conditioner: ClipConditioner
    weights: str


def read_components(path: str | Path) -> Components:
    """Read a components file.

    Raises:
        WeightsError: it is missing or is no TOML.
        ConfigError: a key is missing or unknown, or a value is of another type.
    """
    place = Path(path).expanduser()
    try:
        document = tomllib.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{place} is not there") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{place} is no TOML file: {str(error).splitlines()[0]}") from error
    table = document.get(TABLE)
    if not isinstance(table, dict):
        raise ConfigError(f"{place} has no table [{TABLE}]", f"it must say {', '.join(NEEDED)}")
    missing = [name for name in NEEDED if name not in table]
    unknown = [name for name in table if name not in (*NEEDED, *OPTIONAL, "offset_scale")]
    unknown += [name for name in document if name not in (TABLE, "download")]
    if missing or unknown:
        parts = [f"{what} {', '.join(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
        raise ConfigError(f"{place}: {'; '.join(parts)}", f"there are {', '.join((*NEEDED, *OPTIONAL))}, offset_scale")
    odd = [name for name in (*NEEDED, *OPTIONAL) if not isinstance(table.get(name, ""), str)]
    scale = table.get("offset_scale")
    if odd or isinstance(scale, bool) or not isinstance(scale, int | float | None) or not _positive(scale):
        raise ConfigError(
            f"{place}: {odd[0] if odd else 'offset_scale'} must be {'text' if odd else 'a number above 0'}"
        )
    names = {name: table[name] for name in (*NEEDED, *OPTIONAL) if name in table}
    return Components(
        **names,
        offset_scale=None if scale is None else float(scale),
        download=document.get("download") is True,
        place=place,
    )


def open_components(
    path: str | Path,
    download: bool | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    like: LayerAnimateConfig | None = None,
) -> Opened:
    """Make the networks that a components file describes.

    Args:
        path: the file.
        download: whether what is no path may be fetched from the hub; None does as the file says.
        dtype: precision of the result; None keeps what the files have.
        device: where to put it.
        like: what a base in a single file holds; SD1.5 by default.

    Raises:
        WeightsError: a part is missing, damaged, something else, or does not fit; keys are named.
        ConfigError: the file says too little or too much.
    """
    parts = read_components(path)
    like = like or PRESETS["sd15"]
    may = parts.download if download is None else download

    def at(name: str) -> Path:
        return _locate(getattr(parts, name), parts.place.parent, may)

    base = read_base(at("base"), like)
    tokenizer = read_tokenizer(at("tokenizer")) if parts.tokenizer is not None else base.tokenizer
    if tokenizer is None:
        raise WeightsError(
            f"{parts.place}: the base {parts.base} holds no tokenizer", "add tokenizer: a folder with vocab.json"
        )
    widths = base.unet_config["block_out_channels"]
    motion, motion_config = read_motion(at("motion_adapter"), widths, like)
    encoder_path = at("transparency_encoder")
    encoder, channels = read_encoder(encoder_path)
    level = len(base.vae_config["block_out_channels"]) - 1
    decoder, sizes = read_decoder(at("transparency_decoder"), level)
    latents = int(base.unet_config["in_channels"])
    _expect_latents(parts.place, latents, base.vae_config, encoder)
    config = LayerAnimateConfig(
        vae={key: value for key, value in base.vae_config.items() if key not in ("latent_channels", "scaling_factor")},
        text=base.text_config,
        unet={key: value for key, value in base.unet_config.items() if key not in ("in_channels", "out_channels")},
        motion=motion_config,
        latent_channels=latents,
        scaling_factor=float(base.vae_config.get("scaling_factor", 0.18215)),
        offset_scale=_offset_scale(parts, encoder_path),
        encoder_channels=channels,
        size=like.size,
        **sizes,
    )
    unet = motion_unet(base.unet, base.unet_config, motion, motion_config)
    model = LayerAnimate(config, vae=base.vae, encoder=encoder, decoder=decoder, text=base.text, unet=unet).eval()
    if parts.transparent_attention is not None:
        _add_transparent_attention(model, at("transparent_attention"))
    else:
        log.warning("%s names no transparent_attention: pictures drawn from words will have no alpha", parts.place)
    if parts.inter_frame_attention is not None:
        facts = load_ifa(unet, at("inter_frame_attention"), model.context)
        _compare(facts, config, parts.place)
    else:
        log.warning("%s names no inter_frame_attention: clips hardly follow the base picture", parts.place)
        attach_ifa(unet, model.context)
    if dtype is not None:
        for network in model.children():
            torch.nn.Module.to(network, dtype)
    torch.nn.Module.to(model, device)
    return Opened(model, ClipConditioner(tokenizer, model.text), _identity(parts))


def _add_transparent_attention(model: LayerAnimate, path: Path) -> None:
    found = describe(path)
    if found.kind not in ("transparent_attention", "weight_changes"):
        raise WeightsError(f"{path} is no attention of LayerDiffuse but {found.title}")
    if found.family == "sdxl":
        raise WeightsError(
            f"{path} is for SDXL, but the base is SD1.5: {found.title}", "use layer_sd15_transparent_attn.safetensors"
        )
    if found.facts["layers"] > 1:
        raise WeightsError(
            f"{path} draws {found.facts['layers']} layers together, but a clip has one: {found.title}",
            "use layer_sd15_transparent_attn.safetensors",
        )
    state = load_foreign(path)
    if found.kind == "transparent_attention":
        attach_transparent_attention(model.unet, state, model.context)
    else:
        merge_deltas(model.unet, read_deltas(state))


def _offset_scale(parts: Components, encoder: Path) -> float:
    if parts.offset_scale is not None:
        return parts.offset_scale
    scale = OFFSET_SCALES[1] if encoder.name.startswith("ld_diffusers") else OFFSET_SCALES[0]
    log.info("%s says no offset_scale: %g is taken, by the name of %s", parts.place, scale, encoder.name)
    return scale


def _expect_latents(place: Path, unet: int, vae: dict[str, Any], encoder: TransparencyEncoder) -> None:
    last = list(encoder.state_dict().values())[-1]  # a bias, one number a channel
    found = {"UNet": unet, "VAE": int(vae.get("latent_channels", 4)), "transparency encoder": len(last)}
    if len(set(found.values())) > 1:
        said = ", ".join(f"{name} {channels}" for name, channels in found.items())
        raise WeightsError(f"{place}: the parts have different numbers of latent channels: {said}")


def _compare(facts: dict[str, Any], config: LayerAnimateConfig, place: Path) -> None:
    """Say where Inter-Frame Attention was trained for something else."""
    for name, here in (("offset_scale", config.offset_scale), ("scaling_factor", config.scaling_factor)):
        if name in facts and facts[name] != here:
            log.warning(
                "%s: Inter-Frame Attention was trained with %s %s, here it is %s", place, name, facts[name], here
            )


def _locate(name: str, folder: Path, download: bool) -> Path:
    """A path as it is, relative to the file; else what the hub has under that name."""
    given = Path(name).expanduser()
    path = given if given.is_absolute() else folder / given
    if path.exists():
        return path
    if not _HUB.fullmatch(name):
        raise WeightsError(f"{path} is not there")
    from huggingface_hub import hf_hub_download, snapshot_download  # slow to import, and only for names of the hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    org, repository, *inside = name.split("/")
    try:
        if inside:
            found = hf_hub_download(f"{org}/{repository}", "/".join(inside), local_files_only=not download)
        else:
            found = snapshot_download(
                f"{org}/{repository}", local_files_only=not download, allow_patterns=_FETCHED, ignore_patterns=_LEFT
            )
    except LocalEntryNotFoundError as error:
        hint = "" if download else "fetch it, or write download = true above [components]"
        raise WeightsError(f"{path} is not there, nor {name} in the hub's cache", hint) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise WeightsError(f"{path} is not there, and the hub says: {str(error).splitlines()[0]}") from error
    return Path(found)


def _identity(parts: Components) -> str:
    """Method, the file's name, and eight digits of what it says."""
    said = repr([getattr(parts, name) for name in (*NEEDED, *OPTIONAL, "offset_scale")])
    return f"{METHOD}/{parts.place.stem}@{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def _positive(scale: float | None) -> bool:
    return scale is None or scale > 0
