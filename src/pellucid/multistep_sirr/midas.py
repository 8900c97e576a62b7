"""MiDaS small: inverse depth from one picture (Ranftl et al. 2020), with the keys of ``midas_v21_small_256.pt``.

An EfficientNet-Lite3 encoder in its TensorFlow form (ReLU6, "SAME" padding, no squeeze and excitation) and a decoder
that joins four of its levels. It is written here because the usual source of the encoder needs torchvision, which does
not load beside every build of torch. Names of modules are those of the published file, 482 keys in the same order.
"""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import DependencyError
from pellucid.nn.conv import pointwise

SIDE = 256  # the side in pixels that the published weights were trained for
STRIDE = 32

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

# Kernel, stride, repeats, channels out of each run of inverted residuals, by module name (all expand sixfold).
_RUNS: dict[str, list[tuple[int, int, int, int]]] = {
    "layer2": [(5, 2, 3, 48)],
    "layer3": [(3, 2, 5, 96), (5, 1, 5, 136)],
    "layer4": [(5, 2, 6, 232), (3, 1, 1, 384)],
}


class SameConv2d(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's "SAME": at stride 2 the odd pixel goes to the right and bottom.

    The padding follows from the size of every call. (The published code keeps that of the first picture it sees.)
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel == 1:
            return pointwise(input, self.weight, self.bias)
        if stride == 1:  # symmetric, so the convolution can do it without a copy
            return F.conv2d(input, self.weight, self.bias, padding=kernel // 2, groups=self.groups)
        missing = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in input.shape[-2:]]
        top, left = missing[0] // 2, missing[1] // 2
        padded = F.pad(input, (left, missing[1] - left, top, missing[0] - top))
        return F.conv2d(padded, self.weight, self.bias, stride, groups=self.groups)


class DepthwiseSeparable(nn.Module):
    """Depthwise 3x3 with ReLU6, then a linear 1x1: ``(B, c_in, H, W) -> (B, c_out, H, W)``."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(c_in, c_in, 3, groups=c_in)
        self.bn1 = _norm(c_in)
        self.conv_pw = SameConv2d(c_in, c_out, 1)
        self.bn2 = _norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn1(self.conv_dw(x)), inplace=True)
        return self.bn2(self.conv_pw(x))


class InvertedResidual(nn.Module):
    """1x1 to six times the channels, depthwise, linear 1x1; a skip where the shape stays."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = 6 * c_in
        self.conv_pw = SameConv2d(c_in, hidden, 1)
        self.bn1 = _norm(hidden)
        self.conv_dw = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.bn2 = _norm(hidden)
        self.conv_pwl = SameConv2d(hidden, c_out, 1)
        self.bn3 = _norm(c_out)
        self.has_skip = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn1(self.conv_pw(x)), inplace=True)
        y = F.relu6(self.bn2(self.conv_dw(y)), inplace=True)
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.has_skip else y


class Encoder(nn.Module):
    """EfficientNet-Lite3 without its head: ``(B, 3, H, W)`` -> 32, 48, 136 and 384 channels at 1/4 to 1/32."""

    def __init__(self) -> None:
        super().__init__()
        stem = SameConv2d(3, 32, 3, 2)
        first = nn.Sequential(DepthwiseSeparable(32, 24))
        self.layer1 = nn.Sequential(stem, _norm(32), nn.ReLU6(inplace=True), first, _run(24, 3, 2, 3, 32))
        c_in, layers = 32, {}
        for name, runs in _RUNS.items():
            layers[name] = nn.Sequential()
            for kernel, stride, repeats, c_out in runs:
                layers[name].append(_run(c_in, kernel, stride, repeats, c_out))
                c_in = c_out
        self.layer2, self.layer3, self.layer4 = layers["layer2"], layers["layer3"], layers["layer4"]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x1 = self.layer1(x)  # (B, 32, H/4, W/4)
        x2 = self.layer2(x1)  # (B, 48, H/8, W/8)
        x3 = self.layer3(x2)  # (B, 136, H/16, W/16)
        return x1, x2, x3, self.layer4(x3)  # (B, 384, H/32, W/32)


class ResidualConvUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), all 3x3 with bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x)), inplace=True))


class FusionBlock(nn.Module):
    """Add a refined skip, refine, change the channels, enlarge twofold: ``(B, C, H, W) -> (B, c_out, 2H, 2W)``.

    The deepest block has no skip; its ``resConfUnit1`` is in the published file all the same.
    """

    def __init__(self, channels: int, c_out: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, c_out, 1)
        self.resConfUnit1 = ResidualConvUnit(channels)
        self.resConfUnit2 = ResidualConvUnit(channels)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        x = self.resConfUnit2(x)
        # The published code enlarges first; a 1x1 convolution gives the same before, at a quarter of the cost.
        x = pointwise(x, self.out_conv.weight, self.out_conv.bias)
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


