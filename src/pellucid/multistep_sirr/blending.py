"""Mixtures made from two plain photographs: the published blending models, the physical one, ghosts and the veil.

Everything is batched torch on the pictures' own device; the random numbers come from a CPU generator, so one seed gives
one batch everywhere. The constants are those of the named papers' public code, stated for crops of about 256 pixels;
``scale`` shrinks the blurs when the crops were shrunk (0.5 for half-size training).

Legend: T transmission, R source of the reflection, both ``(B, 3, H, W)`` sRGB in [0, 1]; I mixture.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import pi

import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from torch import Generator, Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError


@dataclass(frozen=True)
class Blend:
    """A batch of training pairs.

    Attributes:
        mixture: I ``(B, 3, H, W)`` in [0, 1].
        transmission: the target T, same shape.
        reflection: the target R = clamp(I - T, 0, 1), so that the layers shown to a user add up to the mixture.
        source: the reflected light as the model made it, before T was covered by it.
    """

    mixture: Tensor
    transmission: Tensor
    reflection: Tensor
    source: Tensor


@dataclass(frozen=True)
class BlendOptions:
    """Which blends are drawn, and how often. Shares need not add up to 1.

    Attributes:
        shares: weight of each model of `MODELS`.
        ghost: share of samples whose reflection is doubled by the second surface of the pane.
        veil: share of samples with a far out-of-focus reflection on top.
        veil_gain: smallest and largest light of the veil, drawn log-uniformly (linear light).
        veil_flat: share of veils without structure (the mean colour of a picture).
        contrast: smallest factor on the mixture under a veil.
        faint: share of samples of which only a part of the reflection and veil is kept, as weak glass shows it.
        clean: share of samples without any reflection; the network must leave clean pictures alone.

    Raises:
        ConfigError: a model is not known, no model has a share, or a number is out of its range.
    """

    shares: Mapping[str, float] = field(
        default_factory=lambda: {"ceilnet": 0.15, "zhang": 0.2, "dsrnet": 0.25, "physical": 0.3, "flashrr": 0.1}
    )
    ghost: float = 0.25
    veil: float = 0.65
    veil_gain: tuple[float, float] = (0.03, 0.6)
    veil_flat: float = 0.4
    contrast: float = 0.8
    faint: float = 0.0
    clean: float = 0.05

    def __post_init__(self) -> None:
        unknown = [name for name in self.shares if name not in MODELS]
        if unknown:
            raise ConfigError(f"blend.shares: model {unknown[0]!r} is not known", f"use {', '.join(MODELS)}")
        if not sum(self.shares.values()) > 0 or min(self.shares.values()) < 0:
            raise ConfigError(f"blend.shares must be at least 0 and one above it, found {dict(self.shares)}")
        for name in ("ghost", "veil", "veil_flat", "faint", "clean"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"blend.{name} must be in [0, 1], found {getattr(self, name)}")
        low, high = self.veil_gain
        if not 0 < low <= high:
            raise ConfigError(f"blend.veil_gain must be two numbers above 0, the smaller first, found {low}, {high}")
        if not 0 < self.contrast <= 1:
            raise ConfigError(f"blend.contrast must be above 0 and at most 1, found {self.contrast}")


def blend(T: Tensor, R: Tensor, V: Tensor, generator: Generator, options: BlendOptions, scale: float = 1.0) -> Blend:
    """Draw a model for every sample and mix (reflection.md's default mixture, ours to choose: the paper says nothing).

    Args:
        T: pictures behind the glass ``(B, 3, H, W)``.
        R: pictures that the glass reflects, same shape.
        V: pictures far out of focus, same shape.
        generator: CPU generator.
        options: shares and strengths.
        scale: size of the crops against the size the constants were stated for.
    """
    count = T.shape[0]
    names = list(options.shares)
    weights = torch.tensor([options.shares[name] for name in names])
    drawn = torch.multinomial(weights, count, replacement=True, generator=generator)
    doubled = torch.rand(count, generator=generator) < options.ghost
    veiled = torch.rand(count, generator=generator) < options.veil
    clean = torch.rand(count, generator=generator) < options.clean
    faint = torch.rand(count, generator=generator) < options.faint
    kept = torch.where(faint, 0.15 + 0.55 * torch.rand(count, generator=generator), 1.0)
    if doubled.any():
        R = _put(R, doubled, ghost(R[doubled.to(R.device)], generator, scale))
    mixture, target, source = T.clone(), T.clone(), torch.zeros_like(T)
    for index, name in enumerate(names):
        chosen = drawn == index
        if not chosen.any():
            continue
        here = chosen.to(T.device)
        mixed = MODELS[name](T[here], R[here], generator, scale)
        mixture, target, source = (
            _put(whole, chosen, part) for whole, part in zip((mixture, target, source), mixed, strict=True)
        )
    if veiled.any():
        here = veiled.to(T.device)
        mixture = _put(mixture, veiled, veil(mixture[here], V[here], generator, options))
    if faint.any():
        part = kept.to(T)[:, None, None, None]
        mixture, source = torch.lerp(target, mixture, part), source * part
    if clean.any():
        here = clean.to(T.device)
        mixture = _put(mixture, clean, T[here])
        target = _put(target, clean, T[here])
        source = _put(source, clean, torch.zeros_like(T[here]))
    mixture = mixture.clamp(0, 1)
    return Blend(mixture, target, (mixture - target).clamp(0, 1), source)


# Each model maps T, R, a generator and the scale to mixture, target T and the reflected light.
Mixed = tuple[Tensor, Tensor, Tensor]


def ceilnet(T: Tensor, R: Tensor, generator: Generator, scale: float = 1.0) -> Mixed:
    """CEILNet (ICCV 2017), in the form of ERRNet: blurred R, made darker by what would overflow."""
    R = blur(R, _uniform(T, generator, 2, 5) * scale, 11)
    R = _make_room(T, R)
    return (T + R).clamp(0, 1), T, R


def zhang(T: Tensor, R: Tensor, generator: Generator, scale: float = 1.0) -> Mixed:
    """Zhang et al. (CVPR 2018): linear light (power 2.2), per-channel overflow, and a vignette on the reflection."""
    R = blur(R.clamp(min=1e-6) ** 2.2, _uniform(T, generator, 1, 5) * scale, 21)
    linear = T.clamp(min=1e-6) ** 2.2
    total = R + linear
    over = total > 1
    mean = (total * over).sum((2, 3), keepdim=True) / over.sum((2, 3), keepdim=True).clamp(min=1)
    R = (R - (mean.clamp(min=1) - 1) * _uniform(T, generator, 1.08, 1.18)).clamp(0, 1)
    R = R * _vignette(T, generator)
    mixture = (R + linear * _uniform(T, generator, 0.8, 1.0)).clamp(1e-6, 1) ** (1 / 2.2)
    return mixture, T, R.clamp(min=1e-6) ** (1 / 2.2)


def dsrnet(T: Tensor, R: Tensor, generator: Generator, scale: float = 1.0) -> Mixed:
    """DSRNet (ICCV 2023): both layers dimmed, then screened (p 0.7) or added with `ceilnet`'s clipping."""
    dimmed = T * _uniform(T, generator, 0.8, 1.0)
    R = _mixed_kernels(R, generator, scale) * _uniform(T, generator, 0.4, 1.0)
    return _screen_or_add(dimmed, R, generator), T, R


def rdnet(T: Tensor, R: Tensor, generator: Generator, scale: float = 1.0) -> Mixed:
    """RDNet (CVPR 2025): as `dsrnet`, but T keeps its light and gets a colour gain, which the target keeps too."""
    gains = []
    for mean, deviation, low, high in (
        (1.109, 0.118, 0.82, 1.42),
        (1.106, 0.115, 0.85, 1.35),
        (1.078, 0.116, 0.85, 1.31),
    ):
        gain = torch.empty(T.shape[0])
        torch.nn.init.trunc_normal_(gain, mean, deviation, low, high, generator=generator)
        gains.append(gain)
    gained = (T * torch.stack(gains, 1).to(T)[:, :, None, None]).clamp(0, 1)
    R = _mixed_kernels(R, generator, scale) * _uniform(T, generator, 0.4, 1.0)
    return _screen_or_add(gained, R, generator), gained, R


def screen(T: Tensor, R: Tensor, generator: Generator, scale: float = 1.0) -> Mixed:
    """I = 1 - (1 - aT)(1 - bR), a ~ U(0.8, 1), b ~ U(0.4, 1), R blurred as in `dsrnet`."""
    dimmed = T * _uniform(T, generator, 0.8, 1.0)
    R = _mixed_kernels(R, generator, scale) * _uniform(T, generator, 0.4, 1.0)
    return dimmed + R - dimmed * R, T, R


def bdn(T: Tensor, R: Tensor, generator: Generator, scale: float = 1.0) -> Mixed:
    """BDN (ECCV 2018): I = a T + (1 - a) R, a ~ U(0.6, 0.8), blur sigma ~ U(0, 2)."""
    share = _uniform(T, generator, 0.6, 0.8)
    R = blur(R, _uniform(T, generator, 0, 2) * scale, 11) * (1 - share)
    return share * T + R, T, R


def flashrr(T: Tensor, R: Tensor, generator: Generator, scale: float = 1.0) -> Mixed:
    """flash-reflection-removal: 0.61 T + 0.22 R in linear light, no blur."""
    light = 0.22 * rgb_to_linear_rgb(R)
    mixture = linear_rgb_to_rgb((0.61 * rgb_to_linear_rgb(T) + light).clamp(0, 1))
    return mixture, T, linear_rgb_to_rgb(light)


def physical(T: Tensor, R: Tensor, generator: Generator, scale: float = 1.0) -> Mixed:
    """A pane of glass in linear light: Fresnel reflectance over the picture, tint, lens blur, sensor noise, JPEG.

    r = 2F / (1 + F) for a pane of two surfaces with unpolarised F at n = 1.5; I = (1 - r) T tint + s r blur(R).
    """
    count, _, height, width = T.shape
    middle, axis = _uniform(T, generator, 0, 65), _uniform(T, generator, 0, 2 * pi)
    y = torch.linspace(-1, 1, height, device=T.device)[:, None]
    x = torch.linspace(-1, 1, width, device=T.device)[None, :]
    angle = (middle + 15 * (x * axis.cos() + y * axis.sin())).abs().clamp(max=85)  # (B, 1, H, W) degrees
    reflectance = pane_reflectance(torch.deg2rad(angle))
    sigma = _uniform(T, generator, 1, 6) * _draw(T, torch.rand(count, generator=generator) >= 0.25)
    gain = torch.exp(_uniform(T, generator, 0, 2.4849))  # log-uniform in 1 .. 12
    light = gain * reflectance * blur(rgb_to_linear_rgb(R), sigma * scale, 25)
    partial = torch.rand(count, generator=generator) < 0.3
    if partial.any():
        mask = _half_plane(T, generator)
        light = torch.where(_draw(T, partial).bool(), light * mask, light)
    tint = _uniform(T, generator, 0.9, 1.0, channels=3)
    mixture = linear_rgb_to_rgb(((1 - reflectance) * rgb_to_linear_rgb(T) * tint + light).clamp(0, 1))
    noise = torch.randn(T.shape, generator=generator).to(T.device) * _uniform(T, generator, 0, 0.01)
    mixture = ((mixture + noise).clamp(0, 1) * 255).round() / 255
    coded = torch.rand(count, generator=generator) < 0.5
    quality = 70 + 30 * torch.rand(count, generator=generator)
    if coded.any() and height % 16 == 0 and width % 16 == 0:  # the codec works on whole 16 x 16 blocks
        here = coded.to(T.device)
        jpeg = jpeg_codec_differentiable(mixture[here], quality[coded].to(T.device))
        mixture = _put(mixture, coded, jpeg.clamp(0, 1))
    return mixture, T, linear_rgb_to_rgb(light.clamp(0, 1))


MODELS: dict[str, Callable[[Tensor, Tensor, Generator, float], Mixed]] = {
    "ceilnet": ceilnet,
    "zhang": zhang,
    "dsrnet": dsrnet,
    "rdnet": rdnet,
    "screen": screen,
    "bdn": bdn,
    "flashrr": flashrr,
    "physical": physical,
}


def ghost(R: Tensor, generator: Generator, scale: float = 1.0) -> Tensor:
    """R <- (1 - c) R + c shift(R): the pane's second surface, c ~ U(0.2, 0.5), shifted by 4 to 20 pixels."""
    count, _, height, width = R.shape
    share = _uniform(R, generator, 0.2, 0.5)
    length = (_uniform(R, generator, 4, 20) * scale).flatten()
    angle = _uniform(R, generator, 0, 2 * pi).flatten()
    theta = torch.eye(2, 3, device=R.device).repeat(count, 1, 1)
    theta[:, 0, 2] = 2 * length * angle.cos() / width
    theta[:, 1, 2] = 2 * length * angle.sin() / height
    grid = F.affine_grid(theta, list(R.shape), align_corners=False)
    shifted = F.grid_sample(R, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return (1 - share) * R + share * shifted


def veil(I: Tensor, V: Tensor, generator: Generator, options: BlendOptions) -> Tensor:  # noqa: E741
    """I <- a I + g tint V in linear light: a far out-of-focus reflection, which real glass shows most of all.

    V is a picture blurred by 12 to 40 pixels of a 256 pixel crop, or its mean alone.
    """
    count, _, height, width = I.shape
    low, high = options.veil_gain
    gain = low * (high / low) ** _uniform(I, generator, 0, 1)
    tint = _uniform(I, generator, 0.8, 1.2, channels=3)
    keep = _uniform(I, generator, options.contrast, 1.0)
    flat = _draw(I, torch.rand(count, generator=generator) < options.veil_flat).bool()
    # Such a blur leaves nothing finer than 1/32 of the side, so it is done at 32 x 32.
    small = F.adaptive_avg_pool2d(rgb_to_linear_rgb(V), 32)  # (B, 3, 32, 32)
    small = blur(small, _uniform(I, generator, 12 / 8, 40 / 8), 31)
    soft = F.interpolate(small, (height, width), mode="bicubic", align_corners=False).clamp(min=0)
    light = torch.where(flat, small.mean((2, 3), keepdim=True).expand_as(soft), soft)
    return linear_rgb_to_rgb((keep * rgb_to_linear_rgb(I) + gain * tint * light).clamp(0, 1))


def pane_reflectance(angle: Tensor, index: float = 1.5) -> Tensor:
    """Share of light a pane reflects at ``angle`` radians: r = 2F / (1 + F), F unpolarised Fresnel reflectance."""
    inside = torch.asin(torch.sin(angle) / index)
    cos_out, cos_in = torch.cos(angle), torch.cos(inside)
    s = ((cos_out - index * cos_in) / (cos_out + index * cos_in)) ** 2
    p = ((cos_in - index * cos_out) / (cos_in + index * cos_out)) ** 2
    fresnel = (s + p) / 2
    return 2 * fresnel / (1 + fresnel)


def blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur with one sigma a sample; the kernel is cut to what the picture can reflect at its border."""
    largest = 2 * (min(x.shape[-2:]) - 1) + 1 if min(x.shape[-2:]) > 1 else 1
    kernel = min(kernel, 2 * ((largest - 1) // 4) + 1)
    sigma = sigma.flatten().clamp(min=0.05)[:, None].expand(-1, 2)
    return gaussian_blur2d(x, (kernel, kernel), sigma)


def _make_room(T: Tensor, R: Tensor) -> Tensor:
    """Darken R by 1.3 times the mean overflow of T + R (one number a sample), as CEILNet does."""
    total = T + R
    over = total > 1
    mean = (total * over).sum((1, 2, 3), keepdim=True) / over.sum((1, 2, 3), keepdim=True).clamp(min=1)
    return (R - 1.3 * (mean.clamp(min=1) - 1)).clamp(0, 1)


def _screen_or_add(T: Tensor, R: Tensor, generator: Generator) -> Tensor:
    """Screen with p 0.7, else add with `ceilnet`'s clipping, as DSRNet and RDNet do."""
    pick = _draw(T, torch.rand(T.shape[0], generator=generator) < 0.7).bool()
    return torch.where(pick, T + R - T * R, (T + _make_room(T, R)).clamp(0, 1))


def _mixed_kernels(R: Tensor, generator: Generator, scale: float) -> Tensor:
    # The kernel size truncates the Gaussian; the four sizes are drawn with DSRNet's shares.
    sizes = torch.tensor([5, 7, 9, 11])
    drawn = sizes[torch.multinomial(torch.tensor([0.1, 0.2, 0.3, 0.4]), R.shape[0], True, generator=generator)]
    sigma = _uniform(R, generator, 2, 5) * scale
    blurred = R.clone()
    for size in sizes.tolist():
        chosen = drawn == size
        if chosen.any():
            here = chosen.to(R.device)
            width = max(3, round(size * scale) // 2 * 2 + 1)
            blurred = _put(blurred, chosen, blur(R[here], sigma[here], width))
    return blurred


def _vignette(T: Tensor, generator: Generator) -> Tensor:
    """A random crop of a Gaussian bump (+-3 sigma over 1.5 times the side; the public code fixes 560 pixels)."""
    height, width = T.shape[-2:]
    offset_y, offset_x = _uniform(T, generator, 0, 0.5), _uniform(T, generator, 0, 0.5)
    y = (torch.linspace(0, 1, height, device=T.device)[:, None] + offset_y) / 1.5 * 6 - 3
    x = (torch.linspace(0, 1, width, device=T.device)[None, :] + offset_x) / 1.5 * 6 - 3
    return torch.exp(-(x**2 + y**2) / 2)  # (B, 1, H, W)


def _half_plane(T: Tensor, generator: Generator) -> Tensor:
    """A soft mask ``(B, 1, H, W)``: one side of a random line, feathered over 2 to 20 % of the picture."""
    _, _, height, width = T.shape
    angle, shift = _uniform(T, generator, 0, 2 * pi), _uniform(T, generator, -0.5, 0.5)
    feather = _uniform(T, generator, 0.02, 0.2)
    y = torch.linspace(-1, 1, height, device=T.device)[:, None]
    x = torch.linspace(-1, 1, width, device=T.device)[None, :]
    return torch.sigmoid((x * angle.cos() + y * angle.sin() - shift) / feather * 2)


def _uniform(like: Tensor, generator: Generator, low: float, high: float, channels: int = 1) -> Tensor:
    drawn = low + (high - low) * torch.rand(like.shape[0], channels, 1, 1, generator=generator)
    return drawn.to(like)


def _draw(like: Tensor, chosen: Tensor) -> Tensor:
    return chosen.to(like)[:, None, None, None]


def _put(whole: Tensor, chosen: Tensor, part: Tensor) -> Tensor:
    whole = whole.clone()
    whole[chosen.to(whole.device)] = part.to(whole.dtype)
    return whole
