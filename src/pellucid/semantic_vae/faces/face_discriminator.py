"""The judge of mask-to-face training: a patch discriminator at two scales that looks at mask and picture (Sec. 5.3).

`nn.patch_discriminator` is another form: it has batch norm, padding 1 and no features to match. Keys are those of the
public code.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

from pellucid.errors import ConfigError

_KERNEL = 4
_PADDING = 2
_WIDEST = 512


class FaceDiscriminator(nn.Module):
    """One scale: ``(B, c_in, H, W) -> `` features of every layer, the last ``(B, 1, h, w)`` one logit a patch.

    4x4 convolutions and leaky ReLU 0.2; all but the first and last have spectral norm and instance norm.

    Args:
        c_in: planes of the mask and channels of the picture.
        width: filters of the first convolution; doubled from layer to layer, up to 512.
        layers: convolutions before the one that answers.
        last_stride: stride of the last of them; the others have 2.
    """

    def __init__(self, c_in: int, width: int, layers: int, last_stride: int) -> None:
        super().__init__()
        first = nn.Conv2d(c_in, width, _KERNEL, stride=2, padding=_PADDING)
        self.add_module("model0", nn.Sequential(first, nn.LeakyReLU(0.2)))
        for n in range(1, layers):
            before, width = width, min(2 * width, _WIDEST)
            stride = last_stride if n == layers - 1 else 2
            conv = spectral_norm(nn.Conv2d(before, width, _KERNEL, stride, _PADDING, bias=False))
            block = nn.Sequential(nn.Sequential(conv, nn.InstanceNorm2d(width)), nn.LeakyReLU(0.2))
            self.add_module(f"model{n}", block)
        self.add_module(f"model{layers}", nn.Sequential(nn.Conv2d(width, 1, _KERNEL, padding=_PADDING)))

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for layer in self.children():
            x = layer(x)
            features.append(x)
        return features


class MultiscaleDiscriminator(nn.Module):
    """`FaceDiscriminator` at full size, half size and so on: features of each, ``[scale][layer]``.

    Args:
        c_in: planes of the mask and channels of the picture.
        width: ``ndf``.
        layers: ``n_layers_D``: 4 for SPADE, 3 for SEAN.
        last_stride: stride of the last convolution before the answer: 1 for SPADE, 2 for SEAN.
        scales: how many; between two the input is averaged over 3x3 pixels with stride 2.

    Raises:
        ConfigError: a size makes no network.
    """

    def __init__(self, c_in: int = 22, width: int = 64, layers: int = 4, last_stride: int = 1, scales: int = 2) -> None:
        super().__init__()
        sizes = {"c_in": c_in, "width": width, "layers": layers, "last_stride": last_stride, "scales": scales}
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"face discriminator: {name} must be at least 1, found {value}")
        for scale in range(scales):
            self.add_module(f"discriminator_{scale}", FaceDiscriminator(c_in, width, layers, last_stride))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Judge masks and pictures, ``(B, K + 3, H, W)``: one-hot planes, then the picture in [-1, 1]."""
        answers: list[list[Tensor]] = []
        for scale, judge in enumerate(self.children()):
            if scale:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            answers.append(judge(x))
        return answers
