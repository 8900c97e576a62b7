"""Pictures with their objects in other colours, and texts that say so: then the words are the only source of colour.

Natural captions teach a network that bananas are yellow; that a *blue* banana was asked for it learns to overlook,
because it never happens. So the object of a picture is turned to the hue of a colour word drawn at random, and the
text names that word. What surrounds the object keeps its own colours, which teaches not to bleed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from pellucid.errors import ConfigError
from pellucid.tic.vocabulary import CHROMATIC, COLOURS

_GREY = 8.0  # mean chroma below which an object has no hue of its own: it is tinted instead of turned
_MOST = 3.0  # times its own chroma that an object's pattern may grow to
_COLOURS = {"red": 50.0, "orange": 50.0, "yellow": 50.0, "green": 37.0, "blue": 35.0, "purple": 37.0, "pink": 30.0}
_LEAST_OBJECT = 0.02  # of the picture; smaller objects, or none, are left alone


@dataclass(frozen=True)
class RecolourOptions:
    """How objects are recoloured.

    Attributes:
        share: of the pictures with an object that are recoloured; the others keep their colours and captions.
        last_share: the same at the end of the training, where it gets to evenly: a network that obeys can go back to
            learn what things look like. None is ``share`` throughout.
        colours: colour words, drawn evenly, each with the mean chroma in Lab units that an object gets: between what
            photographed garments of that name have (blue 16, red 46) and signal colours (54, 68), because the network
            learns one chroma for both.
        ground: factor on the chroma of what surrounds the object, drawn evenly between the two: the text says nothing
            of it, so the network had better not be sure of its colour.
        hue_jitter: standard deviation in degrees.
        chroma_jitter: standard deviation of the logarithm.
        bare: share of the recoloured whose text is the word alone, without the noun.

    Raises:
        ConfigError: a word without a hue, or a share outside [0, 1].
    """

    share: float = 0.6
    last_share: float | None = None
    colours: dict[str, float] = field(default_factory=lambda: dict(_COLOURS))
    ground: tuple[float, float] = (0.0, 1.0)
    hue_jitter: float = 7.0
    chroma_jitter: float = 0.2
    bare: float = 0.2

    def __post_init__(self) -> None:
        wrong = [word for word in self.colours if word not in CHROMATIC]
        if wrong or not self.colours:
            raise ConfigError(f"recolour.colours must be colour words with a hue, found {', '.join(wrong) or 'none'}")
        for name in ("share", "last_share", "bare"):
            if not 0.0 <= (getattr(self, name) or 0.0) <= 1.0:
                raise ConfigError(f"recolour.{name} must be in [0, 1], found {getattr(self, name)}")


class Recolouring:
    """Turn objects to the colour of a word and say it.

    Args:
        options: see there.
    """

    def __init__(self, options: RecolourOptions | None = None) -> None:
        self.options = options or RecolourOptions()
        self._words = tuple(self.options.colours)
        self._hue = torch.tensor([math.radians(COLOURS[word].hue) for word in self._words])
        self._chroma = torch.tensor(list(self.options.colours.values()))

    def __call__(
        self,
        lab: Tensor,
        objects: Tensor,
        texts: Sequence[str],
        nouns: Sequence[str],
        generator: Generator,
        progress: float = 0.0,
    ) -> tuple[Tensor, list[str], Tensor]:
        """Recolour a batch.

        Args:
            lab: ``(B, 3, S, S)``, L in [0, 100].
            objects: soft masks ``(B, 1, S, S)`` in [0, 1]; empty where a picture has no one object.
            texts: what the pictures are called with their own colours.
            nouns: what they show, without a colour.
            generator: on the CPU.
            progress: of the training, 0 to 1; see ``last_share``.

        Returns:
            The pictures, their texts, and which of them were recoloured ``(B,)`` bool on the CPU.
        """
        count, options = lab.shape[0], self.options
        draws = torch.rand(count, 4, generator=generator)
        noise = torch.randn(count, 2, generator=generator)
        word = (draws[:, 0] * len(self._words)).long()  # (B,)
        hue = self._hue[word] + math.radians(options.hue_jitter) * noise[:, 0]
        chroma = self._chroma[word] * torch.exp(options.chroma_jitter * noise[:, 1])
        last = options.share if options.last_share is None else options.last_share
        share = options.share + (last - options.share) * min(progress, 1.0)
        wanted = (draws[:, 1] < share) & (objects.mean((1, 2, 3)).cpu() >= _LEAST_OBJECT)
        low, high = options.ground
        dull = _over(low + (high - low) * draws[:, 3].to(lab)) * lab[:, 1:]
        ground = torch.cat([lab[:, :1], torch.lerp(dull, lab[:, 1:], objects)], dim=1)
        changed = turned(ground, objects, hue.to(lab), chroma.to(lab))
        lab = torch.where(wanted.to(lab.device)[:, None, None, None], changed, lab)
        said = [
            text if not change else _phrase(self._words[int(place)], "" if bare else noun)
            for text, noun, place, change, bare in zip(
                texts, nouns, word, wanted.tolist(), (draws[:, 2] < options.bare).tolist(), strict=True
            )
        ]
        return lab, said, wanted


def turned(lab: Tensor, objects: Tensor, hue: Tensor, chroma: Tensor) -> Tensor:
    """Give objects a mean colour and keep their pattern.

    A coloured object's ab plane is turned, and scaled at most threefold; what chroma then lacks is added as a tint. A
    grey object is tinted, and half of its own deviations stay. No pixel gets more chroma than its lightness can show.

    Args:
        lab: ``(B, 3, H, W)``.
        objects: ``(B, 1, H, W)`` in [0, 1].
        hue: wanted mean hue ``(B,)`` in radians.
        chroma: wanted mean chroma ``(B,)`` in Lab units.

    Returns:
        ``(B, 3, H, W)``, L unchanged, ab changed inside the objects alone.
    """
    L, ab = lab[:, :1], lab[:, 1:]
    weight = objects.sum((1, 2, 3)).clamp(min=1e-6)[:, None]  # (B, 1)
    mean = (ab * objects).sum((2, 3)) / weight  # (B, 2)
    own = mean.norm(dim=1)  # (B,)
    angle = hue - torch.atan2(mean[:, 1], mean[:, 0])
    rows = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    gain = torch.where(own > _GREY, (chroma / own.clamp(min=1.0)).clamp(max=_MOST), torch.zeros_like(own))
    pattern = torch.einsum("bij,bjhw->bihw", rows, ab) * _over(gain)
    direction = torch.stack([hue.cos(), hue.sin()], dim=1)[:, :, None, None]  # (B, 2, 1, 1)
    tint = direction * _over((chroma - own * gain).clamp(min=0.0))
    rest = 0.5 * (ab - mean[:, :, None, None]) * _over((own <= _GREY).to(ab))
    new = pattern + tint + rest
    length = new.norm(dim=1, keepdim=True).clamp(min=1e-3)
    new = new * (torch.minimum(length, shown_chroma(L)) / length)
    return torch.cat([L, torch.lerp(ab, new, objects)], dim=1)


def shown_chroma(L: Tensor) -> Tensor:
    """About the most chroma that sRGB has at a lightness, over all hues: little near black and near white."""
    return torch.minimum(8 + 1.6 * L, 10 + 1.8 * (100 - L))


def _over(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _phrase(word: str, noun: str) -> str:
    return f"{'an' if word[:1] in 'aeiou' else 'a'} {word} {noun}" if noun else word
