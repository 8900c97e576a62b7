"""Putting Inter-Frame Attention and LayerDiffuse's units into a network, and taking them out (spec §4.2, §3.1).

The order is: LayerDiffuse's file first, Inter-Frame Attention last, because W_Q' starts as a copy of the query matrix
that LayerDiffuse left. All processors of a network share one `FrameContext`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from safetensors.torch import save
from torch import Tensor, nn

from pellucid.errors import ConfigError, WeightsError
from pellucid.hub.pretrained import expect_tensors, read_state
from pellucid.io.files import atomic_path
from pellucid.layer_animate.attention.layerdiffuse import require_transparent_attention
from pellucid.layer_animate.attention.processor import FrameContext, projections
from pellucid.layer_animate.attention.sharing import ControlEncoder, SharingUnit
from pellucid.layer_animate.attention.spatial import (
    Layers,
    chosen_layers,
    context_of,
    processors_at,
    spatial_attentions,
    spatial_processors,
)

log = logging.getLogger(__name__)

IFA_FILE = "inter_frame_attention.safetensors"
_BIAS = ".to_out_ifa.bias"
_STORED = {"float32": torch.float32, "float16": torch.float16}


def attach_spatial(unet: nn.Module, context: FrameContext, layers: Layers = None) -> list[str]:
    """Put processors on self-attentions that add nothing: they can capture and replace K and V.

    Args:
        unet: the network.
        context: shared with what is attached already.
        layers: see `attach_ifa`.

    Returns:
        The names of the attentions.

    Raises:
        ConfigError: as `attach_ifa`.
    """
    names = chosen_layers(unet, layers)
    processors_at(unet, context, names)
    return names


def attach_ifa(unet: nn.Module, context: FrameContext, layers: Layers = None) -> list[str]:
    """Add Inter-Frame Attention (Eq. 3) to spatial self-attentions; the network's output stays bit-identical.

    W_Q' starts as a copy of W_Q, with LayerDiffuse's LoRA, and W_O', b_O' as zeros (spec §7, A1 and A3). Gradients
    reach W_O' at the first step and W_Q' from the second. A layer that has it already is left as it is.

    Args:
        unet: a UNetMotionModel or a UNet2DConditionModel.
        context: what the caller sets before each call of the network.
        layers: names of attentions, or beginnings such as ``"up_blocks"``, or a function of the name; None for all.

    Returns:
        The names of the attentions, in order.

    Raises:
        ConfigError: no such layers; another context is in use; or a unit for several layers is attached, for which
            frames would mean two things at once.
    """
    names = chosen_layers(unet, layers)
    attentions = spatial_attentions(unet)
    several = [name for name, held in spatial_processors(unet).items() if held.unit and held.unit.layers > 1]
    if several:
        raise ConfigError(
            "Inter-Frame Attention cannot be added to attention units of several layers",
            "use the file layer_sd15_transparent_attn, which draws one layer",
        )
    for name, processor in processors_at(unet, context, names).items():
        if processor.to_q_ifa is None:
            attn = attentions[name]
            with torch.no_grad():
                query = projections(attn)["to_q"].weight.detach()
                if processor.unit is not None:
                    query = processor.unit.merged("to_q", query)
            processor.add_ifa(query, projections(attn)["to_out"].out_features)
    return names


def attach_transparent_attention(
    unet: nn.Module, state: Mapping[str, Tensor], context: FrameContext, *, fold: bool = True
) -> list[str]:
    """Put LayerDiffuse's units for SD1.5 into all spatial attentions, both kinds (spec §3.1).

    Args:
        unet: the network.
        state: tensors of layer_sd15_transparent_attn, _joint, _fg2bg or _bg2fg, official keys.
        context: shared with Inter-Frame Attention.
        fold: for a file of one layer, merge the LoRA into the network's own weights and the unit's matrices into one
            (`SharingUnit.fold`); nothing is left to compute but that one. The network then cannot be had back.

    Returns:
        The names of the attentions. For fg2bg and bg2fg, `control_encoder` makes the encoder of the file.

    Raises:
        WeightsError: the file is another one (for SDXL, for example), or keys or shapes do not fit the network.
        ConfigError: Inter-Frame Attention, or such units, are attached already.
    """
    facts = require_transparent_attention(state)
    attentions = spatial_attentions(unet, None)
    for held in spatial_processors(unet).values():
        if held.to_q_ifa is not None:
            raise ConfigError("LayerDiffuse's units must be attached before Inter-Frame Attention", "detach_ifa first")
        if held.unit is not None:
            raise ConfigError("LayerDiffuse's units are attached already")
    units: dict[str, SharingUnit] = {}
    with torch.device("meta"):
        for name, attn in attentions.items():
            channels, text = (projections(attn)[which].in_features for which in ("to_q", "to_k"))
            units[name] = SharingUnit(channels, text, facts.rank, facts.layers, facts.control)
    expected = {
        f"hookers.layers.{i}.{key}": value
        for i, unit in enumerate(units.values())
        for key, value in unit.state_dict().items()
    }
    given = {key: value for key, value in state.items() if not key.startswith("kwargs_encoder.")}
    expect_tensors(expected, given, "the network", origin=" of LayerDiffuse")
    processors = processors_at(unet, context, list(units))
    for i, (name, unit) in enumerate(units.items()):
        attn = attentions[name]
        weight = attn.to_q.weight
        own = {
            key: state[f"hookers.layers.{i}.{key}"].to(device=weight.device, dtype=weight.dtype, copy=True)
            for key in unit.state_dict()
        }
        unit.load_state_dict(own, assign=True)
        unit.requires_grad_(False)
        if fold and facts.layers == 1:
            unit.fold(projections(attn))
        processors[name].unit = unit
    log.info("attached LayerDiffuse's units to %d attentions: %s", len(units), facts.title)
    return list(units)


def control_encoder(state: Mapping[str, Tensor]) -> ControlEncoder:
    """The encoder of the layer that is there already, from a file fg2bg or bg2fg; float32, on the CPU.

    Raises:
        WeightsError: its tensors are missing or do not fit.
    """
    encoder = ControlEncoder()
    start = "kwargs_encoder."
    own = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    expect_tensors(encoder.state_dict(), own, "the control encoder", origin=" of LayerDiffuse")
    encoder.load_state_dict(own)
    return encoder.eval()


def detach_ifa(unet: nn.Module) -> None:
    """Take Inter-Frame Attention out of all layers; LayerDiffuse's units stay."""
    for processor in spatial_processors(unet).values():
        processor.remove_ifa()


