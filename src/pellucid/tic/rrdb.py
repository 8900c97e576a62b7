"""Residual in Residual Dense Block (Sec. 3.1, Fig. 3), after ESRGAN (Wang et al. 2018).

Every convolution of a dense block sees the outputs of all before it. Beside ESRGAN's block this one has a batch norm
after each convolution, as the paper says; with ``norm=False`` the keys and answers are ESRGAN's.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import ConfigError


class DenseBlock(nn.Module):
    """x + beta * (dense convolutions of x): ``(B, channels, H, W)``, the same shape out.

    Args:
        channels: of input and output.
        growth: channels that each convolution but the last adds.
        convolutions: 3x3 convolutions; leaky ReLU 0.2 follows all but the last.
        beta: factor of the residual.
        norm: batch norm after each convolution.
    """

    def __init__(self, channels: int, growth: int, convolutions: int, beta: float, norm: bool) -> None:
        super().__init__()
        self.beta = beta
        self.convolutions = convolutions
        for number in range(1, convolutions + 1):
            c_in, c_out = channels + (number - 1) * growth, growth if number < convolutions else channels
            # A norm directly after its convolution, which `fold_norms` goes by.
            self.add_module(f"conv{number}", nn.Conv2d(c_in, c_out, 3, padding=1))
            self.add_module(f"norm{number}", nn.BatchNorm2d(c_out) if norm else nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for number in range(1, self.convolutions + 1):
            y = self.get_submodule(f"conv{number}")(torch.cat(seen, dim=1))
            y = self.get_submodule(f"norm{number}")(y)
            if number < self.convolutions:
                seen.append(F.leaky_relu(y, 0.2, inplace=True))
        return x + self.beta * y


class RRDB(nn.Module):
    """x + beta * (dense blocks one after another): ``(B, channels, H, W)``, the same shape out.

    The paper gives neither the number of blocks and convolutions nor growth and beta; the defaults are ESRGAN's.

    Args:
        channels: of input and output.
        growth: channels that each convolution of a dense block adds.
        blocks: dense blocks.
        convolutions: 3x3 convolutions of a dense block.
        beta: factor of each dense block's residual and of the whole one's.
        norm: batch norm after each convolution; without, ESRGAN's weights load (``RDB1.conv1.weight`` ...).

    Raises:
        ConfigError: a size makes no network.
    """

    def __init__(
        self,
        channels: int = 64,
        growth: int = 32,
        blocks: int = 3,
        convolutions: int = 5,
        beta: float = 0.2,
        norm: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "growth": growth, "blocks": blocks, "convolutions": convolutions}
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"RRDB: {name} must be at least 1, found {value}")
        self.beta = beta
        for number in range(1, blocks + 1):
            self.add_module(f"RDB{number}", DenseBlock(channels, growth, convolutions, beta, norm))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in self.children():
            y = block(y)
        return x + self.beta * y
