"""SEAN: one style code for each class beside the mask's own shape (Zhu et al., CVPR 2020).

The published code loops over pictures and classes; here both are axes. A style map is constant within a class, so its
convolution is one of the K mask planes with K composed kernels: the same sum with 19 instead of 512 channels.
Legend: G one-hot mask ``(B, K, H, W)``; S style codes ``(B, K, D)``, D = 512; keys as published.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.semantic_vae.faces.spade import (
    SLOPE,
    SPADE,
    FaceNetworkConfig,
    MaskPyramid,
    convolution,
    enlarge,
    first_size,
)

Noise = dict[str, Tensor]


class StyleEncoder(nn.Module):
    """Style codes of a picture: features at half its size, averaged over each class.

    Args:
        style: D.
    """

    def __init__(self, style: int = 512) -> None:
        super().__init__()
        # A sequence because the published keys are places in one.
        self.model = nn.Sequential(
            nn.ReflectionPad2d(1),
            *_normed(nn.Conv2d(3, 32, 3)),
            *_normed(nn.Conv2d(32, 64, 3, stride=2, padding=1)),
            *_normed(nn.Conv2d(64, 128, 3, stride=2, padding=1)),
            *_normed(nn.ConvTranspose2d(128, 256, 3, stride=2, padding=1, output_padding=1)),
            nn.ReflectionPad2d(1),
            nn.Conv2d(256, style, 3),
            nn.Tanh(),
        )

    def forward(self, picture: Tensor, mask: MaskPyramid) -> Tensor:
        """Encode ``(B, 3, H, W)`` in [-1, 1]: ``(B, K, D)``, zeros for classes that are not there."""
        features = self.model(picture)  # (B, D, H/2, W/2)
        planes = mask.like(features)
        sums = torch.einsum("bkhw,bdhw->bkd", planes, features)
        return sums / planes.sum(dim=(2, 3)).clamp(min=1)[..., None]


class ACE(nn.Module):
    """Normalisation by region: scale and shift from style codes and mask, blended by two learned numbers.

    Args:
        channels: C of the features.
        config: of the generator.
        styled: without it the mask alone scales and shifts, as in the last block.
    """

    def __init__(self, channels: int, config: FaceNetworkConfig, styled: bool) -> None:
        super().__init__()
        self.classes, self.styled = config.classes, styled
        self.blending_gamma = nn.Parameter(torch.zeros(1))
        self.blending_beta = nn.Parameter(torch.zeros(1))
        self.noise_var = nn.Parameter(torch.zeros(channels))
        self.Spade = SPADE(channels, config.classes, config.hidden)  # its own norm is in the files, and not used
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        if styled:
            for place in range(config.classes):
                self.add_module(f"fc_mu{place}", nn.Linear(config.style, config.style))
            self.conv_gamma = nn.Conv2d(config.style, channels, 3, padding=1)
            self.conv_beta = nn.Conv2d(config.style, channels, 3, padding=1)

    def modulation(self, planes: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift ``(B, C, h, w)`` each, from the mask ``(B, K, h, w)`` and S."""
        gamma, beta = self.Spade.modulation(planes)
        if not self.styled:
            return gamma, beta
        values = self._values(codes)  # (B, K, D)
        by_gamma, by_beta = torch.sigmoid(self.blending_gamma), torch.sigmoid(self.blending_beta)
        style_gamma = _painted(planes, values, self.conv_gamma)
        style_beta = _painted(planes, values, self.conv_beta)
        return torch.lerp(gamma, style_gamma, by_gamma), torch.lerp(beta, style_beta, by_beta)

    def forward(self, x: Tensor, mask: MaskPyramid, codes: Tensor, noise: Tensor | None) -> Tensor:
        """Normalise ``(B, C, h, w)``.

        Args:
            x: features.
            mask: G.
            codes: S.
            noise: ``(B, w, h, 1)`` from N(0, 1), one plane for all channels; None for no noise. The odd order of the
                axes is that of the published code, so that its noise can be given.
        """
        if noise is not None:
            x = x + (noise * self.noise_var).transpose(1, 3)  # (B, C, h, w)
        gamma, beta = self.modulation(mask.like(x), codes)
        return torch.addcmul(beta, self.param_free_norm(x), 1 + gamma)

    def _values(self, codes: Tensor) -> Tensor:
        """ReLU(fc_mu_k(S_k)) of every class: ``(B, K, D)``."""
        layers = [self.get_submodule(f"fc_mu{place}") for place in range(self.classes)]
        return F.relu(torch.stack([layer(codes[:, place]) for place, layer in enumerate(layers)], dim=1))


