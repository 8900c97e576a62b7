"""Batches of captioned pictures, made on the training device: banks, object masks, cut-outs on grounds, texts.

A batch is a pure function of the seed, its index and the process. The network only ever sees whole pictures pressed
into a square (Sec. 3: "resized to a fixed size of 256x256"), so the banks hold squares.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from pellucid.data.bank import PixelBank
from pellucid.data.synthetic import draw_pictures
from pellucid.device import cpu_generator, generator_of
from pellucid.errors import ConfigError, InputError
from pellucid.tic.clip_text import ClipTextEncoder
from pellucid.tic.data import Captioned
from pellucid.tic.lab import lab_to_rgb, rgb_to_lab
from pellucid.tic.obedience import prompt
from pellucid.tic.object_mask import object_mask
from pellucid.tic.text import TextEncoder, colour_words, tokenise
from pellucid.tic.vocabulary import CHROMATIC, COLOURS, SIX, canonical

log = logging.getLogger(__name__)

Objects = Literal["auto", "alpha", "border", "none"]
Recolour = Callable[[Tensor, Tensor, list[str], list[str], Generator, float], tuple[Tensor, list[str], Tensor]]

_PLAIN_SHARE = 0.5  # of flat grounds that are exactly neutral


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        lab: ``(B, 3, S, S)``, L in [0, 100], a and b in Lab units.
        vectors: text vectors ``(B, D)``; zeros where the text was dropped.
        texts: the texts; empty where dropped.
    """

    lab: Tensor
    vectors: Tensor
    texts: tuple[str, ...]


@dataclass(frozen=True)
class CaptionedBank:
    """A set's pictures on the device, with their texts.

    Attributes:
        bank: ``(N, 4, S, S)`` uint8: RGB, and where the object is. Of cut-outs RGB is premultiplied by that alpha, so
            that it can be resized.
        texts: the texts of each picture; never empty, though a text may be.
        nouns: what each shows, without a colour.
        weights: ``(N,)`` how often each is drawn.
        cut_out: the pictures are objects with alpha, to be laid on a ground.
        share: of the draws that this set gets.
    """

    bank: PixelBank
    texts: tuple[tuple[str, ...], ...]
    nouns: tuple[str, ...]
    weights: Tensor
    cut_out: bool
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.bank)

    def to(self, device: torch.device) -> CaptionedBank:
        """The same bank on another device."""
        return CaptionedBank(self.bank.to(device), self.texts, self.nouns, self.weights, self.cut_out, self.share)


def make_bank(
    pictures: Sequence[Captioned], side: int, objects: Objects = "auto", balance: float = 0.5, share: float = 1.0
) -> CaptionedBank:
    """Decode a set once.

    Args:
        pictures: what `data.read_pictures` listed, all with alpha or all without.
        side: of the squares they are pressed into, in pixels; smaller pictures are not enlarged.
        objects: ``"alpha"`` takes the pictures' own; ``"border"`` finds the object by `object_mask`; ``"none"`` knows
            no object; ``"auto"`` is alpha where rows say so or name a set of cut-outs, border for single garments
            (rows with a label other than ``"photo"``), else none.
        balance: power by which rare colours are drawn more often: 0 not at all, 1 all colours alike.
        share: see `CaptionedBank`.

    Raises:
        InputError: there is no picture, or one cannot be read.
    """
    if not pictures:
        raise InputError("a bank needs at least one picture, found none")
    kind = objects if objects != "auto" else _kind(pictures[0])

    mode = "RGBA" if kind == "alpha" else "RGB"
    bank = PixelBank.from_pictures((_square(item.image(mode), side, kind) for item in pictures), side=side)
    words = tuple(colour_words(item.caption) for item in pictures)
    texts = tuple(tuple(dict.fromkeys((item.caption, *item.more))) for item in pictures)
    nouns = tuple(item.noun or without_colours(item.caption) for item in pictures)
    return CaptionedBank(bank, texts, nouns, colour_weights(words, balance), kind == "alpha", share)


