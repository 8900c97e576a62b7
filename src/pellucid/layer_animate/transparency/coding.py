"""Latent transparency (Eqs. 1-2, as LayerDiffuse released it): RGBA pictures to latents of an ordinary VAE, and back.

Names: v the picture premultiplied on mid-grey, in [-1, 1]; E the encoder of the offset; x_a the adjusted latent,
``mean + std * offset_scale * E(alpha, padded colour)``; D the decoder of alpha and colour; D_sd* the decoder of the
frozen VAE. Latents here are **raw**, in the VAE's units: model latents divided by its scaling factor.

Eq. 1 and the sum "x + x_eps" of the papers are schematic: in the released code the offset takes the place of the noise
that a VAE adds, so it counts in units of the VAE's standard deviation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.transparency.networks import TransparencyDecoder, TransparencyEncoder
from pellucid.layers.padding import pad_rgb

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

log = logging.getLogger(__name__)

VIEWS = (1, 2, 4, 8)  # how many may be averaged when decoding
OFFSET_SCALES = (1.0, 300.0)  # of layerdiffusion-v1, and of LayerDiffuse_Diffusers

# (mirrored, quarter turns): no view before the fifth exchanges height and width.
_VIEWS = ((False, 0), (True, 0), (False, 2), (True, 2), (False, 1), (True, 1), (False, 3), (True, 3))


def vae_factor(vae: AutoencoderKL) -> int:
    """How many pixels of a side become one of the latent: 8 for Stable Diffusion."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def pad_to_multiple(rgba: Tensor, multiple: int) -> Tensor:
    """Lay pictures in the middle of the next larger size whose sides are multiples: transparent, with their own colour.

    Args:
        rgba: ``(N, 4, H, W)``, straight alpha, colour padded where invisible (it is continued outwards).
        multiple: what both sides shall be a multiple of.

    Returns:
        ``(N, 4, H', W')``; the same tensor when nothing is missing. `crop_to` is the way back.
    """
    top, left, bottom, right = _margins(rgba.shape[-2], rgba.shape[-1], multiple)
    if not (top or left or bottom or right):
        return rgba
    colour = F.pad(rgba[:, :3], (left, right, top, bottom), mode="replicate")
    return torch.cat([colour, F.pad(rgba[:, 3:], (left, right, top, bottom))], dim=1)


