"""Clips longer than the motion modules know: overlapping windows on the motion modules alone (FreeNoise, Eq. 9).

Spatial attention still sees each frame by itself, and Inter-Frame Attention the one base frame, so neither needs a
change. A motion module attends within windows of as many frames as it was trained on; where windows overlap, the
results are averaged with weights that fall towards a window's ends. Circular windows go on from the start at the end
of the clip, so that no frame is the first or the last: the clip loops.

diffusers' own FreeNoise block knows neither circular windows nor clips with a frame left out (the isolated reference
mode), and replaces modules; here the block's forward is exchanged for a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from pellucid.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """Frames that meet in a motion module.

    Attributes:
        rows: where they are in the batch; without a frame that is left out.
        places: which position each has in the window, for the position embedding.
        weights: share of this window in each frame's result; over all windows they add up to 1 for every frame.
    """

    rows: tuple[int, ...]
    places: tuple[int, ...]
    weights: tuple[float, ...]


def plan_windows(
    frames: int, length: int = 16, stride: int = 4, *, circular: bool = False, absent: int | None = None
) -> tuple[Window, ...]:
    """Lay windows over a clip so that every frame is in one at least.

    Args:
        frames: F.
        length: frames in a window; a shorter clip is one window.
        stride: frames from one window's start to the next.
        circular: windows go on from the start at the end, and all starts have the same right.
        absent: a frame that is not in the batch, though the others keep their positions; None when all are there.

    Returns:
        Windows; a frame that is absent is in none.

    Raises:
        ConfigError: length or stride is below 1, or stride is above length.
    """
    if length < 1 or not 1 <= stride <= length:
        raise ConfigError(f"windows need a length and a stride from 1 to it, found length {length} and stride {stride}")
    size = min(length, frames)
    if circular:
        starts = list(range(0, frames, min(stride, size)))
    else:
        starts = list(range(0, frames - size + 1, stride))
        starts += [frames - size] if starts[-1] != frames - size else []
    # 1 2 3 3 2 1 and 1 2 3 2 1: the pyramid of FreeNoise.
    pyramid = [min(place, size - 1 - place) + 1 for place in range(size)]
    members = [[(start + place) % frames for place in range(size)] for start in starts]
    sums = [0.0] * frames
    for window in members:
        for place, frame in enumerate(window):
            sums[frame] += pyramid[place]
    made = []
    for window in members:
        kept = [(place, frame) for place, frame in enumerate(window) if frame != absent]
        if kept:
            made.append(
                Window(
                    rows=tuple(frame - (absent is not None and frame > absent) for _, frame in kept),
                    places=tuple(place for place, _ in kept),
                    weights=tuple(pyramid[place] / sums[frame] for place, frame in kept),
                )
            )
    return tuple(made)


def motion_length(unet: nn.Module) -> int | None:
    """How many frames the motion modules can tell apart (32 or 24 for AnimateDiff); None without motion modules."""
    lengths = [block.pos_embed.pe.shape[1] for block in _motion_blocks(unet) if block.pos_embed is not None]
    return min(lengths) if lengths else None


def check_length(unet: nn.Module, length: int) -> None:
    """Refuse windows that the motion modules have no positions for.

    Raises:
        ConfigError: they know fewer frames than ``length``.
    """
    known = motion_length(unet)
    if known is not None and length > known:
        raise ConfigError(
            f"{length} frames at once are asked of motion modules that know {known}",
            f"take windows: context_length {known} or less, or a motion adapter that knows more frames",
        )


@contextmanager
def motion_windows(unet: nn.Module, windows: Sequence[Window], chunk: int = 0) -> Iterator[None]:
    """Let the motion modules of a network attend within windows for the length of a ``with`` block.

    Args:
        unet: the network; its state dict stays as it is.
        windows: from `plan_windows`.
        chunk: places of the picture that are treated at once, to save memory; 0 is all of them.

    Raises:
        ConfigError: a window is longer than what the motion modules know.
    """
    check_length(unet, max(max(window.places) for window in windows) + 1)
    blocks = _motion_blocks(unet)
    with exchanged_forward({block: partial(_attend, block, tuple(windows), chunk) for block in blocks}):
        yield


@contextmanager
def exchanged_forward(changes: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Give modules another forward for the length of a ``with`` block; what was there before comes back."""
    before = {module: module.__dict__.get("forward") for module in changes}
    try:
        for module, forward in changes.items():
            module.forward = forward  # pyright: ignore[reportAttributeAccessIssue]
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward


def _motion_blocks(unet: nn.Module) -> list[BasicTransformerBlock]:
    modules = [module for module in unet.modules() if isinstance(module, AnimateDiffTransformer3D)]
    return [block for module in modules for block in module.transformer_blocks]  # pyright: ignore[reportReturnType]


def _attend(
    block: BasicTransformerBlock, windows: tuple[Window, ...], chunk: int, hidden_states: Tensor, **_: Any
) -> Tensor:
    """Do what the block does, within windows. hidden_states: (B*h*w, F, C); places of a picture are independent."""
    step = chunk or hidden_states.shape[0]
    parts = [_attend_part(block, windows, part) for part in hidden_states.split(step)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend_part(block: BasicTransformerBlock, windows: tuple[Window, ...], states: Tensor) -> Tensor:
    mixed = torch.zeros_like(states)
    for window in windows:
        rows = torch.tensor(window.rows, device=states.device)
        weights = torch.tensor(window.weights, device=states.device, dtype=states.dtype)
        part = states[:, rows]
        part = part + block.attn1(_placed(block, block.norm1(part), window.places))
        if block.attn2 is not None:
            part = part + block.attn2(_placed(block, block.norm2(part), window.places))
        mixed.index_add_(1, rows, part * weights[:, None])
    return mixed + block.ff(block.norm3(mixed))


def _placed(block: BasicTransformerBlock, states: Tensor, places: tuple[int, ...]) -> Tensor:
    if block.pos_embed is None:
        return states
    table = block.pos_embed.pe[:, torch.tensor(places, device=states.device)]  # (1, frames, C)
    return states + table.to(states.dtype)
