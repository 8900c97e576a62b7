"""Folders of masks: CelebAMask-HQ as published, as the paper's group prepares it, and plain (sections 1.2, 1.3)."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.label_orders import OWN, Beard, rank
from pellucid.semantic_vae.masks.mask_files import read_mask
from pellucid.semantic_vae.masks.part_files import find_parts, load_picture, merge_parts

logger = logging.getLogger(__name__)

PARTS_FOLDER = "CelebAMask-HQ-mask-anno"
IMAGES_FOLDER = "CelebA-HQ-img"
FIRST_TEST_ID = 28000  # of 30,000: the split of the paper's group, which is not MaskGAN's

BY_ID = "ids from 28000 are test (the paper's split)"
BY_FOLDER = "folders train and test"
NO_SPLIT = "no split"

_MASK_SUFFIXES = (".png", ".npz", ".npy", ".bmp", ".tif", ".tiff", ".webp")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class MaskFile:
    """One mask of a set that has been found, not read.

    Attributes:
        path: the file; for part pictures the folder and the face's number, ``.../0/00012``.
        split: ``"train"``, ``"test"``, or None where the set has no split.
        image: the photograph that belongs to it, where there is one.
        rule: what decides the split; to be named beside every result, because sets have several.
        order: label order of its ids, None when the file must say it itself.
        in_parts: whether the mask is one picture a part, still to be merged.
    """

    path: Path
    split: str | None = None
    image: Path | None = None
    rule: str = NO_SPLIT
    order: str | None = None
    in_parts: bool = False


def find_masks(root: str | Path, classes: ClassSet = CELEBAMASK_HQ, order: str | None = None) -> list[MaskFile]:
    """List the masks of a folder, in the order of their numbers or names.

    Four layouts are known:

    - CelebAMask-HQ as published: ``CelebAMask-HQ-mask-anno/<k // 2000>/<k>_<part>.png`` and ``CelebA-HQ-img/<k>.jpg``.
      Test are the ids from 28000.
    - As SEAN prepares it: ``train/labels``, ``train/images``, ``test/labels``, ``test/images``.
    - ``labels`` or ``masks`` beside ``images``: no split.
    - A folder of label maps: no split, no images.

    In the second and third, bare ids are in the order of CelebAMask-HQ unless ``order`` says otherwise; a few masks are
    looked at, and when they look like another order, that is an error. In the last, bare ids of these classes need
    ``order``, as in `mask_files.read_mask`.

    Args:
        root: the folder.
        classes: the class set that the masks will be read in.
        order: label order of bare ids.

    Raises:
        InputError: there is no such folder, it cannot be read, or it holds no masks.
        ConfigError: the parts are not of the class set, or the ids look like another order.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InputError(f"{root}: {'is a file' if root.exists() else 'no such folder'}, expected a folder of masks")
    try:
        found = _find(root, classes, order)
    except OSError as error:
        raise InputError(f"{error.filename or root}: cannot be read: {error.strerror}") from error
    if not found:
        raise InputError(
            f"{root}: holds no masks",
            f"expected label maps, folders labels and images, train and test of these, or {PARTS_FOLDER}",
        )
    return found


def load(file: MaskFile, classes: ClassSet = CELEBAMASK_HQ, beard: Beard = "skin") -> Tensor:
    """Read a mask that `find_masks` found: ``(H, W)`` uint8 at the size of its file, ids of ``classes``.

    Raises:
        InputError: the file is damaged or no label map of these classes.
        ConfigError: the file holds bare ids and no label order was named.
    """
    if file.in_parts:
        return merge_parts(find_parts(file.path.parent, classes, file.path.name), classes)
    return read_mask(file.path, classes, file.order, beard=beard, allow_empty=True).labels


