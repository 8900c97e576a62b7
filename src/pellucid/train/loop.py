"""The one training loop, on accelerate. A room says what a step is; the loop owns everything else.

Seeds, precision, accumulation, clipping, averages, schedule, time budget, logs, samples, validation, checkpoints and
resuming. A room's train module offers ``Recipe``, ``build``, ``step``, ``validate``, ``samples`` and ``export``:

    class Recipe(pellucid.train.Recipe): ...                       # its own sections beside [train]
    def build(recipe, accelerator) -> TrainState: ...              # nothing prepared yet
    def step(state, batch) -> dict[str, Tensor]: ...               # backward, clip, optimizer.step(), then zero_grad()
    def validate(state, modules) -> dict[str, float]: ...          # every process; the figures are averaged over them
    def samples(state, modules) -> Tensor: ...                     # (3, H, W) in [0, 1], main process only
    def export(state, modules, folder, figures) -> None: ...       # config.json, model.safetensors, README.md
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pellucid.device import resolve_device
from pellucid.errors import ConfigError, PellucidError
from pellucid.registry import resolve, training
from pellucid.train import checkpoint, log
from pellucid.train.config import Recipe
from pellucid.train.folder import claim, replace_folder
from pellucid.train.schedule import lr_factor
from pellucid.train.state import (
    Accelerator,
    AcceleratorState,
    GradientAccumulationPlugin,
    TrainState,
    add_averages,
    clip,
    ema_decay,
    reduce,
    set_seed,
)

__all__ = ["DivergedError", "Result", "TrainState", "clip", "ema_decay", "make_accelerator", "prepare", "run"]

logger = logging.getLogger(__name__)


class DivergedError(PellucidError):
    """A loss became NaN or infinite."""


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        step: optimiser steps done.
        finished: the steps or the minutes are used up; False after ``stop_after``.
        figures: those of the model in ``model/``; empty when none was exported.
        model: the folder of the exported model; None when there is none yet.
    """

    step: int
    finished: bool
    figures: dict[str, float]
    model: Path | None


