"""Sprite sheets: all frames of a clip in one picture, and a JSON file that says where each one is.

The JSON is that of Aseprite and TexturePacker ("array"), which game engines read.
"""

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid import __version__
from pellucid.errors import ConfigError, FormatError, InputError
from pellucid.io.encode import encode_still
from pellucid.io.files import atomic_path
from pellucid.io.image import load_image
from pellucid.io.settings import to_xmp
from pellucid.layers import Layer, LayerStack, Meta

SUFFIX = ".sheet.png"


def is_sheet(path: str | Path) -> bool:
    """Whether a name asks for a sprite sheet: ``NAME.sheet.png``."""
    return str(path).lower().endswith(SUFFIX)


def grid(frames: int, height: int, width: int, columns: int | None = None) -> tuple[int, int]:
    """Rows and columns of a sheet that is about as wide as it is high.

    Raises:
        ConfigError: ``columns`` is not between 1 and ``frames``.
    """
    if columns is None:
        columns = min(frames, max(1, round(math.sqrt(frames * height / width))))
    if not 1 <= columns <= frames:
        raise ConfigError(f"a sheet of {frames} frames has 1 to {frames} columns, found {columns}")
    return math.ceil(frames / columns), columns


def save_sheet(
    frames: Tensor,
    fps: Fraction,
    path: str | Path,
    *,
    columns: int | None = None,
    bit_depth: int = 8,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write a sheet and its JSON; both appear, or neither.

    Args:
        frames: ``(T, 3|4, H, W)`` in [0, 1], straight alpha, row by row from the upper left.
        fps: frames per second.
        path: ``NAME.sheet.png``; the JSON is ``NAME.sheet.json``.
        columns: frames side by side; by default so many that the sheet is about square.
        bit_depth: 8 or 16 bits per channel.
        overwrite: replace what is there.
        settings: how the clip was made, kept in both files.

    Returns:
        The picture and the JSON file.

    Raises:
        FormatError: the name does not end so.
        ConfigError: such a number of columns makes no sense.
        InputError: a file is there, or cannot be written.
    """
    path = Path(path)
    if not is_sheet(path):
        raise FormatError(f"{path}: a sprite sheet is called NAME{SUFFIX}")
    count, channels, height, width = frames.shape
    rows, columns = grid(count, height, width, columns)
    sheet = frames.new_zeros(channels, rows * height, columns * width)
    cells: list[dict[str, Any]] = []
    for index, frame in enumerate(frames):
        top, left = index // columns * height, index % columns * width
        sheet[:, top : top + height, left : left + width] = frame
        begin, end = (round(moment * 1000 / fps) for moment in (index, index + 1))
        cells.append(
            {
                "filename": f"{path.name.split('.')[0]}_{index:05d}",
                "frame": {"x": left, "y": top, "w": width, "h": height},
                "rotated": False,
                "trimmed": False,
                "spriteSourceSize": {"x": 0, "y": 0, "w": width, "h": height},
                "sourceSize": {"w": width, "h": height},
                "duration": end - begin,  # in milliseconds
            }
        )
    facts: dict[str, Any] = {
        "app": "pellucid",
        "version": __version__,
        "image": path.name,
        "format": f"RGB{'A' if channels == 4 else ''}{8 * channels if bit_depth == 8 else 16 * channels}",
        "size": {"w": columns * width, "h": rows * height},
        "scale": "1",
        "fps": str(fps),
        "columns": columns,
        "rows": rows,
    }
    if settings is not None:
        facts["settings"] = dict(settings)
    meta = Meta(bit_depth=bit_depth, xmp=None if settings is None else to_xmp(settings))
    table = path.with_suffix(".json")
    with ExitStack() as both:
        described = both.enter_context(atomic_path(table, overwrite))
        drawn = both.enter_context(atomic_path(path, overwrite))
        described.write_text(json.dumps({"frames": cells, "meta": facts}, indent=1) + "\n", encoding="utf-8")
        with drawn.open("wb") as file:
            encode_still(sheet, meta, file, bit_depth=bit_depth, name=str(path))
    return path, table


def load_sheet(path: str | Path) -> LayerStack:
    """Read the frames of a sheet back, by its JSON file.

    Args:
        path: the picture or the JSON file.

    Returns:
        A stack over time with one layer, ``"video"``.

    Raises:
        InputError: one of the two is missing or does not fit the other.
    """
    table = Path(path).with_suffix(".json")
    try:
        document = json.loads(table.read_text(encoding="utf-8"))
        picture = table.with_name(Path(document["meta"]["image"]).name)
        places = [tuple(int(cell["frame"][key]) for key in "xywh") for cell in document["frames"]]
        fps = Fraction(document["meta"]["fps"])
    except OSError as error:
        raise InputError(f"{table}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{table}: expected the frames of a sprite sheet, found something else") from error
    stack = load_image(picture)
    layer = stack.layers[0]
    height, width = layer.rgba.shape[-2:]
    inside = all(x >= 0 <= y and w > 0 < h and x + w <= width and y + h <= height for x, y, w, h in places)
    if not places or not inside or len({place[2:] for place in places}) > 1:
        raise InputError(f"{table}: its frames do not lie in {picture.name}, {width}x{height}")
    frames = torch.stack([layer.rgba[:, y : y + h, x : x + w] for x, y, w, h in places])  # (T, 3|4, H, W)
    alpha = frames[:, 3:] if layer.alpha is not None else None
    return LayerStack((Layer("video", frames[:, :3], alpha),), fps=fps, meta=stack.meta)
