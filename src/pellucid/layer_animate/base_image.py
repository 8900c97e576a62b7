"""Stage 1: the picture with alpha that is animated, the user's own or drawn from words (Sec. III-A; spec §3)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError
from pellucid.io.image import as_stack
from pellucid.layer_animate.clips.cuts import resize_rgba
from pellucid.layer_animate.model import LayerAnimate
from pellucid.layer_animate.sampling.sampler import Progress, Sampling, sample_picture
from pellucid.layers import LayerStack

log = logging.getLogger(__name__)

Fit = Literal["contain", "cover", "stretch"]
FITS: tuple[str, ...] = get_args(Fit)
SMALLEST = 8  # pixels a side: one cell of the latents
VISIBLE = 0.5 / 255  # alpha that an 8-bit file would round to 0

# Distances of a colour from the key, in units of sRGB, between which alpha rises from 0 to 1.
_KEY_NEAR, _KEY_FAR = 0.10, 0.35


def fit_base(
    picture: Any,
    size: tuple[int, int],
    mode: Fit = "contain",
    key_color: Sequence[float] | Tensor | None = None,
    matte: Any | None = None,
) -> Tensor:
    """Bring a user's picture to the size of the clip.

    Resizing is done on premultiplied colour, so that colour under transparent pixels does not bleed into edges.

    Args:
        picture: whatever `io.image.as_stack` takes: a path, Pillow picture, array, tensor or stack; any size.
        size: (H, W) of the clip.
        mode: ``"contain"`` shows all of it with a transparent margin, ``"cover"`` fills the frame and cuts what is too
            much from both sides, ``"stretch"`` does not keep its proportions.
        key_color: sRGB of a background of one colour, in [0, 1]: it becomes transparent, and its share is taken out of
            half-covered pixels.
        matte: a picture whose brightness becomes alpha; of any size with the same proportions.

    Returns:
        ``(4, H, W)`` straight alpha, float32 in [0, 1]; the very picture when it has that size and alpha already.

    Raises:
        InputError: it cannot be read, is a film, is smaller than 8 pixels a side, or nothing of it is visible.
        ConfigError: no such mode, a key colour outside [0, 1], or key colour and matte together.
    """
    if mode not in FITS:
        raise ConfigError(f"fit {mode!r} is not known", f"use one of {', '.join(FITS)}")
    if key_color is not None and matte is not None:
        raise ConfigError("a key colour and a matte both say what alpha is", "give one of them")
    stack = as_stack(picture)
    name = stack.meta.source or "the picture"
    rgba, opaque = _shown(stack, name)
    height, width = rgba.shape[-2:]
    if min(height, width) < SMALLEST:
        raise InputError(
            f"{name} is {width}x{height} pixels, at least {SMALLEST}x{SMALLEST} are needed",
            "give a larger picture: nothing can be seen in this one",
        )
    if key_color is not None:
        rgba = keyed(rgba, key_color)
    elif matte is not None:
        rgba = _matted(rgba, matte, name)
    elif opaque:
        log.warning("%s has no alpha: all of it is taken as foreground; give a key colour or a matte", name)
    if float(rgba[3].max()) < VISIBLE:
        if key_color is not None:
            raise InputError(f"{name}: nothing is left of it without the key colour", "choose another key colour")
        raise InputError(f"{name} is fully transparent", "give a picture whose alpha channel shows something")
    fitted = _fitted(rgba, size, mode)
    if (height, width) != size:
        log.info("%s was brought from %dx%d to %dx%d (%s)", name, width, height, size[1], size[0], mode)
    if float(fitted[3].max()) < VISIBLE:
        raise InputError(
            f"{name}: nothing is visible of it at {size[1]}x{size[0]}", 'crop it, or use a larger size or fit "cover"'
        )
    return fitted


def draw_latents(
    model: LayerAnimate,
    text: Tensor,
    null: Tensor,
    size: tuple[int, int],
    sampling: Sampling,
    seed: int | torch.Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Draw a picture from words with the same networks, motion and Inter-Frame Attention off.

    Args:
        model: the networks; with LayerDiffuse's units the pictures have alpha.
        text: ``(1, L, D)``, what is to be seen.
        null: ``(1, L, D)``, the empty or the negative prompt.
        size: (H, W) of the picture.
        sampling: steps, guidance, scheduler and memory options; the schedule is the one of single pictures.
        seed: of the noise.
        progress: called with (steps done, steps).

    Returns:
        Model latents ``(1, C, h, w)``; `LayerAnimate.decode` with ``size`` makes the picture of them.
    """
    factor = model.config.factor
    shape = (1, model.config.latent_channels, math.ceil(size[0] / factor), math.ceil(size[1] / factor))
    betas = model.config.stage1_betas
    return sample_picture(model.unet, model.context, shape, text, null, sampling, seed, progress, betas)