class SEANResBlock(nn.Module):
    """`spade.SPADEResBlock` with ACE in place of SPADE: ``(B, c_in, h, w) -> (B, c_out, h, w)``."""

    def __init__(self, c_in: int, c_out: int, config: FaceNetworkConfig, spectral: bool, styled: bool) -> None:
        super().__init__()
        middle = min(c_in, c_out)
        self.conv_0 = convolution(c_in, middle, 3, spectral)
        self.conv_1 = convolution(middle, c_out, 3, spectral)
        self.ace_0 = ACE(c_in, config, styled)
        self.ace_1 = ACE(middle, config, styled)
        self.learned = c_in != c_out
        if self.learned:
            self.conv_s = convolution(c_in, c_out, 1, spectral, bias=False)
            self.ace_s = ACE(c_in, config, styled)

    def forward(self, x: Tensor, mask: MaskPyramid, codes: Tensor, noise: list[Tensor | None]) -> Tensor:
        """Args are those of `ACE.forward`; ``noise`` for ace_0, ace_1 and ace_s."""
        shortcut = self.conv_s(self.ace_s(x, mask, codes, noise[2])) if self.learned else x
        y = self.conv_0(F.leaky_relu(self.ace_0(x, mask, codes, noise[0]), SLOPE, inplace=True))
        y = self.conv_1(F.leaky_relu(self.ace_1(y, mask, codes, noise[1]), SLOPE, inplace=True))
        return shortcut + y


class SEANGenerator(nn.Module):
    """Mask and style codes -> picture ``(B, 3, H, W)`` in [-1, 1].

    Args:
        config: sizes; `size` is not used, the mask tells it.
        spectral: spectral norm, for training; without it the weights must be folded, see `spade.fold_spectral`.
    """

    def __init__(self, config: FaceNetworkConfig, spectral: bool = True) -> None:
        super().__init__()
        n = config.width
        self.config = config
        self.Zencoder = StyleEncoder(config.style)
        self.fc = nn.Conv2d(config.classes, 16 * n, 3, padding=1)
        self.head_0 = SEANResBlock(16 * n, 16 * n, config, spectral, styled=True)
        self.G_middle_0 = SEANResBlock(16 * n, 16 * n, config, spectral, styled=True)
        self.G_middle_1 = SEANResBlock(16 * n, 16 * n, config, spectral, styled=True)
        self.up_0 = SEANResBlock(16 * n, 8 * n, config, spectral, styled=True)
        self.up_1 = SEANResBlock(8 * n, 4 * n, config, spectral, styled=True)
        self.up_2 = SEANResBlock(4 * n, 2 * n, config, spectral, styled=True)
        self.up_3 = SEANResBlock(2 * n, n, config, spectral, styled=False)
        self.conv_img = nn.Conv2d(n, 3, 3, padding=1)

    def encode(self, picture: Tensor, planes: Tensor) -> Tensor:
        """S ``(B, K, D)`` of pictures ``(B, 3, H, W)`` in [-1, 1] with their one-hot masks ``(B, K, H, W)``."""
        return self.Zencoder(picture, MaskPyramid(planes))

    def forward(self, planes: Tensor, style: Tensor, noise: Noise | None = None) -> Tensor:
        """Render one-hot masks.

        Args:
            planes: G, sides multiples of 32.
            style: S ``(B, K, D)``; or pictures ``(B, 3, H, W)`` to take it from, as training does.
            noise: by the module's path, such as ``"head_0.ace_0"``, see `draw_noise`; None for no noise.
        """
        mask = MaskPyramid(planes)
        codes = self.Zencoder(style, mask) if style.ndim == 4 else style

        def block(name: str, x: Tensor) -> Tensor:
            found = noise or {}
            planes_of = [found.get(f"{name}.{ace}") for ace in ("ace_0", "ace_1", "ace_s")]
            return self.get_submodule(name)(x, mask, codes, planes_of)

        x = self.fc(mask.at(first_size(planes)))  # (B, 16n, H/32, W/32)
        x = block("head_0", x)
        x = block("G_middle_0", enlarge(x))  # H/16
        x = block("G_middle_1", x)
        x = block("up_0", enlarge(x))  # (B, 8n, H/8, W/8)
        x = block("up_1", enlarge(x))  # (B, 4n, H/4, W/4)
        x = block("up_2", enlarge(x))  # (B, 2n, H/2, W/2)
        x = block("up_3", enlarge(x))  # (B, n, H, W)
        return torch.tanh(self.conv_img(F.leaky_relu(x, SLOPE)))


