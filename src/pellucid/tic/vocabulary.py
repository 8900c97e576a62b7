"""Colour words: which there are, where they lie in CIE Lab, and which word a colour gets.

Everything about words as names of colours stands here, without a network and without word vectors: the 24 words that
captions are searched for (spec sections 3 and 11), other words for the same colours, an anchor in Lab for each, and
the namer that turns Lab into one of 13 words.

Legend: L in [0, 100]; chroma = hypot(a, b) in Lab units; hue = atan2(b, a) in degrees, [0, 360).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor


@dataclass(frozen=True)
class Colour:
    """Where a colour word lies in CIE Lab: what a typical thing of that colour in a photograph has.

    Attributes:
        word: the colour word.
        lightness: typical L in [0, 100].
        chroma: typical chroma in Lab units; below `GREY_CHROMA` the word has no hue.
        hue: hue angle in degrees, [0, 360); meaningless without chroma.
    """

    word: str
    lightness: float
    chroma: float
    hue: float

    @property
    def ab(self) -> tuple[float, float]:
        """(a, b) of the anchor, in Lab units."""
        angle = math.radians(self.hue)
        return self.chroma * math.cos(angle), self.chroma * math.sin(angle)

    @property
    def lab(self) -> tuple[float, float, float]:
        """(L, a, b) of the anchor."""
        return self.lightness, *self.ab


GREY_CHROMA = 9.0  # below this a colour is called by its lightness alone
MUTED_CHROMA = 22.0  # below this a warm colour is beige or grey rather than red or orange

COLOURS: MappingProxyType[str, Colour] = MappingProxyType(
    {
        word: Colour(word, lightness, chroma, hue)
        for word, lightness, chroma, hue in (
            ("black", 8.0, 0.0, 0.0),
            ("white", 94.0, 0.0, 0.0),
            ("grey", 54.0, 0.0, 0.0),
            ("silver", 76.0, 2.0, 285.0),
            ("red", 45.0, 68.0, 32.0),
            ("orange", 66.0, 72.0, 61.0),
            ("yellow", 84.0, 74.0, 92.0),
            ("green", 53.0, 55.0, 142.0),
            ("blue", 43.0, 54.0, 283.0),
            ("purple", 38.0, 56.0, 318.0),
            ("pink", 71.0, 42.0, 358.0),
            ("brown", 38.0, 32.0, 57.0),
            ("beige", 82.0, 18.0, 82.0),
            ("cream", 93.0, 15.0, 93.0),
            ("tan", 70.0, 30.0, 74.0),
            ("gold", 71.0, 66.0, 83.0),
            ("olive", 50.0, 42.0, 106.0),
            ("turquoise", 72.0, 40.0, 192.0),
            ("teal", 48.0, 30.0, 200.0),
            ("cyan", 74.0, 40.0, 222.0),
            ("navy", 19.0, 34.0, 288.0),
            ("violet", 46.0, 62.0, 311.0),
            ("magenta", 50.0, 74.0, 344.0),
            ("maroon", 26.0, 42.0, 20.0),
        )
    }
)
"""The 24 colour words; 17.1 % of COCO's val2017 captions hold one, which is how the spec describes its list."""

ACHROMATIC: tuple[str, ...] = tuple(word for word, colour in COLOURS.items() if colour.chroma < GREY_CHROMA)
CHROMATIC: tuple[str, ...] = tuple(word for word in COLOURS if word not in ACHROMATIC)
SIX: tuple[str, ...] = ("red", "orange", "yellow", "green", "blue", "purple")
"""The colours of the obedience figure (spec section 10)."""

_OTHER_WORDS = {
    "red": "crimson scarlet ruby cherry vermilion vermillion carmine cardinal",
    "orange": "tangerine apricot amber pumpkin peach",
    "yellow": "lemon canary saffron mustard",
    "green": "emerald lime mint jade moss viridian chartreuse verdant",
    "blue": "azure cobalt sapphire cerulean ultramarine indigo denim cornflower",
    "purple": "plum mauve aubergine amethyst lilac lavender",
    "pink": "rose salmon coral blush rosy",
    "magenta": "fuchsia cerise",
    "brown": "chestnut auburn bronze copper rust rufous umber sienna mahogany brunette",
    "beige": "ecru buff sand khaki taupe",
    "cream": "ivory eggshell",
    "tan": "camel fawn",
    "gold": "golden blond blonde",
    "cyan": "aqua aquamarine",
    "maroon": "burgundy claret oxblood",
    "grey": "gray charcoal slate ash",
    "black": "ebony jet onyx",
    "white": "snowy",
    "silver": "silvery",
}
# Names of things that a caption mostly means as things: only with no vector of their own are they read as colours.
_THING_NAMES = "rose camel cherry lemon pumpkin mustard sand rust moss denim jet slate ash copper bronze cardinal"
_THINGS = frozenset(_THING_NAMES.split())

SYNONYMS: MappingProxyType[str, str] = MappingProxyType(
    {other: word for word, others in _OTHER_WORDS.items() for other in others.split()}
)
"""Other words -> one of the 24."""

