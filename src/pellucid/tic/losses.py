"""The losses of generator and discriminator (Sec. 3.3, Eq. 1-4).

Legend: L_n luminance ``(B, 1, H, W)`` in -1..1; E ab predicted and T ab true, ``(B, 2, H, W)`` in ab_n = ab / 110 (see
`Scales`); D's answers are logits, one a patch, ``(B, 1, h, w)``. Eq. 4's "min max" is only notation: the generator
minimises `ColorizationLoss`, the discriminator `discriminator_loss`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from kornia.color import lab_to_rgb
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import ConfigError
from pellucid.nn.vgg import VGG19Features

Units = Literal["normalised", "lab"]
Reduce = Literal["patch", "mean_then_bce"]
Colours = Literal["rgb", "labn"]
Layer = Literal["relu4_1", "relu2_2", "relu4_4"]
Features = Callable[[Tensor], Sequence[Tensor]]

_DARKEST = 12.92e-6  # sRGB of 1e-6 in linear light


class Scales(NamedTuple):
    """How the normalised numbers are those of Lab: L = l_centre + l_scale L_n, ab = ab_scale ab_n; see `TICConfig`."""

    l_centre: float = 50.0
    l_scale: float = 50.0
    ab_scale: float = 110.0


def l1_loss(
    ab_hat: Tensor,
    ab: Tensor,
    units: Units = "normalised",
    scales: Scales = Scales(),
) -> Tensor:
    """Mean absolute difference of predicted and true colour (Eq. 1).

    The equation is a norm, that is a sum; over 131,072 numbers it would leave nothing of the other terms.

    Args:
        ab_hat: E, ``(B, 2, H, W)``, normalised.
        ab: T, same shape.
        units: ``"lab"`` counts in units of Lab, 110 times as much.
        scales: of the normalised numbers.
    """
    _expect("L1 units", units, Units)
    return F.l1_loss(ab_hat, ab) * (scales.ab_scale if units == "lab" else 1.0)


def generator_gan_loss(logits: Tensor, reduce: Reduce = "patch") -> Tensor:
    """BCE(D(L, G(L, S)), 1) (Eq. 2, upper line).

    Args:
        logits: D's answers to predicted colours, ``(B, 1, h, w)``.
        reduce: what "the average of the final response" means: ``"patch"`` averages the cross-entropies of all
            patches, the usual PatchGAN; ``"mean_then_bce"`` takes that of a picture's mean response.
    """
    return _cross_entropy(logits, 1.0, reduce)


def discriminator_loss(real: Tensor, fake: Tensor, reduce: Reduce = "patch") -> Tensor:
    """BCE(D(L, T), 1) + BCE(D(L, G(L, S)), 0) (Eq. 2, lower line; without the usual factor 1/2, as printed).

    Args:
        real: D's answers to true colours, ``(B, 1, h, w)``.
        fake: D's answers to predicted colours, which must be detached from the generator.
        reduce: see `generator_gan_loss`.
    """
    return _cross_entropy(real, 1.0, reduce) + _cross_entropy(fake, 0.0, reduce)


def perceptual_loss(
    features: Features,
    L_n: Tensor,
    ab_hat: Tensor,
    ab: Tensor,
    colours: Colours = "rgb",
    scales: Scales = Scales(),
) -> Tensor:
    """Mean absolute difference of VGG19 features of both coloured pictures (Eq. 3).

    VGG takes three channels and E and T have two, of which the paper says nothing: both get the same L.

    Args:
        features: what compares them, from pictures in [0, 1]; `vgg_features`, or another frozen network.
        L_n: luminance ``(B, 1, H, W)`` in -1..1; sides of at least 8 for relu4_1.
        ab_hat: E, ``(B, 2, H, W)``, normalised.
        ab: T, same shape.
        colours: ``"rgb"`` shows VGG sRGB, what it was trained on; ``"labn"`` the three normalised channels of Lab as
            if they were, which costs less and means less.
        scales: of the normalised numbers.
    """
    _expect("VGG input", colours, Colours)

    def picture(of: Tensor) -> Tensor:
        return _rgb(L_n, of, scales) if colours == "rgb" else (torch.cat([L_n, of], dim=1) + 1) / 2

    with torch.no_grad():
        wanted = features(picture(ab))
    found = features(picture(ab_hat))
    return torch.stack([F.l1_loss(ours, theirs) for ours, theirs in zip(found, wanted, strict=True)]).mean()


def vgg_features(state: Mapping[str, Tensor], layer: Layer = "relu4_1") -> VGG19Features:
    """The features of Eq. 3 at "layer rho = 4", from torchvision's VGG19 weights.

    Args:
        state: torchvision's state dict.
        layer: the paper does not define its layer 4. ``"relu4_1"`` is the fourth of the usual relu1_1 ... relu5_1,
            ``"relu2_2"`` the fourth ReLU from the input, ``"relu4_4"`` the last of the fourth block.

    Raises:
        ConfigError: an unknown layer.
        WeightsError: weights are missing or have another shape.
    """
    _expect("VGG layer", layer, Layer)
    return VGG19Features(state, ("conv" + layer.removeprefix("relu"),), post_relu=True)


class ColorizationLoss(nn.Module):
    """The generator's loss: lambda_1 L_GAN + lambda_2 L_P4 + lambda_3 L_1 (Eq. 4; all 1 in the paper).

    Args:
        features: what Eq. 3 compares; never random weights.
        lambda_gan: lambda_1.
        lambda_perceptual: lambda_2; 0 without features.
        lambda_l1: lambda_3.
        units: see `l1_loss`.
        reduce: see `generator_gan_loss`.
        colours: see `perceptual_loss`.
        scales: of the normalised numbers.

    Raises:
        ConfigError: an unknown choice, a negative weight, or a perceptual term without features.
    """

    def __init__(
        self,
        features: Features | None = None,
        lambda_gan: float = 1.0,
        lambda_perceptual: float = 1.0,
        lambda_l1: float = 1.0,
        *,
        units: Units = "normalised",
        reduce: Reduce = "patch",
        colours: Colours = "rgb",
        scales: Scales = Scales(),
    ) -> None:
        super().__init__()
        weights = {"lambda_gan": lambda_gan, "lambda_perceptual": lambda_perceptual, "lambda_l1": lambda_l1}
        for name, value in weights.items():
            if not value >= 0:
                raise ConfigError(f"loss: {name} must be at least 0, found {value}")
        if lambda_perceptual and features is None:
            raise ConfigError(
                f"loss: lambda_perceptual is {lambda_perceptual:g}, but there are no VGG19 weights",
                "give torchvision's vgg19 weights, or set lambda_perceptual to 0",
            )
        _expect("L1 units", units, Units)
        _expect("GAN reduction", reduce, Reduce)
        _expect("VGG input", colours, Colours)
        self.features = features
        self.lambda_gan, self.lambda_perceptual, self.lambda_l1 = lambda_gan, lambda_perceptual, lambda_l1
        self.units: Units = units
        self.reduce: Reduce = reduce
        self.colours: Colours = colours
        self.scales = scales

    def forward(
        self,
        L_n: Tensor,
        ab_hat: Tensor,
        ab: Tensor,
        logits: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the terms.

        Args:
            L_n: luminance ``(B, 1, H, W)`` in -1..1.
            ab_hat: E, ``(B, 2, H, W)``, normalised.
            ab: T, same shape.
            logits: D's answers to (L, E); None while the adversarial term is off.

        Returns:
            The terms by name (``l1``, ``perceptual``, ``gan``), already weighted; their sum is L^G.
        """
        terms: dict[str, Tensor] = {"l1": self.lambda_l1 * l1_loss(ab_hat, ab, self.units, self.scales)}
        if self.features is not None and self.lambda_perceptual:
            distance = perceptual_loss(self.features, L_n, ab_hat, ab, self.colours, self.scales)
            terms["perceptual"] = self.lambda_perceptual * distance
        if logits is not None and self.lambda_gan:
            terms["gan"] = self.lambda_gan * generator_gan_loss(logits, self.reduce)
        return terms


def _cross_entropy(logits: Tensor, target: float, reduce: Reduce) -> Tensor:
    _expect("GAN reduction", reduce, Reduce)
    logits = logits.float()  # under bf16 a mean over thousands of patches would lose its last digits
    if reduce == "mean_then_bce":
        logits = logits.mean(dim=(1, 2, 3))  # (B,)
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _rgb(L_n: Tensor, ab: Tensor, scales: Scales) -> Tensor:
    """sRGB ``(B, 3, H, W)`` whose gradient reaches colours brighter than white: only the dark end is cut off.

    The dark end must be: sRGB is linear there and goes on far below zero, where no picture is.
    """
    with torch.autocast(L_n.device.type, enabled=False):
        lightness = scales.l_centre + scales.l_scale * L_n.float()
        lab = torch.cat([lightness, scales.ab_scale * ab.float()], dim=1)  # (B, 3, H, W)
        return lab_to_rgb(lab, clip=False).clamp(min=_DARKEST)


def _expect(what: str, found: str, choices: object) -> None:
    known = get_args(choices)
    if found not in known:
        raise ConfigError(f"{what} {found!r} is not known", f"use {', '.join(known)}")