# Blocks in order: how much smaller than the picture their features are, and their normalisations.
_BLOCKS = {
    "head_0": (32, ("ace_0", "ace_1")),
    "G_middle_0": (16, ("ace_0", "ace_1")),
    "G_middle_1": (16, ("ace_0", "ace_1")),
    "up_0": (8, ("ace_0", "ace_1", "ace_s")),
    "up_1": (4, ("ace_0", "ace_1", "ace_s")),
    "up_2": (2, ("ace_0", "ace_1", "ace_s")),
    "up_3": (1, ("ace_0", "ace_1", "ace_s")),
}


def draw_noise(size: tuple[int, int], generator: torch.Generator, count: int = 1, scale: float = 1.0) -> Noise:
    """Draw the noise of every ACE for pictures of ``size`` ``(H, W)``, on the generator's device.

    Args:
        size: of the pictures, multiples of 32.
        generator: where it comes from.
        count: pictures.
        scale: factor; 1 is the published noise.

    Returns:
        Path of the module -> ``(count, w, h, 1)``.
    """
    noise: Noise = {}
    for name, (stride, aces) in _BLOCKS.items():
        height, width = size[0] // stride, size[1] // stride
        for ace in aces:
            drawn = torch.randn(count, width, height, 1, generator=generator, device=generator.device)
            noise[f"{name}.{ace}"] = drawn * scale
    return noise


def _painted(planes: Tensor, values: Tensor, conv: nn.Conv2d) -> Tensor:
    """Convolve the map that has ``values[k]`` wherever class k is: ``(B, C, h, w)``.

    The map is a product of planes ``(B, K, h, w)`` and values ``(B, K, D)``, so the kernel can be composed with the
    values first; the map of D channels is never made.
    """
    kernels = torch.einsum("cdyx,bkd->bckyx", conv.weight, values)  # (B, C, K, 3, 3)
    batch, channels = kernels.shape[:2]
    grouped = planes.to(kernels.dtype).flatten(0, 1)[None]  # (1, B K, h, w): one group a picture
    out = F.conv2d(grouped, kernels.flatten(0, 1), padding=1, groups=batch)
    return out.unflatten(1, (batch, channels))[0] + (conv.bias[:, None, None] if conv.bias is not None else 0)


def _normed(conv: nn.Module) -> tuple[nn.Module, ...]:
    channels = conv.out_channels
    assert isinstance(channels, int)
    return conv, nn.InstanceNorm2d(channels), nn.LeakyReLU(SLOPE)
