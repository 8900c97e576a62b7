"""Weights on disk: one folder with ``config.json``, ``model.safetensors`` and ``README.md`` (the card).

Free functions that a room's pipeline calls; a network needs no base class to be saved and loaded. Pickles are never
read here: other people's checkpoints go through `pellucid.hub.convert` once.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pellucid.errors import ConfigError, PellucidError, WeightsError

log = logging.getLogger(__name__)

CONFIG = "config.json"
STATE = "model.safetensors"
CARD = "README.md"
FORMAT = 1
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")
BUNDLED = Path(__file__).resolve().parent.parent / "weights"

_KEPT_WITH = ("*.json", "*.safetensors", "*.npz")  # config, weights, and what a room keeps beside them
_STORED = {"float32": torch.float32, "float16": torch.float16}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHOWN = 5

Config = TypeVar("Config")


class BundledWeights(NamedTuple):
    """One folder of weights that ships inside the package."""

    room: str
    name: str
    folder: Path


def bundled(room: str | None = None) -> list[BundledWeights]:
    """List the weights that ship inside the package, of one room or of all, in order of name."""
    return [
        BundledWeights(folder.parent.name, folder.name, folder)
        for folder in sorted(BUNDLED.glob("*/*"))
        if (folder / CONFIG).is_file() and room in (None, folder.parent.name)
    ]


def resolve_weights(
    source: str | Path | None,
    *,
    room: str,
    default: str,
    offline: bool = False,
    revision: str | None = None,
) -> Path:
    """Find the folder that ``source`` names.

    Args:
        source: None for the room's bundled default; a bundled name; a folder; or a hub id ``"org/name"``. A bundled
            name wins over a folder of the same name, which is then written ``"./name"``.
        room: the method's name, for example ``"multistep_sirr"``.
        default: name of the room's bundled weights.
        offline: never reach for a network; a hub id is then looked up in the local cache only.
        revision: branch, tag or commit of a hub id.

    Raises:
        WeightsError: nothing is there; the message says what was looked for and where.
    """
    name = default if source is None else str(source)
    shipped = BUNDLED / room / name
    if not isinstance(source, Path) and re.fullmatch(r"[\w-][\w.-]*", name) and (shipped / CONFIG).is_file():
        return shipped
    if source is None:
        raise WeightsError(
            f"no bundled weights {name!r} for {room}: looked in {BUNDLED / room}",
            "install the package again, or name a folder of weights",
        )
    folder = Path(name).expanduser()
    if folder.is_dir():
        _expect_files(folder)
        return folder
    if folder.is_file():
        _refuse_pickle(folder)
        raise WeightsError(f"weights must be a folder with {CONFIG} and {STATE}, found the file {folder}")
    if not isinstance(source, Path) and _HUB_ID.fullmatch(name):
        return _from_hub(name, offline=offline or _hub_is_offline(), revision=revision)
    names = ", ".join(entry.name for entry in bundled(room)) or "none"
    raise WeightsError(
        f"no weights {name!r}: neither a folder nor bundled for {room} (bundled: {names})",
        f"name a bundled one, a folder with {CONFIG} and {STATE}, or a hub id org/name",
    )


def load_config(folder: str | Path, cls: type[Config]) -> Config:
    """Read ``config.json`` into the frozen dataclass ``cls``.

    Raises:
        WeightsError: the file is missing or damaged, or its keys are unknown, missing or of another type than the
            dataclass says; the message names them.
    """
    document = read_document(folder)
    found, where = document["config"], Path(folder) / CONFIG
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # pyright: ignore[reportArgumentType]
    unknown = sorted(found.keys() - fields.keys())
    needed = {
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed - found.keys())
    if unknown or missing:
        parts = [f"{what} {_some(keys)}" for what, keys in (("unknown", unknown), ("missing", missing)) if keys]
        raise WeightsError(f"{where} does not describe a {cls.__name__}: {'; '.join(parts)}")
    values: dict[str, Any] = {}
    for key, value in found.items():
        try:
            # JSON mode: a list may become a tuple and 1 a float, but "8" or true never becomes 8.
            values[key] = TypeAdapter(hints[key]).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            wanted = getattr(hints[key], "__name__", str(hints[key]))
            reason = error.errors()[0]["msg"]
            raise WeightsError(f"{where}: {key!r} must be {wanted}, found {value!r}: {reason}") from error
    try:
        return cls(**values)
    except (PellucidError, ValueError) as error:  # what the dataclass itself checks
        raise WeightsError(f"{where}: {error}") from error


def read_document(folder: str | Path) -> dict[str, Any]:
    """Read ``config.json`` as it is: ``method``, ``format``, ``config`` and ``training``.

    Raises:
        WeightsError: the file is missing, is no such document, or has a newer format.
    """
    path = Path(folder) / CONFIG
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} is no folder of weights: {CONFIG} is missing") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {_one_line(error)}") from error
    if not isinstance(document, dict) or not isinstance(document.get("config"), dict) or "method" not in document:
        raise WeightsError(f"{path} must be an object with method, format and config")
    if document.get("format") != FORMAT:
        raise WeightsError(f"{path}: expected format {FORMAT}, found {document.get('format')!r}", "update pellucid")
    return document


def read_state(source: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file, or the one of a folder, onto the CPU as it is stored.

    Raises:
        WeightsError: the file is missing, damaged or a pickle.
    """
    path = Path(source)
    path = path / STATE if path.is_dir() else path
    _refuse_pickle(path)
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is damaged or not safetensors: {_one_line(error)}", "fetch or save it again"
        ) from error


