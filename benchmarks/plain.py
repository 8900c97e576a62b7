"""The paper-size networks as one writes them down from the layer table: the other side of the comparison.

Contiguous NCHW tensors, float32, one operation after the other. Names are those of our modules, so that the same
weights load.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.multistep_sirr.midas import FusionBlock, MidasSmall, SameConv2d
from pellucid.multistep_sirr.model import ReflectionPairConfig


def conv(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1)


class DoubleConv(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(c_in, c_out), conv(c_out, c_out)
        self.act = nn.LeakyReLU(0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.act(self.conv1(x))))


class UpJoin(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv = conv(c_in, c_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([self.conv(self.up(x)), skip], dim=1)


class PlainUNet(nn.Module):
    """``(B, c_in, H, W) -> (B, 3, H, W)``, H and W multiples of 16."""

    def __init__(self, c_in: int, n: int) -> None:
        super().__init__()
        self.stem1, self.stem2 = nn.Conv2d(c_in, n, 1), conv(n, n)
        self.down1, self.down2 = DoubleConv(n, 2 * n), DoubleConv(2 * n, 4 * n)
        self.down3, self.down4 = DoubleConv(4 * n, 8 * n), DoubleConv(8 * n, 16 * n)
        self.join1, self.up1 = UpJoin(16 * n, 8 * n), DoubleConv(16 * n, 8 * n)
        self.join2, self.up2 = UpJoin(8 * n, 4 * n), DoubleConv(8 * n, 4 * n)
        self.join3, self.up3 = UpJoin(4 * n, 2 * n), DoubleConv(4 * n, 2 * n)
        self.join4 = UpJoin(2 * n, n)
        self.head1, self.head2 = conv(2 * n, n), conv(n, 3)
        self.act, self.pool = nn.LeakyReLU(0.01), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x0 = self.act(self.stem2(self.act(self.stem1(x))))
        x1 = self.down1(self.pool(x0))
        x2 = self.down2(self.pool(x1))
        x3 = self.down3(self.pool(x2))
        y = self.up1(self.join1(self.down4(self.pool(x3)), x3))
        y = self.up2(self.join2(y, x2))
        y = self.up3(self.join3(y, x1))
        return self.head2(self.act(self.head1(self.join4(y, x0))))


class PlainPair(nn.Module):
    """R-CNN, then T-CNN: ``(B, 3, H, W)``, ``(B, 1, H, W)`` -> transmission, reflection."""

    def __init__(self, config: ReflectionPairConfig) -> None:
        super().__init__()
        self.r_cnn, self.t_cnn = PlainUNet(4, config.width), PlainUNet(7, config.width)

    def forward(self, x: Tensor, ranged_depth: Tensor) -> tuple[Tensor, Tensor]:
        reflection = self.r_cnn(torch.cat([x, ranged_depth], dim=1))
        return x - self.t_cnn(torch.cat([x, reflection, ranged_depth], dim=1)), reflection


class PlainFusion(FusionBlock):
    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        x = self.resConfUnit2(x)
        return self.out_conv(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True))


def plain_midas() -> MidasSmall:
    """MiDaS small with torch's own 1x1 convolutions, enlarging before them as the published code does."""
    model = MidasSmall()
    for level, channels in ((4, 512), (3, 256), (2, 128), (1, 64)):
        setattr(model.scratch, f"refinenet{level}", PlainFusion(channels, max(64, channels // 2)))
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SameConv2d) and child.kernel_size == (1, 1):
                setattr(parent, name, nn.Conv2d(child.in_channels, child.out_channels, 1, bias=False))
    return model
