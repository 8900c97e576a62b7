"""Adapters of Still-Moving (Table I, [34] of the paper): low-rank changes of linear layers, scaled and taken off again.

Spatial Adapters sit in the spatial transformers (attention to the picture, to the text, and the feed-forward layers)
and make a customised picture model fit the motion modules. Motion Adapters sit in the temporal attentions and say how
much moves: they learn standing clips at scale 1, so that 0 is the motion that was there and below 0 is more of it.

    y = W x + b + scale * up(down(x))      down: rank x inputs, drawn;  up: outputs x rank, zero at the start

They hang on the layers as forward hooks: the network's own weights, keys and processors are left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pellucid.errors import ConfigError, WeightsError
from pellucid.hub.pretrained import expect_tensors, read_state, save_pretrained

Place = Literal["spatial", "motion"]

METHOD = "still_moving"
RANK = 16  # spec Sec. 8
_MOTION = "motion_modules"
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
_TEMPORAL = ("to_q", "to_k", "to_v")
_SLASH = "/"  # names in a ModuleDict hold no dots


class LowRank(nn.Module):
    """``up(down(x))`` without biases; nothing at the start.

    Args:
        inputs: of the layer it is added to.
        outputs: of the layer it is added to.
        rank: numbers in between.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, inputs) / rank)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, states: Tensor) -> Tensor:
        """Compute ``(..., inputs) -> (..., outputs)`` in the precision of ``states``."""
        return F.linear(F.linear(states, self.down.to(states.dtype)), self.up.to(states.dtype))


class Adapters(nn.Module):
    """One set of adapters, for some layers of a network; attached to it or not.

    Args:
        shapes: layer's name -> ``(inputs, outputs)``, see `adaptable`.
        rank: of all of them.

    Attributes:
        scale: factor on what they add; any number, 0 takes them out, below 0 turns their effect round. Not a weight.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], rank: int = RANK) -> None:
        super().__init__()
        if not shapes or rank < 1:
            raise ConfigError(f"adapters need a rank of at least 1 and layers, found {rank} and {len(shapes)} layers")
        self.rank = rank
        self.scale = 1.0
        self.layers = nn.ModuleDict(
            {name.replace(".", _SLASH): LowRank(*shape, rank) for name, shape in shapes.items()}
        )
        self._handles: list[RemovableHandle] = []

    @property
    def names(self) -> list[str]:
        """The layers' names in the network."""
        return [key.replace(_SLASH, ".") for key in self.layers]

    @property
    def attached(self) -> bool:
        """Whether they hang on a network."""
        return bool(self._handles)

    def attach(self, network: nn.Module) -> None:
        """Hang them on a network's layers; it computes what it did until ``up`` is trained.

        Raises:
            ConfigError: they hang on one already, or a layer is not there or of another size.
        """
        if self.attached:
            raise ConfigError("the adapters are attached already", "detach them first")
        modules = dict(network.named_modules())
        for name, low_rank in zip(self.names, self._low_ranks(), strict=True):
            layer, wanted = modules.get(name), (low_rank.down.shape[1], low_rank.up.shape[0])
            if not isinstance(layer, nn.Linear):
                raise ConfigError(
                    f"the network has no linear layer {name}", "adapters fit the network they were made for"
                )
            if (layer.in_features, layer.out_features) != wanted:
                found = (layer.in_features, layer.out_features)
                raise ConfigError(f"the adapter of {name} is for {wanted} numbers in and out, the layer has {found}")
        for name, low_rank in zip(self.names, self._low_ranks(), strict=True):
            self._handles.append(modules[name].register_forward_hook(_Added(self, low_rank)))

    def detach(self) -> None:
        """Take them off again; the network is then what it was, bit for bit."""
        while self._handles:
            self._handles.pop().remove()

    @contextmanager
    def scaled(self, scale: float) -> Iterator[None]:
        """Set `scale` for the length of a ``with`` block."""
        before, self.scale = self.scale, scale
        try:
            yield
        finally:
            self.scale = before

    def _low_ranks(self) -> list[LowRank]:
        return [module for module in self.layers.values() if isinstance(module, LowRank)]


@dataclass(frozen=True, eq=False)
class _Added:
    """The hook: what a layer gives, and the adapter's part."""

    owner: Adapters
    low_rank: LowRank

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if self.owner.scale == 0.0:
            return None
        return torch.add(out, self.low_rank(inputs[0]), alpha=self.owner.scale)