def _find(root: Path, classes: ClassSet, order: str | None) -> list[MaskFile]:
    published = next((one for one in (root, root / "CelebAMask-HQ") if (one / PARTS_FOLDER).is_dir()), None)
    if published is not None or root.name == PARTS_FOLDER:
        return _published(published or root.parent, classes)
    found: list[MaskFile] = []
    for split in ("train", "test"):
        if (folder := _labels_folder(root / split)) is not None:
            found += _pairs(folder, root / split / "images", split, BY_FOLDER, order)
    if not found and (folder := _labels_folder(root)) is not None:
        found = _pairs(folder, root / "images", None, NO_SPLIT, order)
    if not found:
        return [MaskFile(path, order=order) for path in _listed(root, _MASK_SUFFIXES)]
    if order is not None or classes.fingerprint() != CELEBAMASK_HQ.fingerprint():
        return found
    _check_order([one.path for one in found], root)
    return [MaskFile(one.path, one.split, one.image, one.rule, CELEBAMASK_HQ.name) for one in found]


def _labels_folder(root: Path) -> Path | None:
    return next((root / name for name in ("labels", "masks") if (root / name).is_dir()), None)


def _published(root: Path, classes: ClassSet) -> list[MaskFile]:
    """The parts of 30,000 faces: 300,000 files, whose folders are each listed once."""
    images = {path.stem: path for path in _listed(root / IMAGES_FOLDER, _IMAGE_SUFFIXES)}
    faces: dict[int, Path] = {}
    parts: set[str] = set()
    for folder in sorted(one for one in (root / PARTS_FOLDER).iterdir() if one.is_dir()):
        for entry in os.scandir(folder):
            number, _, part = entry.name.removesuffix(".png").partition("_")
            if entry.name.endswith(".png") and number.isdecimal() and part:
                faces[int(number)] = folder / number
                parts.add(part)
    if unknown := sorted(parts - set(classes.names)):
        raise ConfigError(
            f"{root / PARTS_FOLDER}: holds the part {unknown[0]!r}, which is not in the class set {classes.name!r}",
            f"use {CELEBAMASK_HQ.name!r}",
        )
    return [
        MaskFile(path, "test" if number >= FIRST_TEST_ID else "train", images.get(str(number)), BY_ID, OWN, True)
        for number, path in sorted(faces.items())
    ]


def _pairs(folder: Path, images: Path, split: str | None, rule: str, order: str | None) -> list[MaskFile]:
    pictures = {path.stem: path for path in _listed(images, _IMAGE_SUFFIXES)}
    masks = _listed(folder, _MASK_SUFFIXES)
    lacking = sum(path.stem not in pictures for path in masks)
    if pictures and lacking:
        logger.info("%s: %d of %d masks have no picture of their name in %s", folder, lacking, len(masks), images)
    return [MaskFile(path, split, pictures.get(path.stem), rule, order) for path in masks]


def _listed(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files of a folder by number where their names are numbers, else by name; none where there is no folder."""
    if not folder.is_dir():
        return []
    files = [Path(one.path) for one in os.scandir(folder) if not one.name.startswith(".")]
    return sorted((path for path in files if path.suffix.casefold() in suffixes), key=_by_number)


def _by_number(path: Path) -> tuple[int, int, str]:
    return (0, int(path.stem), path.name) if path.stem.isdecimal() else (1, 0, path.name)


def _check_order(files: Sequence[Path], root: Path) -> None:
    """Look at a few maps of bare ids, and refuse a set that most likely has another order than CelebAMask-HQ's."""
    looked: list[str] = []
    for path in files[:: max(1, len(files) // 5)][:5]:
        if path.suffix.casefold() in (".npz", ".npy"):
            continue
        picture = load_picture(path)
        if picture.mode != "L" or picture.getextrema()[1] == 255:
            continue
        (best, score), (_, following) = rank(torch.from_numpy(np.array(picture)))[:2]
        looked.append(best if score >= 0.7 and score - following >= 0.03 else CELEBAMASK_HQ.name)
    other = [one for one in looked if one != CELEBAMASK_HQ.name]
    if 2 * len(other) > len(looked):
        raise ConfigError(
            f"{root}: expected ids in the order of {CELEBAMASK_HQ.name}, but its masks look like {other[0]!r}",
            f"name the label order: {other[0]} if that is so, or {CELEBAMASK_HQ.name} if they are right as they are",
        )
