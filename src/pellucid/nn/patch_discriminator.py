"""A discriminator that judges patches (PatchGAN, Isola et al. 2017): many answers a picture, none about its whole."""

import re
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import ConfigError

_KERNEL = 4
_WIDEST = 8  # times the first width, as in the public code


class PatchBlock(nn.Module):
    """4x4 convolution, batch norm (or none), leaky ReLU 0.2: ``(B, c_in, H, W) -> (B, c_out, ...)``, padding 1."""

    def __init__(self, c_in: int, c_out: int, stride: int, norm: bool, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, _KERNEL, stride, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(c_out) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), 0.2, inplace=True)


class PatchDiscriminator(nn.Module):
    """``(B, in_channels, H, W) -> (B, 1, h, w)``, one logit a patch: 62x62 at 256 and two layers, each of 34 pixels.

    ``layers`` blocks of stride 2 (width, 2 width, ...), one of stride 1, and a last 4x4 convolution. Without
    ``first_norm`` it is the public ``NLayerDiscriminator``; see `convert_nlayer_keys` for its weights.

    Args:
        in_channels: of the pictures.
        width: filters of the first block; doubled from block to block, up to 8 times.
        layers: blocks of stride 2.
        first_norm: batch norm in the first block too. Its convolution keeps its bias either way.

    Raises:
        ConfigError: a size makes no network.
    """

    def __init__(self, in_channels: int = 3, width: int = 64, layers: int = 2, first_norm: bool = True) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("width", width), ("layers", layers)):
            if value < 1:
                raise ConfigError(f"discriminator: {name} must be at least 1, found {value}")
        widths = [width * min(2**n, _WIDEST) for n in range(layers + 1)]
        blocks = [PatchBlock(in_channels, width, stride=2, norm=first_norm, bias=True)]
        for n in range(1, layers + 1):
            stride = 2 if n < layers else 1
            blocks.append(PatchBlock(widths[n - 1], widths[n], stride, norm=True, bias=False))
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(widths[-1], 1, _KERNEL, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def convert_nlayer_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a public ``NLayerDiscriminator`` (``model.0.weight`` ...) to those of ``first_norm=False``."""
    places = {key: int(found[1]) for key in state if (found := re.match(r"model\.(\d+)\.", key))}
    last = max(places.values(), default=-1)
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key not in places:
            renamed[key] = value  # loading will name it
            continue
        # model.0 is the first convolution; block n >= 1 is convolution 3n - 1, norm 3n, activation 3n + 1.
        place, leaf = places[key], key.rsplit(".", 1)[1]
        block = (place + 1) // 3
        module = "head" if place == last else f"blocks.{block}.{'norm' if place and place % 3 == 0 else 'conv'}"
        renamed[f"{module}.{leaf}"] = value
    return renamed
