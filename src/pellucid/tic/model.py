"""The generator: luminance and one text vector in, the colour channels out (Sec. 3.1, Fig. 2).

A U-Net over L. The text meets the picture "at the last downsample step": two fully connected layers turn its vector
into a 64x64 map that multiplies all channels there (``fusion="product"``, the paper), or into a factor and a shift for
each channel (``fusion="film"``, ours). Normalised units: ``L_n = L / 50 - 1`` and ``ab_n = ab / 110``.
"""

import copy
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pellucid.errors import ConfigError, InputError
from pellucid.nn.conv import pad_to_stride, pointwise
from pellucid.tic.rrdb import RRDB

Network = TypeVar("Network", bound=nn.Module)

_HIDDEN = 256  # neurons of the first fully connected layer (Sec. 3.1)


@dataclass(frozen=True)
class TICConfig:
    """Sizes and choices of `TICGenerator`, and what its inputs must be; everything needed to build and use it again.

    Attributes:
        width: filters of every convolution on the way down (Sec. 3.1: 64).
        growth: channels that each convolution of the RRDB adds.
        ups: filters after each up-sampling, deepest first; "decrease by two" is read as halved.
        levels: halvings of the picture.
        text_dim: numbers the fully connected layers take.
        vector_dim: numbers of a text vector; a learnt linear layer leads from there to ``text_dim`` if they differ.
        map_side: side of the product's text map, 64 in the paper: 4096 neurons.
        fusion: ``"product"``, the paper's; ``"film"``, factor and shift per channel, there and after the RRDB.
        fuse: where. The paper's 64x64 map does not fit its 32x32 RRDB: ``"pre_last_down"`` multiplies just before the
            last pooling; ``"bottleneck64"`` leaves that pooling out (2 levels); ``"bottleneck32"`` takes a 32x32 map.
        skip_fused: the skip at the place of fusion takes the features after it.
        down: halving by maximum, by mean, or by a learnt convolution of stride 2; the paper does not say.
        rrdb_blocks: dense blocks of the RRDB.
        rrdb_norm: batch norm in the RRDB.
        beta: factor of the RRDB's residuals.
        output: ``"tanh"`` keeps ab_n in -1..1; the paper names no activation.
        text_bias_init: first bias of the last text layer under ``"product"``; 1 would begin with unchanged features.
        l_centre: with ``l_scale`` and ``ab_scale``: L_n = (L - l_centre) / l_scale, ab_n = ab / ab_scale.
        l_scale: see ``l_centre``.
        ab_scale: see ``l_centre``.
        text_norm: length of the text vectors: ``"unit4"`` is 4, ``"none"`` whatever the mean of the words has.
        working_side: side in pixels of the square input that the weights are for (Sec. 3: 256).

    Raises:
        ConfigError: a size or choice makes no network, or two of them contradict each other.
    """

    width: int = 64
    growth: int = 32
    ups: tuple[int, ...] = (64, 32, 16)
    levels: int = 3
    text_dim: int = 256
    vector_dim: int = 256
    map_side: int = 64
    fusion: Literal["product", "film"] = "product"
    fuse: Literal["pre_last_down", "bottleneck64", "bottleneck32"] = "pre_last_down"
    skip_fused: bool = True
    down: Literal["max", "avg", "stride"] = "max"
    rrdb_blocks: int = 3
    rrdb_norm: bool = True
    beta: float = 0.2
    output: Literal["tanh", "none"] = "tanh"
    text_bias_init: float = 0.0
    l_centre: float = 50.0
    l_scale: float = 50.0
    ab_scale: float = 110.0
    text_norm: Literal["unit4", "none"] = "unit4"
    working_side: int = 256

    def __post_init__(self) -> None:
        whole = ("width", "growth", "levels", "text_dim", "vector_dim", "map_side", "rrdb_blocks", "working_side")
        for name in whole:
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be at least 1, found {getattr(self, name)}")
        for name in ("l_scale", "ab_scale"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"model.{name} must be above 0, found {getattr(self, name)}")
        for name, hint in get_type_hints(TICConfig).items():
            known = get_args(hint) if name != "ups" else ()  # the choices of a Literal
            if known and getattr(self, name) not in known:
                found = getattr(self, name)
                raise ConfigError(f"model.{name} {found!r} is not known", f"use {', '.join(known)}")
        if len(self.ups) != self.levels or min(self.ups) < 1:
            raise ConfigError(f"model.ups needs {self.levels} numbers of at least 1, one a level, found {self.ups}")
        if self.fuse != "pre_last_down":
            levels, side = (2, 64) if self.fuse == "bottleneck64" else (3, 32)
            if self.levels != levels or (self.fusion == "product" and self.map_side != side):
                raise ConfigError(
                    f"model.fuse {self.fuse!r} expects levels = {levels} and map_side = {side}, "
                    f"found {self.levels} and {self.map_side}"
                )

    @property
    def stride(self) -> int:
        """Sides of the padded input are multiples of this."""
        return 2**self.levels


