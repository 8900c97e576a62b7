"""Inter-Frame Attention (Eq. 3): every frame looks at the base frame, beside the self-attention that was there.

With X^i the normalised hidden states of frame i and m the base frame::

    self_i = softmax(Q^i (K^i)^T / sqrt(d)) V^i W_O + b_O        as before, frozen
    ifa_i  = softmax((Q^i)' (K^m)^T / sqrt(d)) V^m W_O' + b_O'   (Q^i)' = X^i W_Q',  K^m = X^m W_K,  V^m = X^m W_V
    out_i  = self_i + lambda * ifa_i

Only W_Q', W_O' and b_O' are new; W_K and W_V are those of the self-attention beside it. A `SpatialAttentionProcessor`
sits in each attention of the spatial transformers, never in a motion module, and may hold LayerDiffuse's unit too
(`pellucid.layer_animate.attention.sharing`); `pellucid.layer_animate.attention.attach` puts them there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from pellucid.errors import ConfigError
from pellucid.layer_animate.attention.sharing import SharingUnit

Source = Literal["live", "capture", "kept"]


@dataclass(eq=False)
class FrameContext:
    """What the attentions must know of the clip that runs through the network; one object, shared by all of them.

    Hidden states arrive as (B*F, N, C), frame fastest, so F and m cannot be read from a tensor. Who calls the network
    sets them here first. Under gradient checkpointing a block runs again in the backward pass: leave the context as it
    was until the backward pass is through.

    Attributes:
        num_frames: F, frames in the batch as it comes (not in the whole clip, if it comes in pieces).
        base_index: m, zero-based, of the base frame within those F. Not looked at when ``source`` is ``"kept"``.
        scale: lambda, the reference strength; 0 skips Inter-Frame Attention, and 1 is what was trained.
        enabled: False runs the network as if no Inter-Frame Attention were there (stage 1).
        source: where K^m and V^m come from. ``"live"``: frame m of this batch (``parallel``, the paper).
            ``"capture"``: as live, and they are put into ``kept`` by the attention's name. ``"kept"``: those in
            ``kept``; the base frame need not be in the batch. ``isolated`` is a capture of the base frame alone at
            t = 0 with motion modules off, then kept for every step; and a layer run over chunks of frames is a capture
            on frame m, then kept for the chunks.
        query_chunk: frames whose queries of Inter-Frame Attention are answered at once; 0 is all of them.
        replace: names of self-attentions whose own K and V give way to K^m and V^m (MasaCtrl-style); their own
            queries and output stay.
        kept: attention's name -> (K^m, V^m), each (B, heads, N, d). A first size of 1 serves any B.
        control: for LayerDiffuse's fg2bg and bg2fg files, number of tokens -> control features (B, 256, h, w).
    """

    num_frames: int = 1
    base_index: int = 0
    scale: float = 1.0
    enabled: bool = True
    source: Source = "live"
    query_chunk: int = 0
    replace: frozenset[str] = frozenset()
    kept: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    control: dict[int, Tensor] = field(default_factory=dict)

    @contextmanager
    def changed(self, **values: Any) -> Iterator[FrameContext]:
        """Set attributes for the length of a ``with`` block, and put back what was there.

        Raises:
            ConfigError: there is no such attribute.
        """
        unknown = [name for name in values if name not in self.__dataclass_fields__]
        if unknown:
            raise ConfigError(f"a frame context has no {', '.join(unknown)}")
        before = {name: getattr(self, name) for name in values}
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield self
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def clips(self, batch: int) -> int:
        """B, from the first size B*F of a batch.

        Raises:
            ConfigError: the batch does not hold whole clips of F frames, or m is not one of them.
        """
        if self.num_frames < 1 or batch % self.num_frames:
            raise ConfigError(f"a batch of {batch} pictures does not hold whole clips of {self.num_frames} frames")
        if self.source != "kept" and not 0 <= self.base_index < self.num_frames:
            raise ConfigError(f"base index {self.base_index} is not one of the {self.num_frames} frames from 0")
        return batch // self.num_frames


class SpatialAttentionProcessor(nn.Module):
    """Attention of one spatial transformer layer: self-attention or text, LayerDiffuse's unit, Inter-Frame Attention.

    Without a unit and without Inter-Frame Attention it computes what diffusers' own processor does, bit for bit.
    Its state dict holds ``to_q_ifa.weight``, ``to_out_ifa.weight``, ``to_out_ifa.bias`` and ``unit.*``, as far as they
    are there.

    Args:
        name: the attention's name in its network, the key into ``context.kept`` and ``context.replace``.
        context: what all processors of a network share.
    """

    to_q_ifa: nn.Linear | None
    to_out_ifa: nn.Linear | None
    unit: SharingUnit | None

    def __init__(self, name: str, context: FrameContext) -> None:
        super().__init__()
        self.name = name
        self.context = context
        self.to_q_ifa = None
        self.to_out_ifa = None
        self.unit = None

    def add_ifa(self, query: Tensor, width: int) -> None:
        """Add Inter-Frame Attention that changes nothing yet: W_Q' a copy of ``query``, W_O' and b_O' zero.

        Args:
            query: W_Q, (C', C), with any LoRA merged.
            width: C of the output.
        """
        inner, channels = query.shape
        made = {"device": query.device, "dtype": query.dtype}
        self.to_q_ifa = nn.Linear(channels, inner, bias=False, **made)
        self.to_out_ifa = nn.Linear(inner, width, **made)
        with torch.no_grad():
            self.to_q_ifa.weight.copy_(query)
            self.to_out_ifa.weight.zero_()
            self.to_out_ifa.bias.zero_()

    def remove_ifa(self) -> None:
        """Take Inter-Frame Attention out; the unit stays."""
        self.to_q_ifa = None
        self.to_out_ifa = None

    def forward(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            attn: the attention whose projections are used.
            hidden_states: (B*F, N, C), normalised.
            encoder_hidden_states: (B*F, L, D), the text, for a cross-attention; None for a self-attention.
            attention_mask: as diffusers gives it; None as a rule.
            temb: not used by spatial transformers.

        Returns:
            (B*F, N, C), to be added to the block's residual.

        Raises:
            ConfigError: batch, F and m do not agree; or ``source`` is ``"kept"`` and nothing was captured here.
        """
        context, unit = self.context, self.unit
        own = encoder_hidden_states is None
        states = hidden_states if unit is None else unit.controlled(hidden_states, context.control)
        attended = states if encoder_hidden_states is None else encoder_hidden_states
        layers = projections(attn)
        query = self._project("to_q", layers["to_q"], states)
        key = _heads(self._project("to_k", layers["to_k"], attended), attn.heads)  # (B*F, heads, N, d)
        value = _heads(self._project("to_v", layers["to_v"], attended), attn.heads)
        replaced = own and self.name in context.replace
        referring = own and self.to_q_ifa is not None and context.enabled and context.scale != 0
        base = None
        if own and (replaced or referring or context.source == "capture"):
            base = self._base(key, value)
        if replaced and base is not None:
            out = self._inter_frame(query, base, attn.heads)
        else:
            mask = _mask(attn, attention_mask, attended)
            out = _joined(F.scaled_dot_product_attention(_heads(query, attn.heads), key, value, attn_mask=mask))
        out = self._project("to_out", layers["to_out"], out)
        if unit is not None:
            out = unit.shared(states, out, attn.heads)
            if states is not hidden_states:
                out = out + (states - hidden_states)
        if referring and base is not None and self.to_q_ifa is not None and self.to_out_ifa is not None:
            weight = self.to_q_ifa.weight
            query = self.to_q_ifa(hidden_states.to(weight.dtype)).to(key.dtype)
            reference = self.to_out_ifa(self._inter_frame(query, base, attn.heads).to(weight.dtype))
            out = torch.add(out, reference.to(out.dtype), alpha=context.scale)
        return cast(nn.ModuleList, attn.to_out)[1](out)  # dropout

    def _project(self, which: str, linear: nn.Module, states: Tensor) -> Tensor:
        return linear(states) if self.unit is None else self.unit.project(which, linear, states)

    def _base(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """K^m and V^m, each (B, heads, N, d): views of frame m, or what was captured."""
        context = self.context
        clips = context.clips(key.shape[0])
        if context.source == "kept":
            kept = context.kept.get(self.name)
            if kept is None:
                raise ConfigError(f"no keys of a base frame were captured for {self.name}", "capture them first")
            if kept[0].shape[0] not in (1, clips):
                raise ConfigError(f"keys of {kept[0].shape[0]} base frames were captured, and {clips} clips use them")
            return kept[0].expand(clips, -1, -1, -1), kept[1].expand(clips, -1, -1, -1)
        base = (
            key.unflatten(0, (clips, context.num_frames))[:, context.base_index],
            value.unflatten(0, (clips, context.num_frames))[:, context.base_index],
        )
        if context.source == "capture":
            # Clones, because a view would keep the K and V of all frames in memory.
            context.kept[self.name] = (base[0].clone(), base[1].clone())
        return base

    def _inter_frame(self, query: Tensor, base: tuple[Tensor, Tensor], heads: int) -> Tensor:
        """Let the queries of all frames attend to the base frame; K^m and V^m are not copied F times.

        Args:
            query: (B*F, N, C').
            base: K^m and V^m.
            heads: number of heads.

        Returns:
            (B*F, N, C').
        """
        clips = base[0].shape[0]
        frames, tokens, width = query.shape[0] // clips, query.shape[1], query.shape[2]
        flat = _heads(query.reshape(clips, frames * tokens, width), heads)  # (B, heads, F*N, d)
        step = self.context.query_chunk * tokens or frames * tokens
        parts = [_joined(F.scaled_dot_product_attention(part, *base)) for part in flat.split(step, dim=2)]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)  # (B, F*N, C')
        return joined.reshape(clips * frames, tokens, width)


def projections(attn: Attention) -> dict[str, Any]:
    """An attention's own matrices: ``to_q``, ``to_k``, ``to_v`` and ``to_out``, linear layers or what wraps them."""
    out = cast(nn.ModuleList, attn.to_out)[0]
    return {"to_q": attn.to_q, "to_k": attn.to_k, "to_v": attn.to_v, "to_out": out}


def _heads(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, N, d)


def _joined(states: Tensor) -> Tensor:
    return states.transpose(1, 2).flatten(2)  # (B, N, C')


def _mask(attn: Attention, mask: Tensor | None, attended: Tensor) -> Tensor | None:
    if mask is None:
        return None
    batch, tokens = attended.shape[:2]
    prepared = attn.prepare_attention_mask(mask, tokens, batch)
    return prepared.view(batch, attn.heads, -1, prepared.shape[-1])