def drawn_bank(count: int, side: int, seed: int, share: float = 1.0) -> CaptionedBank:
    """Draw grey pictures with one coloured thing each, ``"a red ball"``: a set that needs no download.

    Args:
        count: how many.
        side: in pixels, at least 8.
        seed: the same numbers give the same set.
        share: see `CaptionedBank`.
    """
    generator = cpu_generator(seed)
    L = rgb_to_lab(draw_pictures(count, side, seed))[:, :1] * 0.7 + 15
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    place = torch.rand(count, 4, generator=generator)
    centre, radius = place[:, :2] * 0.4 - 0.2, place[:, 2:] * 0.25 + 0.45
    x = (axis[None, None, :] - centre[:, 0, None, None]) / radius[:, 0, None, None]
    y = (axis[None, :, None] - centre[:, 1, None, None]) / radius[:, 1, None, None]
    ball = torch.rand(count, 1, 1, generator=generator) < 0.5
    distance = torch.where(ball, (x.square() + y.square()).sqrt(), torch.maximum(x.abs(), y.abs()))
    mask = torch.sigmoid((1 - distance) * side / 8)[:, None]  # (count, 1, side, side)
    chosen = torch.randint(len(SIX), (count,), generator=generator)
    anchors = torch.tensor([COLOURS[word].ab for word in SIX])[chosen]  # (count, 2)
    L = torch.lerp(L, 35 + 0.5 * L, mask)  # not so dark or light that the colour could not be shown
    rgb = lab_to_rgb(torch.cat([L, anchors[:, :, None, None] * mask * 0.8], dim=1))
    pixels = (torch.cat([rgb, mask], dim=1) * 255).round().to(torch.uint8)
    nouns = tuple("ball" if bool(round_) else "box" for round_ in ball.flatten())
    texts = tuple((prompt(SIX[number], noun),) for number, noun in zip(chosen.tolist(), nouns, strict=True))
    bank = PixelBank.from_pictures(pixels, side=side)
    return CaptionedBank(bank, texts, nouns, torch.ones(count), False, share)


