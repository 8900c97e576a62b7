"""A clip through the spatial layers in chunks of frames, so that memory does not grow with the clip.

Residual blocks and spatial transformers treat each frame by itself, but for Inter-Frame Attention, which needs K^m and
V^m of the base frame. So each transformer runs first on the base frame and keeps them, then on the other frames in
chunks that use what was kept: the same answer, up to rounding. diffusers' own splitting (`SplitInferenceModule`) would
cut the base frame off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from pellucid.layer_animate.attention.processor import FrameContext
from pellucid.layer_animate.sampling.windows import exchanged_forward


@contextmanager
def frame_chunks(unet: nn.Module, context: FrameContext, chunk: int) -> Iterator[None]:
    """Run spatial layers on ``chunk`` frames of each clip at once for the length of a ``with`` block.

    Args:
        unet: the network.
        context: what its attentions share; F and m are read when a layer runs.
        chunk: frames; 0 changes nothing.
    """
    if chunk < 1:
        yield
        return
    changes: dict[nn.Module, Callable[..., Any]] = {}
    for module in unet.modules():
        if isinstance(module, Transformer2DModel):
            changes[module] = partial(_transform, module.forward, context, chunk)
        elif isinstance(module, ResnetBlock2D):
            changes[module] = partial(_resolve, module.forward, context, chunk)
    with exchanged_forward(changes):
        yield


def _resolve(
    run: Callable[..., Tensor], context: FrameContext, chunk: int, input_tensor: Tensor, temb: Tensor | None = None
) -> Tensor:
    step = chunk * (input_tensor.shape[0] // context.num_frames)
    parts = zip(
        input_tensor.split(step), [None] * len(input_tensor) if temb is None else temb.split(step), strict=False
    )
    return torch.cat([run(part, embedding) for part, embedding in parts])


def _transform(
    run: Callable[..., tuple[Tensor]],
    context: FrameContext,
    chunk: int,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor]:
    """One spatial transformer; hidden_states (B*F, C, h, w), the text (B*F, L, D)."""
    frames, base = context.num_frames, context.base_index
    clips = hidden_states.shape[0] // frames
    options["return_dict"] = False
    out = torch.empty_like(hidden_states).unflatten(0, (clips, frames))

    def treat(chosen: list[int], source: str) -> None:
        states, text = _frames(hidden_states, clips, chosen), _frames(encoder_hidden_states, clips, chosen)
        with context.changed(num_frames=len(chosen), base_index=0, source=source):
            out[:, chosen] = run(states, encoder_hidden_states=text, **options)[0].unflatten(0, (clips, -1))

    if context.source == "kept":  # the base frame's K and V are there already, for the whole clip
        for chosen in _chunks(list(range(frames)), chunk):
            treat(chosen, "kept")
        return (out.flatten(0, 1),)
    with context.changed(kept=context.kept if context.source == "capture" else {}):
        treat([base], "capture")
        for chosen in _chunks([frame for frame in range(frames) if frame != base], chunk):
            treat(chosen, "kept")
    return (out.flatten(0, 1),)


def _frames(states: Tensor | None, clips: int, chosen: list[int]) -> Tensor | None:
    return None if states is None else states.unflatten(0, (clips, -1))[:, chosen].flatten(0, 1)


def _chunks(frames: list[int], size: int) -> list[list[int]]:
    return [frames[start : start + size] for start in range(0, len(frames), size)]
