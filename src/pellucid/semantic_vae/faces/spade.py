"""SPADE: the mask itself scales and shifts the features, at every depth (Park et al., CVPR 2019).

Keys are those of the published generator, so that its files load as they are. ``G`` below is the one-hot mask
``(B, K, H, W)`` at the size of the output, K classes; the network sees it nearest-resized to every size it works at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

from pellucid.errors import ConfigError

STRIDE = 32  # the first features are that much smaller than the picture: five times enlarged by 2
SLOPE = 0.2  # of every leaky ReLU


@dataclass(frozen=True)
class FaceNetworkConfig:
    """What a generator of the SPADE or SEAN layout is made of. Defaults are the published ones.

    Attributes:
        layout: ``"spade"`` or ``"sean"``.
        classes: K, planes of the mask.
        width: ``ngf``; the first features have 16 times as many channels.
        hidden: channels between mask and scales in every SPADE.
        style: length of one class's style code (SEAN).
        size: side of the pictures it was trained on, in pixels; a multiple of 32.

    Raises:
        ConfigError: an unknown layout, or a size that makes no network.
    """

    layout: str = "spade"
    classes: int = 19
    width: int = 64
    hidden: int = 128
    style: int = 512
    size: int = 256

    def __post_init__(self) -> None:
        if self.layout not in ("spade", "sean"):
            raise ConfigError(f"generator layout must be spade or sean, found {self.layout!r}")
        for name in ("classes", "width", "hidden", "style"):
            if getattr(self, name) < 1:
                raise ConfigError(f"generator: {name} must be at least 1, found {getattr(self, name)}")
        if self.size < STRIDE or self.size % STRIDE:
            raise ConfigError(f"generator: size must be a multiple of {STRIDE}, found {self.size}")


class MaskPyramid:
    """The one-hot mask at every size that is asked for, resized once each.

    Args:
        planes: G, ``(B, K, H, W)``, one-hot in its second axis.
    """

    def __init__(self, planes: Tensor) -> None:
        self.planes = planes
        self._sizes: dict[tuple[int, int], Tensor] = {(planes.shape[2], planes.shape[3]): planes}

    def like(self, x: Tensor) -> Tensor:
        """G at the size of ``x`` ``(B, C, h, w)``: ``(B, K, h, w)``."""
        return self.at((x.shape[2], x.shape[3]))

    def at(self, size: tuple[int, int]) -> Tensor:
        """G nearest-resized to ``(h, w)``: ``(B, K, h, w)``."""
        if size not in self._sizes:
            self._sizes[size] = F.interpolate(self.planes, size, mode="nearest")
        return self._sizes[size]


class SPADE(nn.Module):
    """Batch norm without parameters, scaled and shifted by what two convolutions make of the mask.

    Args:
        channels: C of the features.
        classes: K.
        hidden: channels between.
    """

    def __init__(self, channels: int, classes: int, hidden: int = 128) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(classes, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def modulation(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift ``(B, C, h, w)`` each, from the mask ``(B, K, h, w)``."""
        hidden = self.mlp_shared(planes)  # (B, hidden, h, w)
        return self.mlp_gamma(hidden), self.mlp_beta(hidden)

    def forward(self, x: Tensor, mask: MaskPyramid) -> Tensor:
        gamma, beta = self.modulation(mask.like(x))
        return torch.addcmul(beta, self.param_free_norm(x), 1 + gamma)


class SPADEResBlock(nn.Module):
    """Two convolutions and a shortcut, each after its SPADE: ``(B, c_in, h, w) -> (B, c_out, h, w)``.

    Args:
        c_in: channels in.
        c_out: channels out; where they differ the shortcut has a SPADE and a 1x1 convolution of its own.
        config: of the generator.
        spectral: spectral norm on the convolutions, with the old style's keys ``weight_orig, weight_u, weight_v``.
    """

    def __init__(self, c_in: int, c_out: int, config: FaceNetworkConfig, spectral: bool) -> None:
        super().__init__()
        middle = min(c_in, c_out)
        self.conv_0 = convolution(c_in, middle, 3, spectral)
        self.conv_1 = convolution(middle, c_out, 3, spectral)
        self.norm_0 = SPADE(c_in, config.classes, config.hidden)
        self.norm_1 = SPADE(middle, config.classes, config.hidden)
        self.learned = c_in != c_out
        if self.learned:
            self.conv_s = convolution(c_in, c_out, 1, spectral, bias=False)
            self.norm_s = SPADE(c_in, config.classes, config.hidden)

    def forward(self, x: Tensor, mask: MaskPyramid) -> Tensor:
        shortcut = self.conv_s(self.norm_s(x, mask)) if self.learned else x
        y = self.conv_0(F.leaky_relu(self.norm_0(x, mask), SLOPE, inplace=True))
        y = self.conv_1(F.leaky_relu(self.norm_1(y, mask), SLOPE, inplace=True))
        return shortcut + y


