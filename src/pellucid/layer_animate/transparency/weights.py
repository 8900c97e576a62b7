"""VAE, transparency encoder and decoder in one module, as they are trained and stored together without the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from pellucid.errors import WeightsError
from pellucid.hub.pretrained import STATE, load_config, load_state, read_document, read_state
from pellucid.layer_animate.model import METHOD, LayerAnimateConfig, build_vae
from pellucid.layer_animate.transparency.coding import decode_rgba, encode_rgba
from pellucid.layer_animate.transparency.networks import TransparencyDecoder, TransparencyEncoder

TRANSPARENCY = "transparency"  # the method that a folder of these weights, and a recipe that trains them, names
PARTS = ("vae", "encoder", "decoder")


class LatentTransparency(nn.Module):
    """The parts of `LayerAnimate` that turn RGBA pictures into latents and back, under the same names.

    Args:
        config: sizes; only what the three parts need of it is used.
        vae: made with random weights when None.

    Attributes:
        config: with the scaling factor and the offset scale of the weights.
    """

    def __init__(self, config: LayerAnimateConfig, vae: AutoencoderKL | None = None) -> None:
        super().__init__()
        self.config = config
        self.vae = build_vae(config) if vae is None else vae
        self.encoder = TransparencyEncoder(config.encoder_channels, config.latent_channels)
        self.decoder = TransparencyDecoder(
            config.decoder_widths,
            config.decoder_layers,
            config.decoder_attention,
            latent_channels=config.latent_channels,
            latent_level=len(config.vae["block_out_channels"]) - 1,
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a sixth less time on a CPU

    def encode(self, rgba: Tensor) -> Tensor:
        """RGBA pictures ``(N, 4, H, W)`` in [0, 1] -> model latents ``(N, C, h, w)``; see `encode_rgba`."""
        raw = encode_rgba(rgba, self.vae, self.encoder, self.config.offset_scale)
        return raw * self.config.scaling_factor

    def decode(self, latents: Tensor, tta: int = 1, chunk: int = 4) -> Tensor:
        """Model latents ``(N, C, h, w)`` -> RGBA pictures ``(N, 4, H, W)``; see `decode_rgba`."""
        return decode_rgba(latents / self.config.scaling_factor, self.vae, self.decoder, tta=tta, chunk=chunk)


def load_transparency(folder: str | Path) -> LatentTransparency:
    """Read the three parts from a folder of `transparency` weights, or from one of the whole model.

    Raises:
        WeightsError: the folder is of another method, damaged, or lacks one of the parts; the keys are named.
    """
    config = read_config(folder)
    model = LatentTransparency(config)
    load_state(model, transparency_state(folder))
    return model.eval()


def read_config(folder: str | Path) -> LayerAnimateConfig:
    """Read the sizes, scaling factor and offset scale of a folder; see `load_transparency` for what can go wrong."""
    found = read_document(folder)["method"]
    if found not in (TRANSPARENCY, METHOD):
        raise WeightsError(
            f"{folder} holds weights of {found!r}, expected {TRANSPARENCY!r} or {METHOD!r}",
            "train some with recipes/layer_animate/transparency-tiny.toml",
        )
    return load_config(folder, LayerAnimateConfig)


def transparency_state(folder: str | Path) -> dict[str, Tensor]:
    """Read the tensors of VAE, encoder and decoder of a folder, by the names they have in `LatentTransparency`."""
    return _of_parts(read_state(Path(folder) / STATE))


def _of_parts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.partition(".")[0] in PARTS}
