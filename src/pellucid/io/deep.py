"""Pixels with 16 bits per channel, which Pillow cannot hold in colour: PNG through FFmpeg's codec, TIFF by hand.

The tags around the pixels, EXIF, ICC, XMP, resolution, still come from and go to Pillow.
"""

import zlib
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from typing import Any, BinaryIO

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import LONG

_CHANNELS = {"gray16be": 1, "ya16be": 2, "rgb48be": 3, "rgba64be": 4}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_STRIP = 1 << 22  # bytes of a TIFF strip before compression


def read_png(data: bytes) -> NDArray[np.uint16]:
    """Decode a 16-bit PNG to ``(H, W, C)`` with 1, 2, 3 or 4 channels.

    Raises:
        OSError, FFmpegError: the data is damaged.
    """
    context: Any = av.CodecContext.create("png", "r")
    context.options = {"err_detect": "crccheck+explode"}
    frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    if not frames:
        raise OSError("no picture in the data")
    frame = frames[0]
    # Not frame.to_ndarray: it does not know grey with alpha, and makes one copy more.
    plane, channels = frame.planes[0], _CHANNELS[frame.format.name]
    rows = np.frombuffer(plane, dtype=">u2").reshape(-1, plane.line_size // 2)
    rows = rows[: frame.height, : frame.width * channels]
    return rows.astype(np.uint16).reshape(frame.height, frame.width, channels)


def write_png(file: BinaryIO, array: NDArray[np.uint16], tags: dict[str, Any]) -> None:
    """Write a 16-bit PNG.

    Args:
        file: where to.
        array: ``(H, W, 3|4)``.
        tags: keyword arguments for Pillow's PNG writer: ``icc_profile``, ``exif``, ``pnginfo``, ``dpi``.
    """
    height, width, channels = array.shape
    pix_fmt = "rgb48be" if channels == 3 else "rgba64be"
    context: Any = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = width, height, pix_fmt, Fraction(1, 1)
    context.options = {"compression_level": "4", "pred": "paeth"}
    frame = av.VideoFrame.from_ndarray(array, format=pix_fmt)
    packets = [*context.encode(frame), *context.encode(None)]
    # A 1-pixel picture from Pillow carries the tags; its chunks go between the header and the pixels of the large one.
    small = BytesIO()
    Image.new("RGB", (1, 1)).save(small, "PNG", **tags)
    extra = [chunk for name, chunk in _chunks(small.getvalue()) if name not in (b"IHDR", b"IDAT", b"IEND")]
    file.write(_SIGNATURE)
    for packet in packets:
        for name, chunk in _chunks(memoryview(packet)):
            if name in (b"IHDR", b"IDAT", b"IEND"):
                file.write(chunk)
            if name == b"IHDR":
                file.writelines(extra)


def _chunks(data: bytes | memoryview) -> Iterator[tuple[bytes, bytes | memoryview]]:
    view, at = memoryview(data), len(_SIGNATURE)
    while at + 12 <= len(view):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        yield bytes(view[at + 4 : at + 8]), view[at:end]
        at = end


def write_tiff(file: BinaryIO, array: NDArray[Any], tags: dict[int, Any]) -> None:
    """Write a TIFF, deflated with a horizontal predictor.

    Args:
        file: where to, at its beginning.
        array: ``(H, W, 3|4)`` uint8 or uint16.
        tags: further tags of the main directory; a nested directory is a dict.
    """
    height, width, channels = array.shape
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    rows = max(1, _STRIP // (width * channels * array.itemsize))
    strips: list[bytes] = []
    for top in range(0, height, rows):
        strip = array[top : top + rows].copy()
        strip[:, 1:] -= array[top : top + rows, :-1]
        strips.append(zlib.compress(strip.tobytes(), 6))
    directory: Any = ImageFileDirectory_v2(prefix=b"II")
    for tag, value in tags.items():
        directory[tag] = value
    sizes = [len(strip) for strip in strips]
    directory[256], directory[257] = width, height
    directory[258] = (8 * array.itemsize,) * channels
    directory[259] = 8  # deflate
    directory[262] = 2  # RGB
    directory.tagtype[273] = directory.tagtype[279] = LONG
    directory[273] = tuple(sum(sizes[:n]) for n in range(len(sizes)))  # from where the directory ends; Pillow adds that
    directory[277], directory[278], directory[284] = channels, rows, 1
    directory[279] = tuple(sizes)
    directory[317] = 2  # horizontal differences
    if channels == 4:
        directory[338] = 2  # straight alpha
    directory[339] = (1,) * channels  # unsigned integers
    directory.save(file)
    file.writelines(strips)
