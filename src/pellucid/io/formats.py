"""What each file format holds, and who reads and writes it. Messages about formats are composed from this table."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pellucid.errors import FormatError


@dataclass(frozen=True)
class FileFormat:
    """One row of the table.

    Attributes:
        name: as people call it.
        suffixes: lower case, with the dot, the preferred one first. ``""`` is a folder.
        still: holds a single picture.
        time: holds frames over time.
        alpha: holds coverage, without a background.
        layers: holds all layers; other formats hold the composite.
        deep: holds more than 8 bits per channel; 16, and 10 in ProRes.
        icc: holds an ICC profile.
        exif: holds an EXIF block.
        reader: ``"module:function"``, or None where we only write.
        writer: ``"module:function"``, or None where we only read.
    """

    name: str
    suffixes: tuple[str, ...]
    still: bool = False
    time: bool = False
    alpha: bool = False
    layers: bool = False
    deep: bool = False
    icc: bool = False
    exif: bool = False
    reader: str | None = None
    writer: str | None = None


_READ, _WRITE = "pellucid.io.image:load_image", "pellucid.io.image:save_image"
_FILM, _WRITE_FILM = "pellucid.io.video:load_video", "pellucid.io.video:save_video"

FORMATS: tuple[FileFormat, ...] = (
    FileFormat("PNG", (".png",), still=True, alpha=True, deep=True, icc=True, exif=True, reader=_READ, writer=_WRITE),
    FileFormat("JPEG", (".jpg", ".jpeg"), still=True, icc=True, exif=True, reader=_READ, writer=_WRITE),
    FileFormat("WebP", (".webp",), still=True, alpha=True, icc=True, exif=True, reader=_READ, writer=_WRITE),
    FileFormat(
        "TIFF", (".tif", ".tiff"), still=True, alpha=True, deep=True, icc=True, exif=True, reader=_READ, writer=_WRITE
    ),
    FileFormat("BMP", (".bmp",), still=True, reader=_READ),
    FileFormat("GIF", (".gif",), still=True, reader=_READ),
    FileFormat(
        "OpenRaster",
        (".ora",),
        still=True,
        alpha=True,
        layers=True,
        deep=True,
        icc=True,
        exif=True,
        reader="pellucid.io.ora:load_ora",
        writer="pellucid.io.ora:save_ora",
    ),
    FileFormat(
        "PSD",
        (".psd",),
        still=True,
        alpha=True,
        layers=True,
        deep=True,
        icc=True,
        exif=True,
        reader="pellucid.io.psd:load_psd",
        writer="pellucid.io.psd:save_psd",
    ),
    FileFormat("ProRes 4444", (".mov",), time=True, alpha=True, deep=True, reader=_FILM, writer=_WRITE_FILM),
    FileFormat("VP9 WebM", (".webm",), time=True, alpha=True, reader=_FILM, writer=_WRITE_FILM),
    FileFormat("MP4", (".mp4",), time=True, reader=_FILM, writer=_WRITE_FILM),
    FileFormat("APNG", (".apng", ".png"), time=True, alpha=True, deep=True, reader=_FILM, writer=_WRITE_FILM),
    FileFormat("animated WebP", (".webp",), time=True, alpha=True, reader=_FILM, writer=_WRITE_FILM),
    # Not alpha: one bit of it is no coverage. The writer says what becomes of the rest.
    FileFormat("animated GIF", (".gif",), time=True, reader=_FILM, writer=_WRITE_FILM),
    FileFormat("film", (".mkv", ".avi", ".m4v"), time=True, reader=_FILM),
    FileFormat("folder of PNGs", ("",), time=True, alpha=True, deep=True, reader=_FILM, writer=_WRITE_FILM),
)


def suffixes_that(*needs: str, reading: bool = False) -> str:
    """List the suffixes of the formats that hold all of ``needs``, for a message: ``".png, .tif, .webp"``.

    Args:
        needs: names of `FileFormat` attributes, such as ``"still", "alpha"``.
        reading: list formats that can be read, instead of those that can be written.
    """
    rows = [row for row in FORMATS if all(getattr(row, need) for need in needs)]
    rows = [row for row in rows if (row.reader if reading else row.writer)]
    return ", ".join(dict.fromkeys(row.suffixes[0] or "a folder" for row in rows))


def find_format(path: str | Path, *, time: bool, reading: bool = False, format: str | None = None) -> FileFormat:
    """Find the row for a file name.

    Args:
        path: the suffix of it counts, whatever its case; ``"-"`` has none.
        time: whether the stack has frames over time.
        reading: whether the file is to be read.
        format: a suffix without its dot, which counts instead of the path's.

    Raises:
        FormatError: no such format, or it holds no such stack; the message lists those that do.
    """
    need = "time" if time else "still"
    suffix = f".{format.lower().lstrip('.')}" if format else ("" if str(path) == "-" else Path(path).suffix.lower())
    if str(path) == "-" and not format:
        raise FormatError("-: a file on stdout needs a format", f"use --format with one of {suffixes_that(need)}")
    known = [row for row in FORMATS if suffix in row.suffixes and (row.reader if reading else row.writer)]
    fitting = [row for row in known if getattr(row, need)]
    if fitting:
        return fitting[0]
    able = suffixes_that(need, reading=reading)
    if known:
        what = "frames over time" if time else "a still picture"
        raise FormatError(f"{path}: {known[0].name} ({suffix or 'a folder'}) cannot hold {what}", f"use one of {able}")
    verb = "read" if reading else "written"
    raise FormatError(f"{path}: format {suffix or 'without suffix'!r} cannot be {verb}", f"use one of {able}")


def resolve(target: str) -> Callable[..., Any]:
    """Import the function behind ``"module:function"``."""
    module, name = target.split(":")
    return getattr(import_module(module), name)