class CaptionedBatches:
    """Coloured pictures with texts; a pure function of the seed, the process and the index.

    Args:
        banks: what to draw from.
        encoder: texts to vectors.
        batch: pictures in a batch.
        side: of a picture in the batch, in pixels.
        scale: side of the crop as a fraction of the stored square, from and to.
        seed: of the whole run.
        process: this process and how many there are.
        dropout: share of pictures whose text is dropped: their vector is zero.
        plain: share of pictures whose text keeps its words but no colour.
        unsaid: factor on the chroma of pictures whose text, as the network sees it, names no colour; drawn evenly
            between the two.
        achromatic: the same for texts whose only colours are white, black and grey.
        recolour: makes text the only source of colour, `recolour.Recolouring`; None keeps the pictures' own colours and
            texts. Pictures with a dropped or plain text keep theirs in any case: without words, plausible.
        scenic: share of cut-outs that lie on a picture of another set instead of a flat ground.
        scenes: factor on the chroma of pictures in which no object is known, drawn evenly between the two.
        length: batches of the whole run, which tells recolouring how far it is; 0 says nothing.
    """

    def __init__(
        self,
        banks: Sequence[CaptionedBank],
        encoder: TextEncoder | ClipTextEncoder,
        batch: int,
        side: int,
        *,
        scale: tuple[float, float] = (0.8, 1.0),
        seed: int = 0,
        process: tuple[int, int] = (0, 1),
        dropout: float = 0.0,
        plain: float = 0.0,
        unsaid: tuple[float, float] = (1.0, 1.0),
        achromatic: tuple[float, float] = (1.0, 1.0),
        recolour: Recolour | None = None,
        scenic: float = 0.0,
        scenes: tuple[float, float] = (1.0, 1.0),
        length: int = 0,
    ) -> None:
        if not banks:
            raise ConfigError("recipe: [data] has no sets", 'add [[data.sets]] root = "..."')
        if dropout + plain > 1:
            raise ConfigError("text.dropout and text.plain must add up to at most 1")
        self.banks, self.encoder, self.batch, self.side = list(banks), encoder, batch, side
        self.scale, self.seed, self.process, self.length = scale, seed, process, length
        self.dropout, self.plain, self.unsaid, self.achromatic = dropout, plain, unsaid, achromatic
        self.recolour, self.scenic, self.scenes = recolour, scenic, scenes
        self._vectors: dict[str, Tensor] = {}

    def __call__(self, index: int) -> Batch:
        rank, world = self.process
        generator = generator_of(self.seed, index * world + rank)
        pixels, texts, nouns = self._draw(generator)
        lab = rgb_to_lab(pixels[:, :3])
        fate = torch.rand(self.batch, generator=generator)
        dropped, plain = fate < self.dropout, (fate >= self.dropout) & (fate < self.dropout + self.plain)
        if self.recolour is not None:
            progress = index / self.length if self.length else 0.0
            natural = (dropped | plain).to(lab.device)[:, None, None, None]
            changed, texts, _ = self.recolour(lab, pixels[:, 3:], texts, nouns, generator, progress)
            lab = torch.where(natural, lab, changed)
        texts = [
            "" if gone else without_colours(text) if bare else text
            for text, gone, bare in zip(texts, dropped.tolist(), plain.tolist(), strict=True)
        ]
        if self.unsaid != (1.0, 1.0):
            lab = _paler(lab, self.unsaid, torch.tensor([not names_colour(text) for text in texts]), generator)
        if self.achromatic != (1.0, 1.0):
            lab = _paler(lab, self.achromatic, torch.tensor([names_no_hue(text) for text in texts]), generator)
        if self.scenes != (1.0, 1.0):
            lab = _paler(lab, self.scenes, (pixels[:, 3:].amax((1, 2, 3)) == 0).cpu(), generator)
        return Batch(lab.contiguous(), self._encoded(texts).to(lab.device), tuple(texts))

    def _draw(self, generator: Generator) -> tuple[Tensor, list[str], list[str]]:
        """Pixels ``(B, 4, S, S)`` in [0, 1], and a text and a noun for each."""
        shares = torch.tensor([bank.share for bank in self.banks])
        chosen = torch.multinomial(shares, self.batch, replacement=True, generator=generator)
        device = self.banks[0].bank.pixels.device
        pixels = torch.empty(self.batch, 4, self.side, self.side, device=device)
        texts, nouns = [""] * self.batch, [""] * self.batch
        for number, bank in enumerate(self.banks):
            here = (chosen == number).nonzero().flatten()
            if len(here) == 0:
                continue
            drawn = torch.multinomial(bank.weights, len(here), replacement=True, generator=generator)
            pixels[here.to(device)] = self._pictures(bank, drawn, generator)
            picks = torch.rand(len(here), generator=generator)
            for place, picture, pick in zip(here.tolist(), drawn.tolist(), picks.tolist(), strict=True):
                options = bank.texts[picture]
                texts[place] = options[int(pick * len(options))]
                nouns[place] = bank.nouns[picture]
        return pixels, texts, nouns

    def _pictures(self, bank: CaptionedBank, drawn: Tensor, generator: Generator) -> Tensor:
        if not bank.cut_out:
            return bank.bank.crops(drawn, self.side, generator, scale=self.scale)
        objects = _placed(bank.bank.crops(drawn, self.side, generator, scale=(1.0, 1.0)), generator)
        ground = flat_grounds(len(drawn), self.side, generator, objects.device)
        scenes = [other for other in self.banks if not other.cut_out]
        on_scene = torch.rand(len(drawn), generator=generator) < self.scenic
        if scenes and bool(on_scene.any()):
            scene = scenes[int(torch.randint(len(scenes), (), generator=generator))]
            picked = torch.multinomial(scene.weights, len(drawn), replacement=True, generator=generator)
            behind = scene.bank.crops(picked, self.side, generator, scale=self.scale)[:, :3]
            ground = torch.where(on_scene.to(objects.device)[:, None, None, None], behind, ground)
        alpha = objects[:, 3:]
        return torch.cat([objects[:, :3] + (1 - alpha) * ground, alpha], dim=1).clamp(0, 1)

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if len(self._vectors) > 1 << 16:
            self._vectors.clear()
            missing = list(dict.fromkeys(texts))
        if missing:
            self._vectors |= dict(zip(missing, self.encoder.encode_all(missing), strict=True))
        return torch.stack([self._vectors[text] for text in texts])


def flat_grounds(count: int, side: int, generator: Generator, device: torch.device | None = None) -> Tensor:
    """Grounds to lay a cut-out on ``(count, 3, side, side)`` in [0, 1]: walls, sheets and tables.

    Flat or shaded, mostly neutral, some faintly tinted and some of any colour, with a little grain: what stays grey
    around a coloured object teaches not to bleed.
    """

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)).to(device)

    value, strength, angle = uniform(0.05, 1.0), uniform(0.0, 1.0), uniform(0.0, 2 * math.pi)
    tint = torch.randn(count, 3, 1, 1, generator=generator).to(device) * torch.where(
        strength < _PLAIN_SHARE, 0.0, torch.where(strength < 0.85, 0.02, 0.2)
    )
    axis = ((torch.arange(side) + 0.5) / side * 2 - 1).to(device)
    ramp = angle.cos() * axis + angle.sin() * axis[:, None]  # (count, 1, side, side)
    coarse = torch.randn(count, 1, 5, 5, generator=generator).to(device)
    clouds = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)
    light = 1 + uniform(-0.25, 0.25) * ramp + uniform(0.0, 0.08) * clouds
    # Cut from one plane of noise: new noise for every pixel would cost the CPU more than a GPU's whole step.
    plane = _noise(2 * side).to(device)
    corner = torch.randint(side, (count, 2), generator=generator)
    rows, columns = ((corner[:, axis_, None] + torch.arange(side)).to(device) for axis_ in (0, 1))  # (count, side)
    grain = plane[rows[:, :, None], columns[:, None, :]][:, None] * uniform(0.0, 0.02)
    return ((value + tint) * light + grain).clamp(0, 1)


