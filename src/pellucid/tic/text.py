"""The text path's front: a phrase becomes tokens, and tokens become one vector (Sec. 3: word2vec, size 256).

The paper does not say how many words become one vector. We read it as the mean of the known words' vectors, brought to
length 4, so that the order of words is lost: regions bind a colour to a thing, see the pipeline.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pellucid.tic.vocabulary import FAMILIES, canonical
from pellucid.tic.word_vectors import WordVectors

_STOP_LIST = "a an the of and is are with in on at to this that its it"
STOP_WORDS = frozenset(_STOP_LIST.split())
LENGTH = 4.0  # of a sentence vector with norm "unit4"
MODIFIERS: tuple[str, ...] = ("bright", "deep", "vivid", "soft", "dark", "light")

_MULTICOLOURED = re.compile(r"\bmulti[\s_-]?colou?r(ed)?\b")
_TSHIRT = re.compile(r"\bt[\s_-]shirt")
_POSSESSIVE = re.compile(r"['’]s\b")
_COLOUR = re.compile(r"colour")
_SPELLINGS = {"gray": "grey", "grays": "greys", "grayish": "greyish"}

TextNorm = Literal["unit4", "none"]


def tokenise(text: str) -> list[str]:
    """Split a phrase into lower-case words: letters of any script, without stop words, one spelling.

    Digits, punctuation and emoji separate words and are dropped.
    """
    return [word for word in _words(text) if word not in STOP_WORDS]


def _words(text: str) -> list[str]:
    flat = unicodedata.normalize("NFKC", text).lower()
    for pattern, said in ((_MULTICOLOURED, "multicolored"), (_COLOUR, "color"), (_TSHIRT, "tshirt"), (_POSSESSIVE, "")):
        flat = pattern.sub(said, flat)
    # Marks belong to letters: vowel signs of Indic scripts, for example.
    letters = "".join(letter if unicodedata.category(letter)[0] in "LM" else " " for letter in flat)
    return [_SPELLINGS.get(word, word) for word in letters.split()]


def _symbols(text: str) -> list[str]:
    """Emoji and other pictures in a text, which no word vector knows."""
    return [letter for letter in text if unicodedata.category(letter) in ("So", "Sk") and ord(letter) > 0x2000]


def fold(token: str) -> str:
    """Replace another word for a colour by one of the 24, as the bundled vectors were trained; other tokens stay."""
    return canonical(token, things=False) or token


def colour_words(text: str) -> tuple[str, ...]:
    """The colours that a text names, each once, in its order, as words of the 24."""
    found = (canonical(token, things=False) for token in tokenise(text))
    return tuple(dict.fromkeys(word for word in found if word))


@dataclass(frozen=True, eq=False)
class EncodedText:
    """What a phrase became.

    Attributes:
        vector: ``(D,)`` float32; zeros when no word is known.
        known: words that went into it, each once, as they were written.
        unknown: words and emoji that did not, each once.
        colours: colour words among the known, as words of the 24.
    """

    vector: Tensor
    known: tuple[str, ...]
    unknown: tuple[str, ...]
    colours: tuple[str, ...]


class TextEncoder:
    """Phrases to vectors by the mean of their words.

    Args:
        vectors: the word table.
        norm: ``"unit4"`` brings a sentence vector to length 4, ``"none"`` leaves the mean.
    """

    def __init__(self, vectors: WordVectors, norm: TextNorm = "unit4") -> None:
        self.vectors = vectors
        self.norm: TextNorm = norm
        self._found: dict[str, int | None] = {}

    @property
    def dimension(self) -> int:
        """D, the size of a vector."""
        return self.vectors.dimension

    def encode(self, text: str) -> EncodedText:
        """Encode one phrase of any length and script; nothing is an error."""
        rows: list[int] = []
        known: dict[str, None] = {}
        unknown: dict[str, None] = {}
        colours: dict[str, None] = {}
        for token in tokenise(text):
            row = self._row(token)
            if row is None:
                unknown[token] = None
                continue
            rows.append(row)
            known[token] = None
            if colour := self._colour(token, row):
                colours[colour] = None
        unknown |= dict.fromkeys(_symbols(text))
        return EncodedText(self._mean(rows), tuple(known), tuple(unknown), tuple(colours))

    def encode_all(self, texts: Sequence[str]) -> Tensor:
        """Encode phrases to ``(N, D)`` float32."""
        if not texts:
            return torch.zeros(0, self.dimension)
        rows = ([row for token in tokenise(text) if (row := self._row(token)) is not None] for text in texts)
        return torch.stack([self._mean(found) for found in rows])

    def _mean(self, rows: list[int]) -> Tensor:
        if not rows:
            return torch.zeros(self.dimension)
        vector = self.vectors.matrix[rows].mean(dim=0)
        length = vector.norm()
        return vector * (LENGTH / length) if self.norm == "unit4" and length > 1e-8 else vector

    def _row(self, token: str) -> int | None:
        """Spec section 3: as it is, singular, the stem of a colour form, a synonym; otherwise unknown."""
        if token not in self._found:
            rows = (self.vectors.row(form) for form in _forms(token))
            self._found[token] = next((row for row in rows if row is not None), None)
        return self._found[token]

    def _colour(self, token: str, row: int) -> str | None:
        """The colour a known token means; a thing with a vector of its own, such as a lemon, means none."""
        return canonical(token, things=self.vectors.words[row] != token)


def _forms(token: str) -> list[str]:
    forms = [token]
    if token.endswith("ies") and len(token) > 4:
        forms.append(f"{token[:-3]}y")
    if token.endswith("es") and len(token) > 4:
        forms.append(token[:-2])
    if token.endswith("s") and len(token) > 3:
        forms.append(token[:-1])
    colour = canonical(token)
    return [*forms, colour] if colour else forms


def paraphrases(text: str, n: int, generator: torch.Generator) -> list[str]:
    """Say a phrase in up to ``n`` other ways: a near colour word, or a modifier before the colour.

    Args:
        text: the phrase.
        n: how many.
        generator: chooses; one state, one answer.

    Returns:
        ``n`` phrases, different from each other as long as there are enough ways. A phrase without a colour word has
        no other way here and comes back ``n`` times.
    """
    words = text.split()
    choices = {place: near for place, word in enumerate(words) if (near := _near(word))}
    if not choices:
        return [text] * n
    ways: dict[str, None] = {}
    for _ in range(8 * n):
        if len(ways) == n:
            break
        said = list(words)
        for place, near in choices.items():
            said[place] = near[int(torch.randint(len(near), (1,), generator=generator))]
        if (way := " ".join(said)) != text:
            ways[way] = None
    found = list(ways) or [text]
    return [found[index % len(found)] for index in range(n)]


def _near(word: str) -> list[str]:
    """Ways to say a colour word, itself first; none when it is no colour word."""
    tokens = tokenise(word)
    colour = canonical(tokens[0], things=False) if len(tokens) == 1 else None
    if colour is None:
        return []
    family = next((members for members in FAMILIES if colour in members), (colour,))
    return [word, *(other for other in family if other != colour), *(f"{how} {word}" for how in MODIFIERS)]
