"""CIE Lab (D65, 2 degrees) with kornia's conversions, in strips, and the way back into sRGB that keeps lightness.

Sec. 3 of the paper stacks the photograph's L and the predicted a, b; it does not say what happens to a colour that no
screen shows. Cutting off R, G and B changes its L; here a and b are scaled instead, and L stays.
"""

from collections.abc import Callable
from typing import Literal, get_args

import kornia.color as kc
import torch
from torch import Tensor

from pellucid.errors import ConfigError

Gamut = Literal["chroma", "clip"]

STRIP = 1 << 19  # pixels converted at a time: a dozen planes of temporaries are 25 MB then
STEPS = 12  # of the bisection: chroma is found to within 1/4096 of itself
EDGE = 1e-5  # by which linear RGB may miss [0, 1]: rounding of float32, far below half an 8-bit level

# As kornia and scikit-image have them: Y of linear Rec. 709, XYZ under D65 to linear RGB, where the root begins.
_Y = (0.212671, 0.715160, 0.072169)
_FROM_XYZ = (  # with the white multiplied in: X, Y and Z are shares of it
    (3.2404813432005266 * 0.95047, -1.5371515162713185, -0.4985363261688878 * 1.08883),
    (-0.9692549499965682 * 0.95047, 1.8759900014898907, 0.0415559265582928 * 1.08883),
    (0.0556466391351772 * 0.95047, -0.2040413383665112, 1.0573110696453443 * 1.08883),
)
_CUBE_ABOVE = 0.2068966


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB in [0, 1] to L in 0..100 and a, b: ``(..., 3, H, W)``, large pictures in strips of rows."""
    return _in_strips(kc.rgb_to_lab, rgb)


def lab_to_rgb(lab: Tensor, clip: bool = True) -> Tensor:
    """Convert Lab to sRGB ``(..., 3, H, W)``; colours outside are clipped to [0, 1], or left there."""
    return _in_strips(lambda rows: kc.lab_to_rgb(rows, clip=clip), lab)


def lightness(rgb: Tensor) -> Tensor:
    """L in 0..100 of sRGB: ``(..., 3, H, W) -> (..., 1, H, W)``, without the work for a and b.

    Colours outside sRGB can be lighter than white or darker than black; their L is clamped.
    """
    return _in_strips(_lightness, rgb, channels=1)


def grey_of(L: Tensor) -> Tensor:
    """sRGB value of the grey of lightness L: 0..100 -> [0, 1], any shape ``(..., 1, H, W)``."""
    return _in_strips(_grey_of, L)


def to_gamut(L: Tensor, ab: Tensor, how: Gamut = "chroma") -> Tensor:
    """Stack L and ab (Sec. 3.1) and bring what lies outside sRGB into it.

    Args:
        L: ``(..., 1, H, W)`` in 0..100.
        ab: ``(..., 2, H, W)`` in Lab units.
        how: ``"chroma"`` scales a and b of a pixel by the largest k in [0, 1] with (L, k a, k b) inside sRGB, found by
            bisection on linear RGB; L stays. ``"clip"`` cuts off R, G and B, as others who colour do, and L moves.

    Returns:
        sRGB ``(..., 3, H, W)`` in [0, 1].

    Raises:
        ConfigError: another ``how``.
    """
    if how not in get_args(Gamut):
        raise ConfigError(f"gamut must be {' or '.join(get_args(Gamut))}, found {how!r}")
    return _in_strips(_within_gamut if how == "chroma" else _clipped, L, ab, channels=3)


def linear_rgb(lab: Tensor) -> Tensor:
    """Linear RGB ``(..., 3, H, W)`` of Lab, below 0 or above 1 where sRGB does not reach."""
    fy = (lab[..., 0:1, :, :] + 16.0) / 116.0
    return torch.cat(_linear(fy, lab[..., 1:2, :, :] / 500.0, lab[..., 2:3, :, :] / -200.0, _cube(fy)), dim=-3)


def _linear(fy: Tensor, dx: Tensor, dz: Tensor, y: Tensor) -> list[Tensor]:
    # Products written out: a matrix product rounds a pixel differently with its place among others, and a pixel outside
    # a region must come out the same whatever happens elsewhere.
    x, z = _cube(fy + dx), _cube(fy + dz)
    return [(x * p).add_(y * q).add_(z * r) for p, q, r in _FROM_XYZ]


def _within_gamut(L: Tensor, ab: Tensor) -> Tensor:
    linear = linear_rgb(torch.cat([L, ab], dim=-3))
    planes = linear.movedim(-3, 0)  # (3, ..., H, W)
    outside = (~_fits(*planes)).flatten().nonzero().squeeze(1)
    if outside.numel():
        # Only the pixels outside, as one line of them: most colours of most pictures are inside.
        line = (plane.flatten().index_select(0, outside) for plane in (L, *ab.unbind(-3)))
        flat = planes.reshape(3, -1).index_copy_(1, outside, torch.stack(_with_largest_chroma(*line)))
        linear = flat.reshape(planes.shape).movedim(0, -3)
    return kc.linear_rgb_to_rgb(linear.clamp_(0.0, 1.0)).clamp_(0.0, 1.0)


def _with_largest_chroma(L: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    """Linear R, G and B of (L, k a, k b) with the largest k inside sRGB, for ``(n,)`` of each."""
    fy = (L + 16.0) / 116.0
    dx, dz, y = a / 500.0, b / -200.0, _cube(fy)
    k = torch.zeros_like(L)
    for step in range(1, STEPS + 1):
        tried = k + 0.5**step
        k = torch.where(_fits(*_linear(fy, dx * tried, dz * tried, y)), tried, k)
    return _linear(fy, dx * k, dz * k, y)


def _fits(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    low = torch.minimum(torch.minimum(red, green), blue)
    high = torch.maximum(torch.maximum(red, green), blue)
    return (low >= -EDGE) & (high <= 1.0 + EDGE)


def _clipped(L: Tensor, ab: Tensor) -> Tensor:
    return kc.lab_to_rgb(torch.cat([L, ab], dim=-3), clip=True)


def _lightness(rgb: Tensor) -> Tensor:
    red, green, blue = rgb.unbind(-3)
    if torch.equal(red, green) and torch.equal(green, blue):  # grey, as most pictures here are: a third of the work
        y = _decoded(red)
    else:
        y = _decoded(red) * _Y[0] + _decoded(green) * _Y[1] + _decoded(blue) * _Y[2]
    y = y.unsqueeze(-3)  # (..., 1, H, W)
    f = torch.where(y > 0.008856, y.clamp(min=0.008856).pow(1 / 3), 7.787 * y + 4.0 / 29.0)
    return (116.0 * f - 16.0).clamp_(0.0, 100.0)


def _decoded(value: Tensor) -> Tensor:
    """Linear light of sRGB values."""
    return torch.where(value > 0.04045, ((value + 0.055).clamp_(min=0.0) / 1.055).pow_(2.4), value / 12.92)


def _grey_of(L: Tensor) -> Tensor:
    linear = _cube((L + 16.0) / 116.0)
    grey = torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0.0031308).pow(1 / 2.4) - 0.055, 12.92 * linear)
    return grey.clamp_(0.0, 1.0)


def _cube(f: Tensor) -> Tensor:
    return torch.where(f > _CUBE_ABOVE, f * f * f, (f - 4.0 / 29.0) / 7.787)


def _in_strips(convert: Callable[..., Tensor], *planes: Tensor, channels: int | None = None) -> Tensor:
    """Apply a pixel's function to ``(..., C, H, W)`` in strips of rows; small pictures, and gradients, in one go."""
    first = planes[0]
    *lead, own, height, width = first.shape
    per_row = max(1, first[..., 0, 0, :].numel())
    if height * per_row <= STRIP or (torch.is_grad_enabled() and any(plane.requires_grad for plane in planes)):
        return convert(*planes)
    out = first.new_empty(*lead, channels or own, height, width)
    rows = max(1, STRIP // per_row)
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        out[..., strip, :] = convert(*(plane[..., strip, :] for plane in planes))
    return out
