"""Which attentions of a network are spatial, and which processors sit in them.

A network of the AnimateDiff kind has two kinds of transformers with attentions of the same names: spatial ones, where
a frame looks at itself and at the text, and motion modules, where a place looks at itself in other frames. Everything
of this room touches the first kind only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from diffusers.models.attention_processor import Attention
from torch import nn

from pellucid.errors import ConfigError
from pellucid.layer_animate.attention.processor import FrameContext, SpatialAttentionProcessor

Layers = Iterable[str] | Callable[[str], bool] | None
_PARTS = ("down_blocks.", "up_blocks.", "mid_block.")  # the order in which LayerDiffuse counts
_NORMS = ("spatial_norm", "group_norm", "norm_q", "norm_k")


def spatial_attentions(unet: nn.Module, kind: str | None = "attn1") -> dict[str, Attention]:
    """Find the attentions of the spatial transformers: name -> attention, down, up, then middle.

    The attentions of motion modules have the same last name and are never among them.

    Args:
        unet: a UNetMotionModel or a UNet2DConditionModel.
        kind: ``"attn1"`` for self-attentions, ``"attn2"`` for text, None for both.
    """
    kinds = ("attn1", "attn2") if kind is None else (kind,)
    found = {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and name.split(".")[-1] in kinds and "motion_modules" not in name
    }
    return {name: found[name] for part in _PARTS for name in found if name.startswith(part)}


def decoder_layers(unet: nn.Module) -> list[str]:
    """Names of the self-attentions on the way up, which MasaCtrl-style replacement takes."""
    return [name for name in spatial_attentions(unet) if name.startswith("up_blocks.")]


def spatial_processors(unet: nn.Module) -> dict[str, SpatialAttentionProcessor]:
    """The processors of this room that are in a network: attention's name -> processor."""
    return {
        name: attn.processor
        for name, attn in spatial_attentions(unet, None).items()
        if isinstance(attn.processor, SpatialAttentionProcessor)
    }


def context_of(unet: nn.Module) -> FrameContext | None:
    """The context that the network's processors share, or None when there are none of this room."""
    return next((processor.context for processor in spatial_processors(unet).values()), None)


def chosen_layers(unet: nn.Module, layers: Layers) -> list[str]:
    """Names of the spatial self-attentions that are meant.

    Args:
        unet: the network.
        layers: names, or beginnings such as ``"up_blocks"``, or a function of the name; None for all.

    Raises:
        ConfigError: a name is not there, or nothing was chosen.
    """
    names = list(spatial_attentions(unet))
    if layers is None:
        chosen = names
    elif callable(layers):
        chosen = [name for name in names if layers(name)]
    else:
        wanted = [layers] if isinstance(layers, str) else list(layers)

        def meant(name: str, entry: str) -> bool:
            return name == entry or name.startswith(f"{entry}.")

        unknown = [entry for entry in wanted if not any(meant(name, entry) for name in names)]
        if unknown:
            raise ConfigError(f"no spatial self-attention is called {_some(unknown)}", f"there are {_some(names)}")
        chosen = [name for name in names if any(meant(name, entry) for entry in wanted)]
    if not chosen:
        raise ConfigError("no spatial self-attention was chosen", f"there are {_some(names) or 'none'}")
    return chosen


def processors_at(unet: nn.Module, context: FrameContext, names: list[str]) -> dict[str, SpatialAttentionProcessor]:
    """The processors of these attentions, made where there are none; they add nothing yet.

    Raises:
        ConfigError: another context is in use, or an attention is of a kind that the processor does not know.
    """
    attentions = spatial_attentions(unet, None)
    present = spatial_processors(unet)
    if any(processor.context is not context for processor in present.values()):
        raise ConfigError("the network's processors share another frame context", "pass context_of(network)")
    for name in names:
        attn = attentions[name]
        odd = [
            key for key in ("spatial_norm", "group_norm", "norm_q", "norm_k") if getattr(attn, key, None) is not None
        ]
        if odd or attn.residual_connection or attn.rescale_output_factor != 1.0:
            raise ConfigError(
                f"{name} is not a plain spatial attention: {', '.join(odd) or 'it adds its own residual'}"
            )
        if name not in present:
            attn.set_processor(SpatialAttentionProcessor(name, context))  # pyright: ignore[reportArgumentType]
    made = spatial_processors(unet)
    return {name: made[name] for name in names}


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
