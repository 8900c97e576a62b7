"""The networks of Layer-Animate in one module, at any size: VAE, transparency encoder and decoder, text, motion UNet.

Sec. III of the paper. All but the transparency networks and the attention processors are the classes of diffusers and
transformers, so that published weights fit key by key. A size is a `LayerAnimateConfig` of plain values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D, MotionAdapter, UNetMotionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from pellucid.errors import ConfigError
from pellucid.layer_animate.attention.attach import attach_ifa
from pellucid.layer_animate.attention.processor import FrameContext
from pellucid.layer_animate.transparency.coding import decode_rgba, encode_rgba
from pellucid.layer_animate.transparency.networks import TransparencyDecoder, TransparencyEncoder

METHOD = "layer_animate"
Betas = tuple[str, float, float]


@dataclass(frozen=True)
class LayerAnimateConfig:
    """Everything that says how large the networks are and what their numbers mean.

    Attributes:
        vae: keyword arguments of ``AutoencoderKL``, without ``latent_channels`` and ``scaling_factor``.
        text: keyword arguments of ``CLIPTextConfig``.
        unet: keyword arguments of ``UNet2DConditionModel``, without ``in_channels`` and ``out_channels``.
        motion: keyword arguments of ``MotionAdapter``.
        latent_channels: channels of the latents in VAE, UNet and both transparency networks.
        scaling_factor: model latent = raw latent times this, s of the spec; 0.18215 for SD1.5.
        offset_scale: factor on the transparency offset (Eq. 1 as released); 1 for ``layerdiffusion-v1``, 300 for
            ``LayerDiffuse_Diffusers``. It belongs to the weights of the transparency encoder and decoder.
        encoder_channels: widths of the hidden convolutions of the transparency encoder.
        decoder_widths: widths of the transparency decoder, largest resolution first.
        decoder_layers: its resnets per level.
        decoder_attention: how many of its deepest levels have attention.
        frames: F, frames of a clip.
        fps: frames per second of a clip.
        size: side of a frame in pixels that the networks were made for.
        betas: noise schedule with motion: name, first and last beta; the one of AnimateDiff.
        stage1_betas: noise schedule of single pictures; the one of Stable Diffusion.

    Raises:
        ConfigError: parts that must agree do not; the message names both values.
    """

    vae: dict[str, Any]
    text: dict[str, Any]
    unet: dict[str, Any]
    motion: dict[str, Any]
    latent_channels: int = 4
    scaling_factor: float = 0.18215
    offset_scale: float = 1.0
    encoder_channels: tuple[int, ...] = (32, 32, 64, 64, 128, 128, 256, 256)
    decoder_widths: tuple[int, ...] = (32, 32, 64, 128, 256, 512, 512)
    decoder_layers: int = 2
    decoder_attention: int = 3
    frames: int = 16
    fps: int = 8
    size: int = 128
    betas: Betas = ("linear", 0.00085, 0.012)
    stage1_betas: Betas = ("scaled_linear", 0.00085, 0.012)

    def __post_init__(self) -> None:
        for name in ("vae", "text", "unet", "motion"):  # lists, as a file gives them back
            plain = {
                key: list(value) if isinstance(value, tuple) else value for key, value in getattr(self, name).items()
            }
            object.__setattr__(self, name, plain)
        crossed, hidden = self.unet.get("cross_attention_dim"), self.text.get("hidden_size")
        if crossed != hidden:
            raise ConfigError(f"the UNet takes text vectors of {crossed} numbers, the text encoder gives {hidden}")
        widths, moved = self.unet.get("block_out_channels"), self.motion.get("block_out_channels")
        if widths is None or moved is None or list(widths) != list(moved):
            raise ConfigError(f"UNet and motion modules must have the same widths, found {widths} and {moved}")
        if self.scaling_factor <= 0 or self.latent_channels < 1 or self.frames < 1:
            raise ConfigError(
                "scaling_factor, latent_channels and frames must be above 0, "
                f"found {self.scaling_factor}, {self.latent_channels} and {self.frames}"
            )

    @property
    def factor(self) -> int:
        """How many pixels one latent cell spans; 8 for SD1.5."""
        return 2 ** (len(self.vae["block_out_channels"]) - 1)

    @property
    def motion_length(self) -> int:
        """Frames that the motion modules can tell apart; 32 or 24 for AnimateDiff."""
        return int(self.motion.get("motion_max_seq_length", 32))

    @property
    def base_index(self) -> int:
        """m of a clip of ``frames`` frames: the middle one (Sec. III-B: the eighth of sixteen)."""
        return middle(self.frames)


def middle(frames: int) -> int:
    """Index of the base frame among ``frames``, (F - 1) // 2 counted from zero: 7 of 16."""
    return (frames - 1) // 2