@lru_cache(maxsize=4)
def _noise(side: int) -> Tensor:
    return torch.randn(side, side, generator=cpu_generator(0))


def _paler(lab: Tensor, between: tuple[float, float], chosen: Tensor, generator: Generator) -> Tensor:
    """Lab with the chroma of the ``chosen`` pictures ``(B,)`` times a factor drawn evenly ``between`` two."""
    low, high = between
    factor = low + (high - low) * torch.rand(len(lab), generator=generator)
    factor = torch.where(chosen, factor, 1.0).to(lab)
    return torch.cat([lab[:, :1], lab[:, 1:] * factor[:, None, None, None]], dim=1)


def colour_weights(words: Sequence[tuple[str, ...]], balance: float) -> Tensor:
    """How often to draw each picture: the rarest of its colours counts, ``count ** -balance``; mean 1."""
    counts = Counter(word for found in words for word in found)
    unnamed = max(sum(not found for found in words), 1)
    rarity = [min((counts[word] for word in found), default=unnamed) ** -balance for found in words]
    weights = torch.tensor(rarity, dtype=torch.float64)
    return weights / weights.mean()


def without_colours(text: str) -> str:
    """The words of a text that name no colour, and no measure of one: ``"a dark red dress"`` -> ``"dress"``."""
    kept = (token for token in tokenise(text) if canonical(token, things=False) is None and token not in _MEASURES)
    return " ".join(kept)


def names_colour(text: str) -> bool:
    """Whether a text says a colour word; the colour that things have, as *grass*, does not count."""
    return any(canonical(token, things=False) is not None for token in tokenise(text))


def names_no_hue(text: str) -> bool:
    """Whether a text says colour words, and none of them has a hue: only white, black and grey."""
    said = {canonical(token, things=False) for token in tokenise(text)} - {None}
    return bool(said) and said.isdisjoint(CHROMATIC)


_MEASURES = {"dark", "light", "bright", "deep", "vivid", "pale", "mostly", "multicolored", "colorful", "color"}


def _kind(item: Captioned) -> Objects:
    row = item.row
    if row.get("mode") == "RGBA" or "coverage" in row or "soft" in row:
        return "alpha"
    return "border" if row.get("label") not in (None, "photo") else "none"


def _square(picture: Tensor, side: int, kind: Objects) -> Tensor:
    """One picture as the bank stores it: ``(4, s, s)`` uint8, s = ``side`` or the picture's shorter side."""
    pixels = picture.float() / 255
    if kind == "alpha":
        pixels = torch.cat([pixels[:3] * pixels[3:], pixels[3:]])  # premultiplied: no colour comes from nowhere
    size = min(side, *picture.shape[-2:])
    small = F.interpolate(pixels[None], (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
    if kind != "alpha":
        mask = object_mask(small[:3]) if kind == "border" else torch.zeros(1, size, size)
        small = torch.cat([small[:3], mask])
    return (small * 255).round().to(torch.uint8)


def _placed(objects: Tensor, generator: Generator) -> Tensor:
    """Shift, scale and turn cut-outs a little: premultiplied ``(B, 4, S, S)`` in and out, clear outside."""
    count = objects.shape[0]
    draws = torch.rand(count, 4, generator=generator)
    scale = 0.5 + 0.6 * draws[:, 0]  # of the picture's side
    angle = (draws[:, 1] - 0.5) * 0.6
    cos, sin = angle.cos() / scale, angle.sin() / scale
    slack = (1.05 - scale).clamp(min=0.0)[:, None] * (draws[:, 2:] * 2 - 1)  # (B, 2)
    shift = -torch.stack([cos * slack[:, 0] - sin * slack[:, 1], sin * slack[:, 0] + cos * slack[:, 1]], dim=1)
    rows = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], dim=1)  # (B, 2, 2)
    theta = torch.cat([rows, shift[:, :, None]], dim=2).to(objects)
    grid = F.affine_grid(theta, list(objects.shape), align_corners=False)
    return F.grid_sample(objects, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
