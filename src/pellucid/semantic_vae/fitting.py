"""What editing knows beyond the network: priors and attribute directions, fitted once and kept beside the weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from pellucid.semantic_vae.directions import Directions

if TYPE_CHECKING:
    from pellucid.semantic_vae.priors import Priors

TENSORS = "editing.safetensors"
DOCUMENT = "editing.json"


@dataclass(frozen=True)
class Editing:
    """What `load_editing` finds; None where nothing was fitted."""

    priors: "Priors | None" = None
    directions: Directions | None = None


def save_editing(folder: str | Path, priors: "Priors | None", directions: Directions | None) -> None:
    """Write ``editing.safetensors`` and ``editing.json`` into a folder of weights.

    Both are kept through ``tensors() -> dict[str, Tensor]``, ``plain() -> dict`` (JSON) and the class method
    ``of(tensors, plain)`` of `Priors` and `Directions`.
    """
    raise NotImplementedError


def load_editing(folder: str | Path) -> Editing:
    """Read what `save_editing` wrote; an `Editing` of Nones where the folder has no such files.

    Raises:
        WeightsError: the files are damaged, or belong to other weights.
    """
    raise NotImplementedError


def fit(folder: str | Path, masks: Tensor | None = None, *, count: int = 4000, seed: int = 0) -> Editing:
    """Fit priors and directions of the weights in ``folder`` and save them there."""
    raise NotImplementedError
