"""Fixed filters as features, for perceptual losses without weights: a pyramid of derivatives and Gabor filters."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SIZE = 7
_GABOR_WAVELENGTHS = (3.0, 6.0)  # pixels; the longer one just fits the 7x7 window
_GABOR_ANGLES = 4


class FilterBankFeatures(nn.Module):
    """Responses of 12 filters on each colour of a Gaussian pyramid; the stand-in where VGG19's weights are not there.

    The filters, in the order of the channels of one colour: the picture itself, horizontal and vertical difference,
    Laplacian, 8 Gabor filters (2 wavelengths x 4 angles). All but the first have mean 0 and absolute sum 2, as a
    difference of neighbours has, so that none drowns the others. Nothing is trained and the state dict is empty.

    Args:
        levels: levels of the pyramid, each half the size of the one before.
    """

    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        self.levels = levels
        # One copy of the filters for each colour: a grouped convolution, whose backward pass is three times faster on
        # a CPU than that of one convolution over the colours as if they were pictures.
        self.register_buffer("bank", _bank()[:, None].repeat(3, 1, 1, 1), persistent=False)  # (36, 1, 7, 7)
        binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("smooth", torch.outer(binomial, binomial).repeat(3, 1, 1, 1), persistent=False)

    def forward(self, rgb01: Tensor) -> list[Tensor]:
        """Compute the responses.

        Args:
            rgb01: ``(B, 3, H, W)``, sRGB in [0, 1], any size.

        Returns:
            One tensor per level: ``(B, 36, H, W)``, ``(B, 36, ceil(H / 2), ceil(W / 2))`` and so on.
        """
        bank, smooth = self.get_buffer("bank"), self.get_buffer("smooth")
        x, responses = rgb01, []
        for level in range(self.levels):
            if level:
                x = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), smooth, stride=2, groups=3)
            responses.append(F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), bank, groups=3))
        return responses


def _bank() -> Tensor:
    middle = _SIZE // 2
    picture, dx, laplacian = torch.zeros(3, _SIZE, _SIZE)
    picture[middle, middle] = 1
    dx[middle, middle], dx[middle, middle + 1] = -1, 1
    laplacian[middle, middle - 1 : middle + 2] = 1
    laplacian[middle - 1 : middle + 2, middle] = 1
    laplacian[middle, middle] = -4
    gabors = [
        _gabor(wavelength, math.pi * angle / _GABOR_ANGLES)
        for wavelength in _GABOR_WAVELENGTHS
        for angle in range(_GABOR_ANGLES)
    ]
    filters = [_balanced(each) for each in (dx, dx.T, laplacian, *gabors)]
    return torch.stack([picture, *filters])


def _gabor(wavelength: float, angle: float) -> Tensor:
    axis = torch.arange(_SIZE) - _SIZE // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    along = x * math.cos(angle) + y * math.sin(angle)
    sigma = 0.5 * wavelength
    return torch.exp(-(x**2 + y**2) / (2 * sigma**2)) * torch.cos(2 * math.pi * along / wavelength)


def _balanced(kernel: Tensor) -> Tensor:
    # The mean is taken off under the kernel's own support, so that a difference of two pixels stays one.
    support = kernel != 0
    kernel = torch.where(support, kernel - kernel[support].mean(), 0.0)
    return 2 * kernel / kernel.abs().sum()
