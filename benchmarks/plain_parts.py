"""The face-parts network as one writes it down from the layer table: the other side of the comparison.

Contiguous NCHW tensors, float32, one operation after the other: planes first, enlarging before every convolution. Names
are those of our modules, so that the same weights load.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.semantic_vae.model import SemanticVAEConfig


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class PlainEncoder(nn.Module):
    def __init__(self, config: SemanticVAEConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        last = config.encoder_side**2
        for width in config.encoder_widths:
            layers += [nn.Linear(last, width), nn.ReLU()]
            last = width
        self.encs = nn.Sequential(*layers)
        self.mu, self.log_var = nn.Linear(last, config.latent), nn.Linear(last, config.latent)

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encs(planes)
        return self.mu(h), self.log_var(h)


class PlainFeedForward(nn.Module):
    def __init__(self, c_in: int, width: int, latent: int) -> None:
        super().__init__()
        self.decs = nn.Sequential(nn.Linear(c_in, width), nn.GELU(), nn.Linear(width, latent))

    def forward(self, x: Tensor) -> Tensor:
        return self.decs(x)


class PlainBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, c_out), nn.SiLU(), nn.Identity(), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = double(self.in_layers[1](self.in_layers[0](x)))
        return self.skip_connection(double(x)) + self.out_layers(self.in_layers[2](h))


class PlainDecoder(nn.Module):
    def __init__(self, config: SemanticVAEConfig) -> None:
        super().__init__()
        parts, widths = len(config.parts), config.channels
        self.in_conv = nn.Conv2d(parts, widths[0], 1)
        self.decs = nn.ModuleList(PlainBlock(a, b, config.groups) for a, b in pairwise(widths))
        self.out_conv = nn.Conv2d(widths[-1], parts, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(x)
        for block in self.decs:
            x = block(x)
        return self.out_conv(x)


class PlainVAE(nn.Module):
    """Bi-directional LSTM, background 0 with a logit of 0, as the preset ``official``."""

    def __init__(self, config: SemanticVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encs = PlainEncoder(config)
        self.lstm = nn.LSTM(config.latent, config.lstm_hidden, config.lstm_layers, batch_first=True, bidirectional=True)
        self.decs = PlainFeedForward(2 * config.lstm_hidden, config.ff_width, config.latent)
        self.resh_lin = nn.Linear(2 * config.lstm_hidden, config.latent)
        self.decs_conv = PlainDecoder(config)

    def encode(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        side = self.config.encoder_side
        planes = F.one_hot(labels.long(), self.config.classes).permute(0, 3, 1, 2)[:, 1:].float()
        return self.encs(F.interpolate(planes, (side, side), mode="nearest").flatten(2))

    def decode(self, z: Tensor) -> Tensor:
        h, _ = self.lstm(z)
        x = self.decs(h) + self.resh_lin(h)
        logits = self.decs_conv(x.unflatten(2, (self.config.code_side, self.config.code_side)))
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