def make_accelerator(recipe: Recipe, device: str = "auto") -> Accelerator:
    """Make the accelerator of a run: device, precision and accumulation.

    Args:
        recipe: says precision and accumulation.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``; under ``accelerate launch`` each process
            has its device from the launcher.

    Raises:
        DeviceError: the device is not there.
        ConfigError: the precision does not exist on the device.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    where = resolve_device(device)
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes") if launched else False
    on_cpu = on_cpu or where.type == "cpu"
    if where.type == "cuda" and where.index is not None and not launched:
        torch.cuda.set_device(where)
    if not launched and on_cpu and os.environ.get("ACCELERATE_USE_CPU") and os.environ.get("MASTER_PORT"):
        logger.warning(
            "accelerate launch --cpu starts a single process without mpirun: for several processes use "
            "accelerate launch --multi_gpu --num_processes N, which works on a CPU as well, or torchrun"
        )
    precision = _precision(recipe.train.precision, "cpu" if on_cpu else where.type)
    # accelerate keeps these per process for ever; a second run in one process may want another precision.
    AcceleratorState._reset_state(reset_partial_state=not launched)
    return Accelerator(
        cpu=on_cpu,
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=recipe.train.accumulate, adjust_scheduler=False, sync_with_dataloader=False
        ),
    )


def _precision(wanted: str, device: str) -> str:
    """Turn ``"auto"`` into what the hardware computes natively."""
    if wanted == "fp16" and device != "cuda":
        raise ConfigError(f"train.precision 'fp16' needs a CUDA device, found {device}", "use auto, bf16 or fp32")
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return "bf16" if device == "cpu" and native() else "fp32"


def prepare(recipe: Recipe, room: ModuleType | Any, accelerator: Accelerator) -> TrainState:
    """Seed everything, let the room build, and prepare modules, averages and optimisers for device and precision."""
    set_seed(recipe.seed)
    state: TrainState = room.build(recipe, accelerator)
    state.accelerator, state.clip_norm = accelerator, recipe.train.clip_norm
    if recipe.train.ema > 0:
        add_averages(state, recipe.train.ema)
    for average in state.ema.values():
        average.to(accelerator.device)
        average.n_averaged = average.n_averaged.cpu()  # asked for in every step: on a GPU that would wait for it
        accelerator.prepare_model(average.module, evaluation_mode=True)
    for name, module in state.modules.items():
        state.modules[name] = accelerator.prepare_model(module)
    for name, optimizer in state.optimizers.items():
        state.optimizers[name] = accelerator.prepare_optimizer(optimizer)
    set_seed(recipe.seed + accelerator.process_index)
    return state


def run(recipe: Recipe, out: Path, *, stop_after: int | None = None, device: str = "auto") -> Result:
    """Train a recipe into a run folder, or go on with the run that is there.

    Args:
        recipe: an instance of the room's recipe class.
        out: run folder; gets ``recipe.toml env.json log.jsonl validate.jsonl samples/ checkpoints/ model/``.
        stop_after: stop with a checkpoint once this many steps of the whole run are done, without finishing it.
        device: see `make_accelerator`.

    Raises:
        ConfigError: the folder holds a run of another recipe, or ``train.select`` names no figure.
        InputError: the folder holds something that is no run.
        DivergedError: a loss is NaN or infinite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the checkpoint is written.
    """
    out = Path(out)
    room = resolve(training(recipe.method))
    accelerator = make_accelerator(recipe, device)
    with claim(out, recipe, accelerator) as changed:
        state = prepare(recipe, room, accelerator)
        forget_best = bool({"train.select", "train.select_mode"} & changed.keys())
        return _Run(recipe, room, out, state, accelerator, forget_best).train(stop_after)


@contextmanager
def _catch_signals() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a flag that is looked at between steps; a second Ctrl-C ends at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals can only be caught in the main thread
        return

    def ask(number: int, frame: object) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        logger.warning("%s: stopping after this step, with a checkpoint", signal.Signals(number).name)
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Run:
    """One part of a run, from a resume to the end or to the next stop."""

    def __init__(
        self, recipe: Recipe, room: Any, out: Path, state: TrainState, accelerator: Accelerator, forget_best: bool
    ) -> None:
        self.recipe, self.room, self.out, self.state, self.accelerator = recipe, room, out, state, accelerator
        self.plan = recipe.train
        self.budget = self.plan.minutes * 60.0 if self.plan.minutes is not None else None
        self.base_rates = {
            name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in state.optimizers.items()
        }
        self.meter = log.Meter()
        self.best: dict[str, Any] | None = None  # {"step": int, "value": float | None, "figures": {...}}
        self.elapsed = 0.0
        self.validated_step = 0
        self._resume(forget_best)
        self.saved_step = state.step
        self.started = time.monotonic() - self.elapsed
        self.line = (state.step, time.monotonic())

    def _resume(self, forget_best: bool) -> None:
        record = checkpoint.restore_latest(self.out / "checkpoints", self.state)
        if record is not None:
            self.elapsed, self.validated_step = record["elapsed"], record["validated"]
            self.best = None if forget_best else record["best"]
        if self.accelerator.is_main_process:
            if record is not None:
                logger.info("resuming %s at step %d of %d", self.out, self.state.step, self.plan.steps)
            for name in ("log.jsonl", "validate.jsonl"):
                if dropped := log.rewind(self.out / name, self.state.step):
                    logger.info("%s: dropped %d lines after step %d", name, dropped, self.state.step)
            precision = self.accelerator.mixed_precision.replace("no", "fp32")
            facts = log.environment(self.accelerator.device, precision, self.accelerator.num_processes)
            log.record_environment(self.out / "env.json", self.state.step, facts)

    def train(self, stop_after: int | None) -> Result:
        """Take steps until the steps, the time, ``stop_after`` or a signal says stop."""
        limit = min(self.plan.steps, stop_after) if stop_after is not None else self.plan.steps
        with _catch_signals() as asked:
            stop = False
            while self.state.step < limit and not self._time_is_up() and not stop:
                self._step()
                stop = self._look_around(asked.is_set())
                self._chores(stop)
            if stop:
                self._save()
                raise KeyboardInterrupt
            finished = self.state.step >= self.plan.steps or self._time_is_up()
            if finished and (self.validated_step != self.state.step or not (self.out / "model").is_dir()):
                self._validate(final=True)
                self._draw_samples()
            self._save()
        if finished and self.accelerator.is_main_process:
            logger.info("finished at step %d after %s: %s", self.state.step, log.duration(self.elapsed), self.out)
        model = self.out / "model"
        figures = self.best["figures"] if self.best else {}
        return Result(self.state.step, finished, figures, model if model.is_dir() else None)

    def _time_is_up(self) -> bool:
        return self.budget is not None and self.elapsed >= self.budget

    def _step(self) -> None:
        """One optimiser step: the schedule's rates, the room's micro-steps, the averages."""
        state, plan = self.state, self.plan
        factor = lr_factor(
            plan.schedule, state.step, plan.steps, warmup=plan.warmup, elapsed=self.elapsed, budget=self.budget
        )
        for name, optimizer in state.optimizers.items():
            for group, base in zip(optimizer.param_groups, self.base_rates[name], strict=True):
                group["lr"] = base * factor
        for micro in range(plan.accumulate):
            batch = state.batches(state.step * plan.accumulate + micro)
            with self.accelerator.accumulate(*state.modules.values()):
                self.meter.add(state.step + 1, self.room.step(state, batch))
        state.step += 1
        for name, module in state.bare().items():
            if name in state.ema:
                state.ema[name].update_parameters(module)

    def _look_around(self, asked: bool) -> bool:
        """Read the clock, agree with the other processes on time and stopping, and check that the losses are finite.

        Returns:
            Whether any process was asked to stop.
        """
        now, step = time.monotonic() - self.started, self.state.step
        # A CPU has each loss at hand; a GPU is asked only when it has to be waited for anyway.
        ask_losses = self.accelerator.device.type == "cpu" or asked or self._due(step, "log", "validate", "checkpoint")
        broken = self.meter.broken() if ask_losses else None
        anywhere = broken is not None
        if self.accelerator.num_processes > 1:
            mine = torch.tensor([now, float(asked), float(anywhere)], device=self.accelerator.device)
            every: Any = self.accelerator.gather(mine.unsqueeze(0))  # (processes, 3)
            now, asked_anywhere, broken_anywhere = every.max(dim=0).values.tolist()
            asked, anywhere = bool(asked_anywhere), bool(broken_anywhere)
        if anywhere:
            at, term = broken or (step, "a term in another process")
            raise DivergedError(
                f"training stopped: loss term {term!r} is not finite at step {at}",
                "train to another --out with a lower train.lr, with train.clip_norm, or in precision fp32; the last "
                f"checkpoint in {self.out} is of step {self.saved_step}",
            )
        self.elapsed = now
        self.state.minutes = now / 60.0
        return asked

    def _due(self, step: int, *names: str) -> bool:
        return step >= self.plan.steps or any(step % getattr(self.plan, f"{name}_every") == 0 for name in names)

    def _chores(self, stopping: bool) -> None:
        """Log, validate, draw and save where this step is one for it."""
        step, last = self.state.step, self.state.step >= self.plan.steps or self._time_is_up()
        if last or stopping or self._due(step, "log"):
            self._log()
        if stopping:
            return
        if last or step % self.plan.validate_every == 0:
            self._validate(final=last)
        if last or step % self.plan.sample_every == 0:
            self._draw_samples()
        if last or step % self.plan.checkpoint_every == 0:
            self._save()

    def _log(self) -> None:
        means = self.meter.means()
        names = sorted(means)
        if names:
            here = self.accelerator.device
            stacked: Any = reduce(torch.stack([means[name].to(here) for name in names]), reduction="mean")
            losses = dict(zip(names, stacked.tolist(), strict=True))
        else:
            losses = {}
        (before, then), now, step = self.line, time.monotonic(), self.state.step
        self.line = (step, now)
        rate = (step - before) / max(now - then, 1e-9)
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in self.state.optimizers.items()}
        lr: Any = next(iter(rates.values())) if len(rates) == 1 else rates
        if self.accelerator.is_main_process:
            record = {"step": step, "losses": losses, "lr": lr, "steps_per_second": rate, "elapsed": self.elapsed}
            log.append_line(self.out / "log.jsonl", record)
            left = (self.plan.steps - step) / max(rate, 1e-9)
            left = left if self.budget is None else min(left, max(0.0, self.budget - self.elapsed))
            text = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
            logger.info("step %d/%d  %s  %.3g steps/s  %s left", step, self.plan.steps, text, rate, log.duration(left))

    @contextmanager
    def _evaluating(self) -> Iterator[dict[str, nn.Module]]:
        """The chosen modules in eval mode, without gradients, with randomness of their own; then back to training."""
        modules = self.state.chosen()
        # Each part's own mode: a room may keep a frozen part in eval mode while it trains.
        modes = [(part, part.training) for module in modules.values() for part in module.modules()]
        try:
            for module in modules.values():
                module.eval()
            with torch.no_grad(), checkpoint.own_randomness(self.recipe.seed, self.accelerator.device):
                yield modules
        finally:
            for part, training in modes:
                part.training = training

    def _validate(self, final: bool) -> None:
        """Measure, write the figures down, and export when they are the best so far."""
        step = self.state.step
        with self._evaluating() as modules:
            measured = self.room.validate(self.state, modules)
        names = sorted(measured)
        values = torch.tensor([float(measured[name]) for name in names], device=self.accelerator.device)
        every: Any = reduce(values, reduction="mean") if names else values
        figures: dict[str, float] = dict(zip(names, every.tolist(), strict=True))
        self.validated_step = step
        value = self._selected(figures)
        better = self._is_better(value) or (final and self.best is None)
        if self.accelerator.is_main_process:
            record = {"step": step, "elapsed": self.elapsed, "figures": figures, "best": better}
            log.append_line(self.out / "validate.jsonl", record)
            text = "  ".join(f"{name} {figure:.5g}" for name, figure in figures.items())
            logger.info("validation at step %d%s: %s", step, " (best)" if better else "", text)
            if better:
                with self._evaluating() as modules, replace_folder(self.out / "model") as folder:
                    self.room.export(self.state, modules, folder, figures)
        if better:
            self.best = {"step": step, "value": value, "figures": figures}
            if self.plan.select is not None:
                self._save()  # the best stays as a checkpoint too

    def _selected(self, figures: Mapping[str, float]) -> float | None:
        if self.plan.select is None:
            return None
        if self.plan.select not in figures:
            self._save()  # hours of training must not be lost to a misspelt name
            raise ConfigError(
                f"train.select {self.plan.select!r} is not a validation figure", f"use one of {', '.join(figures)}"
            )
        return figures[self.plan.select]

    def _is_better(self, value: float | None) -> bool:
        if value is None:
            return True  # without a choice the last is the best
        if value != value:
            logger.warning("train.select %r is NaN at step %d: not chosen", self.plan.select, self.state.step)
            return False
        if self.best is None or self.best["value"] is None:
            return True
        past: float = self.best["value"]
        return past != past or (value > past if self.plan.select_mode == "max" else value < past)

    def _draw_samples(self) -> None:
        if not self.accelerator.is_main_process:
            return
        with self._evaluating() as modules:
            picture: Tensor = self.room.samples(self.state, modules)
        pixels = (picture.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)  # (3, H, W)
        path = self.out / "samples" / f"step_{self.state.step:06d}.png"
        Image.fromarray(pixels.permute(1, 2, 0).cpu().contiguous().numpy()).save(path)

    def _save(self) -> None:
        if self.saved_step == self.state.step:
            return
        progress = {"elapsed": self.elapsed, "validated": self.validated_step, "best": self.best}
        checkpoint.save_checkpoint(self.out / "checkpoints", self.state, progress, self.plan.keep_checkpoints)
        self.saved_step = self.state.step
