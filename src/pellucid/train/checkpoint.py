"""Checkpoints that are whole or not there: written beside their place, flushed to disk, then renamed.

``checkpoints/step_00000500/`` holds each module and its average as safetensors, ``optimizers.pt`` with the state of
optimisers and random generators (loaded with ``weights_only=True``, so code in it cannot run), and ``state.json``.
"""

import json
import logging
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from pellucid.errors import WeightsError
from pellucid.train.state import TrainState, gather_object, set_seed

logger = logging.getLogger(__name__)


def random_state(device: torch.device) -> dict[str, Any]:
    """State of every global random generator of this process, as values that load without running code."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": (version, words, gauss),
        "numpy": (kind, [int(key) for key in keys], int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["device"] = torch.mps.get_rng_state()
    return states


def set_random_state(states: dict[str, Any], device: torch.device) -> None:
    """Put the generators back where `random_state` found them."""
    random.setstate(states["python"])
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if "device" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["device"].cpu(), device)
    elif "device" in states and device.type == "mps":
        torch.mps.set_rng_state(states["device"].cpu())


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Run validation and samples from a fixed seed, and leave the training's random numbers as they were."""
    before = random_state(device)
    set_seed(seed)
    try:
        yield
    finally:
        set_random_state(before, device)


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("step_*") if path.is_dir())


def save_checkpoint(folder: Path, state: TrainState, progress: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint of ``state`` and remove those no longer kept. Every process calls it, the main one writes.

    Args:
        folder: the run's ``checkpoints/``.
        state: the run.
        progress: plain values of the loop (elapsed seconds, best figure); kept in ``state.json``.
        keep: how many of the latest stay; the step of ``progress["best"]`` stays besides.
    """
    accelerator = state.accelerator
    assert accelerator is not None
    target = folder / f"step_{state.step:08d}"
    generators = gather_object([random_state(accelerator.device)])
    if accelerator.is_main_process:
        part = folder / f".part-{target.name}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, module in state.bare().items():
            save_model(module, str(part / f"{name}.safetensors"))
        for name, average in state.ema.items():
            save_model(average, str(part / f"{name}.ema.safetensors"))
        rest = {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()},
            "random": generators,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
        }
        torch.save(rest, part / "optimizers.pt")
        record = {"step": state.step, "processes": accelerator.num_processes, "extra": state.extra, **progress}
        (part / "state.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for path in (*part.iterdir(), part):
            _flush(path)
        shutil.rmtree(target, ignore_errors=True)  # only a damaged one can be there: a run goes on from its latest
        os.replace(part, target)
        _flush(folder)
        logger.info("checkpoint at step %d: %s", state.step, target)
        _prune(folder, keep, (progress.get("best") or {}).get("step"))
    accelerator.wait_for_everyone()
    return target


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name != "posix":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prune(folder: Path, keep: int, best: int | None) -> None:
    for path in list_checkpoints(folder)[:-keep]:
        if path.name != f"step_{best or 0:08d}":
            shutil.rmtree(path)
            logger.debug("removed old checkpoint %s", path)


def restore_latest(folder: Path, state: TrainState) -> dict[str, Any] | None:
    """Bring a prepared state to the latest whole checkpoint; a damaged one is passed over with a warning.

    Returns:
        The contents of ``state.json``, or None when there is no checkpoint.

    Raises:
        WeightsError: there are checkpoints, but none of them can be read into this network.
    """
    found = list_checkpoints(folder)
    for path in reversed(found):
        try:
            return _restore(path, state)
        except (OSError, ValueError, KeyError, RuntimeError, EOFError, SafetensorError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            logger.warning("checkpoint %s cannot be used, trying the one before: %s", path, reason)
    if found:
        raise WeightsError(f"none of the {len(found)} checkpoints in {folder} can be used", "train to another --out")
    return None


def _restore(path: Path, state: TrainState) -> dict[str, Any]:
    accelerator = state.accelerator
    assert accelerator is not None
    record: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    rest = torch.load(path / "optimizers.pt", map_location="cpu", weights_only=True)
    for name, module in state.bare().items():
        load_model(module, path / f"{name}.safetensors")
    for name, average in state.ema.items():
        load_model(average, path / f"{name}.ema.safetensors")
    for name, optimizer in state.optimizers.items():
        optimizer.load_state_dict(rest["optimizers"][name])
    if accelerator.scaler is not None and rest["scaler"]:
        accelerator.scaler.load_state_dict(rest["scaler"])
    generators = rest["random"]
    if len(generators) == accelerator.num_processes:
        set_random_state(generators[accelerator.process_index], accelerator.device)
    else:
        logger.warning(
            "the run had %d processes and now has %d: it goes on, but not with the same data order",
            len(generators),
            accelerator.num_processes,
        )
    state.step, state.extra = record["step"], record["extra"]
    return record