def detach(unet: nn.Module) -> None:
    """Give all spatial attentions back diffusers' own processors.

    Raises:
        ConfigError: LayerDiffuse's units are folded into the network's weights.
    """
    processors = spatial_processors(unet)
    if any(processor.unit is not None and processor.unit.temporal is not None for processor in processors.values()):
        raise ConfigError(
            "LayerDiffuse's units are merged into the network and cannot be taken out", "load the base model again"
        )
    for name, attn in spatial_attentions(unet, None).items():
        if name in processors:
            attn.set_processor(AttnProcessor2_0())  # pyright: ignore[reportArgumentType]


def ifa_state(unet: nn.Module) -> dict[str, Tensor]:
    """All that is trained: ``...attn1.processor.to_q_ifa.weight``, ``.to_out_ifa.weight`` and ``.to_out_ifa.bias``."""
    state: dict[str, Tensor] = {}
    for name, processor in spatial_processors(unet).items():
        if processor.to_q_ifa is not None and processor.to_out_ifa is not None:
            state[f"{name}.processor.to_q_ifa.weight"] = processor.to_q_ifa.weight
            state[f"{name}.processor.to_out_ifa.weight"] = processor.to_out_ifa.weight
            state[f"{name}.processor.to_out_ifa.bias"] = processor.to_out_ifa.bias
    return state


def ifa_parameters(unet: nn.Module) -> list[nn.Parameter]:
    """The parameters of `ifa_state`, in its order, for an optimiser."""
    return [value for value in ifa_state(unet).values() if isinstance(value, nn.Parameter)]


