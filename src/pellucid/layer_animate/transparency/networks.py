"""The networks of latent transparency, with the layout and the keys of LayerDiffuse's released files, at any width."""

from __future__ import annotations

from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block, get_up_block
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import ConfigError

ENCODER_CHANNELS = (32, 32, 64, 64, 128, 128, 256, 256)  # the released files
DECODER_WIDTHS = (32, 32, 64, 128, 256, 512, 512)


class TransparencyEncoder(nn.Module):
    """E: alpha and padded colour -> the offset of the latent (Sec. 2.1 of LayerDiffuse's released code).

    3x3 convolutions with SiLU between, two for each level; every level but the first begins with stride 2. The keys are
    those of the released files: ``blocks.{0,2,...}``.

    Args:
        channels: of the convolutions but the last, two a level; half their number less one is the number of halvings,
            which must be the VAE's.
        latent_channels: of the VAE.

    Raises:
        ConfigError: an odd number of channels.
    """

    def __init__(self, channels: tuple[int, ...] = ENCODER_CHANNELS, latent_channels: int = 4) -> None:
        super().__init__()
        if len(channels) < 2 or len(channels) % 2:
            raise ConfigError(f"encoder channels must be two a level, found {len(channels)}")
        blocks: list[nn.Module] = []
        before = 4
        for place, width in enumerate(channels):
            stride = 2 if place and place % 2 == 0 else 1
            blocks += [nn.Conv2d(before, width, 3, stride, padding=1), nn.SiLU()]
            before = width
        last = nn.Conv2d(before, latent_channels, 3, padding=1)
        nn.init.zeros_(last.weight)  # training begins at the VAE's own mean
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.blocks = nn.Sequential(*blocks, last)
        self.factor = 2 ** (len(channels) // 2 - 1)

    def forward(self, alpha_first: Tensor) -> Tensor:
        """``(N, 4, H, W)``, alpha and padded R, G, B in [0, 1] -> offset ``(N, C, H / factor, W / factor)``."""
        return self.blocks(alpha_first)


class TransparencyDecoder(nn.Module):
    """D: the VAE's picture and the latent -> alpha and colour ("UNet1024" of LayerDiffuse), with the released keys.

    Args:
        widths: of the levels, from full resolution down.
        layers: residual blocks a level; one more on the way up.
        attention: how many of the deepest levels have attention; the middle has it too, unless this is 0.
        head_dim: channels of an attention head.
        groups: of the group norms.
        latent_channels: of the VAE.
        latent_level: the level before which the latent is added; 2 to its power is the VAE's factor.

    Raises:
        ConfigError: the latent's level or the number of levels with attention is not there.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = DECODER_WIDTHS,
        layers: int = 2,
        attention: int = 3,
        *,
        head_dim: int = 8,
        groups: int = 4,
        latent_channels: int = 4,
        latent_level: int = 3,
    ) -> None:
        super().__init__()
        levels = len(widths)
        if not 1 <= latent_level < levels:
            raise ConfigError(f"latent level must lie in 1..{levels - 1} for {levels} widths, found {latent_level}")
        if not 0 <= attention <= levels:
            raise ConfigError(f"levels with attention must lie in 0..{levels}, found {attention}")
        self.latent_level = latent_level
        self.multiple = 2 ** (levels - 1)
        common = {"resnet_eps": 1e-5, "resnet_act_fn": "silu", "resnet_groups": groups, "temb_channels": None}
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.latent_conv_in = nn.Conv2d(latent_channels, widths[latent_level - 1], 1)
        nn.init.zeros_(self.latent_conv_in.weight)
        assert self.latent_conv_in.bias is not None
        nn.init.zeros_(self.latent_conv_in.bias)
        self.down_blocks = nn.ModuleList(
            get_down_block(
                "AttnDownBlock2D" if level >= levels - attention else "DownBlock2D",
                num_layers=layers,
                in_channels=widths[max(level - 1, 0)],
                out_channels=width,
                add_downsample=level < levels - 1,
                attention_head_dim=head_dim,
                downsample_padding=1,
                **common,
            )
            for level, width in enumerate(widths)
        )
        self.mid_block = UNetMidBlock2D(
            in_channels=widths[-1], add_attention=attention > 0, attention_head_dim=head_dim, **common
        )
        self.up_blocks = nn.ModuleList(
            get_up_block(
                "AttnUpBlock2D" if level >= levels - attention else "UpBlock2D",
                num_layers=layers + 1,
                in_channels=widths[max(level - 1, 0)],
                prev_output_channel=widths[min(level + 1, levels - 1)],
                out_channels=widths[level],
                add_upsample=level > 0,
                attention_head_dim=head_dim,
                **common,
            )
            for level in reversed(range(levels))
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], 4, 3, padding=1)

    def forward(self, pixel: Tensor, latent: Tensor) -> Tensor:
        """Decode once, unclipped.

        Args:
            pixel: what the VAE decodes the latent to, ``(N, 3, H, W)`` in [0, 1]; H and W multiples of `multiple`.
            latent: raw, ``(N, C, H / f, W / f)``.

        Returns:
            ``(N, 4, H, W)``: alpha, R, G, B; colour is straight.
        """
        sample = self.conv_in(pixel)
        residuals = [sample]
        for level, block in enumerate(self.down_blocks):
            if level == self.latent_level:
                sample = sample + self.latent_conv_in(latent)
            sample, outputs = block(hidden_states=sample, temb=None)
            residuals += outputs
        sample = self.mid_block(sample)
        for block in self.up_blocks:
            count = len(block.resnets)  # type: ignore[arg-type]
            taken, residuals = tuple(residuals[-count:]), residuals[:-count]
            sample = block(hidden_states=sample, res_hidden_states_tuple=taken, temb=None)
        return self.conv_out(F.silu(self.conv_norm_out(sample)))
