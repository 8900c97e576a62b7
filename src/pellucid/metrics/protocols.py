"""PSNR and SSIM under named protocols: the same picture scores differently under each, so a number needs its name.

PSNR is torchmetrics'. SSIM follows scikit-image's definition (see `ssim`), in float64: the variances are small
differences of large means, and float32 would lose them in smooth pictures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError, DependencyError, InputError

_WINDOW = 7
_GAUSSIAN = 11
_GRAY = (0.2989, 0.5870, 0.1140)


@dataclass(frozen=True)
class Protocol:
    """How two pictures are compared.

    Attributes:
        name: goes beside every number.
        summary: one line for tables and cards.
        resize: what happens to the sizes before the network sees the input: ``"none"``; ``"multiple"``, both pictures
            resized down to multiples of 32 with Pillow's bicubic; ``"crop"``, both cropped to multiples of 32.
        short_side: both pictures are first resized to this short side, in pixels.
        square: both are squashed to this width and height with Pillow's bicubic, instead of all the above.
        eight_bit: round to 8 bits before comparing, as a PNG on disk does.
        psnr: ``"joint"`` takes one mean square over all channels, ``"channels"`` the mean of the channels' PSNR.
        ssim: ``"rgb"`` takes the mean over channels, ``"gray"`` compares 8-bit gray.
    """

    name: str
    summary: str
    resize: Literal["none", "multiple", "crop"] = "none"
    short_side: int | None = None
    square: int | None = None
    eight_bit: bool = True
    psnr: Literal["joint", "channels"] = "joint"
    ssim: Literal["rgb", "gray"] = "rgb"


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("disk", "native size, 8-bit files, PSNR joint over RGB, SSIM mean over RGB (WindowSeat)"),
        Protocol(
            "sirr-rgb",
            "sides resized to multiples of 32, 8 bit, PSNR and SSIM mean over RGB (ERRNet, DSRNet, RDNet)",
            resize="multiple",
            psnr="channels",
        ),
        Protocol(
            "sirr-rgb-420",
            "as sirr-rgb after a resize to short side 420 (real20_420)",
            resize="multiple",
            short_side=420,
            psnr="channels",
        ),
        Protocol(
            "flash",
            "sides cropped to multiples of 32, PSNR joint over RGB, SSIM on 8-bit gray (flash reflection removal)",
            resize="crop",
            eight_bit=False,
            ssim="gray",
        ),
    )
}


def find(name: str, among: Mapping[str, Protocol] = PROTOCOLS) -> Protocol:
    """Return the protocol of that name; a room with protocols of its own says among which.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if name not in among:
        raise ConfigError(f"protocol {name!r} is not known", f"use one of {', '.join(among)}")
    return among[name]


