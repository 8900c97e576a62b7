"""One picture a part, ``00012_hair.png``: finding them and painting them into one label map (section 1.2)."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import InputError
from pellucid.io.decode import open_image
from pellucid.semantic_vae.masks.classes import ClassSet

_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp")


def split_name(stem: str, classes: ClassSet) -> tuple[str, int] | None:
    """Take ``"00012_l_eye"`` to ``("00012", 4)`` and ``"hair"`` to ``("", 13)``; None when no class is named."""
    matching = [name for name in classes.names if stem == name or stem.endswith(f"_{name}")]
    if not matching:
        return None
    name = max(matching, key=len)  # "neck_l", not "l"
    return stem[: -len(name)].rstrip("_"), classes.names.index(name)


def find_parts(folder: Path, classes: ClassSet, prefix: str | None = None) -> dict[int, Path]:
    """List the part pictures of one face in a folder.

    Args:
        folder: where they lie.
        classes: the set whose names the files end with.
        prefix: the face, for a folder of many; None expects one face.

    Returns:
        Class id -> file, in the order of the ids.

    Raises:
        InputError: there are none, of several faces, or a picture that names no class.
    """
    if prefix is not None:  # asked for by name: a folder of CelebAMask-HQ holds 30,000 files
        candidates = [(part, folder / f"{prefix}_{name}.png") for part, name in enumerate(classes.names)]
        names = []
        if there := {part: file for part, file in candidates if file.is_file()}:
            return there
    else:
        names = sorted(one for one in folder.iterdir() if one.suffix.casefold() in _SUFFIXES)
    if not names:
        raise InputError(
            f"{folder}: holds no pictures of parts, expected <name>_<part>.png",
            f"parts are {', '.join(classes.part_names)}",
        )
    found: dict[int, Path] = {}
    faces: dict[str, Path] = {}
    for file in names:
        named = split_name(file.stem, classes)
        if named is None:
            tail = re.split(r"_", file.stem, maxsplit=1)[-1]
            near = get_close_matches(tail, classes.names, 2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"parts are {', '.join(classes.part_names)}"
            raise InputError(f"{file}: its name ends with no part of the class set {classes.name!r}", hint)
        face, part = named
        faces.setdefault(face, file)
        if len(faces) > 1:
            first, second = list(faces)[:2]
            raise InputError(
                f"{folder}: holds the parts of several faces ({first!r}, {second!r}), expected one",
                f"name one: {folder / first}",
            )
        found[part] = file
    return dict(sorted(found.items()))


def merge_parts(files: Mapping[int, Path], classes: ClassSet, order: Iterable[int] | None = None) -> Tensor:
    """Paint part pictures into one label map; what is painted later lies on top (section 1.2).

    Args:
        files: class id -> picture, whose pixels other than 0 are the part.
        classes: the set; unpainted pixels become its background, or class 0 where it has none.
        order: ids in the order of painting; None is ascending, as CelebAMask-HQ is merged: neck and cloth win over
            hair, glasses lose to eyes.

    Returns:
        ``(H, W)`` uint8.

    Raises:
        InputError: a picture cannot be read or has another size than the first.
    """
    labels: np.ndarray | None = None
    first: Path | None = None
    for part in sorted(files) if order is None else order:
        if part not in files:
            continue
        shape = _painted(files[part])
        if labels is None or first is None:
            labels, first = np.full(shape.shape, classes.background or 0, np.uint8), files[part]
        if shape.shape != labels.shape:
            (height, width), (high, wide) = shape.shape, labels.shape
            raise InputError(f"{files[part]}: has {width}x{height} pixels, expected {wide}x{high} as {first.name}")
        labels[shape] = part
    if labels is None:
        raise InputError("no pictures of parts were given")
    return torch.from_numpy(labels)


def _painted(file: Path) -> np.ndarray:
    """Pixels other than black: ``(H, W)`` bool. Alpha does not count."""
    picture = load_picture(file)
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGB")  # black may have any index
    elif picture.mode in ("LA", "RGBA"):
        picture = picture.convert(picture.mode[:-1])
    values = np.asarray(picture)
    return np.asarray(values.any(axis=-1) if values.ndim == 3 else values != 0)


def load_picture(source: Path | bytes, name: str = "") -> Image.Image:
    """Open and decode a picture without touching its values: indices stay indices, 16 bits stay 16.

    Raises:
        InputError: no such file, empty, damaged, animated or no picture.
    """
    name = name or str(source)
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{name}: {reason}") from error
    picture = open_image(data, name)
    try:
        frames = getattr(picture, "n_frames", 1)
        picture.load()
    except Exception as error:  # Pillow's readers raise whatever damaged data leads to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: the picture is damaged or cut short: {reason}", "get the file again") from error
    if frames > 1:
        raise InputError(f"{name}: has {frames} frames, expected one label map")
    return picture
