"""The corpus behind the word vectors, and the recipe that trains them.

Captions teach which words go together, but few of them say teal or maroon. For every one of the 24 colour words
sentences are added: the word beside its shade and beside things of that colour, so that colours differ by what they are
found on, and beside things of any colour. Other words for a colour are folded into it first (`text.fold`): crimson and
red are one vector, and one wish.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from pydantic import Field

from pellucid.errors import InputError
from pellucid.tic.text import fold, tokenise
from pellucid.tic.vocabulary import COLOURS
from pellucid.tic.word_vectors import DIMENSION, WordVectors, train_word_vectors
from pellucid.train.config import Section, check_recipe, read_toml

log = logging.getLogger(__name__)

THINGS: dict[str, str] = {
    "black": "coal night tire crow tuxedo piano",
    "white": "snow cloud milk sheep paper wedding",
    "grey": "stone elephant concrete ash mouse fog",
    "silver": "spoon fork coin foil laptop medal",
    "red": "tomato strawberry cherry blood fire heart",
    "orange": "carrot pumpkin basketball fox traffic tiger",
    "yellow": "banana lemon sunflower taxi duck sun",
    "green": "grass leaf broccoli frog tree cucumber",
    "blue": "sky ocean jeans water sea lake",
    "purple": "grape eggplant iris beetroot octopus wizard",
    "pink": "pig flamingo bubblegum blossom lips ballet",
    "brown": "bear wood chocolate bread dirt coffee",
    "beige": "linen carpet dune curtain trench oatmeal",
    "cream": "butter vanilla pudding custard yogurt coffee",
    "tan": "leather suede camel safari belt boots",
    "gold": "trophy crown jewelry ring treasure honey",
    "olive": "army military oil martini tree jar",
    "turquoise": "lagoon pool necklace tropical parrot wave",
    "teal": "peacock bathroom tile mallard scrubs couch",
    "cyan": "ink printer neon screen ice glacier",
    "navy": "uniform sailor suit blazer captain midnight",
    "violet": "petal pansy crocus ultraviolet dusk flower",
    "magenta": "orchid petunia neon lipstick highlighter beet",
    "maroon": "wine brick velvet curtain leather university",
}
"""Things that have the colour: what keeps the words of rare colours apart."""

SHADES: dict[str, str] = {
    "silver": "light grey",
    "beige": "light brown",
    "cream": "light yellow white",
    "tan": "light brown",
    "gold": "deep yellow",
    "olive": "dark green",
    "turquoise": "blue green",
    "teal": "dark blue green",
    "cyan": "light blue",
    "navy": "dark blue",
    "violet": "blue purple",
    "magenta": "pink purple",
    "maroon": "dark red",
    "pink": "light red",
}
"""What a less common colour is called by commoner words."""

ANYTHING = "dress shirt shoes hat pants skirt jacket car wall flower bird bag"
"""Things of any colour."""


def read_sentences(path: str | Path) -> Iterator[str]:
    """Read the sentences of one corpus file.

    ``.jsonl``: the values of ``caption`` and ``captions`` of each row; ``.tsv``: the last column; anything else: one
    sentence per line. ``.gz`` is opened. A sentence that a row repeats comes once.

    Raises:
        InputError: the file cannot be read, or a line of ``.jsonl`` is no object.
    """
    file = Path(path).expanduser()
    kind = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    try:
        with cast("IO[str]", (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8")) as opened:
            for number, line in enumerate(opened, start=1):
                if kind != ".jsonl":
                    yield (line.rstrip("\n").rpartition("\t")[2] if kind == ".tsv" else line).strip()
                    continue
                row: Any = json.loads(line)
                if not isinstance(row, dict):
                    raise InputError(
                        f"corpus {str(file)!r} line {number} must be an object, found {type(row).__name__}"
                    )
                yield from dict.fromkeys(filter(None, [row.get("caption"), *row.get("captions", [])]))
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"corpus {str(file)!r} cannot be read: {error}") from error


def colour_sentences(repeats: int) -> list[list[str]]:
    """Make the added sentences: each colour with its shade, its things and anything.

    Args:
        repeats: times that a colour is said with its shade and with each of its own things; with any other thing once.
    """
    found: list[list[str]] = []
    for word in COLOURS:
        things = [[word, thing] for thing in THINGS[word].split()]
        shade = [[word, *SHADES[word].split()]] if word in SHADES else []
        found += (things + shade * len(things)) * repeats + [[word, thing] for thing in ANYTHING.split()]
    return found


class VectorsRecipe(Section):
    """``recipes/tic/vectors.toml``: which captions, and the settings of skip-gram (spec section 3).

    Attributes:
        method: ``"tic"``.
        name: free name.
        corpus: files of captions, see `read_sentences`; a sentence that comes again is taken once.
        repeats: of the added sentences, see `colour_sentences`; 0 adds none.
        keep: most frequent words that are kept; the colour words always are.
        dimension, window, min_count, negative, epochs, seed, centre: see `word_vectors.train_word_vectors`.
    """

    method: str = "tic"
    name: str = "vectors"
    corpus: list[str] = Field(min_length=1)
    repeats: int = Field(default=12, ge=0)
    keep: int | None = Field(default=4400, ge=1)
    dimension: int = Field(default=DIMENSION, ge=1)
    window: int = Field(default=5, ge=1)
    min_count: int = Field(default=2, ge=1)
    negative: int = Field(default=5, ge=1)
    epochs: int = Field(default=20, ge=1)
    seed: int = Field(default=1, ge=0)
    centre: bool = True


def train_vectors(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> WordVectors:
    """Train word vectors by a recipe.

    Args:
        path: the recipe, a TOML file of a `VectorsRecipe`.
        overrides: ``"key=value"``.

    Raises:
        ConfigError: the recipe is not right.
        InputError: a corpus file cannot be read.
        DependencyError: gensim is not installed.
    """
    recipe = check_recipe(read_toml(path, overrides), VectorsRecipe, f"recipe {str(path)!r}")
    sentences = dict.fromkeys(sentence for file in recipe.corpus for sentence in read_sentences(file))
    log.info("%d different sentences in %d files", len(sentences), len(recipe.corpus))
    tokens = [[fold(token) for token in tokenise(sentence)] for sentence in sentences]
    return train_word_vectors(
        tokens + (colour_sentences(recipe.repeats) if recipe.repeats else []),
        dimension=recipe.dimension,
        window=recipe.window,
        min_count=recipe.min_count,
        negative=recipe.negative,
        epochs=recipe.epochs,
        seed=recipe.seed,
        keep=recipe.keep,
        always=COLOURS,
        centre=recipe.centre,
    )
