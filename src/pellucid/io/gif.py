"""Animated GIF, written: 255 colours a frame, alpha of one bit, time in hundredths of a second."""

import logging
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import GifImagePlugin, Image
from torch import Tensor

from pellucid.errors import ConfigError, FormatError
from pellucid.io.arrays import to_uint8

logger = logging.getLogger(__name__)

_LIMIT = 65535  # pixels a side
_FASTEST = 50  # frames per second; players show what is faster at ten
_CLEAR = 255  # index of the colour that is not shown
_RESTORE = 2  # disposal: the place is clear again before the next frame


class GifSink:
    """Frames into an animated GIF that plays for ever, one whole frame after the other.

    Pillow encodes each frame with a palette of its own; the container is put together here, because Pillow's writer of
    animations joins frames that are equal, and then the clip has fewer.

    Args:
        path: the file, which is made or emptied.
        label: what messages call the file.
        size: width and height in pixels.
        fps: frames per second.
        alpha: frames have a fourth channel.
        threshold: alpha from which a pixel is shown, in (0, 1].
        matte: colour ``(3,)`` in [0, 1] that half-transparent pixels are mixed with; None keeps their own colour.

    Raises:
        FormatError: the size or rate is more than a GIF holds.
        ConfigError: the threshold is out of range.
    """

    def __init__(
        self,
        path: Path,
        label: Path,
        size: tuple[int, int],
        fps: Fraction,
        *,
        alpha: bool,
        threshold: float = 0.5,
        matte: Tensor | None = None,
    ) -> None:
        if max(size) > _LIMIT:
            raise FormatError(f"{label}: GIF holds at most {_LIMIT} pixels a side, found {size[0]}x{size[1]}")
        if fps > _FASTEST:
            raise FormatError(f"{label}: GIF shows at most {_FASTEST} frames per second, found {fps}", "use .webp")
        if not 0 < threshold <= 1:
            raise ConfigError(f"{label}: threshold must be above 0 and at most 1, found {threshold:g}")
        self._label, self._fps, self._alpha, self._count = label, fps, alpha, 0
        self._threshold = threshold
        self._matte = None if matte is None else matte.detach().float().cpu().reshape(3, 1, 1)
        self._half, self._seen = 0, 0
        self._file = path.open("wb")
        self._file.write(b"GIF89a" + struct.pack("<HHBBB", *size, 0, 0, 0))  # no palette for all
        self._file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # again and again

    def write(self, picture: Tensor) -> None:
        """Append ``(3|4, H, W)`` in [0, 1]."""
        shown = None
        colour = picture[:3]
        if self._alpha:
            alpha = picture[3:]
            if self._matte is not None:
                colour = colour * alpha + self._matte * (1 - alpha)
            shown = (alpha[0] >= self._threshold).numpy()
            self._half += int(((alpha > 0.5 / 255) & (alpha < 1 - 0.5 / 255)).sum())
            self._seen += alpha.numel()
        begin, end = (round(index * 100 / self._fps) for index in (self._count, self._count + 1))
        frame = _to_palette(to_uint8(colour), shown)
        facts = {"duration": (end - begin) * 10, "disposal": _RESTORE, "include_color_table": True}
        if shown is not None:
            facts["transparency"] = _CLEAR
        self._file.writelines(GifImagePlugin.getdata(frame, **facts))
        self._count += 1

    def finish(self) -> None:
        """Write the end mark, and say what the format could not hold."""
        self._file.write(b";")
        self.close()
        if self._half:
            share = self._half / self._seen
            treated = "keep their colour" if self._matte is None else "are mixed with the matte colour"
            logger.warning(
                "%s: GIF has alpha of one bit: half-transparent pixels (%.1f %%) %s and become opaque from %g on",
                self._label,
                100 * share,
                treated,
                self._threshold,
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _to_palette(colour: np.ndarray, shown: np.ndarray | None) -> Image.Image:
    """Reduce ``(H, W, 3)`` to 255 colours; pixels that are not ``shown`` take no part in choosing them."""
    if shown is not None and shown.any():
        # The hidden ones get one colour that is there anyway, so that no entry of the palette is spent on them.
        colour = np.where(shown[..., None], colour, colour[shown][0])
    reduced = Image.fromarray(colour).quantize(_CLEAR, dither=Image.Dither.FLOYDSTEINBERG)
    indices = np.array(reduced)
    if shown is not None:
        indices[~shown] = _CLEAR
    palette = (reduced.getpalette() or [])[: 3 * _CLEAR]
    frame = Image.frombytes("P", reduced.size, indices.tobytes())
    frame.putpalette([*palette, *[0] * (768 - len(palette))])
    return frame
