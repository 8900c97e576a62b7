"""What the headers of animated files say and their readers do not tell: how long each frame is shown, where it ends."""

import struct
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from pellucid.errors import InputError

_PNG = b"\x89PNG\r\n\x1a\n"
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_USUAL_RATES = [Fraction(rate) for rate in (*range(1, 31), 48, 50, 60, 120)]
_USUAL_RATES += [Fraction(rate * 1000, 1001) for rate in (24, 30, 60, 120)]
_TOO_SHORT, _INSTEAD = 2, 10  # hundredths of a second: what players make of a GIF that asks for less


def webp_durations(path: Path) -> list[int]:
    """Read how long each frame of a WebP is shown, in milliseconds; empty for a still picture.

    Raises:
        InputError: the file is cut off.
    """
    durations: list[int] = []
    size = path.stat().st_size
    with path.open("rb") as file:
        position = 12  # RIFF, size, WEBP
        while position + 8 <= size:
            file.seek(position)
            kind, length = struct.unpack("<4sI", file.read(8))
            _refuse_beyond(path, position + 8 + length, size)
            if kind == b"ANMF":
                durations.append(int.from_bytes(file.read(15)[12:15], "little"))
            position += 8 + length + length % 2
    return durations


def apng_delays(path: Path) -> list[Fraction] | None:
    """Read how long each frame of a PNG is shown, in seconds; empty for a still picture, None for what is no PNG.

    Raises:
        InputError: the file is cut off.
    """
    delays: list[Fraction] = []
    size, animated = path.stat().st_size, False
    with path.open("rb") as file:
        if file.read(8) != _PNG:
            return None
        position = 8
        while position + 12 <= size:
            file.seek(position)
            length, kind = struct.unpack(">I4s", file.read(8))
            _refuse_beyond(path, position + 12 + length, size)
            if kind == b"IDAT" and not animated:
                return []
            animated = animated or kind == b"acTL"
            if kind == b"fcTL":
                numerator, denominator = struct.unpack(">HH", file.read(26)[20:24])
                delays.append(Fraction(numerator, denominator or 100))  # 0 stands for 100 after the APNG specification
            if kind == b"IEND":
                return delays
            position += 12 + length
    raise InputError(f"{path}: cut off: it has no end mark")


def gif_delays(path: Path) -> list[int] | None:
    """Read how long each frame of a GIF is shown, in hundredths of a second as players do; None for what is no GIF.

    Raises:
        InputError: the file is cut off.
    """
    data = path.read_bytes()
    if data[:6] not in (b"GIF87a", b"GIF89a"):
        return None
    delays: list[int] = []
    delay = 0
    try:
        at = 13 + _palette_bytes(data[10])
        while data[at] != 0x3B:
            if data[at] == 0x2C:  # a frame: its place and size, its palette, one byte, then its blocks
                delays.append(delay if delay >= _TOO_SHORT else _INSTEAD)
                delay = 0
                at += 11 + _palette_bytes(data[at + 9])
            else:
                if data[at + 1] == 0xF9:
                    delay = int.from_bytes(data[at + 4 : at + 6], "little")
                at += 2
            while data[at]:
                at += 1 + data[at]
            at += 1
    except IndexError as error:
        raise InputError(f"{path}: cut off: it has no end mark") from error
    return delays


def _palette_bytes(flags: int) -> int:
    return 3 * 2 ** (1 + (flags & 7)) if flags & 0x80 else 0


def even_rate(durations: list[int], ticks: int) -> Fraction | None:
    """Find the rate of frames whose times were rounded; the mean rate when they do not follow each other evenly.

    Args:
        durations: how long each frame is shown.
        ticks: in which part of a second: 1000 for milliseconds.

    Returns:
        Frames per second, None when they are shown for no time.
    """
    times = [sum(durations[:index]) for index in range(len(durations) + 1)]
    end = times[-1]
    if end <= 0:
        return None
    for rate in sorted(_USUAL_RATES, key=lambda rate: (rate.denominator, abs(rate * end - ticks * len(durations)))):
        if all(abs(time - index * ticks / rate) < 1 for index, time in enumerate(times)):
            return rate
    return Fraction(ticks * len(durations), end)


def matroska_end(path: Path) -> int:
    """Read at which byte a Matroska or WebM file should end; 0 when it does not say, as a live recording does."""
    with path.open("rb") as file:
        if file.read(4) != _EBML:
            return 0
        length = _variable_integer(file)
        if length is None:
            return 0
        file.seek(length, 1)
        if file.read(4) != _SEGMENT:
            return 0
        length = _variable_integer(file)
        return 0 if length is None else file.tell() + length


def _variable_integer(file: BinaryIO) -> int | None:
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()  # as many bytes follow as zeros lead
    value = int.from_bytes(bytes([first[0] & (0xFF >> (more + 1))]) + file.read(more), "big")
    return None if value == 2 ** (7 * (more + 1)) - 1 else value  # all ones: unknown


def _refuse_beyond(path: Path, end: int, size: int) -> None:
    if end > size:
        raise InputError(f"{path}: cut off: a chunk reaches to byte {end}, found {size} bytes")
