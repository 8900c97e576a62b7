"""Colour from words, picture to stack: lightness and a text vector through the generator, and back to full size.

Sec. 3 of the paper for the one network call; strength, regions, variants and films are ours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.device import generator_of, resolve_device, resolve_dtype
from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.hub.pretrained import load_config, load_state, resolve_weights, save_pretrained, weights_id
from pellucid.io.image import as_stack
from pellucid.layers import Layer, LayerStack
from pellucid.tic.film import SHARE, TemporalSmoother
from pellucid.tic.full_size import ab_coefficients, paint
from pellucid.tic.lab import Gamut, grey_of, lightness
from pellucid.tic.model import TICConfig, TICGenerator, fold_norms
from pellucid.tic.palette import palette
from pellucid.tic.regions import Region, Where, as_regions, feathered
from pellucid.tic.text import EncodedText, TextEncoder, paraphrases
from pellucid.tic.word_vectors import WordVectors

log = logging.getLogger(__name__)

ROOM = "tic"
DEFAULT_WEIGHTS = "small"
VECTORS = "vectors.npz"  # beside the weights, when they were trained with others than those that ship
NOISE = 0.1  # standard deviation of each number of a text vector under a seed; a sentence vector has length 4
COLOURED = 4 / 255  # by which R, G and B must differ somewhere for a picture to count as coloured
_SATURATIONS = (1.0, 1.2, 0.8, 1.4)  # of the variants, in turn
_STRIP = 512  # rows looked at together


class Encoder(Protocol):
    """What turns a phrase into a vector: `text.TextEncoder`, or one of another network."""

    @property
    def dimension(self) -> int: ...

    def encode(self, text: str) -> EncodedText: ...


class ColorizationPipeline:
    """Colour photographs as words say.

    Args:
        generator: the network, as it was trained.
        encoder: turns text into vectors of the generator's ``vector_dim``.
        weights: identity of the weights, kept in the result's meta data.
        device: where to compute.
        dtype: precision of the network; the picture itself stays float32.

    Raises:
        WeightsError: the encoder's vectors have another dimension than the generator takes.
    """

    def __init__(
        self,
        generator: TICGenerator,
        encoder: Encoder,
        weights: str = "unnamed",
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> None:
        self.generator = generator.eval().requires_grad_(False)
        self.config = generator.config
        if encoder.dimension != self.config.vector_dim:
            raise WeightsError(
                f"these weights take text vectors of {self.config.vector_dim} numbers, found {encoder.dimension}",
                "use the vectors they were trained with",
            )
        self.encoder = encoder
        self.weights = weights
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self._network = fold_norms(generator)
        self.to(self.device)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        encoder: Encoder | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        revision: str | None = None,
        offline: bool = False,
    ) -> ColorizationPipeline:
        """Load bundled weights (by default or by name), a folder, or a hub id.

        Args:
            source: see `hub.pretrained.resolve_weights`.
            encoder: another text encoder than word vectors, for weights that were trained with it. By default the
                folder's own ``vectors.npz``, else the vectors that ship.
            device, dtype: as above.
            revision, offline: of a hub id.

        Raises:
            WeightsError: not found, damaged, or of another shape than their config says.
        """
        folder = resolve_weights(source, room=ROOM, default=DEFAULT_WEIGHTS, offline=offline, revision=revision)
        generator = TICGenerator(load_config(folder, TICConfig))
        load_state(generator, folder)
        if encoder is None:
            own = folder / VECTORS
            vectors = WordVectors.load(own) if own.is_file() else WordVectors.bundled()
            encoder = TextEncoder(vectors.expect_dimension(generator.config.vector_dim), generator.config.text_norm)
        return cls(generator, encoder, weights_id(folder), device=device, dtype=dtype)

    def save_pretrained(self, folder: str | Path, *, card: str, overwrite: bool = False) -> Path:
        """Write ``config.json``, ``model.safetensors``, the card ``README.md``; and vectors, if not those that ship."""
        written = save_pretrained(
            folder, method=ROOM, config=self.config, state=self.generator, card=card, overwrite=overwrite
        )
        if isinstance(self.encoder, TextEncoder) and not _ships(self.encoder.vectors):
            self.encoder.vectors.save(written / VECTORS)
        return written

    def to(self, device: str | torch.device) -> ColorizationPipeline:
        """Move the network to a device; returns the pipeline."""
        self.device = resolve_device(device)
        self._network.to(self.device, self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def encode(self, text: str) -> EncodedText:
        """Turn a phrase into its vector; says which words are known."""
        return self.encoder.encode(text)

    @torch.no_grad()
    def predict(self, picture: Tensor, vectors: Tensor) -> Tensor:
        """Ask the network (Sec. 3.1), at its own size.

        Args:
            picture: L ``(B, 1, H, W)`` in 0..100, or sRGB ``(B, 3, H, W)`` in [0, 1]; B may be 1 for several texts.
            vectors: ``(B, D)``; zeros are no text.

        Returns:
            ab ``(B, 2, h, w)`` in Lab units, float32; h = w = ``config.working_side``, the whole picture squashed.
        """
        config = self.config
        L = lightness(picture) if picture.shape[1] == 3 else picture
        L_n = (self._squashed(L.to(self.device, torch.float32)) - config.l_centre) / config.l_scale
        L_n = L_n.to(self.dtype, memory_format=torch.channels_last)
        return self._network(L_n, vectors.to(self.device, self.dtype)).float() * config.ab_scale

    def __call__(
        self,
        image: Any,
        text: str = "",
        *,
        regions: Iterable[Region | tuple[Where, str]] = (),
        strength: float = 1.0,
        saturation: float = 1.0,
        gamut: Gamut = "chroma",
        keep: bool = False,
        seed: int | None = None,
    ) -> LayerStack:
        """Colour one picture.

        Args:
            image: path, PIL image, numpy ``(H, W, C)``, tensor ``(C, H, W)`` or a stack; any size from 1x1. Of a
                coloured picture only L is used.
            text: what is to be seen, in which colours; empty leaves it to the network.
            regions: phrases for parts of the picture, see `regions.Region`; later ones lie above earlier ones.
            strength: how much the words do, 0 to 1.5: ab = ab_none + strength * (ab_text - ab_none).
            saturation: factor on a and b, from 0 (grey).
            gamut: ``"chroma"`` keeps lightness where a colour leaves sRGB, ``"clip"`` does not; see `lab.to_gamut`.
            keep: outside the regions a coloured picture keeps its own colours; ``text`` is not used then.
            seed: noise on the text vectors: another seed, another result. None is the network's answer as it is.

        Returns:
            Layers ``color``, the coloured picture, and above it ``luminance`` (luminosity), the grey of the original's
            L, both with the input's size, alpha and meta data. ``parameters`` hold what was asked for and
            the words that were not ``unknown``.

        Raises:
            InputError: the picture cannot be read or is a film; a region does not fit it.
            ConfigError: an option is out of its range.
        """
        wish = _Wish(text, as_regions(regions), strength, saturation, gamut, keep, seed)
        return self._colour(self._see(image), wish)

    def variants(
        self,
        image: Any,
        text: str = "",
        n: int = 4,
        seed: int = 0,
        *,
        regions: Iterable[Region | tuple[Where, str]] = (),
        strength: float = 1.0,
        saturation: float = 1.0,
        gamut: Gamut = "chroma",
        keep: bool = False,
    ) -> Iterator[LayerStack]:
        """Colour one picture in ``n`` ways, one after the other.

        The first is what a call gives. Each other one says the colour words in another way where there is one
        (`text.paraphrases`), adds the noise of its own seed to the text vectors, and takes its turn in four
        saturations. The same ``seed`` gives the same pictures.

        Raises:
            ConfigError: ``n`` is below 1.
        """
        if n < 1:
            raise ConfigError(f"variants must be at least 1, found {n}")
        wish = _Wish(text, as_regions(regions), strength, saturation, gamut, keep, None)
        generator = generator_of(seed)
        texts = [text, *paraphrases(text, n - 1, generator)]
        wishes = [wish]
        for index in range(1, n):
            factor = saturation * _SATURATIONS[index % len(_SATURATIONS)]
            own = int(torch.randint(2**31, (1,), generator=generator))
            wishes.append(replace(wish, text=texts[index], saturation=factor, seed=own))
        seen = self._see(image)
        return (self._colour(seen, each) for each in wishes)

    def video(
        self,
        frames: Iterable[Tensor],
        text: str = "",
        *,
        strength: float = 1.0,
        saturation: float = 1.0,
        gamut: Gamut = "chroma",
        smoothing: float = SHARE,
        seed: int | None = None,
    ) -> Iterator[Tensor]:
        """Colour a film frame by frame, without flicker; see `film.TemporalSmoother`.

        Args:
            frames: ``(3, H, W)`` or ``(4, H, W)`` in [0, 1], all of one size.
            text, strength, saturation, gamut, seed: as in a call.
            smoothing: share of the past, in [0, 1).

        Yields:
            Coloured frames of the same shape.
        """
        wish = _Wish(text, (), strength, saturation, gamut, False, seed)
        if not 0.0 <= smoothing < 1.0:
            raise ConfigError(f"smoothing must be in [0, 1), found {smoothing}")
        vector, _ = self._vectors(wish)
        return self._film(frames, vector, wish, TemporalSmoother(smoothing))

    def palette(self, stack: LayerStack) -> list[dict[str, Any]]:
        """The six main colours of a result as plain values; see `palette.palette`."""
        return [asdict(swatch) for swatch in palette(stack)]

    def export_onnx(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the network as ONNX: ``L_n`` (B, 1, S, S) and ``text`` (B, D) -> ``ab_n`` (B, 2, S, S).

        S is the working side. L_n = L / 50 - 1 and ab = 110 ab_n unless the config says otherwise. Only B is free.

        Raises:
            DependencyError: the extra ``export`` is not installed.
        """
        from pellucid.hub.onnx import export  # the extra is needed only here

        side, dimension = self.config.working_side, self.config.vector_dim
        generator = torch.Generator().manual_seed(0)
        arguments = (torch.rand(2, 1, side, side, generator=generator), torch.randn(2, dimension, generator=generator))
        return export(
            fold_norms(self.generator).float().cpu(),
            arguments,
            path,
            inputs=("L_n", "text"),
            outputs=("ab_n",),
            stride=None,
            overwrite=overwrite,
        )

    def _see(self, image: Any) -> _Seen:
        stack = as_stack(image)
        if stack.fps is not None:
            raise InputError(f"a film of {stack.frames} frames is no picture", "colour it with video()")
        # A single layer is taken as it is: compositing would lose the colour under its transparent pixels.
        single = stack.layers[0] if len(stack.layers) == 1 else None
        if single is None:
            rgba = stack.composite()
            pixels, alpha = rgba[:3], rgba[3:] if rgba.shape[0] == 4 else None
        else:
            pixels, alpha = single.pixels, single.alpha
        coloured = _is_coloured(pixels)
        x = pixels[None].to(self.device)
        L = lightness(x)  # (1, 1, H, W)
        return _Seen(stack, x, alpha, coloured, L, self._squashed(L))

    def _colour(self, seen: _Seen, wish: _Wish) -> LayerStack:
        if seen.coloured and not wish.keep:
            log.warning("%s is coloured: only its lightness is used", seen.stack.meta.source or "the picture")
        vector, unknown = self._vectors(wish)
        # The whole picture alone and the regions after it: a batch of another size would round differently, and a
        # region must not change a pixel outside its feather.
        base = ab_coefficients(seen.small, self._ab(seen.small, vector[:1], wish))
        over = []
        for index, region in enumerate(wish.regions, 1):
            colour = ab_coefficients(seen.small, self._ab(seen.small, vector[index : index + 1], wish))
            over.append((colour, feathered(region, seen.L)))
        painted = paint(seen.L, base, over, gamut=wish.gamut, kept=seen.x if wish.keep else None)
        grey = (grey_of(seen.L) if seen.coloured else seen.x[:, :1]).clamp(0, 1)[0].cpu()
        layers = (
            Layer("color", painted[0].cpu(), seen.alpha),
            Layer("luminance", grey.expand(3, -1, -1), seen.alpha, blend="luminosity"),
        )
        parameters = wish.parameters() | {"unknown": unknown}
        meta = replace(seen.stack.meta, method=ROOM, weights=self.weights, seed=wish.seed, parameters=parameters)
        return LayerStack(layers, meta=meta)

    def _film(
        self, frames: Iterable[Tensor], vector: Tensor, wish: _Wish, smooth: TemporalSmoother
    ) -> Iterator[Tensor]:
        told = False
        for frame in frames:
            if not told and _is_coloured(frame[:3]):
                log.warning("the film is coloured: only its lightness is used")
                told = True
            L = lightness(frame[None, :3].to(self.device))
            small = self._squashed(L)
            ab = smooth(small, self._ab(small, vector, wish))
            painted = paint(L, ab_coefficients(small, ab), gamut=wish.gamut)[0].cpu()
            yield painted if frame.shape[0] == 3 else torch.cat([painted, frame[3:]])

    def _ab(self, small: Tensor, vector: Tensor, wish: _Wish) -> Tensor:
        """ab under one text, with strength and saturation: ``(1, 1, h, w)``, ``(1, D) -> (1, 2, h, w)``."""
        if wish.strength == 1.0 or not bool(vector.any()):
            return self.predict(small, vector) * wish.saturation
        none, worded = self.predict(small, torch.cat([torch.zeros_like(vector), vector])).split(1)
        return (none + wish.strength * (worded - none)) * wish.saturation

    def _vectors(self, wish: _Wish) -> tuple[Tensor, list[str]]:
        """The vectors of the text and of each region's ``(1 + R, D)``, and all words that are not known."""
        encoded = [self.encode(text) for text in (wish.text, *(region.text for region in wish.regions))]
        vectors = torch.stack([each.vector for each in encoded])
        if wish.seed is not None:
            vectors = vectors + NOISE * torch.randn(vectors.shape, generator=generator_of(wish.seed))
        return vectors, list(dict.fromkeys(word for each in encoded for word in each.unknown))

    def _squashed(self, L: Tensor) -> Tensor:
        """The whole picture at the network's size, squashed to its square (Sec. 3): ``(B, 1, h, w)`` in 0..100."""
        side = self.config.working_side
        if L.shape[-2:] == (side, side):
            return L
        return F.interpolate(L, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp_(0.0, 100.0)


@dataclass(frozen=True)
class _Wish:
    """What the user asks for.

    Raises:
        ConfigError: a value is out of its range.
    """

    text: str
    regions: tuple[Region, ...]
    strength: float
    saturation: float
    gamut: Gamut
    keep: bool
    seed: int | None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ConfigError(f"text must be a string, found {type(self.text).__name__}")
        if not 0.0 <= self.strength <= 1.5:
            raise ConfigError(f"strength must be in [0, 1.5], found {self.strength}")
        if not 0.0 <= self.saturation < float("inf"):
            raise ConfigError(f"saturation must be at least 0, found {self.saturation}")
        if self.keep and not self.regions:
            raise ConfigError("keep leaves all colours outside the regions, and there is no region", "give one")

    def parameters(self) -> dict[str, Any]:
        """As plain values, for the meta data."""
        return {
            "text": self.text,
            "regions": [{"where": str(region), "text": region.text} for region in self.regions],
            "strength": self.strength,
            "saturation": self.saturation,
            "gamut": self.gamut,
            "keep": self.keep,
        }


@dataclass(frozen=True)
class _Seen:
    """A picture as the network needs it: itself ``(1, 3, H, W)``, L ``(1, 1, H, W)``, and L at the working size."""

    stack: LayerStack
    x: Tensor
    alpha: Tensor | None
    coloured: bool
    L: Tensor
    small: Tensor


def _is_coloured(pixels: Tensor) -> bool:
    if pixels.stride(0) == 0:  # one grey plane, shown as three
        return False
    for top in range(0, pixels.shape[-2], _STRIP):
        low, high = pixels[:, top : top + _STRIP].aminmax(dim=0)
        if float((high - low).max()) > COLOURED:
            return True
    return False


def _ships(vectors: WordVectors) -> bool:
    try:
        bundled = WordVectors.bundled()
    except WeightsError:
        return False
    return vectors.words == bundled.words and torch.equal(vectors.matrix, bundled.matrix)