def keyed(rgba: Tensor, key: Sequence[float] | Tensor) -> Tensor:
    """Make a colour transparent; other pixels lose its share, so that edges do not keep its fringe.

    Args:
        rgba: ``(4, H, W)`` straight.
        key: sRGB in [0, 1].

    Returns:
        ``(4, H, W)``: alpha times what the colour's distance from the key says.

    Raises:
        ConfigError: the key is not three numbers in [0, 1].
    """
    colour = torch.as_tensor(key, dtype=torch.float32).flatten()
    if colour.numel() != 3 or not bool(((colour >= 0) & (colour <= 1)).all()):
        raise ConfigError(f"a key colour is three numbers in [0, 1], found {colour.tolist()}")
    background = colour[:, None, None]
    away = (rgba[:3] - background).norm(dim=0, keepdim=True)
    alpha = ((away - _KEY_NEAR) / (_KEY_FAR - _KEY_NEAR)).clamp(0.0, 1.0)
    # seen = alpha * own + (1 - alpha) * key
    own = ((rgba[:3] - (1.0 - alpha) * background) / alpha.clamp(min=0.05)).clamp(0.0, 1.0)
    return torch.cat([torch.where(alpha > 0, own, rgba[:3]), rgba[3:] * alpha])


def _shown(stack: LayerStack, name: str) -> tuple[Tensor, bool]:
    """``(4, H, W)`` of a stack in [0, 1], and whether nothing said what alpha is."""
    if stack.fps is not None:
        raise InputError(f"{name} is a film of {stack.frames} frames, a picture is needed", "save one frame of it")
    # A single layer is taken as it is: compositing would lose the colour under its transparent pixels.
    shown = stack.layers[0].rgba if len(stack.layers) == 1 else stack.composite()
    colour, alpha = shown[:3], shown[3:]
    if float(colour.min()) < 0 or float(colour.max()) > 1:
        log.warning("%s has colours outside sRGB: they are clipped", name)
        colour = colour.clamp(0.0, 1.0)
    opaque = shown.shape[0] == 3
    return torch.cat([colour, torch.ones_like(colour[:1]) if opaque else alpha]), opaque


def _matted(rgba: Tensor, matte: Any, name: str) -> Tensor:
    stack = as_stack(matte)
    if stack.fps is not None:
        raise InputError(f"the matte of {name} is a film of {stack.frames} frames, a picture is needed")
    seen = stack.composite(torch.zeros(3))  # what is transparent in a matte is not covered
    grey = seen.mul(torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None]).sum(0, keepdim=True).clamp(0.0, 1.0)
    (height, width), (tall, wide) = rgba.shape[-2:], grey.shape[-2:]
    if abs(width * tall - height * wide) > max(height * tall, width * wide) * 0.02:
        raise InputError(f"the matte of {name} is {wide}x{tall}, expected the proportions of {width}x{height}")
    if (height, width) != (tall, wide):
        grey = F.interpolate(grey[None], (height, width), mode="bilinear", antialias=True, align_corners=False)[0]
    return torch.cat([rgba[:3], rgba[3:] * grey])


def _fitted(rgba: Tensor, size: tuple[int, int], mode: Fit) -> Tensor:
    height, width = rgba.shape[-2:]
    if (height, width) == size:
        return rgba
    if mode == "stretch":
        return resize_rgba(rgba, size)
    if mode == "cover":  # cut first: the whole of a very long picture would become huge
        ratio = max(size[0] / height, size[1] / width)
        tall, wide = min(height, max(1, round(size[0] / ratio))), min(width, max(1, round(size[1] / ratio)))
        top, left = (height - tall) // 2, (width - wide) // 2
        return resize_rgba(rgba[:, top : top + tall, left : left + wide], size)
    ratio = min(size[0] / height, size[1] / width)
    tall, wide = min(size[0], max(1, round(height * ratio))), min(size[1], max(1, round(width * ratio)))
    top, left = (size[0] - tall) // 2, (size[1] - wide) // 2
    fitted = torch.zeros(4, *size)
    fitted[:, top : top + tall, left : left + wide] = resize_rgba(rgba, (tall, wide))
    return fitted
