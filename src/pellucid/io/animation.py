"""Films that are made of still pictures: animated WebP, and a folder of PNG files. Both are lossless."""

import io
import json
import logging
import re
import secrets
import shutil
import struct
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import FormatError, InputError
from pellucid.io.arrays import from_array, to_uint8
from pellucid.io.containers import even_rate, webp_durations
from pellucid.io.files import write_error
from pellucid.io.image import encode_still, load_image
from pellucid.io.settings import to_xmp
from pellucid.layers import Meta

logger = logging.getLogger(__name__)

RATE_FILE = "fps.json"
_WEBP_LIMIT = 16383


class WebPSource:
    """Frames of an animated WebP; attributes as `pellucid.io.film_read.FilmSource`."""

    bit_depth, has_sound = 8, False

    def __init__(self, path: Path) -> None:
        self._path = path
        durations = webp_durations(path)
        if not durations:
            raise InputError(f"{path}: expected a film, found a still picture")
        self._starts = [sum(durations[:index]) for index in range(len(durations))]
        fps = even_rate(durations, 1000)
        if fps is None:
            raise InputError(f"{path}: expected a frame rate, found frames that are shown for no time")
        self.fps, self.frames = fps, len(durations)
        try:
            self._image = Image.open(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as animated WebP: {error}") from error
        self.width, self.height = self._image.size
        self.has_alpha = self._image.mode == "RGBA"

    def __iter__(self) -> Iterator[tuple[Fraction | None, Tensor]]:
        """Yield the time in seconds and ``(3|4, H, W)`` in [0, 1]."""
        for index, start in enumerate(self._starts):
            try:
                self._image.seek(index)
                picture = np.array(self._image)
            except (OSError, EOFError, ValueError) as error:
                raise InputError(f"{self._path}: damaged after frame {index}") from error
            yield Fraction(start, 1000), from_array(picture)

    def close(self) -> None:
        """Close the file."""
        self._image.close()


class WebPSink:
    """Frames into a lossless animated WebP, one whole frame after the other.

    Pillow's own animation writer joins equal frames and changes the colour of transparent pixels, so each frame is
    encoded as an exact still and put into the animation's container here.
    """

    def __init__(
        self,
        path: Path,
        label: Path,
        size: tuple[int, int],
        fps: Fraction,
        *,
        alpha: bool,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if max(size) > _WEBP_LIMIT:
            found = f"{size[0]}x{size[1]}"
            raise FormatError(f"{label}: WebP holds at most {_WEBP_LIMIT} pixels a side, found {found}", "use .mov")
        if fps > 1000:
            raise FormatError(f"{label}: WebP counts milliseconds, so at most 1000 frames per second, found {fps}")
        self._fps, self._size, self._count = fps, size, 0
        self._file = path.open("wb")
        self._xmp = None if settings is None else to_xmp(settings)
        flags = 0x02 | (0x10 if alpha else 0) | (0x04 if self._xmp else 0)  # animation, alpha, XMP
        self._file.write(b"RIFF\0\0\0\0WEBP")
        self._file.write(_chunk(b"VP8X", struct.pack("<I", flags) + _sizes(size)))
        self._file.write(_chunk(b"ANIM", struct.pack("<IH", 0, 0)))  # no backdrop, for ever

    def write(self, picture: Tensor) -> None:
        """Append ``(3|4, H, W)`` in [0, 1]."""
        still = io.BytesIO()
        Image.fromarray(to_uint8(picture)).save(still, "WEBP", lossless=True, exact=True, quality=60, method=4)
        begin, end = (round(index * 1000 / self._fps) for index in (self._count, self._count + 1))
        header = bytes(6) + _sizes(self._size) + (end - begin).to_bytes(3, "little")
        replace = b"\x02"  # takes the place of the frame before, not blended with it
        self._file.write(_chunk(b"ANMF", header + replace + _bitstream(still.getvalue())))
        self._count += 1

    def finish(self) -> None:
        """Fill in the length of the file."""
        if self._xmp:
            self._file.write(_chunk(b"XMP ", self._xmp))
        length = self._file.tell() - 8
        if length >= 2**32:
            raise FormatError("a WebP file ends at 4 GiB", "use .mov or .webm")
        self._file.seek(4)
        self._file.write(struct.pack("<I", length))
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _sizes(size: tuple[int, int]) -> bytes:
    return b"".join((side - 1).to_bytes(3, "little") for side in size)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _bitstream(still: bytes) -> bytes:
    position = 12
    while position < len(still):
        kind, length = struct.unpack_from("<4sI", still, position)
        if kind == b"VP8L":
            return still[position : position + 8 + length + length % 2]
        position += 8 + length + length % 2
    raise AssertionError("a lossless WebP has a VP8L chunk")


class FolderSource:
    """PNG files of one folder in the order of the numbers in their names; attributes as `FilmSource`."""

    has_sound = False

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._files = sorted((file for file in path.iterdir() if file.suffix.lower() == ".png"), key=_by_number)
        except OSError as error:
            raise InputError(f"{path}: folder cannot be read: {error.strerror}") from error
        if not self._files:
            raise InputError(f"{path}: expected a folder of PNG frames, found none")
        self.frames = len(self._files)
        self.fps = _read_rate(path)
        heads = [_head(file) for file in self._files]
        self.width, self.height = heads[0][0]
        for file, (size, _) in zip(self._files, heads, strict=True):
            if size != heads[0][0]:
                found = f"{size[0]}x{size[1]}"
                raise InputError(f"{file}: frames must be {self.width}x{self.height} throughout, found {found}")
        self.has_alpha = any(alpha for _, alpha in heads)
        self.bit_depth = load_image(self._files[0]).meta.bit_depth

    def __iter__(self) -> Iterator[tuple[Fraction | None, Tensor]]:
        """Yield None for the time, and ``(3|4, H, W)`` in [0, 1]."""
        for file in self._files:
            picture = load_image(file).layers[0].rgba
            if self.has_alpha and picture.shape[0] == 3:
                picture = torch.cat([picture, torch.ones_like(picture[:1])])  # (4, H, W)
            yield None, picture

    def close(self) -> None:
        """Nothing is open between frames."""


def _by_number(file: Path) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]


def _head(file: Path) -> tuple[tuple[int, int], bool]:
    try:
        with Image.open(file) as image:
            return image.size, image.mode in ("RGBA", "LA") or "transparency" in image.info
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: cannot be read as a PNG frame") from error


def _read_rate(path: Path) -> Fraction:
    file = path / RATE_FILE
    if not file.exists():
        logger.warning("%s: has no %s, so 25 frames per second are taken", path, RATE_FILE)
        return Fraction(25)
    try:
        rate = Fraction(json.loads(file.read_text())["fps"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise InputError(f'{file}: expected {{"fps": "24/1"}}, found something else') from error
    if rate <= 0:
        raise InputError(f"{file}: fps must be above 0, found {rate}")
    return rate


def check_folder(path: Path, overwrite: bool) -> None:
    """Say before the work starts whether a folder of frames may be written there.

    Only a folder of our own making is ever replaced.

    Raises:
        InputError: something else is there, or frames are there and ``overwrite`` is false.
    """
    if path.exists():
        if not path.is_dir():
            raise InputError(f"{path}: is a file, expected the name of a folder")
        held = [file.name for file in path.iterdir()]
        if held and not overwrite:
            raise InputError(f"{path}: exists already", "use --overwrite, or another name")
        other = next((name for name in held if name != RATE_FILE and not re.fullmatch(r"frame_\d+\.png", name)), None)
        if other:
            raise InputError(f"{path}: holds {other!r}, which is no frame; it is not overwritten", "use a new folder")
    elif not path.parent.is_dir():
        raise InputError(f"{path}: its folder does not exist", f"mkdir -p {path.parent}")


class FolderSink:
    """Frames into ``frame_00000.png`` and so on, with the rate in ``fps.json``; appears when all are there."""

    def __init__(
        self,
        path: Path,
        fps: Fraction,
        *,
        bit_depth: int,
        overwrite: bool,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        check_folder(path, overwrite)
        self._path, self._overwrite, self._count = path, overwrite, 0
        self._meta = Meta(bit_depth=bit_depth, xmp=None if settings is None else to_xmp(settings))
        self._folder = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}")
        try:
            self._folder.mkdir()
            (self._folder / RATE_FILE).write_text(json.dumps({"fps": str(fps)}) + "\n")
        except OSError as error:
            self.close()
            raise write_error(path, error) from error

    def write(self, picture: Tensor) -> None:
        """Append ``(3|4, H, W)`` in [0, 1]."""
        file = self._folder / f"frame_{self._count:05d}.png"
        with file.open("wb") as opened:
            encode_still(picture, self._meta, opened, name=file.name)
        self._count += 1

    def finish(self) -> None:
        """Put the folder in its place."""
        check_folder(self._path, self._overwrite)  # something may have come there meanwhile
        old = self._folder.with_name(self._folder.name + ".old")
        if self._path.exists():
            self._path.rename(old)
        self._folder.rename(self._path)
        shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """Remove what was not put in its place."""
        shutil.rmtree(self._folder, ignore_errors=True)
