"""Measures of colour: how much of it, how steady over a film, how near to the true one, and angles of hue."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pellucid.errors import InputError

AB_PEAK = 220.0  # width of the interval [-110, 110] that holds a* and b* of all of sRGB
CAP = 100.0  # dB that stand for infinity, when two pictures are equal
_STEPS = (1, 2, 4)  # distances in frames of CDC
_BINS = 256


def colourfulness(rgb: Tensor, *, absolute: bool = False) -> float:
    """Colourfulness of Hasler and Suesstrunk (2003), on the scale of 8-bit values.

    ``sqrt(var rg + var yb) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2)`` with ``rg = R - G`` and ``yb = (R + G) / 2 - B``.

    Args:
        rgb: ``(3, H, W)``, sRGB in [0, 1].
        absolute: take the differences without their sign, as some published code does; that lowers the variances.

    Returns:
        0 for a grey picture, about 15 for a slightly and 60 or more for a very colourful one.

    Raises:
        InputError: another shape.
    """
    if rgb.ndim != 3 or rgb.shape[0] != 3:
        raise InputError(f"colourfulness needs a picture (3, H, W), found {tuple(rgb.shape)}")
    red, green, blue = rgb.double() * 255.0
    rg, yb = red - green, (red + green) / 2.0 - blue
    if absolute:
        rg, yb = rg.abs(), yb.abs()
    spread = torch.sqrt(rg.var(correction=0) + yb.var(correction=0))
    return float(spread + 0.3 * torch.hypot(rg.mean(), yb.mean()))


def colour_distribution_consistency(frames: Iterable[Tensor]) -> float:
    """CDC of a film: how much the distributions of red, green and blue change from frame to frame; lower is steadier.

    Jensen-Shannon divergence (natural logarithm) between the 256-bin histograms of frames t and t + d, mean over
    channels and t, then mean over d = 1, 2, 4. Distances that the film is too short for are left out.

    Args:
        frames: pictures ``(3, H, W)``, sRGB in [0, 1]; a tensor ``(T, 3, H, W)`` too. Only histograms are kept.

    Returns:
        0 for a still film, at most log 2.

    Raises:
        InputError: fewer than two frames, or a frame of another shape.
    """
    counts = [_histograms(frame) for frame in frames]
    if len(counts) < 2:
        raise InputError(f"CDC compares frames, found {len(counts)}", "give a film of at least two frames")
    film = torch.stack(counts)  # (T, 3, 256)
    means = [_jensen_shannon(film[step:], film[:-step]).mean() for step in _STEPS if len(film) > step]
    return float(torch.stack(means).mean())


def _histograms(frame: Tensor) -> Tensor:
    if frame.ndim != 3 or frame.shape[0] != 3:
        raise InputError(f"a frame is (3, H, W), found {tuple(frame.shape)}")
    levels = (frame.clamp(0.0, 1.0) * 255.0).round().long().flatten(1)  # (3, H W)
    counts = torch.stack([torch.bincount(channel, minlength=_BINS) for channel in levels]).double()
    return (counts / levels.shape[1]).cpu()  # (3, 256), each row a distribution


def _jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    middle = (first + second) / 2.0
    # xlogy is 0 where a bin is empty; the middle is then only 0 where both are.
    safe = middle.clamp_min(1e-30)
    parts = [torch.xlogy(each, each) - torch.xlogy(each, safe) for each in (first, second)]
    return (sum(parts, torch.zeros_like(first)).sum(-1) / 2.0).clamp_min(0.0)  # (..., 3)


def ab_psnr(predicted: Tensor, truth: Tensor) -> Tensor:
    """PSNR in dB of a* and b* alone, jointly, with a peak of 220 (the interval [-110, 110]); capped at 100.

    L is left out because it is given: PSNR over RGB moves little when colours are wrong.

    Args:
        predicted: ``(B, 2, H, W)`` in Lab units.
        truth: the same shape.

    Returns:
        ``(B,)``, one figure for each picture.

    Raises:
        InputError: other shapes.
    """
    if predicted.shape != truth.shape or predicted.ndim != 4 or predicted.shape[1] != 2:
        raise InputError(f"a*, b* are (B, 2, H, W) twice, found {tuple(predicted.shape)} and {tuple(truth.shape)}")
    error = (predicted.double() - truth.double()).square().mean((1, 2, 3))
    return (20.0 * math.log10(AB_PEAK) - 10.0 * torch.log10(error)).clamp(max=CAP)


def hue(ab: Tensor, dim: int = -1) -> Tensor:
    """Angle of hue in degrees, in [0, 360): 0 towards +a* (red), 90 towards +b* (yellow); 0 for grey.

    Args:
        ab: a* and b* along ``dim``, which has two entries.
        dim: that dimension; it is gone from the result.
    """
    a, b = ab.unbind(dim)
    return torch.rad2deg(torch.atan2(b, a)) % 360.0


def chroma(ab: Tensor, dim: int = -1) -> Tensor:
    """Distance from grey in Lab units, of a* and b* along ``dim``."""
    a, b = ab.unbind(dim)
    return torch.hypot(a, b)


def hue_distance(first: Tensor, second: Tensor) -> Tensor:
    """The angle between two hues in degrees, in [0, 180]; the shapes broadcast."""
    return ((first - second + 180.0) % 360.0 - 180.0).abs()
