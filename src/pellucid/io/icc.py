"""ICC profiles with a matrix and three curves, applied in float and without clipping.

Pillow's littlecms binding works on 8-bit pixels and cuts off what sRGB cannot show. A stack must do neither: a colour
outside sRGB becomes a value outside [0, 1] (extended sRGB, with the transfer curve mirrored at zero), so that a picture
in Display P3 or Adobe RGB is written back as it came. Profiles with lookup tables are left to littlecms.

Numbers are those of ICC.1:2022, sections 9.2 (tags), 10.6 (``curv``) and 10.18 (``para``), and of IEC 61966-2-1.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

# Linear sRGB to XYZ under D50, the columns that every sRGB profile carries (Bradford-adapted, s15Fixed16).
_SRGB_TO_XYZ = (
    (0.43606567, 0.38514709, 0.14306641),
    (0.22248840, 0.71687317, 0.06060791),
    (0.01391602, 0.09707642, 0.71409607),
)
_SAME_MATRIX = 1e-3  # profiles called sRGB differ from one another by less
_SAME_CURVE = 0.5 / 255


def srgb_decode(encoded: Tensor) -> Tensor:
    """sRGB-encoded to linear light, mirrored for negative values; any shape."""
    size = encoded.abs()
    return torch.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055) ** 2.4).copysign_(encoded)


def srgb_encode(linear: Tensor) -> Tensor:
    """Linear light to sRGB-encoded, mirrored for negative values; any shape."""
    size = linear.abs()
    return torch.where(size <= 0.0031308, size * 12.92, 1.055 * size ** (1 / 2.4) - 0.055).copysign_(linear)


@dataclass(frozen=True)
class Curve:
    """A transfer curve from device value to linear light, both in [0, 1].

    Attributes:
        parameters: ``g, a, b, c, d, e, f`` of ``y = (a x + b)^g + e`` from ``x = d`` on, and ``y = c x + f`` below.
        table: where given, values at evenly spaced x, linear in between; the parameters do not count then.
    """

    parameters: tuple[float, ...] = (1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    table: Tensor | None = field(default=None, compare=False)

    @property
    def invertible(self) -> bool:
        """Whether light never falls as the device value rises, and stays about within [0, 1]."""
        g, a, b, c, d, _, _ = self.parameters
        if self.table is None and not (g > 0 and a > 0 and c >= 0 and a * max(d, 0.0) + b >= -1e-4):
            return False
        light = self.decode(torch.linspace(0, 1, 1024, dtype=torch.float64))
        rising = bool((light.diff() >= -1e-4).all()) and bool(light[-1] > light[0])
        return rising and bool((light.abs() < 2).all())

    def decode(self, x: Tensor) -> Tensor:
        """Device value to linear light; any shape, float64."""
        if self.table is not None:
            return _interpolate(x, torch.linspace(0, 1, len(self.table), dtype=x.dtype), self.table)
        g, a, b, c, d, e, f = self.parameters
        return torch.where(x >= d, (a * x + b).clamp(min=0) ** g + e, c * x + f)

    def encode(self, y: Tensor) -> Tensor:
        """Linear light to device value, the inverse of `decode`; any shape, float64.

        What lies outside [0, 1] stays outside, so that it can be counted before it is clipped.
        """
        size = y.clamp(0, 1)
        if self.table is not None:
            x = _interpolate(size, self.table, torch.linspace(0, 1, len(self.table), dtype=y.dtype))
        else:
            g, a, b, c, d, e, f = self.parameters
            x = ((size - e).clamp(min=0) ** (1 / g) - b) / a
            if d > 0:
                toe = (size - f) / c if c > 0 else torch.zeros_like(size)
                x = torch.where(size >= max(a * d + b, 0.0) ** g + e, x, toe)
        return torch.where(y == size, x, y)


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    right = torch.searchsorted(knots, x.contiguous()).clamp_(1, len(knots) - 1)
    left = right - 1
    width = (knots[right] - knots[left]).clamp(min=1e-12)
    return torch.lerp(values[left], values[right], ((x - knots[left]) / width).clamp_(0, 1))


@dataclass(frozen=True)
class MatrixProfile:
    """Three curves and a matrix.

    Attributes:
        curves: of red, green and blue.
        to_linear_srgb: ``(3, 3)`` float64, linear device RGB to linear sRGB.
    """

    curves: tuple[Curve, Curve, Curve]
    to_linear_srgb: Tensor

    @property
    def is_srgb(self) -> bool:
        """Whether the profile means sRGB, to well below one level of 8 bits; its pixels then stay as they are."""
        if float((self.to_linear_srgb - torch.eye(3, dtype=torch.float64)).abs().max()) > _SAME_MATRIX:
            return False
        x = torch.linspace(0, 1, 1024, dtype=torch.float64)
        return all(float((srgb_encode(curve.decode(x)) - x).abs().max()) < _SAME_CURVE for curve in self.curves)

    def to_srgb(self, device: Tensor) -> Tensor:
        """``(3, H, W)`` values of this profile in [0, 1] to extended sRGB, same shape, float32."""
        wide = device.to(torch.float64)
        linear = torch.stack([curve.decode(plane) for curve, plane in zip(self.curves, wide, strict=True)])
        return srgb_encode(_mix(self.to_linear_srgb, linear)).to(torch.float32)

    def from_srgb(self, pixels: Tensor) -> Tensor:
        """Extended sRGB ``(3, H, W)`` to values of this profile, same shape, float64; outside [0, 1] if beyond it."""
        linear = _mix(torch.linalg.inv(self.to_linear_srgb), srgb_decode(pixels.to(torch.float64)))
        return torch.stack([curve.encode(plane) for curve, plane in zip(self.curves, linear, strict=True)])


def _mix(matrix: Tensor, planes: Tensor) -> Tensor:
    return torch.einsum("ij,jhw->ihw", matrix, planes)


def apply_in_place(pixels: Tensor, convert: Callable[[Tensor], Tensor], rows: int = 64) -> Tensor:
    """Pass ``(C, H, W)`` through ``convert`` a few rows at a time: the arithmetic is in float64, the picture large."""
    for top in range(0, pixels.shape[-2], rows):
        pixels[:, top : top + rows] = convert(pixels[:, top : top + rows])
    return pixels


def color_space(profile: bytes) -> str:
    """Name the colour space of a profile's pixels, ``"RGB"``, ``"GRAY"``, ``"CMYK"``..., or ``""`` when it is none."""
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return ""
    return profile[16:20].decode("ascii", "replace").strip()


