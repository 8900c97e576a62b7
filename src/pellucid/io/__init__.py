"""Files in and out. The suffix tells the format; `FORMATS` says what each one holds.

What reads and writes is imported when it is first needed.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pellucid.errors import FormatError, InputError
from pellucid.io.formats import FORMATS, FileFormat, find_format, resolve, suffixes_that

if TYPE_CHECKING:
    from pellucid.layers.stack import LayerStack

__all__ = ["FORMATS", "FileFormat", "load", "load_image", "load_video", "save", "suffixes_that"]

_STDOUT = ("PNG", "JPEG", "WebP", "TIFF")


def load_image(source: str | Path | BinaryIO, **options: Any) -> "LayerStack":
    """Read a still picture as a stack of one layer; see `pellucid.io.image.load_image`."""
    from pellucid.io.image import load_image as read

    return read(source, **options)


def load_video(source: str | Path, **options: Any) -> "LayerStack":
    """Read a video, an animation or a folder of PNGs as a stack over time; see `pellucid.io.video.load_video`."""
    return resolve("pellucid.io.video:load_video")(source, **options)


def load(path: str | Path, **options: Any) -> "LayerStack":
    """Read a picture, a layered file or a video; ``"-"`` is a picture on stdin.

    Raises:
        InputError: there is no such file, or it cannot be read.
        FormatError: the suffix is of no format that can be read; the hint lists those.
    """
    if str(path) == "-":
        return load_image(path, **options)
    path = Path(path)
    if path.is_dir():
        return load_video(path, **options)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    rows = [row for row in FORMATS if suffix and suffix in row.suffixes and row.reader]
    if not rows:
        able = ", ".join(dict.fromkeys([suffixes_that("still", reading=True), suffixes_that("time", reading=True)]))
        raise FormatError(f"{path}: format {suffix or 'without suffix'} cannot be read", f"give one of {able}")
    row = rows[0]
    if len(rows) > 1:  # the same suffix for a picture and for an animation: the file tells
        from pellucid.io.image import count_frames

        moving = count_frames(path) > 1
        row = next(row for row in rows if (row.time if moving else row.still))
    return resolve(row.reader or "")(path, **options)


def save(stack: "LayerStack", path: str | Path, *, format: str | None = None, **options: Any) -> Path:
    """Write a stack; the suffix, or ``format`` where given, tells how.

    Args:
        stack: a still or frames over time.
        path: a file name, a folder for a sequence of PNGs, or ``"-"`` for a picture on stdout.
        format: a suffix without its dot.
        **options: of the writer, see `pellucid.io.image.save_image`, `pellucid.io.video.save_video`,
            `pellucid.io.ora.save_ora` and `pellucid.io.psd.save_psd`.

    Raises:
        FormatError: the format cannot hold the stack; the hint lists those that can.
        InputError: the file exists and ``overwrite`` is not set, or it cannot be written.
    """
    row = find_format(path, time=stack.fps is not None, format=format)
    if row.writer is None:
        raise FormatError(f"{path}: {row.name} can only be read", f"use one of {suffixes_that('still')}")
    if str(path) == "-" and row.name not in _STDOUT:
        raise FormatError(f"-: {row.name} cannot be written to stdout", "use png, jpg, webp or tif, or a file name")
    if row.name in _STDOUT:
        options["format"] = format
    elif format and Path(path).suffix.lower() not in row.suffixes:
        raise FormatError(f"{path}: the suffix does not fit format {format!r}", f"call it {row.suffixes[0]}")
    return resolve(row.writer)(stack, path, **options)