class SPADEGenerator(nn.Module):
    """``(B, K, H, W) -> (B, 3, H, W)`` in [-1, 1]: seven blocks, five times enlarged by 2 (nearest).

    Args:
        config: sizes; `size` is not used, the mask tells it.
        spectral: spectral norm, for training; without it the weights must be folded, see `fold_spectral`.
    """

    def __init__(self, config: FaceNetworkConfig, spectral: bool = True) -> None:
        super().__init__()
        n = config.width
        self.fc = nn.Conv2d(config.classes, 16 * n, 3, padding=1)
        self.head_0 = SPADEResBlock(16 * n, 16 * n, config, spectral)
        self.G_middle_0 = SPADEResBlock(16 * n, 16 * n, config, spectral)
        self.G_middle_1 = SPADEResBlock(16 * n, 16 * n, config, spectral)
        self.up_0 = SPADEResBlock(16 * n, 8 * n, config, spectral)
        self.up_1 = SPADEResBlock(8 * n, 4 * n, config, spectral)
        self.up_2 = SPADEResBlock(4 * n, 2 * n, config, spectral)
        self.up_3 = SPADEResBlock(2 * n, n, config, spectral)
        self.conv_img = nn.Conv2d(n, 3, 3, padding=1)

    def forward(self, planes: Tensor) -> Tensor:
        """Render one-hot masks ``(B, K, H, W)``, sides multiples of 32."""
        mask = MaskPyramid(planes)
        x = self.fc(mask.at(first_size(planes)))  # (B, 16n, H/32, W/32)
        x = self.head_0(x, mask)
        x = self.G_middle_0(enlarge(x), mask)  # H/16
        x = self.G_middle_1(x, mask)
        x = self.up_0(enlarge(x), mask)  # (B, 8n, H/8, W/8)
        x = self.up_1(enlarge(x), mask)  # (B, 4n, H/4, W/4)
        x = self.up_2(enlarge(x), mask)  # (B, 2n, H/2, W/2)
        x = self.up_3(enlarge(x), mask)  # (B, n, H, W)
        return torch.tanh(self.conv_img(F.leaky_relu(x, SLOPE)))


def first_size(planes: Tensor) -> tuple[int, int]:
    """Size of the first features for a mask ``(B, K, H, W)``.

    Raises:
        ConfigError: a side is no multiple of 32.
    """
    height, width = planes.shape[2:]
    if height % STRIDE or width % STRIDE or not height or not width:
        raise ConfigError(f"a generator takes sides that are multiples of {STRIDE}, found {height}x{width}")
    return height // STRIDE, width // STRIDE


def enlarge(x: Tensor) -> Tensor:
    """Nearest, twofold: ``(B, C, h, w) -> (B, C, 2h, 2w)``."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Planes ``(B, K, H, W)`` float32 of label maps ``(B, H, W)``; a label of K or more belongs to no plane."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)[:, None, None]).float()


def fold_spectral(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divide every spectrally normalised weight by its norm u^T W v once, as evaluation does at every call.

    Args:
        state: with ``X.weight_orig`` ``(c_out, ...)``, ``X.weight_u`` ``(c_out,)`` and ``X.weight_v``; other keys stay.

    Returns:
        The state with ``X.weight`` in place of the three.
    """
    folded: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith(".weight_orig"):
            stem = key.removesuffix("_orig")
            sigma = torch.dot(state[f"{stem}_u"], torch.mv(value.flatten(1), state[f"{stem}_v"]))
            folded[stem] = value / sigma
        elif not key.endswith((".weight_u", ".weight_v")):
            folded[key] = value
    return folded


def settle_spectral(state: Mapping[str, Tensor], iterations: int = 10) -> dict[str, Tensor]:
    """Find the singular vectors of every spectrally normalised weight anew, by power iteration from those stored.

    Training follows them one iteration a step; an average of weights also averages the vectors, which then are none.

    Args:
        state: with ``X.weight_orig, X.weight_u, X.weight_v``; other keys stay.
        iterations: of the power method.
    """
    settled = dict(state)
    for key, value in state.items():
        if key.endswith(".weight_orig"):
            stem = key.removesuffix("_orig")
            matrix, u = value.flatten(1), state[f"{stem}_u"]
            v = state[f"{stem}_v"]
            for _ in range(iterations):
                v = F.normalize(torch.mv(matrix.T, u), dim=0)
                u = F.normalize(torch.mv(matrix, v), dim=0)
            settled[f"{stem}_u"], settled[f"{stem}_v"] = u, v
    return settled


def draw_weights(module: nn.Module, gain: float = 0.02) -> None:
    """Xavier's normal distribution with gain 0.02 for all convolutions and linear layers; biases 0 (Sec. 5.3)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_normal_(getattr(part, "weight_orig", part.weight), gain)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def convolution(c_in: int, c_out: int, kernel: int, spectral: bool, bias: bool = True) -> nn.Module:
    """A convolution that keeps the size, with or without spectral norm in the old style."""
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=bias)
    return spectral_norm(conv) if spectral else conv