def crop_to(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut the middle ``size`` (H, W) out of ``(..., H', W')``: what `pad_to_multiple` was given.

    Raises:
        InputError: the pictures are smaller than that.
    """
    spare = [have - want for have, want in zip(pictures.shape[-2:], size, strict=True)]
    if min(spare) < 0:
        raise InputError(f"cannot cut {size[0]}x{size[1]} out of {pictures.shape[-2]}x{pictures.shape[-1]}")
    top, left = (extra // 2 for extra in spare)
    return pictures[..., top : top + size[0], left : left + size[1]]


def on_grey(rgba: Tensor) -> Tensor:
    """v, what the VAE sees: ``(N, 4, H, W)`` straight -> ``(N, 3, H, W)`` in [-1, 1], grey (0) where transparent."""
    return (2.0 * rgba[:, :3] - 1.0) * rgba[:, 3:]


def adjusted_latent(rgba: Tensor, vae: AutoencoderKL, encoder: TransparencyEncoder, offset_scale: float) -> Tensor:
    """x_a of pictures whose sides fit and whose invisible colour is padded already; gradients reach E (Sec. 2.1).

    Args:
        rgba: ``(N, 4, H, W)``: colour to take v from, and alpha. Colour under alpha 0 does not reach v.
        vae: Stable Diffusion's or a small one.
        encoder: E.
        offset_scale: factor on E's output: 1 or 300, see `OFFSET_SCALES`; it belongs to the weights.

    Returns:
        Raw latents ``(N, C, h, w)`` float32; never sampled, so one picture has one latent.
    """
    return _adjusted(rgba, pad_rgb(rgba), vae, encoder, offset_scale)


def _adjusted(rgba: Tensor, padded: Tensor, vae: AutoencoderKL, encoder: TransparencyEncoder, scale: float) -> Tensor:
    # Straight colour for v and padded colour for E: v must be grey where nothing is, E's input smooth.
    posterior = vae.encode(on_grey(rgba).to(vae.dtype)).latent_dist  # type: ignore[union-attr]
    feed = torch.cat([rgba[:, 3:], padded], dim=1)  # alpha first
    offset = encoder(feed.to(_dtype(encoder)))
    return posterior.mean.float() + posterior.std.float() * (scale * offset.float())


@torch.no_grad()
def encode_rgba(
    rgba: Tensor,
    vae: AutoencoderKL,
    encoder: TransparencyEncoder,
    offset_scale: float,
    *,
    multiple: int | None = None,
    chunk: int = 4,
) -> Tensor:
    """Encode RGBA pictures to adjusted raw latents x_a (Eq. 1, as released).

    Args:
        rgba: ``(N, 4, H, W)`` or ``(4, H, W)``, straight alpha in [0, 1], any size.
        vae: the VAE, frozen.
        encoder: E.
        offset_scale: see `adjusted_latent`.
        multiple: sides are padded in the middle to a multiple of this; the VAE's factor when None. Give the decoder's
            `TransparencyDecoder.multiple` (64 for the released one) and the network's to have none padded later.
        chunk: pictures encoded at a time.

    Returns:
        Raw latents ``(N, C, h, w)`` float32 on the VAE's device; times the scaling factor they are model latents.

    Raises:
        InputError: the pictures have another shape, or a side of 0.
    """
    pictures = rgba[None] if rgba.ndim == 3 else rgba
    if pictures.ndim != 4 or pictures.shape[1] != 4 or not len(pictures) or min(pictures.shape[-2:]) < 1:
        raise InputError(f"pictures with alpha must be (N, 4, H, W), found {tuple(rgba.shape)}")
    step = vae_factor(vae) if multiple is None else multiple
    device = next(vae.parameters()).device
    latents: list[Tensor] = []
    for part in pictures.split(chunk):
        part = part.to(device, torch.float32)
        padded = pad_rgb(part)
        alpha = part[:, 3:]
        # The border continues the padded colour; v is grey there, as alpha is 0.
        outside = pad_to_multiple(torch.cat([padded, alpha], dim=1), step)
        inside = pad_to_multiple(part, step)
        latents.append(_adjusted(inside, outside[:, :3], vae, encoder, offset_scale))
    return torch.cat(latents)


def decode_chunks(
    raw: Tensor,
    vae: AutoencoderKL,
    decoder: TransparencyDecoder,
    *,
    tta: int = 1,
    chunk: int = 4,
    size: tuple[int, int] | None = None,
) -> Iterator[Tensor]:
    """Decode as `decode_rgba` does, yielding ``chunk`` pictures at a time: memory does not grow with their number."""
    if tta not in VIEWS:
        raise ConfigError(f"tta must be one of {', '.join(map(str, VIEWS))}, found {tta}")
    if raw.ndim != 4 or not raw.numel() or chunk < 1:
        raise InputError(f"latents must be (N, C, h, w) and chunks at least 1, found {tuple(raw.shape)} and {chunk}")
    device = next(vae.parameters()).device
    for part in raw.split(chunk):
        with torch.no_grad():
            part = part.to(device, torch.float32)
            pixel = vae.decode(part.to(vae.dtype)).sample  # type: ignore[union-attr]
            pixel = pixel.float().mul_(0.5).add_(0.5).clamp_(0.0, 1.0)
            rgba = _views(decoder, pixel, part, tta)[:, [1, 2, 3, 0]]
        yield rgba if size is None else crop_to(rgba, size)


def decode_rgba(
    raw: Tensor,
    vae: AutoencoderKL,
    decoder: TransparencyDecoder,
    *,
    tta: int = 1,
    chunk: int = 4,
    size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Decode raw latents to RGBA pictures (Eq. 2).

    The VAE's picture is the "grayscale background image" of the paper: what D_sd* makes of x_a.

    Args:
        raw: ``(N, C, h, w)``: model latents divided by the scaling factor.
        vae: the VAE, frozen.
        decoder: D.
        tta: views decoded and combined, 1, 2, 4 or 8 (mirrored and turned; that many times the work). Of 8 views the
            median of the released code, which is the lower of the two middle values; of 2 and 4 the mean of the two
            middle values, as the lower one would eat into alpha.
        chunk: pictures decoded at a time.
        size: (H, W) to cut out of the middle: what `encode_rgba` was given.
        device: where the pictures go; the VAE's when None. ``"cpu"`` keeps a long clip out of a GPU's memory.

    Returns:
        ``(N, 4, H, W)`` float32 in [0, 1], straight alpha.

    Raises:
        ConfigError: an impossible ``tta``.
        InputError: latents of another shape, none, or smaller than ``size``.
    """
    pictures: Tensor | None = None
    done = 0
    for part in decode_chunks(raw, vae, decoder, tta=tta, chunk=chunk, size=size):
        if pictures is None:  # written in place: a list of parts would be held twice when joined
            pictures = torch.empty(raw.shape[0], *part.shape[1:], device=device or part.device)
        pictures[done : done + len(part)] = part
        done += len(part)
    assert pictures is not None  # there is at least one chunk
    return pictures


def decode_pixels(decoder: TransparencyDecoder, pixel: Tensor, latent: Tensor) -> Tensor:
    """Run D on pictures of any size: edges are repeated up to its multiple, and the result is cut to the size again.

    Args:
        decoder: D.
        pixel: ``(N, 3, H, W)`` in [0, 1].
        latent: raw, ``(N, C, H / f, W / f)``.

    Returns:
        ``(N, 4, H, W)`` float32: alpha, R, G, B, unclipped.
    """
    height, width = pixel.shape[-2:]
    factor = 2**decoder.latent_level
    multiple = max(decoder.multiple, factor)
    # In whole latent pixels, or the two would be shifted against each other.
    top, left, bottom, right = _margins(height // factor, width // factor, multiple // factor)
    if top or left or bottom or right:
        latent = F.pad(latent, (left, right, top, bottom), mode="replicate")
        pixel = F.pad(pixel, tuple(factor * margin for margin in (left, right, top, bottom)), mode="replicate")
    dtype = _dtype(decoder)
    out = decoder(pixel.to(dtype), latent.to(dtype)).float()
    return out[..., factor * top : factor * top + height, factor * left : factor * left + width]


def _views(decoder: TransparencyDecoder, pixel: Tensor, latent: Tensor, tta: int) -> Tensor:
    """Decode the first ``tta`` views and combine them: ``(N, 4, H, W)``, alpha first, in [0, 1]."""
    results: list[Tensor] = []
    for mirrored, turns in _VIEWS[:tta]:
        seen = [torch.rot90(part.flip(-1) if mirrored else part, turns, (-2, -1)) for part in (pixel, latent)]
        out = torch.rot90(decode_pixels(decoder, *seen).clamp_(0.0, 1.0), -turns, (-2, -1))
        results.append(out.flip(-1) if mirrored else out)
    if tta == 1:
        return results[0]
    stacked = torch.stack(results)
    if tta == 8:
        return stacked.median(dim=0).values
    return stacked.sort(dim=0).values[tta // 2 - 1 : tta // 2 + 1].mean(dim=0)


@dataclass(frozen=True)
class RoundTrip:
    """How well a picture survives encoding and decoding.

    Attributes:
        alpha: mean absolute error of alpha, in [0, 1].
        colour: mean absolute error of colour, weighted with the true alpha.
    """

    alpha: float
    colour: float


def round_trip_error(
    rgba: Tensor,
    vae: AutoencoderKL,
    encoder: TransparencyEncoder,
    decoder: TransparencyDecoder,
    offset_scale: float,
    *,
    tta: int = 1,
) -> RoundTrip:
    """Encode and decode pictures ``(N, 4, H, W)`` or ``(4, H, W)`` and measure what changed."""
    truth = (rgba[None] if rgba.ndim == 3 else rgba).float()
    raw = encode_rgba(truth, vae, encoder, offset_scale)
    found = decode_rgba(raw, vae, decoder, tta=tta, size=(truth.shape[-2], truth.shape[-1])).to(truth.device)
    alpha = truth[:, 3:]
    colour = ((found[:, :3] - truth[:, :3]).abs() * alpha).sum() / (3.0 * alpha.sum()).clamp(min=1e-8)
    return RoundTrip(float((found[:, 3:] - alpha).abs().mean()), float(colour))


@dataclass(frozen=True)
class OffsetCheck:
    """Whether an offset scale fits its weights, by what a picture looks like after a round trip.

    Attributes:
        given: the scale in use.
        error: alpha error with it, mean absolute.
        best: the scale of those tried with the least alpha error.
        best_error: its alpha error.
    """

    given: float
    error: float
    best: float
    best_error: float

    @property
    def wrong(self) -> bool:
        """Another scale is clearly better, and the given one clearly bad."""
        return self.best != self.given and self.error > 0.02 and self.best_error < 0.5 * self.error


def check_offset_scale(
    rgba: Tensor,
    vae: AutoencoderKL,
    encoder: TransparencyEncoder,
    decoder: TransparencyDecoder,
    given: float,
    *,
    candidates: tuple[float, ...] = OFFSET_SCALES,
) -> OffsetCheck:
    """Try an offset scale and the released ones on a picture; files of both have the same tensors (Sec. 2.1).

    A picture that is opaque everywhere tells little. The result is logged as a warning when `OffsetCheck.wrong`.

    Args:
        rgba: ``(4, H, W)`` or ``(N, 4, H, W)``; a small copy is enough.
        vae: the VAE.
        encoder: E.
        decoder: D.
        given: the scale stored with the weights.
        candidates: other scales to try; multiples of the given one by the released ratio are tried too.
    """
    ratio = OFFSET_SCALES[1] / OFFSET_SCALES[0]
    scales = dict.fromkeys((given, *candidates, given * ratio, given / ratio))
    errors = {scale: round_trip_error(rgba, vae, encoder, decoder, scale).alpha for scale in scales}
    best = min(errors, key=lambda scale: errors[scale])
    check = OffsetCheck(given, errors[given], best, errors[best])
    if check.wrong:
        log.warning(
            "offset scale %g does not fit these weights: alpha changes by %.3f on a round trip, with %g by %.3f",
            *(given, check.error, best, check.best_error),
        )
    return check


def _margins(height: int, width: int, multiple: int) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of what is missing, the odd pixel at the bottom and right."""
    down, across = -height % multiple, -width % multiple
    return down // 2, across // 2, down - down // 2, across - across // 2


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
