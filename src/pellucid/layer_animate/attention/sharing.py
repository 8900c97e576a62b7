"""LayerDiffuse's attention unit for SD1.5 (spec §3.1), which its files put into all 32 spatial attentions.

For L layers drawn together (1: a foreground; 2: foreground and background; 3: also their blend), batch (b*L), h the
normalised hidden states::

    out = the attention, with a LoRA of its own for each layer on q, k, v and out
    u   = h + out
    r   = temporal_o(attention across the L layers of temporal_i(temporal_n(u)))
    the unit gives u + r - h = out + r, and the block adds its residual

With L = 1 a softmax over one token leaves r = temporal_o(temporal_v(temporal_i(temporal_n(u)))): not nothing, so a
plain LoRA merge of the file would be wrong. But all of it is linear after the norm, and `SharingUnit.fold` makes one
matrix of it and puts the LoRA into the attention's own weights: no cost is left but that matrix.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.errors import ConfigError

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")
_EPSILON = 1e-6
_CONTROL_WIDTH = 256


class _LowRank(nn.Module):
    """``up @ down``, without bias and without a further scale."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.up(self.down(states))

    def delta(self) -> Tensor:
        return self.up.weight.double() @ self.down.weight.double()


class SharingUnit(nn.Module):
    """The unit of one attention, with the official files' keys (``to_q_lora.0.down.weight``, ``temporal_i.weight``...).

    Args:
        channels: C of the hidden states.
        text: width of what k and v are made from: C for a self-attention, the text's for a cross-attention.
        rank: of the LoRAs (256 in the official files).
        layers: L, the layers drawn together (``frames`` in the official code).
        control: whether it takes control features (the files fg2bg and bg2fg).
    """

    def __init__(self, channels: int, text: int, rank: int, layers: int = 1, control: bool = False) -> None:
        super().__init__()
        self.layers = layers
        for which in PROJECTIONS:
            inputs = text if which in ("to_k", "to_v") else channels
            loras = nn.ModuleList(_LowRank(inputs, channels, rank) for _ in range(layers))
            self.add_module(f"{which}_lora", loras)
        self.temporal_i = nn.Linear(channels, channels)
        self.temporal_n = nn.LayerNorm(channels, eps=_EPSILON)
        self.temporal_q = nn.Linear(channels, channels)
        self.temporal_k = nn.Linear(channels, channels)
        self.temporal_v = nn.Linear(channels, channels)
        self.temporal_o = nn.Linear(channels, channels)
        self.temporal: nn.Linear | None = None
        self.control_convs: nn.ModuleList | None = None
        if control:
            self.control_convs = nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(_CONTROL_WIDTH, _CONTROL_WIDTH, 3, padding=1),
                    nn.SiLU(),
                    nn.Conv2d(_CONTROL_WIDTH, channels, 1),
                )
                for _ in range(layers)
            )

    def project(self, which: str, linear: nn.Module, states: Tensor) -> Tensor:
        """Apply one of the attention's projections with this unit's LoRA.

        Args:
            which: one of ``PROJECTIONS``.
            linear: the attention's own projection.
            states: (b*L, N, C).

        Raises:
            ConfigError: the batch does not hold whole groups of L layers.
        """
        out = linear(states)
        loras = getattr(self, f"{which}_lora")
        if loras is None:  # folded into the attention's own weights
            return out
        if len(loras) == 1:
            return out + loras[0](states)
        grouped = self._grouped(states)  # (b, L, N, C)
        return out + torch.stack([lora(grouped[:, i]) for i, lora in enumerate(loras)], dim=1).flatten(0, 1)

    def merged(self, which: str, weight: Tensor) -> Tensor:
        """A projection's matrix with the LoRA of the first layer: ``W + up @ down``, in ``weight``'s precision."""
        loras = getattr(self, f"{which}_lora")
        return weight if loras is None else (weight.double() + loras[0].delta()).to(weight.dtype)

    def shared(self, states: Tensor, out: Tensor, heads: int) -> Tensor:
        """Add what the layers tell each other: ``out + r``.

        Args:
            states: h, (b*L, N, C), as the projections saw them.
            out: the attention's output, (b*L, N, C).
            heads: of the attention.
        """
        mixed = self.temporal_n(states + out)
        if self.temporal is not None:
            return out + self.temporal(mixed)
        mixed = self.temporal_i(mixed)
        value = self.temporal_v(mixed)
        if self.layers > 1:
            value = self._across(self.temporal_q(mixed), self.temporal_k(mixed), value, heads)
        return out + self.temporal_o(value)

    def controlled(self, states: Tensor, control: Mapping[int, Tensor]) -> Tensor:
        """Add the control features of this attention's resolution, if the unit takes any.

        Args:
            states: h, (b*L, N, C).
            control: number of tokens N -> (b, 256, h, w), from `ControlEncoder`.

        Raises:
            ConfigError: the unit takes control and none of this resolution is there.
        """
        if self.control_convs is None:
            return states
        features = control.get(states.shape[1])
        if features is None:
            raise ConfigError(
                f"these weights draw one layer onto another, and no features for {states.shape[1]} tokens are there",
                "give the picture of the other layer, of the size that is drawn",
            )
        seen = [conv(features.to(states.dtype)).flatten(2).transpose(1, 2) for conv in self.control_convs]  # (b, N, C)
        return (self._grouped(states) + torch.stack(seen, dim=1)).flatten(0, 1)

    @torch.no_grad()
    def fold(self, linears: Mapping[str, nn.Linear]) -> None:
        """Put the LoRAs into the attention's own weights and the linear chain into one matrix, for good.

        Exact up to rounding, and done in float64. The LoRAs and the ``temporal_*`` matrices are gone afterwards.

        Args:
            linears: the attention's own projection for each of ``PROJECTIONS``.

        Raises:
            ConfigError: L is not 1; each layer then has weights of its own.
        """
        if self.layers != 1:
            raise ConfigError(f"a unit of {self.layers} layers has that many sets of weights, so none can be merged")
        if self.temporal is not None:
            return
        for which in PROJECTIONS:
            weight = linears[which].weight
            weight.copy_(self.merged(which, weight))
            setattr(self, f"{which}_lora", None)
        chain = (self.temporal_i, self.temporal_v, self.temporal_o)
        weight, bias = chain[0].weight.double(), chain[0].bias.double()
        for linear in chain[1:]:
            weight, bias = linear.weight.double() @ weight, linear.weight.double() @ bias + linear.bias.double()
        kept = self.temporal_o
        self.temporal = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        self.temporal.weight = nn.Parameter(weight.to(kept.weight.dtype), requires_grad=False)
        self.temporal.bias = nn.Parameter(bias.to(kept.weight.dtype), requires_grad=False)
        for name in ("temporal_i", "temporal_q", "temporal_k", "temporal_v", "temporal_o"):
            setattr(self, name, None)

    def _grouped(self, states: Tensor) -> Tensor:
        if states.shape[0] % self.layers:
            raise ConfigError(f"a batch of {states.shape[0]} does not hold whole groups of {self.layers} layers")
        return states.unflatten(0, (-1, self.layers))

    def _across(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        batch, tokens, _ = query.shape

        def by_token(states: Tensor) -> Tensor:  # (b*L, N, C) -> (b*N, heads, L, d)
            grouped = self._grouped(states).transpose(1, 2).flatten(0, 1)
            return grouped.unflatten(-1, (heads, -1)).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(by_token(query), by_token(key), by_token(value))
        mixed = mixed.transpose(1, 2).flatten(2)  # (b*N, L, C)
        return mixed.unflatten(0, (-1, tokens)).transpose(1, 2).reshape(batch, tokens, -1)


class ControlEncoder(nn.Module):
    """Features of the layer that is there already, for the files fg2bg and bg2fg (their ``kwargs_encoder``).

    Built after the published layout, which the manifest fixes; no weights and no golden pair were at hand to check it.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 32, 64, 64, 128, 128, 256, 256)
        strides = (1, 1, 2, 1, 2, 1, 2, 1)
        self.blocks_0 = _convolutions(3, widths, strides)
        for level in (1, 2, 3):
            self.add_module(f"blocks_{level}", _convolutions(_CONTROL_WIDTH, (_CONTROL_WIDTH,) * 2, (2, 1)))

    def forward(self, picture: Tensor) -> dict[int, Tensor]:
        """Encode a picture (B, 3, H, W) in [-1, 1] at the four resolutions of the network.

        Returns:
            Number of tokens -> (B, 256, h, w), for `FrameContext.control`.
        """
        found: dict[int, Tensor] = {}
        features = picture
        for level in range(4):
            features = getattr(self, f"blocks_{level}")(features)
            found[features.shape[-2] * features.shape[-1]] = features
        return found


def _convolutions(inputs: int, widths: tuple[int, ...], strides: tuple[int, ...]) -> nn.Sequential:
    steps: list[nn.Module] = []
    for width, stride in zip(widths, strides, strict=True):
        steps += [nn.Conv2d(inputs, width, 3, stride=stride, padding=1), nn.SiLU()]
        inputs = width
    return nn.Sequential(*steps)
