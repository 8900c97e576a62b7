"""`TrainState`: what a room builds and its steps work on, with gradient clipping and the average of the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pellucid.errors import DependencyError

try:  # all that training takes from accelerate, so that only this place has to explain when it is missing
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin, gather_object, reduce, set_seed
except ImportError as missing:
    raise DependencyError("training needs the package accelerate", "pip install 'pellucid[train]'") from missing


__all__ = [
    "Accelerator",
    "AcceleratorState",
    "GradientAccumulationPlugin",
    "TrainState",
    "add_averages",
    "clip",
    "ema_decay",
    "gather_object",
    "reduce",
    "set_seed",
]


@dataclass
class TrainState:
    """A run in progress. A room's ``build`` returns it unprepared; the loop prepares modules and optimisers.

    Attributes:
        modules: trained and checkpointed; an average of each is kept when ``train.ema > 0``.
        optimizers: each with its own base learning rate, which the schedule multiplies.
        batches: index of the micro-step, counted over the whole run -> one process's batch, on the device. It must be a
            pure function of the seed, this index and the process index: that is what makes resuming exact.
        step: optimiser steps done.
        accelerator: for ``backward``, ``device``, ``process_index`` and ``autocast``.
        ema: averages of the modules, by name.
        extra: the room's own state as plain JSON values; checkpointed and restored.
        clip_norm: ``train.clip_norm``, set by the loop.
        minutes: wall-clock minutes over all parts of the run, kept by the loop.
        room: what the room's steps need besides; not checkpointed, as the recipe makes it again.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    batches: Callable[[int], Any]
    step: int = 0
    accelerator: Accelerator | None = None
    ema: dict[str, AveragedModel] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    clip_norm: float | None = None
    room: Any = None
    minutes: float = 0.0

    def bare(self) -> dict[str, nn.Module]:
        """The modules without the wrapper for several processes; they still compute in the run's precision."""
        unwrap = self.accelerator.unwrap_model if self.accelerator else (lambda module: module)
        return {name: unwrap(module) for name, module in self.modules.items()}

    def chosen(self) -> dict[str, nn.Module]:
        """The modules that are validated and exported: the averages where there are any."""
        return {name: self.ema[name].module if name in self.ema else module for name, module in self.bare().items()}


def clip(state: TrainState, name: str) -> Tensor | None:
    """Clip the gradients of one module to ``train.clip_norm``; call it between ``backward`` and the optimiser's step.

    Returns:
        The norm before clipping, or None when nothing is clipped (no limit, or gradients still accumulate).
    """
    assert state.accelerator is not None
    if state.clip_norm is None or not state.accelerator.sync_gradients:
        return None
    return state.accelerator.clip_grad_norm_(state.modules[name].parameters(), state.clip_norm)


def ema_decay(decay: float, step: int) -> float:
    """Decay after ``step`` updates: a young average forgets faster, or it would stay near the random start for long."""
    return min(decay, (1 + step) / (10 + step))


def add_averages(state: TrainState, decay: float) -> None:
    """Give every module an average. Before `prepare`: a copy of a prepared module would run the original's forward."""

    def update(averages: Any, currents: Any, count: Any) -> None:
        if averages[0].is_floating_point() or averages[0].is_complex():
            get_ema_multi_avg_fn(ema_decay(decay, state.step))(averages, currents, count)
            return
        for average, current in zip(averages, currents, strict=True):  # counters and index tables have no mean
            average.copy_(current)

    for name, module in state.modules.items():
        average = AveragedModel(module, multi_avg_fn=update, use_buffers=True)
        average.requires_grad_(False)
        state.ema[name] = average