PRESETS: dict[str, TICConfig] = {
    "paper": TICConfig(),
    "small": TICConfig(width=32, growth=16, ups=(32, 16, 8)),
}


class ConvBlock(nn.Module):
    """3x3 convolution, batch norm, ReLU: ``(B, c_in, H, W) -> (B, c_out, H, W)``."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


def double_conv(c_in: int, c_out: int) -> nn.Sequential:
    """The two convolution blocks of every resolution level (Sec. 3.1)."""
    return nn.Sequential(ConvBlock(c_in, c_out), ConvBlock(c_out, c_out))


class TextPath(nn.Module):
    """Two fully connected layers, ReLU between them (Sec. 3.1): ``(B, vector_dim) -> (B, outputs)``."""

    def __init__(self, vector_dim: int, text_dim: int, outputs: int) -> None:
        super().__init__()
        self.project = nn.Linear(vector_dim, text_dim) if vector_dim != text_dim else None
        self.fc1 = nn.Linear(text_dim, _HIDDEN)
        self.fc2 = nn.Linear(_HIDDEN, outputs)

    def forward(self, text: Tensor) -> Tensor:
        if self.project is not None:
            text = self.project(text)
        return self.fc2(F.relu(self.fc1(text)))


class TICGenerator(nn.Module):
    """Predicts the colour of a grey picture from its luminance and a text vector (Sec. 3.1)."""

    def __init__(self, config: TICConfig) -> None:
        super().__init__()
        self.config = config
        n, film = config.width, config.fusion == "film"
        outputs = 4 * n if film else config.map_side**2  # factor and shift at two places, or the map
        self.text = TextPath(config.vector_dim, config.text_dim, outputs)
        if not film and config.text_bias_init:
            nn.init.constant_(self.text.fc2.bias, config.text_bias_init)
        self.down = nn.ModuleList(double_conv(1 if level == 0 else n, n) for level in range(config.levels))
        self.halve = nn.ModuleList(_halving(config.down, n) for _ in range(config.levels))
        self.rrdb = RRDB(n, config.growth, config.rrdb_blocks, beta=config.beta, norm=config.rrdb_norm)
        self.enlarge, self.up = nn.ModuleList(), nn.ModuleList()
        c_in = n
        for c_out in config.ups:
            self.enlarge.append(nn.ConvTranspose2d(c_in, c_out, 2, stride=2))
            self.up.append(double_conv(c_out + n, c_out))
            c_in = c_out
        self.head = nn.Conv2d(c_in, 2, 1)

    def forward(self, L_n: Tensor, text: Tensor) -> Tensor:
        """Predict colour.

        Args:
            L_n: luminance ``(B, 1, H, W)`` in -1..1; any H and W, padded by reflection to multiples of 8. Weights know
                the size they were trained at. One picture serves several texts: B may be 1.
            text: vectors ``(B, vector_dim)``; zeros stand for no text.

        Returns:
            ab_n ``(B, 2, H, W)``; in -1..1 with ``output="tanh"``.

        Raises:
            InputError: the text vectors have another dimension, or their number is not that of the pictures.
        """
        self._expect(L_n, text)
        config, texts = self.config, text.shape[0]
        height, width = L_n.shape[-2:]
        condition = self.text(text)  # (B, map_side^2), or (B, 4n)
        x = pad_to_stride(L_n, config.stride)
        skips: list[Tensor] = []
        for level, (block, halve) in enumerate(zip(self.down, self.halve, strict=True), 1):
            x = block(x)  # (B, n, H / 2^(level - 1), W / 2^(level - 1))
            if level == config.levels and config.fuse == "pre_last_down":
                fused = self._fuse(x, condition)
                skips.append(fused if config.skip_fused else x)
                x = fused
            else:
                skips.append(x)
            x = halve(x)
        if config.fuse != "pre_last_down":
            x = self._fuse(x, condition)
        x = self.rrdb(x)  # (B, n, H / 8, W / 8)
        if config.fusion == "film":
            x = _film(x, *condition.chunk(4, dim=1)[2:])
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            skip = skips.pop().expand(texts, -1, -1, -1)
            x = block(torch.cat([enlarge(x), skip], dim=1))
        x = pointwise(x, self.head.weight, self.head.bias)  # (B, 2, H, W), padded
        x = torch.tanh(x) if config.output == "tanh" else x
        return x[..., :height, :width]

    def _fuse(self, x: Tensor, condition: Tensor) -> Tensor:
        """Let the text act on the features: ``(B or 1, n, h, w) -> (B, n, h, w)``."""
        if self.config.fusion == "film":
            return _film(x, *condition.chunk(4, dim=1)[:2])
        side = self.config.map_side
        text_map = condition.view(-1, 1, side, side)
        if x.shape[-2:] != (side, side):  # inputs other than 256x256
            text_map = F.interpolate(text_map, x.shape[-2:], mode="bilinear", align_corners=False)
        return x * text_map

    def _expect(self, L_n: Tensor, text: Tensor) -> None:
        wanted = self.config.vector_dim
        if text.ndim != 2 or text.shape[1] != wanted:
            raise InputError(
                f"text vectors: expected (B, {wanted}), found {tuple(text.shape)}",
                f"use word vectors with {wanted} numbers, or weights that were trained with yours",
            )
        if L_n.ndim != 4 or L_n.shape[1] != 1:
            raise InputError(f"luminance: expected (B, 1, H, W), found {tuple(L_n.shape)}")
        if L_n.shape[0] != text.shape[0] and L_n.shape[0] != 1:
            raise InputError(f"expected as many text vectors as pictures, {L_n.shape[0]}, found {text.shape[0]}")


def fold_norms(network: Network) -> Network:
    """Copy a network for inference, every batch norm folded into the convolution right before it.

    Args:
        network: a network whose norms are registered directly after their convolutions, with running statistics.

    Returns:
        A copy in eval mode, without gradients, that answers as the network does in eval mode (within rounding).

    Raises:
        ConfigError: a norm does not follow a convolution.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for name, parent in folded.named_modules():
        before: tuple[str, nn.Module | None] = ("", None)
        for key, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                place, conv = before
                if not isinstance(conv, nn.Conv2d):
                    raise ConfigError(f"{name}.{key}: expected a convolution right before the norm")
                parent.add_module(place, fuse_conv_bn_eval(conv, child))
                parent.add_module(key, nn.Identity())
            before = (key, child)
    return folded


def _film(x: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    return x * (1 + factor[:, :, None, None]) + shift[:, :, None, None]


def _halving(how: str, channels: int) -> nn.Module:
    if how == "stride":
        return nn.Conv2d(channels, channels, 3, stride=2, padding=1)
    return nn.MaxPool2d(2) if how == "max" else nn.AvgPool2d(2)