class LayerAnimate(nn.Module):
    """All networks, with the names their weights have in one state dict: ``vae. encoder. decoder. text. unet.``

    Args:
        config: says what the numbers mean; the parts must fit it.
        vae: pixels to latents and back.
        encoder: RGBA to the offset of the latents (Eq. 1).
        decoder: pixels and latents to RGBA (Eq. 2).
        text: tokens to text vectors.
        unet: the denoising network with motion modules.

    Attributes:
        context: what the attention processors of ``unet`` share; see `attention.FrameContext`.
    """

    def __init__(
        self,
        config: LayerAnimateConfig,
        *,
        vae: AutoencoderKL,
        encoder: TransparencyEncoder,
        decoder: TransparencyDecoder,
        text: CLIPTextModel,
        unet: UNetMotionModel,
    ) -> None:
        super().__init__()
        self.config = config
        self.vae = vae
        self.encoder = encoder
        self.decoder = decoder
        self.text = text
        self.unet = unet
        self.context = FrameContext(num_frames=config.frames, base_index=config.base_index)

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the UNet."""
        return next(self.unet.parameters()).dtype

    @torch.no_grad()
    def encode(self, rgba: Tensor) -> Tensor:
        """Turn pictures into model latents: Eq. 1 as released, times the scaling factor.

        Args:
            rgba: ``(N, 4, H, W)`` or ``(4, H, W)``, straight alpha, [0, 1]; any size.

        Returns:
            ``(N, C, h, w)`` float32; deterministic. Sides are padded in the middle to a multiple of ``config.factor``.
        """
        return encode_rgba(rgba, self.vae, self.encoder, self.config.offset_scale) * self.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor, tta: int = 1, chunk: int = 4, size: tuple[int, int] | None = None) -> Tensor:
        """Turn model latents into pictures (Eq. 2).

        Args:
            latents: ``(N, C, h, w)``.
            tta: views per picture, 1, 2, 4 or 8; the median over them.
            chunk: pictures decoded at once.
            size: (H, W) to cut out of the middle: that of the pictures given to `encode`, when it had to pad them.

        Returns:
            ``(N, 4, H, W)`` in [0, 1], straight alpha.
        """
        raw = latents / self.config.scaling_factor
        return decode_rgba(raw, self.vae, self.decoder, tta=tta, chunk=chunk, size=size)

    @contextmanager
    def base_unet(self) -> Iterator[UNetMotionModel]:
        """Run the UNet as stage 1 does: on single pictures ``(B, C, 1, h, w)``, without motion and without IFA."""
        frames, enabled = self.context.num_frames, self.context.enabled
        self.context.num_frames, self.context.enabled = 1, False
        try:
            with motion_off(self.unet):
                yield self.unet
        finally:
            self.context.num_frames, self.context.enabled = frames, enabled


@contextmanager
def motion_off(unet: nn.Module) -> Iterator[None]:
    """Let every motion module pass its input through, so that frames do not meet in them."""
    modules = [module for module in unet.modules() if isinstance(module, AnimateDiffTransformer3D)]
    before = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.forward = _unchanged  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.forward = forward


def build(config: LayerAnimateConfig, *, ifa: bool = True, generator_seed: int | None = None) -> LayerAnimate:
    """Make the networks with random weights; under ``torch.device("meta")`` without any.

    Args:
        config: sizes.
        ifa: attach Inter-Frame Attention (Eq. 3) to every spatial self-attention; it begins as no change at all.
        generator_seed: one seed, one set of weights; the global generator is left as it was. None takes the global one.
    """
    with nullcontext() if generator_seed is None else torch.random.fork_rng(devices=[]):
        if generator_seed is not None:
            torch.manual_seed(generator_seed)
        model = LayerAnimate(
            config,
            vae=build_vae(config),
            encoder=TransparencyEncoder(config.encoder_channels, latent_channels=config.latent_channels),
            decoder=TransparencyDecoder(
                config.decoder_widths,
                layers=config.decoder_layers,
                attention=config.decoder_attention,
                latent_channels=config.latent_channels,
                latent_level=len(config.vae["block_out_channels"]) - 1,
            ),
            text=CLIPTextModel(CLIPTextConfig(**config.text)),
            unet=build_unet(config),
        )
        if ifa:
            attach_ifa(model.unet, model.context)
    return model.eval()


def build_vae(config: LayerAnimateConfig) -> AutoencoderKL:
    """Make the VAE with random weights."""
    kwargs: dict[str, Any] = config.vae | {
        "latent_channels": config.latent_channels,
        "scaling_factor": config.scaling_factor,
    }
    return AutoencoderKL(**kwargs)


def build_unet(config: LayerAnimateConfig) -> UNetMotionModel:
    """Make the UNet with motion modules, random weights, attention as diffusers has it."""
    kwargs: dict[str, Any] = config.unet | {
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
    }
    with torch.device("meta"):  # these two only say what is to be built
        spatial, motion = UNet2DConditionModel(**kwargs), MotionAdapter(**config.motion)
    return cast(UNetMotionModel, UNetMotionModel.from_unet2d(spatial, motion, load_weights=False))


def preset(name: str, **changes: Any) -> LayerAnimateConfig:
    """Take one of `PRESETS`, with some fields changed, for example ``latent_channels=8``.

    Raises:
        ConfigError: no preset has that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is not known", f"use one of {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)


