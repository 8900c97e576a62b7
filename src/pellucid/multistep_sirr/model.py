"""R-CNN and T-CNN: two U-Nets that take a mixture apart with the help of a ranged depth map (Sec. 3, Fig. 2).

One step of the method::

    R_t = R-CNN(cat[x_t, M])          4 -> 3 channels
    T_t = T-CNN(cat[x_t, R_t, M])     7 -> 3 channels
    x_{t+1} = T_t

Both networks serve every step with the same weights. The paper gives neither width nor layer table; the layers are
those of the U-Net of flash-reflection-removal, the public code behind the paper's main data set, so that its weights
load.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import ConfigError
from pellucid.nn.conv import enlarged_conv, pointwise

STRIDE = 16  # four halvings


@dataclass(frozen=True)
class ReflectionPairConfig:
    """Sizes and choices of `ReflectionPair`; everything needed to build it again.

    Attributes:
        width: channels n at full resolution; 32 is the paper's size, 16 n is the widest level.
        se: gate the deepest features by their global mean (squeeze and excitation).
        final: ``"residual"`` reads the outputs as T = x - f(...) and R = f(...); ``"leaky"`` keeps the activation
            after the last convolution, as the public code does.
        ranges: K, the number of depth ranges (Sec. 3; Table 4 finds 4 best).
        range_mode: ``"uniform"`` cuts the depth into equal intervals, ``"quantile"`` into equally full ones.
        encoding: ``"scalar"`` index/(K-1), ``"onehot"`` K channels, ``"continuous"`` the depth itself (Table 2).
        depth: provider of the depth the weights were trained with; see `pellucid.multistep_sirr.depth`.
        working_side: side in pixels of the pictures the weights saw in training (whole pictures, shorter side);
            the fast way of the pipeline shrinks larger pictures to it. 0 means any.

    Raises:
        ConfigError: a size or choice makes no network.
    """

    width: int = 32
    se: bool = False
    final: Literal["residual", "leaky"] = "residual"
    ranges: int = 4
    range_mode: Literal["uniform", "quantile"] = "uniform"
    encoding: Literal["scalar", "onehot", "continuous"] = "scalar"
    depth: str = "cue"
    working_side: int = 0

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("ranges", 2), ("working_side", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"model.{name} must be at least {least}, found {getattr(self, name)}")
        for name, hint in get_type_hints(ReflectionPairConfig).items():
            known = get_args(hint)  # the choices of a Literal, nothing for other types
            if known and getattr(self, name) not in known:
                found = getattr(self, name)
                raise ConfigError(f"model.{name} {found!r} is not known", f"use {', '.join(known)}")

    @property
    def depth_channels(self) -> int:
        return self.ranges if self.encoding == "onehot" else 1


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with its activation: ``(B, c_in, H, W) -> (B, c_out, H, W)``."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return _act(self.conv2(_act(self.conv1(x))))


class UpJoin(nn.Module):
    """Enlarge twofold, shrink the channels, put the skip beside it: ``-> (B, c_out + c_skip, 2H, 2W)``."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = enlarged_conv(x, self.conv.weight, self.conv.bias)
        missing_h, missing_w = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        if missing_h or missing_w:  # only for sizes that are no multiple of 16, which `nn.conv.pad_to_stride` avoids
            top, left = missing_h // 2, missing_w // 2
            x = F.pad(x, (left, missing_w - left, top, missing_h - top))
        return torch.cat([x, skip], dim=1)