FAMILIES: tuple[tuple[str, ...], ...] = (
    ("yellow", "gold"),
    ("green", "olive"),
    ("turquoise", "teal", "cyan"),
    ("blue", "navy"),
    ("purple", "violet"),
    ("red", "maroon"),
    ("beige", "tan", "cream"),
    ("grey", "silver"),
)
"""Words near enough to stand for one another in a variant of the same wish."""

_SPELLINGS = {"gray": "grey", "reddish": "red", "golden": "gold", "tanned": "tan", "rosy": "pink"}
_ENDINGS = ("ish", "y", "s", "es", "ed", "er", "est")


def canonical(word: str, *, things: bool = True) -> str | None:
    """Find the colour word that ``word`` means: itself, another spelling, ``-ish``, a plural, or a synonym.

    Args:
        word: one lower-case token.
        things: also take words that mostly name a thing, such as ``"lemon"`` for yellow.

    Returns:
        One of the 24 words, or None when the token names no colour.
    """
    if word in COLOURS:
        return word
    if word in SYNONYMS:
        return SYNONYMS[word] if things or word not in _THINGS else None
    if word in _SPELLINGS:
        return _SPELLINGS[word]
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending) + 2:
            for stem in _stems(word[: -len(ending)]):
                if stem in COLOURS:
                    return stem
                if ending in ("ish", "s") and stem in SYNONYMS and (things or stem not in _THINGS):
                    return SYNONYMS[stem]
    return None


def _stems(stem: str) -> tuple[str, ...]:
    """The stem, with a lost e put back (bluish, oranges) and a doubled consonant undone (reddish, tanned)."""
    single = stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem
    return stem, f"{stem}e", single


def hue_angle(word: str) -> float:
    """Hue angle of a chromatic colour word's anchor, in degrees [0, 360).

    Raises:
        KeyError: the word names no colour or one without a hue.
    """
    found = canonical(word)
    if found not in CHROMATIC:
        raise KeyError(f"{word!r} has no hue; chromatic words are {', '.join(CHROMATIC)}")
    return COLOURS[found].hue


def hue_difference(first: float, second: float) -> float:
    """Smallest angle between two hues in degrees, [0, 180]."""
    return abs((first - second + 180.0) % 360.0 - 180.0)


def opposite(word: str | float, among: tuple[str, ...] = SIX) -> str:
    """Find the word whose hue is farthest from that of ``word``.

    Args:
        word: a chromatic colour word, or a hue in degrees.
        among: words to choose from.
    """
    hue = hue_angle(word) if isinstance(word, str) else float(word)
    return max(among, key=lambda other: hue_difference(hue, hue_angle(other)))


NAMED: tuple[str, ...] = (
    "black",
    "grey",
    "white",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "beige",
    "navy",
)
"""The words that `name_colour` gives, in the order of its indices: the 11 basic terms, beige and navy."""

# Hue sectors of a colour with chroma, in degrees: (up to, word).
_SECTORS = ((44.0, "red"), (76.0, "orange"), (106.0, "yellow"), (195.0, "green"), (302.0, "blue"), (338.0, "purple"))


def name_colour(lab: Tensor) -> Tensor:
    """Name colours by thresholds of lightness, chroma and hue.

    Args:
        lab: ``(..., 3)``: L in [0, 100], a and b in Lab units.

    Returns:
        ``(...)`` int64 indices into `NAMED`.
    """
    lightness, a, b = lab.unbind(-1)
    chroma = torch.hypot(a, b)
    hue = torch.rad2deg(torch.atan2(b, a)) % 360.0
    index = {word: position for position, word in enumerate(NAMED)}

    name = torch.full_like(lightness, index["red"], dtype=torch.long)  # purple ends where red begins
    for limit, word in reversed(_SECTORS):
        name = torch.where(hue < limit, index[word], name)

    def rename(where: Tensor, word: str) -> None:
        nonlocal name
        name = torch.where(where, index[word], name)

    reddish = (hue < 44.0) | (hue >= 338.0)
    warm = (hue >= 30.0) & (hue < 110.0)
    rename(reddish & ((lightness > 60.0) | ((lightness > 48.0) & ((hue >= 338.0) | (hue < 12.0)))), "pink")
    rename((hue >= 322.0) & (hue < 338.0) & (lightness > 58.0), "pink")
    rename(warm & (lightness < 58.0) & (chroma < 50.0) & (hue >= 36.0) & (hue < 100.0), "brown")
    rename((hue >= 12.0) & (hue < 44.0) & (lightness < 42.0) & (chroma < 24.0), "brown")
    rename(warm & (hue >= 44.0) & (lightness >= 58.0) & (chroma < 32.0), "beige")
    rename((hue >= 255.0) & (hue < 315.0) & (lightness < 22.0), "navy")

    grey = chroma < GREY_CHROMA
    rename(grey, "grey")
    rename(grey & (lightness >= 82.0) | (lightness >= 96.0), "white")
    rename((lightness < 22.0) & (chroma < GREY_CHROMA) | (lightness < 10.0), "black")
    return name