def load_state(module: nn.Module, source: str | Path | Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Copy weights into ``module``, in the module's own precision and on its own device.

    Args:
        module: the network; its parameters and buffers say which keys and shapes are expected.
        source: a folder of weights, a safetensors file, or a state dict.
        strict: with False, missing and extra keys are logged instead of refused; a wrong shape is always refused.

    Raises:
        WeightsError: keys are missing, extra or wrong-shaped; up to five of each are named. Nothing is copied then.
    """
    state = source if isinstance(source, Mapping) else read_state(source)
    expect_state(module, state, strict=strict, origin="" if isinstance(source, Mapping) else f" in {source}")
    module.load_state_dict(dict(state), strict=False)


def expect_state(module: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True, origin: str = "") -> None:
    """Check that a state dict has a module's keys and shapes, copying nothing; the module may be on ``meta``.

    Args:
        module: says which keys and shapes are expected.
        state: what was read.
        strict: see `load_state`.
        origin: where it was read, for the message, such as ``" in weights.pth"``.

    Raises:
        WeightsError: keys are missing, extra or wrong-shaped; up to five of each are named.
    """
    expect_tensors(module.state_dict(), state, type(module).__name__, strict=strict, origin=origin)


def expect_tensors(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str, *, strict: bool = True, origin: str = ""
) -> None:
    """Check keys and shapes as `expect_state` does, for a part of a network.

    Args:
        expected: key -> a tensor of the right shape, which may be on ``meta``.
        state: what was read.
        what: the network or the part, in words, for the message.
        strict: see `load_state`.
        origin: see `expect_state`.

    Raises:
        WeightsError: as `expect_state`.
    """
    missing = [f"{key} {_shape(expected[key])}" for key in expected if key not in state]
    extra = [f"{key} {_shape(state[key])}" for key in state if key not in expected]
    wrong = [
        f"{key} expected {_shape(expected[key])}, found {_shape(state[key])}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    listing = "; ".join(
        f"{len(keys)} {what}: {_some(keys)}"
        for what, keys in (("missing", missing), ("extra", extra), ("wrong-shaped", wrong))
        if keys
    )
    if wrong or (strict and listing):
        raise WeightsError(f"weights{origin} do not fit {what}: {listing}")
    if listing:
        log.warning("weights for %s taken in part: %s", what, listing)


def save_pretrained(
    folder: str | Path,
    *,
    method: str,
    config: Any,
    state: nn.Module | Mapping[str, Tensor],
    card: str,
    training: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Write a folder of weights; it appears whole or not at all.

    Args:
        folder: where to write; its parents are made.
        method: the room's name, for example ``"multistep_sirr"``.
        config: a dataclass, or a mapping of plain values.
        state: the network or its state dict.
        card: text of the model card; see `pellucid.hub.cards.model_card`.
        training: plain values on how the weights were made.
        dtype: ``"float32"`` or ``"float16"``, the stored precision of all floating-point tensors.
        overwrite: replace an existing folder of weights; a folder of anything else is never replaced.

    Returns:
        The folder.

    Raises:
        WeightsError: the folder exists, or a value is too large for float16.
        ConfigError: the dtype is not one of the two.
    """
    target = Path(folder)
    if dtype not in _STORED:
        raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(_STORED)}")
    if not card.strip():
        raise ConfigError("weights are not saved without a card", "write one with pellucid.hub.cards.model_card")
    _may_replace(target, overwrite)
    document = {
        "method": method,
        "format": FORMAT,
        "config": dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config),  # pyright: ignore[reportArgumentType]
        "training": dict(training or {}),
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    tensors = _stored(state.state_dict() if isinstance(state, nn.Module) else state, _STORED[dtype])
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        (part / CONFIG).write_text(text, encoding="utf-8")
        (part / CARD).write_text(card if card.endswith("\n") else card + "\n", encoding="utf-8")
        # Not save_file: it makes files that only their owner can read, also after installation for everybody.
        # One metadata key only: several come out in random order, and equal weights would differ in identity.
        (part / STATE).write_bytes(save(tensors, metadata={"format": "pt"}))
        _swap_in(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    log.info("saved %s", target)
    return target


def weights_id(folder: str | Path) -> str:
    """Name the weights by method, folder and contents: ``"multistep_sirr/small@1a2b3c4d"``.

    The eight digits begin the SHA-256 of ``model.safetensors``; they go into the files that the weights make.
    """
    path = Path(folder).resolve()
    digest = hashlib.sha256()
    try:
        with open(path / STATE, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise WeightsError(f"{path / STATE} cannot be read: {_one_line(error)}") from error
    return f"{read_document(path)['method']}/{_short_name(path)}@{digest.hexdigest()[:8]}"


@dataclass(frozen=True)
class WeightsInfo:
    """What `pellucid models info` shows.

    Attributes:
        method: the room's name.
        folder: where the weights are.
        parameters: number of stored values in all tensors, buffers included.
        size: bytes of ``model.safetensors``.
        config: the network's configuration.
        training: how the weights were made.
        card: first lines of the card.
    """

    method: str
    folder: Path
    parameters: int
    size: int
    config: dict[str, Any]
    training: dict[str, Any]
    card: str


def info(folder: str | Path, *, lines: int = 12) -> WeightsInfo:
    """Describe a folder of weights without loading its tensors.

    Raises:
        WeightsError: the folder is not one of weights, or is damaged.
    """
    path = Path(folder)
    document = read_document(path)
    try:
        with safe_open(path / STATE, framework="pt") as file:
            count = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        size = (path / STATE).stat().st_size
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path / STATE} is damaged or missing: {_one_line(error)}") from error
    card = path / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return WeightsInfo(
        method=document["method"],
        folder=path,
        parameters=count,
        size=size,
        config=document["config"],
        training=document.get("training") or {},
        card="\n".join(text.splitlines()[:lines]),
    )


def _from_hub(name: str, *, offline: bool, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and needed for hub ids only
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = snapshot_download(name, revision=revision, local_files_only=offline, allow_patterns=[CARD, *_KEPT_WITH])
    except LocalEntryNotFoundError as error:
        if offline:
            where = "no such folder, none in the hub's cache, and the hub is not asked when offline"
            raise WeightsError(f"no weights {name!r}: {where}", "run once without --offline") from error
        raise WeightsError(f"no weights {name!r}: no such folder, and the hub cannot be reached") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise WeightsError(f"no weights {name!r}: no such folder, and the hub says: {_one_line(error)}") from error
    folder = Path(path)
    _expect_files(folder)
    return folder


def _hub_is_offline() -> bool:
    # Read when asked, not when imported, so that setting it in a running program or a test counts.
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _expect_files(folder: Path) -> None:
    missing = [name for name in (CONFIG, STATE) if not (folder / name).is_file()]
    if missing:
        raise WeightsError(f"{folder} is no folder of weights: {' and '.join(missing)} missing")


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in PICKLES:
        raise WeightsError(
            f"{path} is a pickle, which may run code when read: expected safetensors",
            "convert it once with pellucid.hub.convert.load_foreign",
        )


def _may_replace(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        if not any(target.iterdir()):
            return
        if not (target / CONFIG).is_file():
            raise WeightsError(f"{target} exists and holds something else than weights", "save to another folder")
        if not overwrite:
            raise WeightsError(f"{target} exists", "pass overwrite=True to replace it")
    elif target.exists() or target.is_symlink():
        raise WeightsError(f"{target} exists and is not a folder", "save to another folder")


def _swap_in(part: Path, target: Path) -> None:
    # A folder cannot be renamed over one that is not empty, so the old one steps aside for that moment.
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.is_dir():
        target.rename(old)
    try:
        part.rename(target)
    except OSError:
        if old.is_dir():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _stored(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        kept = value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype)
        if kept.is_floating_point() and not torch.equal(kept.isfinite(), value.detach().cpu().isfinite()):
            raise WeightsError(f"{key} has values beyond {dtype}", 'save with dtype="float32"')
        tensors[key] = kept.clone(memory_format=torch.contiguous_format)  # safetensors refuses shared storage
    return tensors


def _short_name(folder: Path) -> str:
    # In the hub's cache a folder is models--org--name/snapshots/<commit>.
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