class Decoder(nn.Module):
    """From four levels of features to one map at full size: ``-> (B, 1, H, W)``, not negative."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1_rn = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(48, 128, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(136, 256, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(384, 512, 3, padding=1, bias=False)
        self.refinenet4 = FusionBlock(512, 256)
        self.refinenet3 = FusionBlock(256, 128)
        self.refinenet2 = FusionBlock(128, 64)
        self.refinenet1 = FusionBlock(64, 64)
        self.output_conv = nn.Sequential(
            nn.Conv2d(64, 32, 3, padding=1),
            nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x1: Tensor, x2: Tensor, x3: Tensor, x4: Tensor) -> Tensor:
        y = self.refinenet4(self.layer4_rn(x4))  # (B, 256, H/16, W/16)
        y = self.refinenet3(y, self.layer3_rn(x3))  # (B, 128, H/8, W/8)
        y = self.refinenet2(y, self.layer2_rn(x2))  # (B, 64, H/4, W/4)
        y = self.refinenet1(y, self.layer1_rn(x1))  # (B, 64, H/2, W/2)
        return self.output_conv(y)  # (B, 1, H, W)


class MidasSmall(nn.Module):
    """The whole network; see `preprocess` for what it wants and `postprocess` for what to do with its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained = Encoder()
        self.scratch = Decoder()

    def forward(self, x: Tensor) -> Tensor:
        """Estimate inverse depth.

        Args:
            x: ``(B, 3, H, W)``, normalised by ImageNet's mean and deviation; H and W multiples of 32.

        Returns:
            Relative inverse depth ``(B, H, W)``, 0 or more, larger = nearer, of no fixed scale.
        """
        return self.scratch(*self.pretrained(x)).squeeze(1)


def network_size(height: int, width: int, side: int = SIDE) -> tuple[int, int]:
    """Return the height and width that `preprocess` gives a picture: the longer side ``side``, multiples of 32."""
    scale = min(side / height, side / width)

    def fit(length: int) -> int:
        multiple = round(scale * length / STRIDE) * STRIDE
        if multiple > side:
            multiple = int(scale * length // STRIDE) * STRIDE
        return max(multiple, STRIDE)

    return fit(height), fit(width)


def preprocess(
    rgb01: Tensor, side: int = SIDE, *, keep_aspect: bool = True, resize: Literal["torch", "cv2"] = "torch"
) -> Tensor:
    """Bring pictures to the network's size and scale.

    Args:
        rgb01: ``(B, 3, H, W)``, sRGB in [0, 1].
        side: the longer side afterwards, in pixels.
        keep_aspect: False brings every picture to ``side`` x ``side``, which is right for training crops.
        resize: ``"torch"`` or OpenCV's cubic interpolation. Neither smooths before shrinking, because the published
            weights were trained on pictures shrunk so.

    Returns:
        ``(B, 3, h, w)``, float32, normalised by ImageNet's mean and deviation.

    Raises:
        DependencyError: ``"cv2"`` was asked for and OpenCV is not installed.
    """
    size = network_size(rgb01.shape[-2], rgb01.shape[-1], side) if keep_aspect else (side, side)
    if resize == "cv2":
        small = _resize_cv2(rgb01.float(), size)
    else:
        small = F.interpolate(rgb01.float(), size=size, mode="bicubic", align_corners=False)
    return (small - small.new_tensor(_MEAN)[:, None, None]) / small.new_tensor(_STD)[:, None, None]


def postprocess(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring the network's answer ``(B, h, w)`` to the picture's ``(H, W)``: ``(B, 1, H, W)``."""
    return F.interpolate(depth[:, None], size=size, mode="bicubic", align_corners=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _run(c_in: int, kernel: int, stride: int, repeats: int, c_out: int) -> nn.Sequential:
    first = InvertedResidual(c_in, c_out, kernel, stride)
    return nn.Sequential(first, *(InvertedResidual(c_out, c_out, kernel, 1) for _ in range(repeats - 1)))


def _resize_cv2(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    try:
        import cv2  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DependencyError("resize='cv2' needs OpenCV", "pip install opencv-python-headless") from error
    module: Any = cv2
    pictures = rgb.permute(0, 2, 3, 1).cpu().numpy()
    small = [module.resize(picture, (size[1], size[0]), interpolation=module.INTER_CUBIC) for picture in pictures]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).to(rgb.device)
