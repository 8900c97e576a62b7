"""What a file or folder of weights is, told by the names and shapes of its tensors without loading them (spec §3.2)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pellucid.errors import WeightsError
from pellucid.hub.convert import load_foreign
from pellucid.hub.pretrained import CONFIG, info
from pellucid.layer_animate.attention.attach import IFA_FILE
from pellucid.layer_animate.attention.layerdiffuse import recognise

Shapes = dict[str, tuple[int, ...]]

FAMILIES = {"sd15": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "SDXL", "": "an unknown base"}
_TEXT_WIDTHS = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
_BLOCKS = re.compile(r"blocks\.\d+\.(weight|bias)")
_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_COMPONENTS = "[components]"
_SHOWN = 3


@dataclass(frozen=True)
class Description:
    """What something is.

    Attributes:
        kind: ``"base"``, ``"unet"``, ``"vae"``, ``"text_encoder"``, ``"tokenizer"``, ``"motion_adapter"``,
            ``"transparent_attention"``, ``"weight_changes"`` (LoRA or added values), ``"transparency_encoder"``,
            ``"transparency_decoder"``, ``"inter_frame_attention"``, ``"components"``, ``"weights"`` (a folder of ours)
            or ``"unknown"``.
        family: a key of `FAMILIES`; empty when nothing tells it, or it does not matter.
        title: one line for people.
        tensors: how many; 0 where they are spread over folders.
        values: numbers in all of them.
        facts: plain values that loaders need, such as ``motion_length``.
    """

    kind: str
    family: str
    title: str
    tensors: int = 0
    values: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def lines(self) -> list[str]:
        """The description as lines of text."""
        lines = [self.title]
        if self.tensors:
            lines.append(f"{self.tensors} tensors, {self.values / 1e6:.2f} M values")
        return lines + [f"{key}: {value}" for key, value in self.facts.items()]


def describe(path: str | Path) -> Description:
    """Say what a file or folder is.

    Raises:
        WeightsError: it is not there, or is damaged (half written, for example).
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return _folder(place)
    if not place.is_file():
        raise WeightsError(f"{place} is not there")
    if place.suffix == ".toml":
        return _components(place)
    shapes = read_shapes(place)
    found = describe_tensors(shapes)
    if found.kind == "inter_frame_attention":
        note = place.with_suffix(".json")
        return _with(found, _json(note)) if note.is_file() else found
    return found


def read_shapes(path: str | Path) -> Shapes:
    """Names and shapes of the tensors of a file; of a safetensors file its header alone is read.

    Raises:
        WeightsError: the file is missing, damaged, or holds no tensors.
    """
    file = Path(path)
    if file.suffix.lower() in _PICKLED:
        return {key: tuple(value.shape) for key, value in load_foreign(file).items()}
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise WeightsError(f"{file} is missing") from error
    except (SafetensorError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{file} is damaged or not safetensors: {reason}", "it may be half written: fetch or save it again"
        ) from error


def describe_tensors(shapes: Mapping[str, tuple[int, ...]]) -> Description:
    """Say what tensors of these names and shapes are."""
    size: dict[str, Any] = {"tensors": len(shapes), "values": sum(math.prod(shape) for shape in shapes.values())}
    if shapes and all(".processor.to_" in key and "_ifa." in key for key in shapes):
        layers = sum(key.endswith("to_q_ifa.weight") for key in shapes)
        title = f"Inter-Frame Attention of {layers} layers"
        return Description("inter_frame_attention", "", title, **size, facts={"layers": layers})
    if any("motion_modules." in key for key in shapes):
        if "conv_in.weight" in shapes and "time_embedding.linear_1.weight" in shapes:
            family = _family(shapes, "attn2.to_k.weight")
            return Description("unet", family, f"UNet of {FAMILIES[family]} with motion modules in it", **size)
        return _motion(shapes, size)
    found = recognise(shapes)
    if found is not None:
        kind = "transparent_attention" if found.kind == "units" else "weight_changes"
        facts = {"naming": found.kind, "layers": found.layers, "rank": found.rank, "control": found.control}
        return Description(kind, found.family, found.title, **size, facts=facts)
    if shapes and all(_BLOCKS.fullmatch(key) for key in shapes) and shapes.get("blocks.0.weight", (0, 0))[1] == 4:
        title = "transparency encoder of LayerDiffuse; which offset scale it wants is not in the file"
        return Description("transparency_encoder", "", title, **size)
    if "latent_conv_in.weight" in shapes:
        return Description("transparency_decoder", "", "transparency decoder of LayerDiffuse", **size)
    if "model.diffusion_model.input_blocks.0.0.weight" in shapes:
        family = _family(shapes, "attn2.to_k.weight")
        parts = [
            name
            for name, start in (
                ("UNet", "model.diffusion_model."),
                ("VAE", "first_stage_model."),
                ("text encoder", "cond_stage_model."),
                ("text encoders", "conditioner."),
            )
            if any(key.startswith(start) for key in shapes)
        ]
        return Description("base", family, f"{FAMILIES[family]} in one file: {', '.join(parts)}", **size)
    if "conv_in.weight" in shapes and any(key.startswith("down_blocks.") for key in shapes):
        family = _family(shapes, "attn2.to_k.weight")
        return Description("unet", family, f"UNet of {FAMILIES[family]}, diffusers' names", **size)
    if "encoder.conv_in.weight" in shapes and "decoder.conv_in.weight" in shapes:
        channels = shapes["decoder.conv_in.weight"][1]
        return Description("vae", "", f"VAE with {channels} latent channels", **size)
    if any(key.endswith("embeddings.token_embedding.weight") for key in shapes):
        return Description("text_encoder", "", "text encoder of CLIP", **size)
    some = ", ".join(list(shapes)[:_SHOWN])
    return Description("unknown", "", f"no weights that are known here; they begin with {some or 'nothing'}", **size)


