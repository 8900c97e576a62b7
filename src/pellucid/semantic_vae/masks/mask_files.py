"""Masks from whatever a user has, and into files (section 4, "Mask input").

A picture of bare numbers says nothing about whose numbers they are, so it needs a label order by name; colours of the
palette, part names, names in an NPZ and files of ours say it themselves. 255 is "ignore" and becomes background.
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import FormatError, InputError
from pellucid.io.arrays import to_uint8
from pellucid.io.files import atomic_path
from pellucid.layers.stack import LayerStack, Meta
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet, present_ids
from pellucid.semantic_vae.masks.label_geometry import Frame, Squaring, resize_labels, square
from pellucid.semantic_vae.masks.label_orders import OWN, Beard, sides_look_swapped
from pellucid.semantic_vae.masks.mask_arrays import labels_of_array, read_npz
from pellucid.semantic_vae.masks.mask_pictures import Reading, labels_of_colors, labels_of_picture
from pellucid.semantic_vae.masks.mask_stack import PICTURES, as_stack, check_labels, fill_ignored, from_stack
from pellucid.semantic_vae.masks.part_files import find_parts, load_picture, merge_parts

__all__ = [
    "Frame",
    "Mask",
    "MaskSource",
    "Squaring",
    "as_stack",
    "check_labels",
    "from_stack",
    "labels_of_colors",
    "read_mask",
    "resize_labels",
    "square",
    "write_mask",
]

logger = logging.getLogger(__name__)

_LAYERED = (".ora", ".psd")
_ARRAYS = (".npz", ".npy")


@dataclass(frozen=True)
class Mask:
    """A label map that has been read.

    Attributes:
        labels: ``(H, W)`` uint8 on the CPU, ids of ``classes``.
        classes: what they mean.
        meta: of the file.
        unmatched: share of the pixels whose colour was not in the palette, where the map came as colours.
    """

    labels: Tensor
    classes: ClassSet
    meta: Meta = field(default_factory=Meta)
    unmatched: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.labels.shape[0]), int(self.labels.shape[1])


MaskSource = str | Path | BinaryIO | Image.Image | np.ndarray[Any, Any] | Tensor | LayerStack | Mask


def read_mask(
    source: MaskSource,
    classes: ClassSet = CELEBAMASK_HQ,
    order: str | None = None,
    unmatched: float = 0.15,
    beard: Beard = "skin",
    allow_empty: bool = False,
) -> Mask:
    """Read a label map.

    Args:
        source: a picture file of ids (grey, or with a palette) or of colours of the class set; a file of our own; a
            layered file whose layers are classes; an NPZ or NPY of ids or of one plane a class; a folder of part
            pictures, or its path with a face's name, ``.../0/00012``; an open file; a Pillow picture; an array or
            tensor of ids ``(H, W)``, planes ``(C, H, W)`` or colours; a stack; a mask, which is returned as it is.
        classes: what the result's ids mean.
        order: whose ids they are: a name in `label_orders.ORDERS`, or ``"own"`` for those of the class set. Pictures
            and NPZ files of bare ids of the CelebAMask-HQ classes need it, because parsers number these in several
            ways. Arrays and tensors without one are taken as ids of ``classes``.
        unmatched: largest share of pixels that may be far from every palette colour; more is an error.
        beard: what becomes of foreign classes that have no class here: ``"skin"``, or ``"ignore"`` (background).
        allow_empty: whether a map that holds nothing but background is taken.

    Returns:
        The mask, at the size of the input.

    Raises:
        InputError: there is no such file, it is empty, damaged, no label map, or has ids or colours beyond the set.
        ConfigError: the label order is needed and missing, unknown, or does not fit the class set.
    """
    if isinstance(source, Mask):
        if source.classes.fingerprint() != classes.fingerprint():
            raise InputError(
                f"mask of the class set {source.classes.name!r}, expected {classes.name!r}",
                "all masks must have the classes of the weights",
            )
        return source
    reading = Reading(classes, order, unmatched, beard)
    name, path = "mask", None
    if isinstance(source, str | Path):
        name, path = str(source), Path(source).expanduser()
    elif not isinstance(source, LayerStack | Image.Image | np.ndarray | Tensor):
        name = str(getattr(source, "name", name))
    found, share = _read(source if path is None else path, name, reading)
    labels = check_labels(fill_ignored(found, classes, name), classes, name)
    _check_content(labels, classes, name, allow_empty)
    if path is not None:
        meta = Meta(source=path.name)
    else:
        meta = source.meta if isinstance(source, LayerStack) else Meta()
    return Mask(labels, classes, meta, share)


def _read(source: Any, name: str, reading: Reading) -> tuple[Tensor, float]:
    """Labels ``(H, W)``, 255 where there is no class, and the share of colours outside the palette."""
    match source:
        case Path():
            return _read_path(source, name, reading)
        case LayerStack():
            return _read_stack(source, name, reading)
        case Image.Image():
            return labels_of_picture(source, name, reading)
        case np.ndarray() | Tensor():
            array = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
            return labels_of_array(array, name, replace(reading, order=reading.order or OWN))
    if not hasattr(source, "read"):
        expected = "a path, an open file, a Pillow picture, an array, a tensor, a stack or a mask"
        raise InputError(f"mask must be {expected}, found {type(source).__name__}")
    return _read_bytes(source.read(), name, reading)


def _read_path(path: Path, name: str, reading: Reading) -> tuple[Tensor, float]:
    if path.is_dir():
        return merge_parts(find_parts(path, reading.classes), reading.classes), 0.0
    suffix = path.suffix.casefold()
    if suffix == "" and not path.exists() and path.parent.is_dir():  # a face in a folder of many: 0/00012
        files = find_parts(path.parent, reading.classes, path.name)
        return merge_parts(files, reading.classes), 0.0
    if suffix in _LAYERED:
        return _read_stack(LayerStack.load(path), name, reading)
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise InputError(f"{name}: {reason}") from error
    return _read_bytes(data, name, reading, is_array=suffix in _ARRAYS)


def _read_bytes(data: bytes, name: str, reading: Reading, is_array: bool = False) -> tuple[Tensor, float]:
    if is_array or data.startswith((b"PK", b"\x93NUMPY")):
        array, names = read_npz(data, name)
        return labels_of_array(array, name, reading, names)
    return labels_of_picture(load_picture(data, name), name, reading)


def _read_stack(stack: LayerStack, name: str, reading: Reading) -> tuple[Tensor, float]:
    if len(stack.layers) == 1 and stack.fps is None and stack.names[0].casefold() in PICTURES:
        pixels = to_uint8(stack.layers[0].rgba)  # (H, W, 3|4)
        return labels_of_picture(Image.fromarray(pixels), name, reading)
    return from_stack(stack, reading.classes), 0.0


def _check_content(labels: Tensor, classes: ClassSet, name: str, allow_empty: bool) -> None:
    present = present_ids(labels)
    if present == [classes.background] and not allow_empty:
        raise InputError(f"{name}: holds nothing but {classes.names[present[0]]}, expected parts of a face")
    if len(present) == 1:
        logger.warning("%s: holds one class only, %s", name, classes.names[present[0]])
    if sides_look_swapped(labels, classes):
        logger.warning("%s: left and right parts lie the wrong way round; is it mirrored, or of another order?", name)


def write_mask(labels: Tensor, path: str | Path, classes: ClassSet = CELEBAMASK_HQ, overwrite: bool = False) -> Path:
    """Write a label map so that `read_mask` needs no label order to read it.

    Args:
        labels: ``(H, W)`` integers, ids of ``classes``.
        path: ``.png`` for an indexed picture whose pixel values are the ids and whose palette is that of the set;
            ``.npz`` for ``onehot`` ``(C, H, W)`` bool with the ``names``.
        classes: what the ids mean.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        FormatError: another suffix.
        InputError: ids beyond the set, or the file exists or cannot be written.
    """
    path = Path(path)
    labels = check_labels(labels, classes)
    suffix = path.suffix.casefold()
    if suffix not in (".png", ".npz"):
        raise FormatError(
            f"{path}: a label map is written as .png or .npz, found {suffix or 'no suffix'}",
            "lossy and true-colour formats would change ids",
        )
    with atomic_path(path, overwrite) as temporary:
        if suffix == ".png":
            picture = Image.fromarray(labels.numpy())
            picture.putpalette([value for color in classes.colors for value in color])
            picture.save(temporary, bits=8)
        else:
            onehot = (labels[None] == torch.arange(len(classes))[:, None, None]).numpy()  # (C, H, W)
            with temporary.open("wb") as file:
                np.savez_compressed(file, onehot=onehot, names=np.array(classes.names))
    return path
