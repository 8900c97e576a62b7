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
from typing import Any, cast

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
    lengths = [_table(block).shape[1] for block in _motion_blocks(unet) if block.pos_embed is not None]
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
    laid = _laid(windows, next(unet.parameters()).device)
    blocks = _motion_blocks(unet)
    with exchanged_forward({block: partial(_attend, block, laid, chunk) for block in blocks}):
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


@dataclass(frozen=True)
class _Laid:
    """A window where the network is: rows (f,), places (f,), weights (f, 1); rows None stands for all, in order."""

    rows: Tensor | None
    places: Tensor
    weights: Tensor

    def place(self, block: BasicTransformerBlock, states: Tensor) -> Tensor:
        """Add the position embedding: (..., f, C)."""
        if block.pos_embed is None:
            return states
        return states + _table(block)[0, self.places].to(states.dtype)


def _laid(windows: Sequence[Window], device: torch.device) -> tuple[_Laid, ...]:
    return tuple(
        _Laid(
            None if len(windows) == 1 else torch.tensor(window.rows, device=device),
            torch.tensor(window.places, device=device),
            torch.tensor(window.weights, device=device)[:, None],
        )
        for window in windows
    )


def _motion_blocks(unet: nn.Module) -> list[BasicTransformerBlock]:
    modules = [module for module in unet.modules() if isinstance(module, AnimateDiffTransformer3D)]
    return [cast(BasicTransformerBlock, block) for module in modules for block in module.transformer_blocks]


def _table(block: BasicTransformerBlock) -> Tensor:
    return cast(Tensor, cast(nn.Module, block.pos_embed).pe)  # (1, positions, C)


def _attend(
    block: BasicTransformerBlock, windows: tuple[_Laid, ...], chunk: int, hidden_states: Tensor, **_: Any
) -> Tensor:
    """Do what the block does, within windows. hidden_states: (B*h*w, F, C); places of a picture are independent."""
    step = chunk or hidden_states.shape[0]
    parts = [_attend_part(block, windows, part) for part in hidden_states.split(step)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend_part(block: BasicTransformerBlock, windows: tuple[_Laid, ...], states: Tensor) -> Tensor:
    if windows[0].rows is None:
        mixed = _attend_window(block, windows[0], states)
    else:
        mixed = torch.zeros_like(states)
        for window in windows:
            part = _attend_window(block, window, states[:, window.rows])
            mixed.index_add_(1, cast(Tensor, window.rows), part * window.weights.to(part.dtype))
    return mixed + block.ff(cast(nn.Module, block.norm3)(mixed))


def _attend_window(block: BasicTransformerBlock, window: _Laid, states: Tensor) -> Tensor:
    states = states + block.attn1(window.place(block, block.norm1(states)))
    if block.attn2 is not None and block.norm2 is not None:
        states = states + block.attn2(window.place(block, block.norm2(states)))
    return states