class UNet(nn.Module):
    """The U-Net of both networks: ``(B, c_in, H, W) -> (B, 3, H, W)``, any H and W of at least 16.

    Args:
        c_in: input channels.
        width: channels n at full resolution.
        se: gate the deepest features by their global mean.
        leaky_output: keep the activation after the last convolution.
    """

    def __init__(self, c_in: int, width: int, se: bool = False, leaky_output: bool = False) -> None:
        super().__init__()
        n = width
        self.leaky_output = leaky_output
        self.stem1 = nn.Conv2d(c_in, n, 1)
        self.stem2 = nn.Conv2d(n, n, 3, padding=1)
        self.down1 = DoubleConv(n, 2 * n)
        self.down2 = DoubleConv(2 * n, 4 * n)
        self.down3 = DoubleConv(4 * n, 8 * n)
        self.down4 = DoubleConv(8 * n, 16 * n)
        self.gate_conv = nn.Conv2d(16 * n, 16 * n, 3, padding=1) if se else None
        self.gate_linear = nn.Linear(16 * n, 16 * n) if se else None
        self.join1, self.up1 = UpJoin(16 * n, 8 * n), DoubleConv(16 * n, 8 * n)
        self.join2, self.up2 = UpJoin(8 * n, 4 * n), DoubleConv(8 * n, 4 * n)
        self.join3, self.up3 = UpJoin(4 * n, 2 * n), DoubleConv(4 * n, 2 * n)
        self.join4 = UpJoin(2 * n, n)
        self.head1 = nn.Conv2d(2 * n, n, 3, padding=1)
        self.head2 = nn.Conv2d(n, 3, 3, padding=1)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """Map ``(B, c_in, H, W)`` to ``(B, 3, H, W)``; ``gate`` ``(B, 16n)`` takes the place of this picture's own."""
        x0, x1, x2, x3, x4 = self.encode(x)
        gate = self.gate(x4) if gate is None else gate
        if gate is not None:
            x4 = x4 * gate[:, :, None, None]
        y = self.up1(self.join1(x4, x3))  # (B, 8n, H/8, W/8)
        y = self.up2(self.join2(y, x2))  # (B, 4n, H/4, W/4)
        y = self.up3(self.join3(y, x1))  # (B, 2n, H/2, W/2)
        y = self.join4(y, x0)  # (B, 2n, H, W)
        y = self.head2(_act(self.head1(y)))  # (B, 3, H, W)
        return _act(y) if self.leaky_output else y

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The way down: features from full size to 1/16."""
        x0 = _act(self.stem2(_act(pointwise(x, self.stem1.weight, self.stem1.bias))))  # (B, n, H, W)
        x1 = self.down1(F.max_pool2d(x0, 2))  # (B, 2n, H/2, W/2)
        x2 = self.down2(F.max_pool2d(x1, 2))  # (B, 4n, H/4, W/4)
        x3 = self.down3(F.max_pool2d(x2, 2))  # (B, 8n, H/8, W/8)
        x4 = self.down4(F.max_pool2d(x3, 2))  # (B, 16n, H/16, W/16)
        if self.gate_conv is not None:
            x4 = _act(self.gate_conv(x4))
        return x0, x1, x2, x3, x4

    def gate(self, deepest: Tensor) -> Tensor | None:
        """Factors of the deepest features ``(B, 16n)`` in (0, 1) from their mean over the picture; None without."""
        if self.gate_linear is None:
            return None
        return torch.sigmoid(_act(self.gate_linear(deepest.mean(dim=(2, 3)))))


class ReflectionPair(nn.Module):
    """R-CNN and T-CNN together: one step of the method (Sec. 3, Fig. 2)."""

    def __init__(self, config: ReflectionPairConfig) -> None:
        super().__init__()
        self.config = config
        leaky, depth = config.final == "leaky", config.depth_channels
        self.r_cnn = UNet(3 + depth, config.width, config.se, leaky)
        self.t_cnn = UNet(6 + depth, config.width, config.se, leaky)

    def forward(
        self, x: Tensor, ranged_depth: Tensor, gates: tuple[Tensor | None, Tensor | None] = (None, None)
    ) -> tuple[Tensor, Tensor]:
        """Take a mixture apart, once.

        Args:
            x: mixture ``(B, 3, H, W)``, sRGB in [0, 1]; H and W multiples of 16 avoid a seam (`nn.conv.pad_to_stride`).
            ranged_depth: ``(B, D, H, W)`` in [0, 1], D = ``config.depth_channels``.
            gates: those of `gates` for another view of the same picture: tiles take the whole picture's.

        Returns:
            Transmission and reflection, each ``(B, 3, H, W)``; not clamped, so that overshoot keeps its gradient.
        """
        reflection = self.r_cnn(torch.cat([x, ranged_depth], dim=1), gates[0])
        transmission = self.t_cnn(torch.cat([x, reflection, ranged_depth], dim=1), gates[1])
        if self.config.final == "residual":
            transmission = x - transmission
        return transmission, reflection

    def gates(self, x: Tensor, ranged_depth: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What R-CNN and T-CNN conclude from the picture as a whole, ``(B, 16n)`` each; None without ``se``."""
        if not self.config.se:
            return None, None
        seen = torch.cat([x, ranged_depth], dim=1)
        first = self.r_cnn.gate(self.r_cnn.encode(seen)[-1])
        seen = torch.cat([x, self.r_cnn(seen, first), ranged_depth], dim=1)
        return first, self.t_cnn.gate(self.t_cnn.encode(seen)[-1])


class SimpleRemover(nn.Module):
    """A single U-Net from mixture to transmission, without R-CNN and depth: the "simple UNet" of Table 5."""

    def __init__(self, width: int = 32, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        self.net = UNet(3, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` in [0, 1] to a transmission of the same shape, not clamped."""
        return x - self.net(x) if self.residual else self.net(x)


def convert_flashrr_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of flash-reflection-removal's pair (``layers.0`` R-CNN, ``layers.1`` T-CNN) to ours."""
    rules = [
        (r"^layers\.0\.", "r_cnn."),
        (r"^layers\.1\.", "t_cnn."),
        (r"\.input\.0\.", ".stem1."),
        (r"\.input\.2\.", ".stem2."),
        (r"\.down(\d)\.layers\.1\.layers\.0\.", r".down\1.conv1."),
        (r"\.down(\d)\.layers\.1\.layers\.2\.", r".down\1.conv2."),
        (r"\.conv5\.0\.", ".gate_conv."),
        (r"\.se\.2\.", ".gate_linear."),
        (r"\.up(\d)\.upcat\.up\.1\.", r".join\1.conv."),
        (r"\.up(\d)\.double_conv\.layers\.0\.", r".up\1.conv1."),
        (r"\.up(\d)\.double_conv\.layers\.2\.", r".up\1.conv2."),
        (r"\.up4\.up\.1\.", ".join4.conv."),
        (r"\.out\.0\.", ".head1."),
        (r"\.out\.2\.", ".head2."),
    ]
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def _act(x: Tensor) -> Tensor:
    # In place: the convolution's output is used nowhere else, and this saves a third of the memory traffic.
    return F.leaky_relu(x, 0.01, inplace=True)
