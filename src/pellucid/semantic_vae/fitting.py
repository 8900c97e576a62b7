"""What editing knows beyond the network: priors and attribute directions, fitted once and kept beside the weights.

Both follow from the codes of a mask set, so `fit` encodes a few thousand masks drawn by code, and decodes some of them
to see whether the directions hold (spec of the room, sections 4.1 and 4.2). ``editing.safetensors`` has the tensors,
``editing.json`` what a reader may want to know.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pellucid.device import resolve_device
from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.hub.pretrained import load_config, load_state, weights_id
from pellucid.io.files import atomic_path
from pellucid.semantic_vae.attributes import measure
from pellucid.semantic_vae.direction_fit import fit_directions
from pellucid.semantic_vae.directions import Directions
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.responses import CodedMasks

if TYPE_CHECKING:
    from pellucid.semantic_vae.priors import Priors

log = logging.getLogger(__name__)

TENSORS = "editing.safetensors"
DOCUMENT = "editing.json"
FIT_SEED = 3_000_003  # of the masks drawn for fitting: none that a training draws
_FORMAT = 1
_CHUNK = 250  # masks drawn, encoded and measured between two log lines


@dataclass(frozen=True)
class Editing:
    """What `load_editing` finds; None where nothing was fitted."""

    priors: "Priors | None" = None
    directions: Directions | None = None


def save_editing(folder: str | Path, priors: "Priors | None", directions: Directions | None) -> None:
    """Write ``editing.safetensors`` and ``editing.json`` into a folder of weights, over what is there.

    Both parts are kept through their ``tensors()`` and ``plain()`` (JSON), and made again by ``of(tensors, plain)``.
    The document names the weights, so that codes of other weights are never edited with these.

    Raises:
        WeightsError: the folder is not one of weights.
    """
    folder = Path(folder)
    document: dict[str, Any] = {"format": _FORMAT, "weights": _digest(folder)}
    tensors: dict[str, Tensor] = {}
    if priors is not None:
        document["priors"] = priors.plain()
        tensors |= {f"priors.{name}": value for name, value in priors.tensors().items()}
    if directions is not None:
        document["directions"] = directions.plain()
        # Half precision is a thousandth of an offset, and offsets are multiplied by a slider.
        tensors |= {f"directions.{name}": value.half() for name, value in directions.tensors().items()}
    stored = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }
    with atomic_path(folder / TENSORS, True) as part:
        part.write_bytes(save(stored, metadata={"format": "pt"}))
    with atomic_path(folder / DOCUMENT, True) as part:
        part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    log.info("saved %s and %s in %s", TENSORS, DOCUMENT, folder)


def load_editing(folder: str | Path) -> Editing:
    """Read what `save_editing` wrote; an `Editing` of Nones where the folder has no such files.

    Raises:
        WeightsError: the files are damaged, one is missing, or they belong to other weights.
    """
    folder = Path(folder)
    there = [(folder / name).is_file() for name in (TENSORS, DOCUMENT)]
    if not any(there):
        return Editing()
    again = "run pellucid parts fit"
    if not all(there):
        found, missing = (TENSORS, DOCUMENT) if there[0] else (DOCUMENT, TENSORS)
        raise WeightsError(f"{folder} has {found} and lacks {missing}", again)
    try:
        document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{folder / DOCUMENT} or {TENSORS} is damaged: {_one_line(error)}", again) from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise WeightsError(f"{folder / DOCUMENT}: expected format {_FORMAT}, found {found!r}", "update pellucid")
    if (digest := _digest(folder)) != document.get("weights"):
        raise WeightsError(f"{folder / DOCUMENT} belongs to weights {document.get('weights')}, found {digest}", again)
    priors, directions = None, None
    try:
        if "priors" in document:
            from pellucid.semantic_vae.priors import Priors

            priors = Priors.of(_under("priors.", tensors), document["priors"])
        if "directions" in document:
            directions = Directions.of(_under("directions.", tensors), document["directions"])
    except WeightsError as error:
        raise WeightsError(f"{folder / DOCUMENT}: {error.message}", again) from error
    return Editing(priors, directions)


def fit(
    folder: str | Path,
    masks: Tensor | None = None,
    *,
    count: int = 2000,
    seed: int = 0,
    tested: int = 32,
    device: str | torch.device = "auto",
) -> Editing:
    """Fit priors and directions of the weights in a folder, and save them there.

    Takes a few minutes of one core with the weights that ship.

    Args:
        folder: weights of this room, see `hub.pretrained`; what was fitted before is replaced.
        masks: label maps ``(N, S, S)`` uint8 of the weights' class set and size; None draws ``count`` by code.
        count: see there.
        seed: of the drawn masks, and of which masks test.
        tested: masks on which each direction is tried.
        device: where to compute.

    Raises:
        ConfigError: the class set is not the one that masks are drawn for, and none are given.
        InputError: the masks are of another size, or too few.
        WeightsError: the folder is not one of weights.
    """
    # Here, because a pipeline loads what this module keeps, and the network needs not be there for that.
    from pellucid.semantic_vae.coding import MaskCoder
    from pellucid.semantic_vae.editing import allowed_classes
    from pellucid.semantic_vae.model import SemanticVAE, SemanticVAEConfig
    from pellucid.semantic_vae.priors import fit_priors

    folder = Path(folder)
    model = SemanticVAE(load_config(folder, SemanticVAEConfig))
    load_state(model, folder)
    own = folder / "classes.json"
    classes = ClassSet.load(own) if own.is_file() else CELEBAMASK_HQ
    coder = MaskCoder(model.eval().requires_grad_(False), classes, resolve_device(device), torch.float32)
    labels = _drawn(classes, count, seed, coder.size) if masks is None else masks
    _check(labels, coder.size)
    mus, logvars, presents, values = [], [], [], []
    for chunk in labels.split(_CHUNK):
        codes = coder.see(chunk).codes
        mus.append(codes.mu.cpu())
        logvars.append(codes.logvar.cpu())
        presents.append(codes.present.cpu())
        values.append({name: value.cpu() for name, value in measure(chunk, classes).items()})
        log.info("encoded and measured %d of %d masks", sum(map(len, mus)), len(labels))
    mu, logvar, present = torch.cat(mus), torch.cat(logvars), torch.cat(presents)
    coded = CodedMasks(mu, present, {name: torch.cat([one[name] for one in values]) for name in values[0]})
    priors = fit_priors(mu, logvar, present)

    def decode(z: Tensor, there: Tensor) -> Tensor:
        return coder.decode(z, allowed_classes(there, classes))

    directions = fit_directions(coded, classes, decode, tested=tested, seed=seed)
    log.info("%d of %d attributes hold: %s", *_counted(directions))
    save_editing(folder, priors, directions)
    return Editing(priors, directions)


def _drawn(classes: ClassSet, count: int, seed: int, size: int) -> Tensor:
    from pellucid.semantic_vae.procedural.masks import procedural_masks

    if classes.fingerprint() != CELEBAMASK_HQ.fingerprint():
        raise ConfigError(
            f"no masks can be drawn for the class set {classes.name!r}, only for {CELEBAMASK_HQ.name!r}",
            "give masks of that class set",
        )
    log.info("drawing %d masks of side %d", count, size)
    return procedural_masks(count, FIT_SEED + seed, size)[0]


def _check(labels: Tensor, size: int) -> None:
    if labels.ndim != 3 or labels.dtype != torch.uint8 or labels.shape[1:] != (size, size):
        raise InputError(
            f"masks to fit to: expected (N, {size}, {size}) uint8, found {tuple(labels.shape)} {labels.dtype}"
        )
    if len(labels) < 2:
        raise InputError(f"masks to fit to: at least 2 expected, found {len(labels)}", "give a thousand or more")


def _counted(directions: Directions) -> tuple[int, int, str]:
    attributes = [name for name in directions.entries if "/" not in name]
    held = [name for name in attributes if directions.entries[name].accepted]
    return len(held), len(attributes), ", ".join(held) or "none"


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _digest(folder: Path) -> str:
    return weights_id(folder).rsplit("@", 1)[1]


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
