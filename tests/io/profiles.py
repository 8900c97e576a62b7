"""ICC profiles for the tests, made from their numbers."""

import struct

import numpy as np

# Colorants under D50, as in the profiles that Apple, Adobe and the ROMM standard publish.
P3 = ((0.51512, 0.29198, 0.15710), (0.24120, 0.69225, 0.06657), (-0.00105, 0.04189, 0.78407))
ADOBE = ((0.60974, 0.20528, 0.14919), (0.31111, 0.62567, 0.06322), (0.01947, 0.06087, 0.74457))
PROPHOTO = ((0.79767, 0.13519, 0.03134), (0.28804, 0.71188, 0.00009), (0.00000, 0.00000, 0.82491))
SRGB = ((0.43607, 0.38515, 0.14307), (0.22249, 0.71687, 0.06061), (0.01392, 0.09708, 0.71410))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def para(form: int, *values: float) -> bytes:
    """A parametric curve."""
    return b"para\0\0\0\0" + struct.pack(">HH", form, 0) + b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def gamma(value: float) -> bytes:
    """A curve of one exponent."""
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


def table(values: np.ndarray) -> bytes:
    """A curve of values at even steps."""
    data = np.rint(values * 65535).astype(">u2").tobytes()
    return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + data + b"\0" * (-len(data) % 4)


def profile(tags: dict[bytes, bytes], space: bytes = b"RGB ") -> bytes:
    """A display profile of these tags."""
    body, entries, at = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        entries += name + struct.pack(">II", at + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    header = bytearray(128)
    header[8:12] = b"\x04\x30\0\0"
    header[12:24] = b"mntr" + space + b"XYZ "
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">3i", 63190, 65536, 54061)
    header[0:4] = struct.pack(">I", at + len(body))
    return bytes(header) + struct.pack(">I", len(tags)) + entries + body


def rgb(matrix: tuple[tuple[float, ...], ...], curve: bytes) -> bytes:
    """An RGB profile of a matrix to XYZ, one curve for all channels, and the names that littlecms asks for."""
    text = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 8, 28) + "test".encode("utf-16-be")
    tags = {b"desc": text, b"cprt": text, b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)}
    for index, channel in enumerate((b"r", b"g", b"b")):
        column = [round(row[index] * 65536) for row in matrix]
        tags[channel + b"XYZ"] = b"XYZ \0\0\0\0" + struct.pack(">3i", *column)
        tags[channel + b"TRC"] = curve
    return profile(tags)


DISPLAY_P3 = rgb(P3, para(3, *SRGB_CURVE))
ADOBE_RGB = rgb(ADOBE, gamma(563 / 256))
