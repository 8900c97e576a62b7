"""Label maps out of arrays: ids, one plane a class, or colours; and NPZ files of them."""

import logging
import zipfile
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import InputError
from pellucid.semantic_vae.masks.label_orders import IGNORE
from pellucid.semantic_vae.masks.mask_pictures import Reading, labels_of_picture, to_classes

logger = logging.getLogger(__name__)

_KEYS = ("onehot", "one_hot", "labels", "label", "mask")


def labels_of_array(
    array: np.ndarray[Any, Any], name: str, reading: Reading, names: Sequence[str] | None = None
) -> tuple[Tensor, float]:
    """Read the label map out of an array.

    Args:
        array: ids ``(H, W)``; planes ``(C, H, W)`` or ``(H, W, C)``, of which the largest counts, with or without the
            background's; or colours ``(H, W, 3|4)`` or ``(3|4, H, W)``, uint8 or floats in [0, 1]. A leading axis of 1
            is dropped.
        name: what messages call it.
        reading: class set, label order and the rest.
        names: what the array's ids or planes are called, when it says so; counts instead of the label order.

    Returns:
        ``(H, W)`` integers with 255 for "ignore", and the share of pixels whose colour was not in the palette.

    Raises:
        InputError: the array has another shape, type or range, or a name is no class.
        ConfigError: the order is needed and not given, or unknown.
    """
    found = f"{array.shape} {array.dtype}"
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(f"{name}: expected ids (H, W), planes (C, H, W) or colours (H, W, 3), found {found}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{name}: has NaN or infinite values")
    if array.ndim == 2:
        if array.dtype.kind not in "iu":
            raise InputError(f"{name}: ids must be integers, found {found}")
        ids = torch.from_numpy(array.astype(np.int64))
        return _named(ids, names, name, reading), 0.0
    counts = _plane_counts(reading, names)
    planes = _planes_first(array, counts)
    if planes is None:
        return labels_of_picture(_picture(array, name, counts, found), name, reading)
    ids = _largest(planes, name, len(planes) == counts[0], _background(reading))
    return _named(ids, names, name, reading), 0.0


def read_npz(data: bytes, name: str) -> tuple[np.ndarray[Any, Any], tuple[str, ...] | None]:
    """Find the label map in the bytes of an NPZ or NPY file, and the names of its classes if it has any.

    Nothing in the file is executed: arrays of Python objects are refused.

    Raises:
        InputError: the file is empty or damaged, or has several arrays none of which is called like a mask.
    """
    if not data:
        raise InputError(f"{name}: is empty, expected an array")
    try:
        opened = np.load(BytesIO(data), allow_pickle=False)
        if isinstance(opened, np.ndarray):
            return opened, None
        arrays = {key: opened[key] for key in opened.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: is no NPZ or NPY file that can be read: {reason}") from error
    names = arrays.pop("names", None)
    key = next((key for key in _KEYS if key in arrays), next(iter(arrays)) if len(arrays) == 1 else None)
    if key is None:
        raise InputError(
            f"{name}: holds {', '.join(arrays) or 'no array'}, expected one array", f"call it {' or '.join(_KEYS)}"
        )
    return arrays[key], None if names is None else tuple(str(one) for one in names.ravel())


def _plane_counts(reading: Reading, names: Sequence[str] | None) -> tuple[int, int]:
    """How many planes are one a class, and how many are one a part, without the background's."""
    if names is not None:
        return len(names), -1
    if reading.foreign is not None:
        return len(reading.foreign.targets), len(reading.foreign.targets) - 1
    return len(reading.classes), len(reading.classes.parts) if reading.classes.background is not None else -1


def _background(reading: Reading) -> int | None:
    return 0 if reading.foreign is not None else reading.classes.background


def _planes_first(array: np.ndarray[Any, Any], counts: tuple[int, int]) -> np.ndarray[Any, Any] | None:
    """Bring planes to ``(C, H, W)``; None when the array does not hold one a class but colours."""
    looks_like_colors = array.dtype == np.uint8 and int(array.max()) > 1 and 3 in (array.shape[0], array.shape[-1])
    for axis in (0, -1):
        if array.shape[axis] in counts and not (looks_like_colors and array.shape[axis] == 3):
            return np.moveaxis(array, axis, 0)
    return None


def _largest(planes: np.ndarray[Any, Any], name: str, complete: bool, background: int | None) -> Tensor:
    """Index of the largest plane at each pixel; 255 where all are 0; without the background's plane, its id there."""
    values = torch.from_numpy(np.ascontiguousarray(planes).astype(np.float32))
    best, ids = values.max(dim=0)
    overlap = float(((values > 0).sum(dim=0) > 1).float().mean())
    if overlap > 0:
        logger.info("%s: planes overlap on %.3g %% of the pixels; the largest counts", name, 100 * overlap)
    if not complete and background is not None:
        ids = ids + (ids >= background)  # the plane of the background was left out
        return torch.where(best > 0, ids, background)
    nothing = (best == 0) & (values.amin(dim=0) == 0)
    return ids.masked_fill(nothing, IGNORE)


def _named(ids: Tensor, names: Sequence[str] | None, name: str, reading: Reading) -> Tensor:
    classes = reading.classes
    if names is None:
        return to_classes(ids, name, reading)
    if unknown := [one for one in names if one not in classes.names]:
        raise InputError(
            f"{name}: holds the class {unknown[0]!r}, which is not in the class set {classes.name!r}",
            f"give its class set; here are {', '.join(classes.names)}",
        )
    beyond = (ids != IGNORE) & ((ids < 0) | (ids >= len(names)))
    if bool(beyond.any()):
        raise InputError(f"{name}: ids to {int(ids[beyond].max())}, but names for 0 to {len(names) - 1} only")
    table = torch.full((256,), IGNORE)
    table[: len(names)] = torch.tensor([classes.id_of(one) for one in names])
    return table[ids]


def _picture(array: np.ndarray[Any, Any], name: str, counts: tuple[int, int], found: str) -> Image.Image:
    channels_last = array if array.shape[-1] in (3, 4) else np.moveaxis(array, 0, -1)
    if channels_last.shape[-1] not in (3, 4) or array.dtype.kind not in "uf":
        wanted = " or ".join(str(one) for one in counts if one > 0)
        raise InputError(f"{name}: expected {wanted} planes, or colours (H, W, 3), found {found}")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if low < -1e-3 or high > 1 + 1e-3:
            raise InputError(f"{name}: colours must be floats in [0, 1], found {low:g} to {high:g}")
        channels_last = np.rint(channels_last * 255)
    elif array.dtype != np.uint8:
        raise InputError(f"{name}: colours must be uint8 or floats in [0, 1], found {array.dtype}")
    mode = "RGB" if channels_last.shape[-1] == 3 else "RGBA"
    return Image.fromarray(np.ascontiguousarray(channels_last.astype(np.uint8))).convert(mode)
