"""How near the alpha of a clip is to the true one, by the measures of video matting, and how near it looks.

Errors of alpha are means over pixels, times 1000, so that they do not depend on the size of the frames. Tables of
matting give Grad and Conn as sums over a frame, over 1000: that is the figure here times ``H W / 10^6``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import InputError
from pellucid.metrics.flow import opencv
from pellucid.metrics.protocols import psnr, ssim

CAP = 100.0  # dB that stand for infinity, when two clips are equal
COLOURS: Mapping[str, tuple[float, float, float]] = {
    "black": (0.0, 0.0, 0.0),
    "white": (1.0, 1.0, 1.0),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "grey": (0.5, 0.5, 0.5),
}
_SIGMA = 1.4  # px, of Grad (Rhemann et al. 2009)
_STEP = 0.1  # between the thresholds of Conn
_SLACK = 0.15  # what Conn forgives


def mae(alpha: Tensor, truth: Tensor) -> float:
    """Mean absolute error x 1000 of ``(F, 1, H, W)`` in [0, 1]."""
    _check(alpha, truth)
    return 1e3 * float((alpha.double() - truth.double()).abs().mean())


def mse(alpha: Tensor, truth: Tensor) -> float:
    """Mean square error x 1000 of ``(F, 1, H, W)`` in [0, 1]."""
    _check(alpha, truth)
    return 1e3 * float((alpha.double() - truth.double()).square().mean())


def gradient_error(alpha: Tensor, truth: Tensor) -> float:
    """Grad: mean square difference of the lengths of the gradients, x 1000 (Rhemann et al. 2009).

    Gradients are those of a Gaussian of 1.4 px, whose filters have length 1; the edge is continued outside.
    """
    _check(alpha, truth)
    difference = _slope(alpha.double()) - _slope(truth.double())
    return 1e3 * float(difference.square().mean())


def connectivity_error(alpha: Tensor, truth: Tensor) -> float:
    """Conn: how much is cut off from the largest part that both share, x 1000 (Rhemann et al. 2009).

    For each threshold (0.1 to 1) the largest region, joined over edges, in which both lie above it is taken. A pixel's
    level is the highest threshold up to which it belongs to all of them; what alpha rises above its level by more than
    0.15 counts as cut off. The error is the mean difference of the two shares.

    Raises:
        InputError: other shapes.
        DependencyError: OpenCV, which finds the regions, is not installed.
    """
    _check(alpha, truth)
    errors = [_connectivity(one[0], other[0]) for one, other in zip(alpha, truth, strict=True)]
    return 1e3 * fmean(errors)


def dtssd(alpha: Tensor, truth: Tensor) -> float:
    """dtSSD x 100 (Erofeev et al. 2015): how wrongly alpha changes from frame to frame; 0 for a single frame.

    Root of the mean square difference of the changes, mean over pairs of neighbours.
    """
    _check(alpha, truth)
    if len(alpha) < 2:
        return 0.0
    difference = alpha.double().diff(dim=0) - truth.double().diff(dim=0)
    return 1e2 * float(difference.square().flatten(1).mean(1).sqrt().mean())


def alpha_errors(alpha: Tensor, truth: Tensor) -> dict[str, float]:
    """All five measures of ``(F, 1, H, W)`` in [0, 1]: ``MAE MSE Grad Conn`` x 1000 and ``dtSSD`` x 100.

    Raises:
        InputError: other shapes.
        DependencyError: OpenCV is not installed.
    """
    return {
        "MAE": mae(alpha, truth),
        "MSE": mse(alpha, truth),
        "Grad": gradient_error(alpha, truth),
        "Conn": connectivity_error(alpha, truth),
        "dtSSD": dtssd(alpha, truth),
    }


def composite_quality(clip: Tensor, truth: Tensor) -> dict[str, float]:
    """PSNR and SSIM of a clip laid over six colours: the worst colour counts.

    A wrong colour where alpha is 0 shows on none of them, a wrong alpha on the colour it differs from most.

    Args:
        clip: ``(F, 4, H, W)``, straight alpha, sRGB in [0, 1].
        truth: the same shape.

    Returns:
        ``PSNR`` in dB (means over frames, at most 100), ``SSIM``, both of the worst of `COLOURS`, and ``worst``, the
        largest error of any pixel on any colour, in [0, 1].

    Raises:
        InputError: other shapes, or sides shorter than SSIM's window of 7.
    """
    if clip.shape != truth.shape or clip.ndim != 4 or clip.shape[1] != 4:
        raise InputError(f"clips are (F, 4, H, W) of one shape, found {tuple(clip.shape)} and {tuple(truth.shape)}")
    signal, similarity, worst = CAP, 1.0, 0.0
    for colour in COLOURS.values():
        ours, theirs = (_over(each, colour) for each in (clip, truth))
        signal = min(signal, fmean(min(psnr(*pair), CAP) for pair in zip(ours, theirs, strict=True)))
        similarity = min(similarity, fmean(ssim(*pair) for pair in zip(ours, theirs, strict=True)))
        worst = max(worst, float((ours - theirs).abs().max()))
    return {"PSNR": signal, "SSIM": similarity, "worst": worst}


def _over(clip: Tensor, colour: tuple[float, float, float]) -> Tensor:
    below = clip.new_tensor(colour)[:, None, None]
    return clip[:, :3] * clip[:, 3:] + below * (1.0 - clip[:, 3:])


def _check(alpha: Tensor, truth: Tensor) -> None:
    if alpha.shape != truth.shape or alpha.ndim != 4 or alpha.shape[1] != 1 or not len(alpha):
        raise InputError(f"alpha is (F, 1, H, W) twice, found {tuple(alpha.shape)} and {tuple(truth.shape)}")


def _slope(alpha: Tensor) -> Tensor:
    """Length of the gradient, ``(F, 1, H, W)``."""
    reach = math.ceil(_SIGMA * math.sqrt(-2.0 * math.log(math.sqrt(2.0 * math.pi) * _SIGMA * 1e-2)))
    x = torch.arange(-reach, reach + 1, dtype=alpha.dtype, device=alpha.device)
    bell = torch.exp(-x.square() / (2.0 * _SIGMA**2))
    bell, slope = bell / bell.square().sum().sqrt(), x * bell / (x * bell).square().sum().sqrt()
    padded = F.pad(alpha, (reach,) * 4, mode="replicate")
    # A filter is a column times a row, each of length 1, so their product is too.
    across = F.conv2d(F.conv2d(padded, bell[None, None, :, None]), slope[None, None, None])
    down = F.conv2d(F.conv2d(padded, slope[None, None, :, None]), bell[None, None, None])
    return torch.hypot(across, down)  # (F, 1, H, W)


def _connectivity(alpha: Tensor, truth: Tensor) -> float:
    """Of one frame ``(H, W)``, mean over pixels."""
    cv2 = opencv("the connectivity error of alpha")
    ours, theirs = (each.double().cpu().numpy() for each in (alpha, truth))
    level, joined = np.ones_like(ours), np.ones(ours.shape, dtype=bool)
    for step in range(1, round(1.0 / _STEP) + 1):
        # A hair below, so that 8-bit values which are the threshold count as reaching it.
        both = np.minimum(ours, theirs) >= step * _STEP - 1e-9
        _, labels, stats, _ = cv2.connectedComponentsWithStats(both.astype(np.uint8), connectivity=4)
        sizes = stats[1:, cv2.CC_STAT_AREA]
        largest = labels == 1 + int(sizes.argmax()) if len(sizes) else np.zeros_like(joined)
        level[joined & ~largest] = (step - 1) * _STEP
        joined &= largest
    shares = [1.0 - (each - level) * (each - level >= _SLACK) for each in (ours, theirs)]
    return float(np.abs(shares[0] - shares[1]).mean())
