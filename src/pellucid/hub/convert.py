"""Other people's checkpoints, read once and safely, with their keys renamed to ours."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import WeightsError
from pellucid.hub.pretrained import read_state

log = logging.getLogger(__name__)

NESTINGS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
_DEPTH = 4


def load_foreign(path: str | Path) -> dict[str, Tensor]:
    """Read somebody's checkpoint as a flat state dict on the CPU.

    safetensors files are read as they are; pickles through ``torch.load(weights_only=True)``, which builds tensors and
    plain containers and refuses everything else, so that code inside does not run. The usual wrappings
    (``state_dict``, ``params_ema``, ``model`` beside ``optimizer``, ...) and a ``module.`` before every key are taken
    off.

    Raises:
        WeightsError: the file is missing, damaged, asks for more than tensors, or holds no state dict.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"checkpoint {file} is not there")
    state = read_state(file) if file.suffix.lower() == ".safetensors" else _unwrap(_load_pickle(file), file)
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def rename(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Rename keys: the first rule whose pattern is found in a key replaces it there; other keys stay.

    Args:
        state: a state dict.
        rules: pairs of a regular expression and its replacement (``\\1`` for groups), in order of precedence.

    Raises:
        WeightsError: two keys get the same name; the message lists up to five.
    """
    patterns = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    collisions: list[str] = []
    for key, value in state.items():
        name = key
        for pattern, replacement in patterns:
            if pattern.search(key):
                name = pattern.sub(replacement, key)
                break
        if name in renamed:
            collisions.append(f"{origin[name]} and {key} -> {name}")
            continue
        renamed[name], origin[name] = value, key
    if collisions:
        more = f" and {len(collisions) - 5} more" if len(collisions) > 5 else ""
        raise WeightsError(f"{len(collisions)} keys collide when renamed: {', '.join(collisions[:5])}{more}")
    return renamed


def _load_pickle(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"`?([\w.]+)`? was not an allowed", str(error))
        what = f" ({found.group(1)})" if found else ""
        raise WeightsError(
            f"{file} is damaged or asks for more than tensors{what}; it was not run",
            "get the weights as safetensors, or as a plain state dict",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"checkpoint {file} cannot be read: {reason}") from error


def _unwrap(loaded: Any, file: Path) -> dict[str, Tensor]:
    """Go down the usual nestings to the mapping of names to tensors."""
    for _ in range(_DEPTH):
        if not isinstance(loaded, Mapping):
            break
        tensors = {key: value for key, value in loaded.items() if isinstance(key, str) and isinstance(value, Tensor)}
        nested = [key for key in NESTINGS if isinstance(loaded.get(key), Mapping)]
        if nested:
            if len(nested) > 1:
                log.info("%s holds %s: took %s", file, ", ".join(nested), nested[0])
            loaded = loaded[nested[0]]
            continue
        if tensors:
            dropped = [str(key) for key in loaded if key not in tensors]
            if dropped:
                log.warning("%s: left out what is no tensor: %s", file, ", ".join(dropped[:5]))
            return tensors
        break
    raise WeightsError(f"{file} holds no state dict", f"expected names and tensors, plain or under {NESTINGS}")
