"""EXIF blocks: read the orientation, set it upright without touching the rest, and move tags in and out of TIFF."""

import logging
import re
import struct
import warnings
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import IFD, Base

logger = logging.getLogger(__name__)

PREFIX = b"Exif\0\0"
XMP_TAG = 700
# Tags that say how a TIFF's pixels lie in its file, or that have a place of their own in Meta: not part of EXIF.
_STRUCTURE = frozenset(
    {*range(254, 267), *range(277, 285), *range(317, 326), *range(330, 343), *range(512, 533), 273, 274}
    | {290, 291, 292, 293, 296, 297, 301, 347, XMP_TAG, 34675}
)


def strip_prefix(block: bytes | None) -> bytes | None:
    """Drop the marker that JPEG puts before the block, so that it begins with its own TIFF header."""
    while block and block.startswith(PREFIX):
        block = block[len(PREFIX) :]
    return block if block and block[:4] in (b"II*\0", b"MM\0*") else None


def _entries(block: bytes, start: int, order: str) -> Iterator[tuple[int, int, int]]:
    """Yield tag, type and the place of the value for each entry of the directory at ``start``."""
    (count,) = struct.unpack_from(order + "H", block, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", block, at)
        yield tag, kind, at + 8


def orientation(block: bytes | None) -> int:
    """Return the orientation, 1 to 8; 1, upright, when the block does not tell."""
    if not block:
        return 1
    order = "<" if block[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        for tag, _, at in _entries(block, start, order):
            if tag == Base.Orientation:
                (value,) = struct.unpack_from(order + "H", block, at)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        logger.warning("the EXIF block is damaged; the picture is taken as upright")
    return 1


def upright(block: bytes, width: int, height: int) -> bytes:
    """Set the orientation to 1, the size to that of the turned picture, and unlink the thumbnail, which would be stale.

    Everything else, maker notes with their offsets too, stays byte for byte.
    """
    order = "<" if block[:2] == b"II" else ">"
    data = bytearray(block)

    def put(kind: int, at: int, value: int) -> None:
        struct.pack_into(order + ("I" if kind == 4 else "H"), data, at, value)

    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        struct.pack_into(order + "I", data, start + 2 + 12 * count, 0)
        for tag, kind, at in _entries(block, start, order):
            if tag == Base.Orientation:
                put(kind, at, 1)
            elif tag == IFD.Exif:
                (inner,) = struct.unpack_from(order + "I", block, at)
                for inner_tag, inner_kind, inner_at in _entries(block, inner, order):
                    if inner_tag in (Base.ExifImageWidth, Base.ExifImageHeight):
                        put(inner_kind, inner_at, width if inner_tag == Base.ExifImageWidth else height)
    except struct.error:
        logger.warning("the EXIF block is damaged and was left as it is")
        return block
    return bytes(data)


def upright_xmp(packet: bytes) -> bytes:
    """Set ``tiff:Orientation`` in an XMP packet to 1."""
    return re.sub(rb"""(tiff:Orientation(?:>|=["']))[2-8]""", rb"\g<1>1", packet)


def turn(array: NDArray[Any], value: int) -> NDArray[Any]:
    """Turn or mirror ``(H, W, C)`` as EXIF orientation ``value`` asks; a view."""
    if value >= 5:
        array = array.swapaxes(0, 1)
    if value in (3, 4, 7, 8):
        array = array[::-1]
    if value in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def from_tiff(image: Image.Image) -> bytes | None:
    """Collect the EXIF of an opened TIFF, whose main directory holds it between the tags of the pixels."""
    try:
        kept = Image.Exif()
        for tag, value in _content(image.getexif()).items():
            kept[tag] = value
        return strip_prefix(kept.tobytes()) if len(kept) else None
    except (ValueError, TypeError, KeyError, struct.error, OverflowError) as error:
        logger.warning("the EXIF tags of this TIFF cannot be kept: %s", error)
        return None


def tiff_tags(block: bytes | None) -> dict[int, Any]:
    """Return the tags of an EXIF block as a TIFF's main directory takes them; nested directories are dicts."""
    if not block:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is damaged in the block is left out
        exif = Image.Exif()
        exif.load(PREFIX + block)
        return _content(exif)


def _content(exif: Image.Exif) -> dict[int, Any]:
    tags: dict[int, Any] = {}
    for tag in exif:
        if tag in _STRUCTURE:
            continue
        value = exif[tag]
        if tag in (IFD.Exif, IFD.GPSInfo):  # a place in the old file: take what lies there
            value = {key: inner for key, inner in exif.get_ifd(tag).items() if key != IFD.Interop}
        if value not in (None, {}, b"", ""):
            tags[tag] = value
    return tags