def prepare(protocol: Protocol, picture: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Bring a pair to the protocol's size, before the network runs.

    Args:
        protocol: how to compare.
        picture: the input, ``(3, H, W)`` in [0, 1].
        truth: what the output is compared with, ``(3, H, W)`` in [0, 1].

    Returns:
        Both at the protocol's size, ``(3, h, w)``. They are rounded to 8 bits where the protocol resizes, because it
        does so on 8-bit files.

    Raises:
        InputError: the sizes differ, or a side is too short for the protocol.
    """
    _check(picture, truth)
    if protocol.square is not None:
        return _bicubic(picture, protocol.square, protocol.square), _bicubic(truth, protocol.square, protocol.square)
    height, width = picture.shape[-2:]
    if protocol.short_side is not None:
        factor = protocol.short_side / min(height, width)
        height, width = round(height * factor), round(width * factor)
    if protocol.resize != "none":
        if min(height, width) < 32:
            raise InputError(f"protocol {protocol.name} needs sides of at least 32 px, found {width}x{height}")
        height, width = height // 32 * 32, width // 32 * 32
    if (height, width) == tuple(picture.shape[-2:]):
        return picture, truth
    if protocol.resize == "crop" and protocol.short_side is None:
        return picture[:, :height, :width], truth[:, :height, :width]
    return _bicubic(picture, height, width), _bicubic(truth, height, width)


def evaluate_pair(protocol: Protocol, output: Tensor, truth: Tensor) -> dict[str, float]:
    """Compare an output with the truth.

    Args:
        protocol: how to compare.
        output: ``(3, H, W)``; values outside [0, 1] are clamped, as a file would.
        truth: ``(3, H, W)`` in [0, 1], the size that `prepare` gave.

    Returns:
        ``psnr`` in dB, infinite for equal pictures, and ``ssim`` in [-1, 1].

    Raises:
        InputError: the sizes differ, a value is not a number, or a side is shorter than SSIM's window of 7.
    """
    _check(output, truth)
    if not bool(output.isfinite().all()):
        raise InputError("the output holds values that are not finite")
    first, second = (picture.detach().clamp(0.0, 1.0) for picture in (output, truth))
    rounded = _eight_bit(first), _eight_bit(second)
    if protocol.eight_bit:
        first, second = rounded
    if protocol.ssim == "gray":
        similarity = ssim(_eight_bit(_gray(rounded[0])), _eight_bit(_gray(rounded[1])))
    else:
        similarity = ssim(first, second)
    return {"psnr": psnr(first, second, joint=protocol.psnr == "joint"), "ssim": similarity}


def psnr(first: Tensor, second: Tensor, *, joint: bool = True) -> float:
    """Peak signal-to-noise ratio in dB of two pictures ``(C, H, W)`` in [0, 1]; infinite when they are equal.

    Args:
        first: one picture.
        second: the other.
        joint: one mean square over all channels; else the mean of the channels' PSNR, which is never lower.
    """
    dim = None if joint else (1, 2)
    measure = _torchmetrics().peak_signal_noise_ratio
    return float(measure(first.double(), second.double(), data_range=1.0, dim=dim))


def ssim(first: Tensor, second: Tensor, *, window: Literal["uniform", "gaussian"] = "uniform") -> float:
    """Structural similarity of two pictures ``(C, H, W)`` in [0, 1], mean over channels.

    ``"uniform"`` is scikit-image's definition: a 7x7 window, sample variances (divided by N - 1), K1 = 0.01, K2 = 0.03,
    the border of 3 px left out. Written out because torchmetrics divides by N, and because a sum over a window is ten
    times faster than its convolution, in the float64 that small differences of large means need. ``"gaussian"`` is
    torchmetrics' own: 11x11 with a standard deviation of 1.5, in float32, good for four decimals.

    Raises:
        InputError: a side is shorter than the window.
    """
    size = _WINDOW if window == "uniform" else _GAUSSIAN
    if min(first.shape[-2:]) < size:
        raise InputError(f"SSIM needs sides of at least {size} px, found {first.shape[-1]}x{first.shape[-2]}")
    if window == "gaussian":
        measure = _torchmetrics().structural_similarity_index_measure
        return float(measure(first.float()[None], second.float()[None], data_range=1.0))
    x, y = first.double(), second.double()
    sample = _WINDOW**2 / (_WINDOW**2 - 1)
    x_mean, y_mean, xx, yy, xy = _window_means(torch.stack([x, y, x * x, y * y, x * y]))
    variances = sample * (xx - x_mean.square() + yy - y_mean.square())
    covariance = sample * (xy - x_mean * y_mean)
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * x_mean * y_mean + c1) * (2 * covariance + c2)
    similarity /= (x_mean.square() + y_mean.square() + c1) * (variances + c2)
    return float(similarity.mean())


def _window_means(planes: Tensor) -> Tensor:
    """``(5, C, H, W) -> (5, C, H - 6, W - 6)``: means of the windows that lie inside."""
    return F.avg_pool2d(F.avg_pool2d(planes, (_WINDOW, 1), 1), (1, _WINDOW), 1)


def _torchmetrics() -> ModuleType:
    try:
        from torchmetrics.functional import image
    except ImportError as error:
        raise DependencyError("metrics need torchmetrics", "pip install pellucid[train]") from error
    return image


def _check(first: Tensor, second: Tensor) -> None:
    if first.ndim != 3 or first.shape[0] != 3 or first.shape != second.shape:
        raise InputError(
            f"two pictures of one size (3, H, W) are compared, found {tuple(first.shape)} and {tuple(second.shape)}"
        )


def _eight_bit(picture: Tensor) -> Tensor:
    # Rounded in the picture's own precision, as a file is written; divided in float64, so that 8-bit values are exact.
    return torch.round(picture * 255.0).double() / 255.0


def _gray(picture: Tensor) -> Tensor:
    weights = picture.new_tensor(_GRAY).reshape(3, 1, 1)
    return (picture * weights).sum(dim=0, keepdim=True)  # (1, H, W)


def _bicubic(picture: Tensor, height: int, width: int) -> Tensor:
    # Pillow's own filter on 8 bits, because the published numbers were made with it.
    from PIL import Image

    pixels = (picture.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    values = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).reshape(height, width, 3)
    return values.permute(2, 0, 1).to(picture.device, torch.float32) / 255.0
