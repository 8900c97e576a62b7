"""Depth from a file that the user gives, and what its numbers mean."""

import logging
import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError, DependencyError, InputError
from pellucid.multistep_sirr.depth import Kind, check_pictures

log = logging.getLogger(__name__)


class FileDepth:
    """A depth map that the user gives: PNG or TIFF of 8 or 16 bits, NPY, or EXR where OpenCV can read it.

    Args:
        path: the file, one channel, with the picture's proportions.
        kind: ``"inverse"`` when larger is nearer, ``"metric"`` when the numbers are distances.

    Raises:
        InputError: the file is missing, damaged, has more than one channel or not a single usable number.
        DependencyError: an EXR and no OpenCV that reads it.
        ConfigError: an unknown kind.
    """

    name = "file"
    is_learned = False

    def __init__(self, path: str | Path, kind: Kind = "inverse") -> None:
        if kind not in get_args(Kind):
            raise ConfigError(f"depth kind {kind!r} is not known", f"use {' or '.join(get_args(Kind))}")
        self.path = Path(path).expanduser()
        values = read_depth(self.path)
        usable = np.isfinite(values) & (values > 0) if kind == "metric" else np.isfinite(values)
        if not usable.any():
            raise InputError(f"depth {self.path}: expected {kind} depth, found not a single usable number")
        if kind == "metric":
            values = np.divide(1, values, out=np.zeros_like(values), where=usable)
        if not usable.all():
            log.warning("%s: %d pixels without depth are taken as farthest", self.path, int((~usable).sum()))
            values = np.where(usable, values, values[usable].min())
        self._depth = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None, None]  # (1, 1, h, w)

    def __call__(self, rgb01: Tensor) -> Tensor:
        """Return the map resized to the picture, the same for every picture of the batch; see `DepthProvider`.

        Raises:
            InputError: the map's proportions are not the picture's.
        """
        check_pictures(rgb01)
        height, width = rgb01.shape[-2:]
        rows, columns = self._depth.shape[-2:]
        if abs(columns * height / rows - width) > max(1.0, 0.02 * width):
            raise InputError(
                f"depth {self.path}: {columns} x {rows} pixels do not have the proportions of the "
                f"picture's {width} x {height}",
                "give the depth of the whole, uncropped picture, turned the same way",
            )
        depth = self._depth.to(rgb01.device)
        if (rows, columns) != (height, width):
            shrinks = rows > height or columns > width
            depth = F.interpolate(depth, (height, width), mode="bilinear", align_corners=False, antialias=shrinks)
        return depth.expand(len(rgb01), -1, -1, -1)


def read_depth(path: Path) -> np.ndarray:
    """Read one channel of numbers as they are: float32 ``(h, w)``.

    Raises:
        InputError: the file is missing, damaged or has more than one channel.
        DependencyError: an EXR and no OpenCV that reads it.
    """
    if not path.is_file():
        raise InputError(f"depth {path} is not a file")
    try:
        suffix = path.suffix.lower()
        values = _read_npy(path) if suffix == ".npy" else _read_exr(path) if suffix == ".exr" else _read_picture(path)
    except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"depth {path} cannot be read: {reason}", "give PNG, TIFF, NPY or EXR") from error
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "uif":
        raise InputError(
            f"depth {path}: expected one channel of numbers, found shape {values.shape} of {values.dtype}",
            "save depth as 16-bit greyscale or as a two-dimensional array",
        )
    return values.astype(np.float32)


def _read_npy(path: Path) -> np.ndarray:
    # Mapped, so that a header that promises more than the file holds is refused before memory is asked for.
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def _read_exr(path: Path) -> np.ndarray:
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")  # read by OpenCV when it is imported
    hint = "pip install opencv-python-headless, or save the depth as NPY"
    try:
        import cv2  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DependencyError(f"depth {path}: EXR needs OpenCV", hint) from error
    module: Any = cv2
    try:
        values = module.imread(str(path), module.IMREAD_UNCHANGED)
    except module.error as error:
        raise DependencyError(f"depth {path}: this OpenCV does not read EXR", hint) from error
    if values is None:
        raise InputError(f"depth {path}: OpenCV cannot read this EXR", hint)
    return np.asarray(values)
