"""Compositing with straight alpha in and straight alpha out.

Every mode follows one rule, that of the W3C compositing model and of OpenRaster: with backdrop colour ``cb`` and alpha
``ab``, source colour ``cs`` and alpha ``as``, and a blend function ``B``::

    cs' = (1 - ab) * cs + ab * B(cb, cs)
    ao  = as + ab * (1 - as)
    co  = (as * cs' + ab * (1 - as) * cb) / ao

Shapes are ``(..., 3, H, W)`` for colour and ``(..., 1, H, W)`` for alpha.
"""

from collections.abc import Callable

import torch
from kornia.color import lab_to_rgb, rgb_to_lab
from torch import Tensor

Blend = Callable[[Tensor, Tensor], Tensor]

_STRIP = 1 << 19  # pixels in Lab at a time: the conversions make a dozen planes


def _normal(backdrop: Tensor, source: Tensor) -> Tensor:
    return source


def _add(backdrop: Tensor, source: Tensor) -> Tensor:
    # Light adds up and saturates at white; a backdrop already outside sRGB's range is left where it is.
    return torch.minimum(backdrop + source, backdrop.clamp(min=1.0))


def _with_lightness(lightness: Tensor, colour: Tensor) -> Tensor:
    out = torch.empty_like(colour)
    rows = max(1, _STRIP // max(1, out[..., 0, 0, :].numel()))
    for top in range(0, out.shape[-2], rows):
        strip = slice(top, top + rows)
        lab_l, lab_c = _to_lab(lightness[..., strip, :]), _to_lab(colour[..., strip, :])
        lab = torch.cat([lab_l[..., :1, :, :], lab_c[..., 1:, :, :]], dim=-3)  # (..., 3, h, W)
        rgb: Tensor = lab_to_rgb(lab.reshape(-1, *lab.shape[-3:]), clip=True)
        out[..., strip, :] = rgb.reshape(lab.shape)
    return out


def _to_lab(rgb: Tensor) -> Tensor:
    lab: Tensor = rgb_to_lab(rgb.reshape(-1, *rgb.shape[-3:]))
    return lab.reshape(rgb.shape)


def luminosity(backdrop: Tensor, source: Tensor) -> Tensor:
    """CIELAB luminosity: L* of ``source`` with a*, b* of ``backdrop``. Both ``(..., 3, H, W)`` sRGB in [0, 1]."""
    return _with_lightness(source, backdrop)


def color(backdrop: Tensor, source: Tensor) -> Tensor:
    """CIELAB colour: a*, b* of ``source`` with L* of ``backdrop``. Both ``(..., 3, H, W)`` sRGB in [0, 1]."""
    return _with_lightness(backdrop, source)


BLENDS: dict[str, Blend] = {"over": _normal, "add": _add, "luminosity": luminosity, "color": color}


def over(
    backdrop: Tensor, backdrop_alpha: Tensor, source: Tensor, source_alpha: Tensor, blend: str = "over"
) -> tuple[Tensor, Tensor]:
    """Lay ``source`` over ``backdrop`` with one of the modes of `BLENDS`.

    Args:
        backdrop: ``(..., 3, H, W)`` colour below, straight.
        backdrop_alpha: ``(..., 1, H, W)`` in [0, 1].
        source: ``(..., 3, H, W)`` colour above, straight.
        source_alpha: ``(..., 1, H, W)`` in [0, 1].
        blend: ``"over"``, ``"add"``, ``"luminosity"`` or ``"color"``.

    Returns:
        Colour ``(..., 3, H, W)`` and alpha ``(..., 1, H, W)``, straight. Colour is 0 where alpha is 0.
    """
    if blend == "over":
        mixed = source
    else:
        mixed = torch.lerp(source, BLENDS[blend](backdrop, source), backdrop_alpha)
    below = backdrop_alpha * (1 - source_alpha)
    alpha = source_alpha + below
    premultiplied = source_alpha * mixed + below * backdrop
    colour = torch.where(alpha > 0, premultiplied / alpha.clamp(min=1e-12), torch.zeros_like(premultiplied))
    return colour, alpha


def composite(layers: list[tuple[Tensor, Tensor | None, str, float]]) -> tuple[Tensor, Tensor | None]:
    """Composite ``(pixels, alpha, blend, opacity)`` from the bottom up.

    Returns:
        Colour ``(..., 3, H, W)`` and alpha ``(..., 1, H, W)``, straight; alpha is None when the result is opaque
        because an opaque layer lies in the stack.
    """
    pixels, alpha, _, opacity = layers[0]
    if alpha is None and opacity == 1.0:
        colour, coverage, opaque = pixels, torch.ones_like(pixels[..., :1, :, :]), True
    else:
        colour, coverage, opaque = pixels, _coverage(pixels, alpha, opacity), False
        colour = torch.where(coverage > 0, colour, torch.zeros_like(colour))
    for pixels, alpha, blend, opacity in layers[1:]:
        if opacity == 0.0:
            continue
        if blend == "over" and alpha is None and opacity == 1.0:
            colour, coverage, opaque = pixels, torch.ones_like(pixels[..., :1, :, :]), True
            continue
        if blend != "over" and opaque:  # the common case of all methods' stacks, without the alpha arithmetic
            mixed = BLENDS[blend](colour, pixels)
            full = alpha is None and opacity == 1.0
            colour = mixed if full else torch.lerp(colour, mixed, _coverage(pixels, alpha, opacity))
            continue
        colour, coverage = over(colour, coverage, pixels, _coverage(pixels, alpha, opacity), blend)
    return colour, None if opaque else coverage


def _coverage(pixels: Tensor, alpha: Tensor | None, opacity: float) -> Tensor:
    if alpha is None:
        return torch.full_like(pixels[..., :1, :, :], opacity)
    return alpha if opacity == 1.0 else alpha * opacity