def _motion(shapes: Mapping[str, tuple[int, ...]], size: dict[str, Any]) -> Description:
    """A motion adapter of AnimateDiff, in diffusers' names or in the original ones."""
    original = any(".temporal_transformer." in key for key in shapes)
    mid = any("mid_block." in key for key in shapes)
    lengths = {shape[1] for key, shape in shapes.items() if key.endswith(".pe")}
    length = min(lengths) if lengths else None
    levels = {int(found[1]) for key in shapes if (found := re.search(r"down_blocks\.(\d+)\.", key))}
    widths = [
        shape[0]
        for level in sorted(levels)
        for key, shape in shapes.items()
        if re.search(rf"down_blocks\.{level}\.motion_modules\.0\.(temporal_transformer\.)?norm\.weight", key)
    ]
    family = {(320, 640, 1280, 1280): "sd15", (320, 640, 1280): "sdxl"}.get(tuple(widths), "")
    version = "of another kind"
    if family == "sdxl":
        version = "for SDXL (beta)"
    elif family == "sd15":
        version = "v2 (v1-5-2)" if mid else {24: "v1 (v1-4 or v1-5)", 32: "v3 (v1-5-3)"}.get(length or 0, "v1 or v3")
    names = "original names" if original else "diffusers' names"
    known = "length not stored" if length is None else f"{length} frames"
    title = f"motion adapter of AnimateDiff, {version}: {known}, {'with' if mid else 'without'} mid block, {names}"
    facts = {"motion_length": length, "mid_block": mid, "original": original, "widths": widths}
    return Description("motion_adapter", family, title, **size, facts=facts)


def _folder(place: Path) -> Description:
    if (place / "model_index.json").is_file():
        index = _json(place / "model_index.json")
        unet = place / "unet" / CONFIG
        family = _TEXT_WIDTHS.get(_number(_json(unet).get("cross_attention_dim")), "") if unet.is_file() else ""
        parts = [part.name for part in sorted(place.iterdir()) if part.is_dir()]
        title = f"{FAMILIES[family]} as diffusers keeps it ({index.get('_class_name', 'no class named')})"
        return Description("base", family, title, facts={"parts": parts})
    if (place / IFA_FILE).is_file():
        return describe(place / IFA_FILE)
    if (place / "vocab.json").is_file() and (place / "merges.txt").is_file():
        return Description("tokenizer", "", "tokenizer of CLIP")
    if not (place / CONFIG).is_file():
        if (place / "unet" / CONFIG).is_file():
            family = _TEXT_WIDTHS.get(_number(_json(place / "unet" / CONFIG).get("cross_attention_dim")), "")
            return Description("base", family, f"{FAMILIES[family]} as diffusers keeps it, without model_index.json")
        raise WeightsError(f"{place} is no folder of weights: {CONFIG} is missing")
    config = _json(place / CONFIG)
    if "method" in config:
        found = info(place)
        title = f"weights of {found.method}"
        return Description("weights", "", title, 0, found.parameters, {"method": found.method})
    name = config.get("_class_name") or (config.get("architectures") or [""])[0]
    files = sorted(place.glob("*.safetensors")) or [path for path in sorted(place.iterdir()) if path.suffix in _PICKLED]
    if not files:
        raise WeightsError(f"{place} has a {CONFIG} of {name or 'nothing known'} and no weights beside it")
    found = describe_tensors(read_shapes(files[0]))
    if name == "MotionAdapter" and found.kind == "motion_adapter":
        length = config.get("motion_max_seq_length")
        return _with(found, {"motion_length": found.facts["motion_length"] or length, "class": name})
    return _with(found, {"class": name})


def _components(place: Path) -> Description:
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{place} cannot be read") from error
    if _COMPONENTS in text:
        return Description("components", "", "components file: where the published parts of a model are")
    return Description("unknown", "", "a TOML file without [components]")


def _family(shapes: Mapping[str, tuple[int, ...]], end: str) -> str:
    widths = {shape[1] for key, shape in shapes.items() if key.endswith(end) and "motion_modules." not in key}
    return _TEXT_WIDTHS.get(min(widths), "") if widths else ""


def _with(found: Description, facts: Mapping[str, Any]) -> Description:
    return Description(
        found.kind, found.family, found.title, found.tensors, found.values, dict(found.facts) | dict(facts)
    )


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int) else 0


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict):
        raise WeightsError(f"{path} must hold an object, found {type(document).__name__}")
    return document