def _unchanged(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _vae(widths: tuple[int, ...], layers: int, groups: int) -> dict[str, Any]:
    return {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": layers,
        "norm_num_groups": groups,
    }


def _unet(widths: tuple[int, ...], attention: int, layers: int, heads: int, groups: int, text: int) -> dict[str, Any]:
    # attention: how many levels, largest first, have transformers. "attention_head_dim" is diffusers' name for heads.
    plain = len(widths) - attention
    return {
        "block_out_channels": widths,
        "down_block_types": ("CrossAttnDownBlock2D",) * attention + ("DownBlock2D",) * plain,
        "up_block_types": ("UpBlock2D",) * plain + ("CrossAttnUpBlock2D",) * attention,
        "layers_per_block": layers,
        "attention_head_dim": heads,
        "norm_num_groups": groups,
        "cross_attention_dim": text,
    }


def _motion(widths: tuple[int, ...], layers: int, heads: int, groups: int) -> dict[str, Any]:
    return {
        "block_out_channels": widths,
        "motion_layers_per_block": layers,
        "motion_num_attention_heads": heads,
        "motion_norm_num_groups": groups,
        "motion_max_seq_length": 32,
        "use_motion_mid_block": True,
    }


def _text(words: int, hidden: int, layers: int, heads: int, tokens: int) -> dict[str, Any]:
    # Numbers of the special tokens as `text.SPECIAL` has them: padding, start, end.
    return {
        "vocab_size": words,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "projection_dim": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": tokens,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


# tiny: for tests and for trying the machinery. small: the embedded stack of spec Sec. 10. sd15: Stable Diffusion 1.5
# with AnimateDiff v2 and the released transparency networks, 1.5 billion values.
PRESETS: dict[str, LayerAnimateConfig] = {
    "tiny": LayerAnimateConfig(
        vae=_vae((8, 8, 8, 16), 1, 4),
        text=_text(512, 16, 1, 2, 32),
        unet=_unet((16, 32), 2, 1, 2, 4, 16),
        motion=_motion((16, 32), 1, 2, 4),
        encoder_channels=(8, 8, 8, 8, 16, 16, 16, 16),
        decoder_widths=(8, 8, 8, 16),
        decoder_layers=1,
        decoder_attention=1,
        size=32,
    ),
    "small": LayerAnimateConfig(
        vae=_vae((24, 48, 96, 96), 1, 8),
        text=_text(4096, 128, 4, 4, 32),
        unet=_unet((48, 96, 144), 3, 1, 4, 16, 128),
        motion=_motion((48, 96, 144), 1, 4, 16),
        decoder_widths=(16, 24, 48, 96, 128),
        decoder_layers=1,
        decoder_attention=1,
        size=128,
    ),
    "sd15": LayerAnimateConfig(
        vae=_vae((128, 256, 512, 512), 2, 32),
        text=_text(49408, 768, 12, 12, 77)
        | {"pad_token_id": 1, "bos_token_id": 49406, "eos_token_id": 49407, "hidden_act": "quick_gelu"},
        unet=_unet((320, 640, 1280, 1280), 3, 2, 8, 32, 768),
        motion=_motion((320, 640, 1280, 1280), 2, 8, 32),
        size=512,
    ),
}
