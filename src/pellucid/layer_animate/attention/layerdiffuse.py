"""LayerDiffuse's attention files: what a file is, and its changes under diffusers' names (spec §3.2).

Three naming schemes are around. Official files for SD1.5 hold units, ``hookers.layers.{i}.to_q_lora.0.down.weight``
(`pellucid.layer_animate.attention.sharing`). Official files for SDXL hold patches under the first publication's names,
``diffusion_model.input_blocks.4.1...::lora::0`` and ``::diff::0``. Files for diffusers hold either plain network keys
whose values are ADDED to the weights, or an ordinary LoRA. The latter two schemes become `Delta` per network key.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pellucid.errors import WeightsError

log = logging.getLogger(__name__)

Kind = Literal["units", "patches", "added", "lora"]
Family = Literal["sd15", "sdxl"]

_UNIT = re.compile(r"hookers\.layers\.(\d+)\.to_q_lora\.(\d+)\.down\.weight")
_PATCH = re.compile(r"diffusion_model\.(.+)::(lora|diff)::(\d+)")
_LORA = re.compile(
    r"(?:unet\.)?(?P<layer>(?:down_blocks|up_blocks|mid_block|conv_|time_|add_).*?)"
    r"(?:\.processor\.(?P<old>to_(?:q|k|v|out))_lora|\.lora)?"
    r"[._](?P<part>lora_A|lora_B|lora_down|lora_up|down|up)(?:\.default)?\.weight"
)
_ADDED = re.compile(r"(?:down_blocks|up_blocks|mid_block)\..*\.attn[12]\.to_(?:q|k|v|out\.0)\.(?:weight|bias)")
_UNITS = {
    (1, False): "LayerDiffuse attention for SD1.5: transparent foreground (layer_sd15_transparent_attn)",
    (3, False): "LayerDiffuse attention for SD1.5: foreground, background and blend together (layer_sd15_joint)",
    (2, True): "LayerDiffuse attention for SD1.5: one layer from the other (layer_sd15_fg2bg or layer_sd15_bg2fg)",
}
_HINT = "use layer_sd15_transparent_attn.safetensors with an SD1.5 base"


@dataclass(frozen=True)
class LayerDiffuseFile:
    """What a file is, told by its names and shapes.

    Attributes:
        kind: ``"units"`` (SD1.5), ``"patches"`` (WebUI names), ``"added"`` (diffusers names), ``"lora"``.
        family: the base it belongs to.
        title: one line for people.
        layers: layers that are drawn together; 1 but for units of more.
        rank: of the low-rank changes; 0 if there are none.
        control: whether it looks at a layer that is there already.
        tensors: how many.
        values: numbers in all of them.
    """

    kind: Kind
    family: Family
    title: str
    layers: int
    rank: int
    control: bool
    tensors: int
    values: int


@dataclass(frozen=True)
class Delta:
    """A change of one weight: ``up @ down * scale`` when low-rank, else ``full``.

    Attributes:
        up: (outputs, rank) or (outputs, rank, 1, 1).
        down: (rank, inputs) or with the kernel.
        full: the change itself.
        scale: alpha / rank where the file says alpha, else 1.
    """

    up: Tensor | None = None
    down: Tensor | None = None
    full: Tensor | None = None
    scale: float = 1.0

    def dense(self) -> Tensor:
        """The change in float32; low-rank ones as a matrix (outputs, inputs * kernel)."""
        if self.full is not None:
            return self.full.float()
        if self.up is None or self.down is None:
            raise WeightsError("a low-rank change lacks one of its two matrices")
        return (self.up.double().flatten(1) @ self.down.double().flatten(1) * self.scale).float()


def recognise(tensors: Mapping[str, Tensor | Sequence[int]]) -> LayerDiffuseFile | None:
    """Tell a LayerDiffuse attention file by its names and shapes.

    Args:
        tensors: key -> tensor or shape, so that the header of a file is enough.

    Returns:
        What it is; None when it is something else. A LoRA of diffusers' naming is told as such: nothing in it says
        whether it is LayerDiffuse's.
    """
    shapes = {key: tuple(value.shape if isinstance(value, Tensor) else value) for key, value in tensors.items()}
    if not shapes:
        return None
    size = {"tensors": len(shapes), "values": sum(math.prod(shape) for shape in shapes.values())}
    units = [found for key in shapes if (found := _UNIT.fullmatch(key))]
    if units:
        layers = len({found[2] for found in units})
        control = any(key.startswith("kwargs_encoder.") for key in shapes)
        title = _UNITS.get((layers, control), f"LayerDiffuse attention units for {layers} layers")
        return LayerDiffuseFile("units", "sd15", title, layers, shapes[units[0][0]][0], control, **size)
    if all(_PATCH.fullmatch(key) for key in shapes):
        low = [shape for key, shape in shapes.items() if key.endswith("::lora::1")]
        wider = shapes.get("diffusion_model.input_blocks.0.0.weight::diff::0", (0, 4))[1] > 4
        what = "one layer from another (8 or more input channels)" if wider else "transparent pictures"
        title = f"LayerDiffuse patches for SDXL, WebUI names: {what}"
        return LayerDiffuseFile("patches", "sdxl", title, 1, low[0][0] if low else 0, wider, **size)
    if all(_ADDED.fullmatch(key) for key in shapes):
        family = _family(shapes)
        title = f"attention changes for {_NAMES[family]}, to be added to the weights (ld_diffusers_*_attn)"
        return LayerDiffuseFile("added", family, title, 1, 0, False, **size)
    low_rank = [found for key in shapes if (found := _LORA.fullmatch(key))]
    if low_rank and all(_LORA.fullmatch(key) or key.endswith(".alpha") for key in shapes):
        family = _family(shapes)
        downs = [shapes[found[0]][0] for found in low_rank if found["part"] in _DOWN]
        title = f"LoRA for {_NAMES[family]} with diffusers' names (as diffuser_layer_xl_transparent_attn)"
        return LayerDiffuseFile("lora", family, title, 1, downs[0] if downs else 0, False, **size)
    return None


def require_transparent_attention(state: Mapping[str, Tensor]) -> LayerDiffuseFile:
    """What the file is, if it is one of the SD1.5 unit files.

    Raises:
        WeightsError: it is another file, and the message says which, as far as it can be told.
    """
    found = recognise(state)
    if found is None:
        raise WeightsError(f"these {len(state)} tensors are no LayerDiffuse attention file", _HINT)
    if found.kind != "units":
        raise WeightsError(f"a LayerDiffuse attention file for SD1.5 is needed, found: {found.title}", _HINT)
    return found


def read_deltas(state: Mapping[str, Tensor]) -> dict[str, Delta]:
    """Changes under diffusers' names, from patches, added values or a LoRA.

    Returns:
        Network key (``"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"``) -> change.

    Raises:
        WeightsError: the file is none of the three, holds a key that is not understood, or half of a low-rank pair.
    """
    found = recognise(state)
    if found is None or found.kind == "units":
        what = found.title if found else f"{len(state)} tensors that are not known"
        raise WeightsError(f"changes for a network's weights are needed, found: {what}")
    if found.kind == "added":
        return {key: Delta(full=value) for key, value in state.items()}
    deltas = _patches(state) if found.kind == "patches" else _lora(state)
    half = [key for key, delta in deltas.items() if delta.full is None and (delta.up is None or delta.down is None)]
    if half:
        raise WeightsError(f"{half[0]} and {len(half) - 1} more have one half of a low-rank pair only")
    return deltas


@torch.no_grad()
def merge_deltas(module: nn.Module, deltas: Mapping[str, Delta], strength: float = 1.0) -> list[str]:
    """Add changes to a network's weights, in float32, for good.

    Args:
        module: the network; its parameters keep their precision and device.
        deltas: from `read_deltas`.
        strength: factor on all changes; -1 takes them back, up to rounding.

    Returns:
        The keys that changed.

    Raises:
        WeightsError: keys that the network does not have, or of another size; up to five are named. Nothing is
            changed then.
    """
    own = dict(module.named_parameters())
    missing = [key for key in deltas if key not in own]
    wrong = [
        f"{key} expected {tuple(own[key].shape)}, found {_size(delta)} values"
        for key, delta in deltas.items()
        if key in own and _size(delta) != own[key].numel()
    ]
    parts = [
        f"{len(keys)} {what}: {_some(keys)}" for what, keys in (("unknown", missing), ("wrong-sized", wrong)) if keys
    ]
    if parts:
        hint = "files that draw one layer from another need a base with more input channels" if wrong else ""
        raise WeightsError(f"changes do not fit {type(module).__name__}: {'; '.join(parts)}", hint)
    for key, delta in deltas.items():
        weight = own[key]
        weight.copy_(weight.float() + strength * delta.dense().view_as(weight).to(weight.device))
    log.info("merged changes into %d weights of %s", len(deltas), type(module).__name__)
    return list(deltas)


def diffusers_name(key: str) -> str:
    """Rename a UNet key of the first publication (``input_blocks.4.1...``) as diffusers has it.

    For networks with two resnets a level, such as SD1.5 and SDXL.

    Raises:
        WeightsError: the key is not one of theirs.
    """
    for start, name in _HEADS.items():
        if key.startswith(start):
            return name + key.removeprefix(start)
    found = re.fullmatch(r"(?:(input|output)_blocks\.(\d+)|middle_block)\.(\d+)\.(.+)", key)
    if found is None:
        raise WeightsError(f"{key} is no key of a UNet of Stable Diffusion")
    side, place, inner = found[1], int(found[3]), found[4]
    if side is None:
        kind, index = ("attentions", 0) if place == 1 else ("resnets", place // 2)
        return f"mid_block.{kind}.{index}.{_inner(kind, inner)}"
    number = int(found[2]) - (1 if side == "input" else 0)
    level, layer = divmod(number, 3)
    if inner.startswith("op."):
        return f"down_blocks.{level}.downsamplers.0.conv.{inner.removeprefix('op.')}"
    if place and inner.startswith("conv."):
        return f"up_blocks.{level}.upsamplers.0.{inner}"
    kind = "attentions" if place else "resnets"
    return f"{'down' if side == 'input' else 'up'}_blocks.{level}.{kind}.{layer}.{_inner(kind, inner)}"


_NAMES: dict[Family, str] = {"sd15": "SD1.5", "sdxl": "SDXL"}
_DOWN = ("lora_A", "lora_down", "down")
_HEADS = {
    "time_embed.0.": "time_embedding.linear_1.",
    "time_embed.2.": "time_embedding.linear_2.",
    "label_emb.0.0.": "add_embedding.linear_1.",
    "label_emb.0.2.": "add_embedding.linear_2.",
    "input_blocks.0.0.": "conv_in.",
    "out.0.": "conv_norm_out.",
    "out.2.": "conv_out.",
}
_RESNET = {
    "in_layers.0.": "norm1.",
    "in_layers.2.": "conv1.",
    "emb_layers.1.": "time_emb_proj.",
    "out_layers.0.": "norm2.",
    "out_layers.3.": "conv2.",
    "skip_connection.": "conv_shortcut.",
}


def _inner(kind: str, inner: str) -> str:
    if kind == "attentions":
        return inner
    for start, name in _RESNET.items():
        if inner.startswith(start):
            return name + inner.removeprefix(start)
    raise WeightsError(f"{inner} is no part of a resnet of Stable Diffusion")


def _patches(state: Mapping[str, Tensor]) -> dict[str, Delta]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        found = _PATCH.fullmatch(key)
        if found is None or (part := f"{found[2]}{found[3]}") not in ("lora0", "lora1", "lora2", "diff0"):
            raise WeightsError(f"{key} is a kind of patch that is not known")
        parts.setdefault(diffusers_name(found[1]), {})[part] = value
    deltas: dict[str, Delta] = {}
    for key, part in parts.items():
        if "diff0" in part and len(part) > 1:
            raise WeightsError(f"{key} has two kinds of patches")
        down, alpha = part.get("lora1"), part.get("lora2")
        scale = 1.0 if alpha is None or down is None else float(alpha) / down.shape[0]
        deltas[key] = Delta(part.get("lora0"), down, part.get("diff0"), scale)
    return deltas


def _lora(state: Mapping[str, Tensor]) -> dict[str, Delta]:
    ups: dict[str, Tensor] = {}
    downs: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for key, value in state.items():
        if key.endswith(".alpha"):
            alphas[_layer(key.removesuffix(".alpha"), None)] = float(value)
        elif found := _LORA.fullmatch(key):
            (downs if found["part"] in _DOWN else ups)[_layer(found["layer"], found["old"])] = value
    deltas = {}
    for key in dict.fromkeys([*ups, *downs]):
        down = downs.get(key)
        scale = alphas[key] / down.shape[0] if key in alphas and down is not None else 1.0
        deltas[key] = Delta(ups.get(key), down, None, scale)
    return deltas


def _layer(layer: str, old: str | None) -> str:
    # "attn1.processor.to_out_lora" is the older way to write "attn1.to_out.0.lora".
    name = layer.removeprefix("unet.") + (f".{old}" if old else "")
    return f"{name}.0.weight" if name.endswith(".to_out") else f"{name}.weight"


def _family(shapes: Mapping[str, tuple[int, ...]]) -> Family:
    # SDXL reads two text encoders side by side (2048 numbers a token) and stacks up to ten transformer blocks.
    text = {shape[-1] for key, shape in shapes.items() if ".attn2.to_k" in key or ".attn2.to_v" in key}
    deep = any(f".transformer_blocks.{i}." in key for key in shapes for i in range(1, 10))
    return "sdxl" if 2048 in text or deep else "sd15"


def _size(delta: Delta) -> int:
    if delta.full is not None:
        return delta.full.numel()
    if delta.up is None or delta.down is None:
        return 0
    return delta.up.shape[0] * math.prod(delta.down.shape[1:])


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
