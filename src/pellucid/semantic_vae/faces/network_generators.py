"""Generators of the SPADE and SEAN layouts behind the protocol of `generators`: opened by path, any size of mask.

No weights of these networks come with the package: the published ones may not be sold or passed on so freely, and the
user names the file. It is read as tensors only; nothing in it can run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.device import cpu_generator, resolve_device
from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.hub.convert import load_foreign
from pellucid.hub.pretrained import expect_state, load_config, read_state
from pellucid.semantic_vae.faces.generators import Generator
from pellucid.semantic_vae.faces.sean import SEANGenerator, draw_noise
from pellucid.semantic_vae.faces.spade import STRIDE, FaceNetworkConfig, SPADEGenerator, fold_spectral, one_hot
from pellucid.semantic_vae.faces.style_codes import StyleCodes, complete_codes, load_codes
from pellucid.semantic_vae.masks.classes import ClassSet

log = logging.getLogger(__name__)

MEAN_STYLE = "mean_style.safetensors"  # beside the weights that a recipe of this room wrote

_KINDS = {"spade": SPADEGenerator, "sean": SEANGenerator}


class SPADERenderer:
    """A SPADE network as a `generators.Generator`. It has no style: the mask alone decides.

    Args:
        network: in evaluation, with folded spectral norm.
        config: its sizes.
        classes: of the masks.

    Raises:
        ConfigError: the network is for another number of classes.
    """

    def __init__(self, network: SPADEGenerator, config: FaceNetworkConfig, classes: ClassSet) -> None:
        _expect_classes(config, classes)
        self.network, self.config, self.classes = network.eval().requires_grad_(False), config, classes

    def style(self, image: Tensor, labels: Tensor) -> None:
        """Check a picture ``(3, H, W)`` and its mask ``(H, W)``; there is no style to take."""
        _expect_picture(image, labels)

    def mean_style(self) -> None:
        """Return the only style there is, none."""

    @torch.inference_mode()
    def render(self, labels: Tensor, style: None = None, seed: int = 0) -> Tensor:
        """Render ``(H, W)`` uint8 -> ``(3, H, W)`` in [0, 1]; the network has no noise, so the seed changes nothing.

        Raises:
            InputError: the mask has another form, or ids beyond the network's classes.
        """
        planes = _planes(labels, self.config).to(self.network.fc.weight.device)
        return _picture(self.network(planes), labels)


class SEANRenderer:
    """A SEAN network as a `generators.Generator`: one style code a class, taken from a picture.

    Args:
        network: in evaluation, with folded spectral norm.
        config: its sizes.
        classes: of the masks.
        mean: mean codes of many pictures, for masks without a picture and for classes that a picture lacks.
        noise: strength of the noise, 0 for none.

    Raises:
        ConfigError: the network is for another number of classes, or the noise is negative.
    """

    def __init__(
        self,
        network: SEANGenerator,
        config: FaceNetworkConfig,
        classes: ClassSet,
        mean: StyleCodes | None = None,
        noise: float = 1.0,
    ) -> None:
        _expect_classes(config, classes)
        if noise < 0:
            raise ConfigError(f"noise must be at least 0, found {noise}")
        self.network, self.config, self.classes = network.eval().requires_grad_(False), config, classes
        self.mean, self.noise = mean, noise

    @torch.inference_mode()
    def style(self, image: Tensor, labels: Tensor) -> StyleCodes:
        """Take the codes of a picture ``(3, H, W)`` in [0, 1] with its mask ``(H, W)`` uint8.

        Raises:
            InputError: picture and mask do not go together, or the mask has ids beyond the network's classes.
        """
        _expect_picture(image, labels)
        planes = _planes(labels, self.config)
        small = F.interpolate(image[None].float(), planes.shape[2:], mode="bilinear", antialias=True).clamp(0, 1)
        device = self.network.fc.weight.device
        codes = self.network.encode((small * 2 - 1).to(device), planes.to(device))[0].cpu()
        return StyleCodes(codes, planes[0].any(dim=2).any(dim=1))

    def mean_style(self) -> StyleCodes:
        """Return the mean codes.

        Raises:
            WeightsError: none were given.
        """
        if self.mean is None:
            raise WeightsError(
                "this SEAN generator has no mean style, so it cannot render a mask alone",
                "give a photograph with its mask, or the mean style codes (mean_style=FILE)",
            )
        return self.mean

    def complete(self, style: StyleCodes, labels: Tensor, reference: StyleCodes | None = None) -> StyleCodes:
        """Give every class of ``labels`` a code, see `style_codes.complete_codes`."""
        return complete_codes(style, labels, self.classes, reference, self.mean)

    @torch.inference_mode()
    def render(self, labels: Tensor, style: StyleCodes, seed: int = 0) -> Tensor:
        """Render ``(H, W)`` uint8 -> ``(3, H, W)`` in [0, 1]; the seed draws the noise.

        Raises:
            InputError: the mask has another form, or ids beyond the network's classes; or a style of another generator.
        """
        if not isinstance(style, StyleCodes) or style.codes.shape != (self.config.classes, self.config.style):
            raise InputError(
                f"a SEAN style has codes ({self.config.classes}, {self.config.style}), found {_form(style)}",
                "take it with style() of this generator",
            )
        planes = _planes(labels, self.config)
        whole = self.complete(style, labels)
        device = self.network.fc.weight.device
        noise = None
        if self.noise > 0:
            size = (planes.shape[2], planes.shape[3])
            drawn = draw_noise(size, cpu_generator(seed), scale=self.noise)
            noise = {name: plane.to(device) for name, plane in drawn.items()}
        return _picture(self.network(planes.to(device), whole.codes[None].to(device), noise), labels)


def open_network(
    path: str | Path,
    classes: ClassSet,
    *,
    mean_style: str | Path | None = None,
    noise: float = 1.0,
    device: str = "auto",
) -> Generator:
    """Open a generator's weights; see `generators.open_generator`.

    Raises:
        WeightsError: the file is damaged or no generator of a known layout, or a key is missing, extra or wrong-shaped.
        ConfigError: it is for another number of classes.
    """
    source = Path(path)
    if source.is_dir():
        config, state = load_config(source, FaceNetworkConfig), read_state(source)
    else:
        state = load_foreign(source)
        config = config_of(state, str(source))
    _expect_classes(config, classes)
    where = resolve_device(device)
    network = build_network(config, state, origin=f" in {source}")
    network.to(where)
    log.info("%s: %s layout, %d classes, width %d", source, config.layout, config.classes, config.width)
    if isinstance(network, SPADEGenerator):
        if mean_style is not None:
            log.warning("a SPADE generator has no style: %s is not read", mean_style)
        return SPADERenderer(network, config, classes)
    if mean_style is None and source.is_dir() and (source / MEAN_STYLE).is_file():
        mean_style = source / MEAN_STYLE
    mean = None if mean_style is None else load_codes(mean_style, (config.classes, config.style))
    return SEANRenderer(network, config, classes, mean, noise)


def config_of(state: Mapping[str, Tensor], origin: str = "generator") -> FaceNetworkConfig:
    """Find layout and sizes of a generator from its keys and shapes.

    Raises:
        WeightsError: the keys are of neither layout, or the shapes make no sense.
    """
    layouts = {"sean": "head_0.ace_0.Spade.mlp_shared.0.weight", "spade": "head_0.norm_0.mlp_shared.0.weight"}
    layout = next((name for name, key in layouts.items() if key in state), None)
    if layout is None:
        found = ", ".join(list(state)[:3]) or "nothing"
        hint = f"expected {' or '.join(layouts.values())} among the keys"
        raise WeightsError(f"{origin} is no SPADE or SEAN generator: found {found}", hint)
    wanted = [layouts[layout], "fc.weight", *(["head_0.ace_0.conv_gamma.weight"] if layout == "sean" else [])]
    for key in wanted:
        if key not in state or state[key].ndim != 4:
            found = "nothing" if key not in state else tuple(state[key].shape)
            raise WeightsError(f"{origin}: {key} must have four axes, found {found}")
    sizes = [state[key].shape for key in wanted]
    style = {"style": sizes[2][1]} if layout == "sean" else {}
    return FaceNetworkConfig(layout, classes=sizes[1][1], width=sizes[1][0] // 16, hidden=sizes[0][0], **style)


def build_network(
    config: FaceNetworkConfig, state: Mapping[str, Tensor], origin: str = ""
) -> SPADEGenerator | SEANGenerator:
    """Build a network around weights without copying them, spectral norm folded, in evaluation.

    Args:
        config: what to build.
        state: as saved in training, with ``weight_orig``; or folded already.
        origin: for the message, such as ``" in file.pth"``.

    Raises:
        WeightsError: keys are missing, extra or wrong-shaped; up to five of each are named.
    """
    normalised = any(key.endswith(".weight_orig") for key in state)
    with torch.device("meta"):  # the layout only; its tensors are those of the file
        expect_state(_KINDS[config.layout](config, spectral=normalised), state, origin=origin)
    return network_around(config, state)


def network_around(config: FaceNetworkConfig, state: Mapping[str, Tensor]) -> SPADEGenerator | SEANGenerator:
    """`build_network` for weights that are known to fit."""
    with torch.device("meta"):
        network = _KINDS[config.layout](config, spectral=False)
    whole = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    network.load_state_dict(fold_spectral(whole), assign=True)
    return network.eval().requires_grad_(False)


def _expect_classes(config: FaceNetworkConfig, classes: ClassSet) -> None:
    if config.classes != len(classes):
        raise ConfigError(
            f"the generator takes masks of {config.classes} classes, the class set {classes.name!r} has {len(classes)}",
            "use weights for this class set, or the preview",
        )


def _expect_picture(image: Tensor, labels: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1:] != labels.shape:
        raise InputError(
            f"a style needs a picture (3, H, W) and its mask (H, W), found {tuple(image.shape)}, {tuple(labels.shape)}"
        )


def _planes(labels: Tensor, config: FaceNetworkConfig) -> Tensor:
    """One-hot planes ``(1, K, h, w)`` at the network's size: the short side as trained, sides multiples of 32."""
    if labels.ndim != 2 or labels.dtype != torch.uint8 or not labels.numel():
        raise InputError(f"a mask must be (H, W) uint8, found {tuple(labels.shape)} {labels.dtype}")
    largest = int(labels.max())
    if largest >= config.classes:
        raise InputError(f"the mask has id {largest}, the generator knows 0 to {config.classes - 1}")
    short = min(labels.shape)
    height, width = (max(STRIDE, round(side * config.size / short / STRIDE) * STRIDE) for side in labels.shape)
    # The centre's pixel, as Pillow resizes label maps.
    resized = F.interpolate(labels[None, None].cpu().float(), (height, width), mode="nearest-exact")
    return one_hot(resized[0].to(torch.uint8), config.classes)


def _picture(out: Tensor, labels: Tensor) -> Tensor:
    """``(1, 3, h, w)`` in [-1, 1] -> ``(3, H, W)`` in [0, 1] on the CPU, at the mask's size."""
    picture = (out.float().cpu() + 1) / 2
    if picture.shape[2:] != labels.shape:
        size = (labels.shape[0], labels.shape[1])
        log.info("rendered at %dx%d, resized to %dx%d", picture.shape[3], picture.shape[2], size[1], size[0])
        picture = F.interpolate(picture, size, mode="bicubic", antialias=True)
    return picture[0].clamp(0, 1)


def _form(style: object) -> str:
    return str(tuple(style.codes.shape)) if isinstance(style, StyleCodes) else type(style).__name__