def adaptable(network: nn.Module, place: Place, *, feed_forward: bool = True) -> dict[str, tuple[int, int]]:
    """List the linear layers that a kind of adapters goes into, as ``{name: (inputs, outputs)}``.

    Args:
        network: a UNetMotionModel.
        place: ``"spatial"``: q, k, v, out of the attentions to picture and text, outside motion modules;
            ``"motion"``: q, k, v of the temporal attentions.
        feed_forward: for ``"spatial"``, the two layers of the feed-forward part too.

    Raises:
        ConfigError: the network has none.
    """
    wanted = _TEMPORAL if place == "motion" else _ATTENTION + (_FEED_FORWARD if feed_forward else ())
    found = {
        name: (module.in_features, module.out_features)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and ".transformer_blocks." in name
        and (_MOTION in name) == (place == "motion")
        and ".processor." not in name
        and any(name.endswith(f".{end}") for end in wanted)
    }
    if not found:
        raise ConfigError(f"the network has no layers for {place} adapters")
    return found


def make_adapters(network: nn.Module, place: Place, rank: int = RANK, *, feed_forward: bool = True) -> Adapters:
    """Make adapters that fit a network, on its device, not attached; see `adaptable`."""
    adapters = Adapters(adaptable(network, place, feed_forward=feed_forward), rank)
    return adapters.to(next(network.parameters()).device)


def adapter_state(sets: Mapping[str, Adapters]) -> dict[str, Tensor]:
    """All weights of some sets: ``"<set>.<layer>.down"`` and ``"<set>.<layer>.up"``, layers by the network's names."""
    return {
        f"{title}.{name}.{part}": getattr(low_rank, part).detach()
        for title, adapters in sets.items()
        for name, low_rank in zip(adapters.names, adapters._low_ranks(), strict=True)
        for part in ("down", "up")
    }


def save_adapters(
    folder: str | Path,
    sets: Mapping[str, Adapters],
    card: str,
    training: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write sets of adapters as a folder of weights, in float32.

    Args:
        folder: gets ``config.json``, ``model.safetensors``, ``README.md``.
        sets: for example ``{"motion": ..., "spatial": ...}``.
        card: text of the model card.
        training: plain facts on how they were made.
        overwrite: replace a folder of weights.

    Returns:
        The folder.

    Raises:
        WeightsError: the folder is there.
    """
    return save_pretrained(
        folder,
        method=METHOD,
        config={"ranks": {title: adapters.rank for title, adapters in sets.items()}},
        state=adapter_state(sets),
        card=card,
        training=training,
        overwrite=overwrite,
    )


def load_adapters(source: str | Path | Mapping[str, Tensor], network: nn.Module) -> dict[str, Adapters]:
    """Make the sets of adapters of a file or state, for a network, not attached.

    Args:
        source: a folder of `save_adapters`, its safetensors file, or what `adapter_state` gave.
        network: they must fit it.

    Returns:
        Set's name -> adapters.

    Raises:
        WeightsError: the file is missing or damaged, is no file of adapters, or does not fit the network.
    """
    state = dict(source) if isinstance(source, Mapping) else read_state(source)
    origin = "" if isinstance(source, Mapping) else f" in {source}"
    sizes = {
        name: (module.in_features, module.out_features)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    }
    layers: dict[str, dict[str, int]] = {}  # set -> layer -> rank
    for key, value in state.items():
        title, _, rest = key.partition(".")
        name, _, part = rest.rpartition(".")
        if part not in ("down", "up") or not name or value.ndim != 2:
            raise WeightsError(f"weights{origin} are no adapters: {key} {tuple(value.shape)}")
        if name not in sizes:
            raise WeightsError(f"adapters{origin} do not fit the network: it has no linear layer {name}")
        if part == "down":
            layers.setdefault(title, {})[name] = value.shape[0]
    sets: dict[str, Adapters] = {}
    for title, ranks in layers.items():
        sets[title] = Adapters({name: sizes[name] for name in ranks}, next(iter(ranks.values())))
    expect_tensors(adapter_state(sets), state, "the network's adapters", origin=origin)
    with torch.no_grad():
        for key, value in adapter_state(sets).items():
            value.copy_(state[key])
    device = next(network.parameters()).device
    return {title: adapters.to(device) for title, adapters in sets.items()}
