"""Folders of pictures that belong together by name: input and truth, and whatever else a set has."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.io import load_image

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})
_SHOWN = 5


@dataclass(frozen=True)
class Folder:
    """Where one kind of picture lies.

    Attributes:
        path: the folder, not searched below.
        ending: what follows the common name before the suffix: ``"-input"`` for ``NAME-input.png``. Files with
            another ending are not of this kind.
    """

    path: Path
    ending: str = ""


@dataclass(frozen=True)
class Pair:
    """Pictures of one name, all of one size: ``(3, H, W)`` float32 in [0, 1], by kind (``"input"``, ``"target"``)."""

    name: str
    pictures: Mapping[str, Tensor]


class PairedFolders:
    """Inputs and targets paired by name; names that lack a partner are left out, logged and listed.

    Args:
        input_dir: folder of the inputs.
        target_dir: folder of the truths; may be the same when the endings differ.
        extra: further kinds by name, for example ``{"reflection": ...}``.

    Attributes:
        names: the common names, sorted.
        unmatched: for each kind, the names that some other kind lacks.

    Raises:
        ConfigError: a folder is not there, one name occurs twice in it, or nothing pairs.
    """

    def __init__(
        self,
        input_dir: str | Path | Folder,
        target_dir: str | Path | Folder,
        extra: Mapping[str, str | Path | Folder] | None = None,
    ) -> None:
        kinds = {"input": input_dir, "target": target_dir, **(extra or {})}
        self._files = {kind: _list(_folder(where)) for kind, where in kinds.items()}
        common = set.intersection(*(set(files) for files in self._files.values()))
        self.names = tuple(sorted(common))
        self.unmatched = {kind: tuple(sorted(files.keys() - common)) for kind, files in self._files.items()}
        for kind, names in self.unmatched.items():
            if names:
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                log.warning("%d of %s without a partner: %s%s", len(names), kind, ", ".join(names[:_SHOWN]), more)
        if not self.names:
            counts = ", ".join(f"{len(self._files[kind])} {kind} in {_folder(kinds[kind]).path}" for kind in kinds)
            raise ConfigError(f"no names in common: {counts}", "files pair by name without suffix and ending")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Pair:
        """Read the pictures of one name.

        Raises:
            InputError: one cannot be read or has transparency, or their sizes differ.
        """
        name = self.names[index]
        pictures = {kind: _read(files[name]) for kind, files in self._files.items()}
        wanted = pictures["input"].shape
        for kind, picture in pictures.items():
            if picture.shape != wanted:
                height, width = picture.shape[-2:]
                raise InputError(
                    f"{self._files[kind][name]} must have the size of its input, {wanted[-1]}x{wanted[-2]}, "
                    f"found {width}x{height}"
                )
        return Pair(name, pictures)

    def paths(self, index: int) -> dict[str, Path]:
        """Return the files of one name, by kind."""
        return {kind: files[self.names[index]] for kind, files in self._files.items()}


def _folder(where: str | Path | Folder) -> Folder:
    return where if isinstance(where, Folder) else Folder(Path(where).expanduser())


def _list(folder: Folder) -> dict[str, Path]:
    if not folder.path.is_dir():
        raise ConfigError(f"folder {folder.path} is not there")
    found: dict[str, Path] = {}
    for path in sorted(folder.path.iterdir()):
        if path.suffix.lower() not in SUFFIXES or not path.stem.endswith(folder.ending):
            continue
        name = path.stem.removesuffix(folder.ending)
        if name in found:
            raise ConfigError(f"{found[name]} and {path.name} have one name", "keep one of them")
        found[name] = path
    return found


def _read(path: Path) -> Tensor:
    layer = load_image(path).layers[0]
    if layer.alpha is not None and bool((layer.alpha < 1.0).any()):
        raise InputError(f"{path} has transparency, which a pair cannot hold", "flatten it first")
    return layer.pixels