def train_only_ifa(unet: nn.Module) -> list[nn.Parameter]:
    """Freeze the network except Inter-Frame Attention (spec §4.1), and return what is left to train.

    Raises:
        ConfigError: no Inter-Frame Attention is attached.
    """
    parameters = ifa_parameters(unet)
    if not parameters:
        raise ConfigError("the network has no Inter-Frame Attention to train", "attach_ifa first")
    unet.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def save_ifa(
    path: str | Path,
    unet: nn.Module,
    facts: Mapping[str, Any],
    *,
    dtype: str = "float16",
    overwrite: bool = False,
) -> Path:
    """Write Inter-Frame Attention alone: one safetensors file, and what it belongs to as JSON beside it.

    Args:
        path: a file ``*.safetensors``, or a folder for `IFA_FILE`.
        unet: the network.
        facts: plain values: base family, F, m, lambda, motion adapter, offset scale.
        dtype: ``"float16"`` (50 MB at the size of SD1.5) or ``"float32"``.
        overwrite: replace what is there.

    Returns:
        The safetensors file.

    Raises:
        ConfigError: nothing is attached, or no such dtype.
        InputError: the place cannot be written.
        WeightsError: a value is not finite in that precision.
    """
    if dtype not in _STORED:
        raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(_STORED)}")
    state = {key: value.detach().to("cpu", _STORED[dtype]).contiguous() for key, value in ifa_state(unet).items()}
    if not state:
        raise ConfigError("the network has no Inter-Frame Attention to save", "attach_ifa first")
    bad = [key for key, value in state.items() if not value.isfinite().all()]
    if bad:
        raise WeightsError(f"{bad[0]} has values that {dtype} cannot hold", 'save with dtype="float32"')
    target = _ifa_file(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"kind": "inter_frame_attention", **facts}, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(target, overwrite) as part, atomic_path(target.with_suffix(".json"), overwrite) as note:
        part.write_bytes(save(state, metadata={"format": "pt"}))
        note.write_text(text, encoding="utf-8")
    return target


def load_ifa(unet: nn.Module, path: str | Path, context: FrameContext | None = None) -> dict[str, Any]:
    """Read Inter-Frame Attention from a file of `save_ifa`; a file without biases is accepted (they become zero).

    Where it is not attached it is attached to the layers that the file names.

    Args:
        unet: the network.
        path: the safetensors file, or its folder.
        context: needed when nothing of this room is attached to the network yet.

    Returns:
        The facts beside it; empty, and said in the log, when there is no JSON file.

    Raises:
        WeightsError: the file is missing or damaged, or keys or shapes do not fit; nothing is changed then.
        ConfigError: as `attach_ifa`; or no context is known.
    """
    file = _ifa_file(path)
    state = read_state(file)
    facts = _facts(file)
    names = list(dict.fromkeys(key.split(".processor.")[0] for key in state))
    attached = ifa_state(unet)
    attentions = spatial_attentions(unet)
    if attached:
        expected: dict[str, Tensor] = attached
    else:
        wanted = [name for name in names if name in attentions] or list(attentions)
        expected = {key: value for name in wanted for key, value in _shapes(name, attentions[name]).items()}
    biases = {key for key in expected if key.endswith(_BIAS) and key not in state}
    if biases and not any(key.endswith(_BIAS) for key in state):
        log.info("%s has no biases: they are taken as zero", file)
        state |= {key: torch.zeros(expected[key].shape) for key in biases}
    expect_tensors(expected, state, "the network's Inter-Frame Attention", origin=f" in {file}")
    if not attached:
        shared = context or context_of(unet)
        if shared is None:
            raise ConfigError("Inter-Frame Attention needs a frame context", "pass context=FrameContext()")
        attach_ifa(unet, shared, names)
    with torch.no_grad():
        for key, value in ifa_state(unet).items():
            value.copy_(state[key])
    return facts


def _ifa_file(path: str | Path) -> Path:
    return Path(path) if str(path).endswith(".safetensors") else Path(path) / IFA_FILE


def _facts(file: Path) -> dict[str, Any]:
    note = file.with_suffix(".json")
    try:
        facts = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        log.warning("%s is missing: not known which base and frames %s was trained for", note.name, file)
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{note} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(facts, dict):
        raise WeightsError(f"{note} must hold an object, found {type(facts).__name__}")
    return facts


def _shapes(name: str, attn: Attention) -> dict[str, Tensor]:
    inner, channels = attn.to_q.weight.shape
    width = projections(attn)["to_out"].out_features
    shapes = {"to_q_ifa.weight": (inner, channels), "to_out_ifa.weight": (width, inner), "to_out_ifa.bias": (width,)}
    return {f"{name}.processor.{key}": torch.empty(shape, device="meta") for key, shape in shapes.items()}