@lru_cache(maxsize=16)
def parse(profile: bytes) -> MatrixProfile | None:
    """Read an RGB profile, or return None when it is not one of matrix and curves that can be inverted."""
    tags = _tags(profile)
    wanted = [b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"]
    if (
        color_space(profile) != "RGB"
        or profile[20:24] != b"XYZ "
        or b"A2B0" in tags
        or not all(t in tags for t in wanted)
    ):
        return None
    try:
        columns = [[v / 65536 for v in struct.unpack(">3i", tags[tag][8:20])] for tag in wanted[:3]]
        red, green, blue = (_curve(tags[tag]) for tag in wanted[3:])
    except (struct.error, ValueError):
        return None
    to_xyz = torch.tensor(columns, dtype=torch.float64).T
    if not all(curve.invertible for curve in (red, green, blue)) or abs(float(torch.linalg.det(to_xyz))) < 1e-6:
        return None
    matrix = torch.linalg.solve(torch.tensor(_SRGB_TO_XYZ, dtype=torch.float64), to_xyz)
    return MatrixProfile((red, green, blue), matrix)


@lru_cache(maxsize=16)
def parse_gray(profile: bytes) -> Curve | None:
    """Read the curve of a grey profile, or return None when there is none."""
    tags = _tags(profile)
    if color_space(profile) != "GRAY" or b"kTRC" not in tags:
        return None
    try:
        return _curve(tags[b"kTRC"])
    except (struct.error, ValueError):
        return None


def _tags(profile: bytes) -> dict[bytes, bytes]:
    if not color_space(profile):
        return {}
    count = min(int.from_bytes(profile[128:132], "big"), 256)
    entries = [struct.unpack(">4sII", profile[at : at + 12]) for at in range(132, 132 + 12 * count, 12)
               if len(profile) >= at + 12]  # fmt: skip
    return {name: profile[start : start + size] for name, start, size in entries}


def _curve(data: bytes) -> Curve:
    kind, count = data[:4], int.from_bytes(data[8:12], "big")
    if kind == b"curv":
        if count == 0:
            return Curve()
        values = struct.unpack(f">{count}H", data[12 : 12 + 2 * count])
        if count == 1:
            return Curve((values[0] / 256, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
        return Curve(table=torch.tensor(values, dtype=torch.float64) / 65535)
    if kind != b"para":
        raise ValueError(f"curve of type {kind!r}")
    form = int.from_bytes(data[8:10], "big")
    length = (1, 3, 4, 5, 7)[form] if form < 5 else 0
    if not length:
        raise ValueError(f"parametric curve of type {form}")
    g, *rest = (v / 65536 for v in struct.unpack(f">{length}i", data[12 : 12 + 4 * length]))
    if form == 0:
        return Curve((g, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    if form in (1, 2):
        a, b, *offset = rest
        below = offset[0] if offset else 0.0
        return Curve((g, a, b, 0.0, -b / a if a else 0.0, below, below))
    a, b, c, d, *offsets = rest
    e, f = offsets or (0.0, 0.0)
    return Curve((g, a, b, c, d, e, f))
