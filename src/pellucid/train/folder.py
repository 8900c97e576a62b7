"""The run folder: who may train in it, and what is in it."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pellucid.errors import ConfigError, InputError
from pellucid.train.config import Recipe, check_recipe, differences, dump_toml, read_toml
from pellucid.train.log import write_whole
from pellucid.train.state import Accelerator

logger = logging.getLogger(__name__)

# Keys that only say how often to look; changing them leaves the weights of every step as they are.
_CADENCE = ("validate_every", "sample_every", "checkpoint_every", "log_every", "keep_checkpoints")
_FREE_KEYS = frozenset(f"train.{key}" for key in (*_CADENCE, "select", "select_mode"))


@contextmanager
def claim(out: Path, recipe: Recipe, accelerator: Accelerator) -> Iterator[dict[str, tuple[Any, Any]]]:
    """Make a run folder, or check that the run in it is this one, and keep other processes out while training.

    Yields:
        What of the recipe has changed since the last part of the run, as ``{"train.steps": (before, now)}``.

    Raises:
        ConfigError: the run in it has another recipe, or is being trained by somebody else.
        InputError: the folder holds something else.
    """
    changed = _compare(out, recipe)
    accelerator.wait_for_everyone()  # no process may look for the recipe after the main one has written it
    lock = None
    if accelerator.is_main_process:
        for name in ("samples", "checkpoints"):
            (out / name).mkdir(parents=True, exist_ok=True)
        lock = _lock(out)
        for part in (out / "checkpoints").glob(".part-*"):
            shutil.rmtree(part)
        write_whole(out / "recipe.toml", dump_toml(recipe))
        for key, (old, new) in changed.items():
            logger.info("the run goes on with %s changed from %r to %r", key, old, new)
    accelerator.wait_for_everyone()
    try:
        yield changed
    finally:
        if lock is not None:
            os.close(lock)


def _compare(out: Path, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    saved = out / "recipe.toml"
    if not saved.exists():
        # What a run that was killed in its first moment leaves behind is ours as well.
        if out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - _FIRST):
            raise InputError(f"{out} is not empty and holds no run", "use another --out")
        return {}
    changed = differences(check_recipe(read_toml(saved), type(recipe), f"the run in {out}"), recipe)
    refused = {key: pair for key, pair in changed.items() if key not in _FREE_KEYS and not _grows(key, *pair)}
    if refused:
        listed = ", ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in refused.items())
        raise ConfigError(f"the run in {out} has another recipe: {listed}", "use another --out, or the old values")
    return changed


_FIRST = {"samples", "checkpoints", "recipe.part"}


def _grows(key: str, old: Any, new: Any) -> bool:
    if key == "train.steps":
        return new > old
    return key == "train.minutes" and old is not None and (new is None or new > old)


def _lock(out: Path) -> int | None:
    """Lock the folder until the descriptor is closed, which the system does also when the process dies."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigError(
            f"the run in {out} is being trained by another process", "wait, or use another --out"
        ) from error
    except OSError:  # some network file systems have no locks
        logger.warning("%s cannot be locked: make sure that nothing else trains in it", out)
    return descriptor


@contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill, and swap it in for ``target`` when it is full."""
    part, old = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)
