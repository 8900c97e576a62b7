"""Words to text vectors: a small vocabulary of whole words for our own networks, CLIP's tokens for published ones.

Both give one vector per place of a fixed length L, padding included: Stable Diffusion looks at all of them, and the
empty text of guidance must have the same shape.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import CLIPTextModel

from pellucid.errors import ConfigError, WeightsError
from pellucid.io.files import atomic_path

log = logging.getLogger(__name__)

VOCABULARY = "vocabulary.json"  # beside the weights
SPECIAL = ("<pad>", "<start>", "<end>")  # numbers 0, 1, 2
_WORD = re.compile(r"[^\W_]+")
_SHOWN = 8

# What a network with random weights knows, and what a training that brings no captions of its own begins with.
_BASIC = """
a an the and of in on with to from at by its two three many
red orange yellow green blue purple pink brown white black grey gold
circle square triangle star ring moon flower ball heart cloud flame drop leaf arrow glass bottle bird fish cat dog
face person car rocket tree sun snow smoke fire water bubble balloon kite ship boat plane butterfly ghost robot
bouncing spinning swinging shaking pulsing floating sliding jumping flipping waving melting fading blinking flying
falling growing shrinking turning moving rolling wobbling circling
left right up down out apart around slowly fast quickly gently still picture clip transparent background
"""


class Conditioner(Protocol):
    """What turns prompts into text vectors."""

    @property
    def length(self) -> int:
        """L, places of a prompt with its special tokens."""
        ...

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts: ``(B, L, D)`` on the text encoder's device; what is lost is said in the log."""
        ...

    def unknown(self, prompt: str) -> tuple[str, ...]:
        """Words of a prompt that mean nothing to the network, each once."""
        ...

    def dropped(self, prompt: str) -> tuple[str, ...]:
        """What is beyond the length and is not looked at, in its order."""
        ...


def split_words(text: str) -> list[str]:
    """Lower-case words of a text: runs of letters and digits of any script."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


@dataclass(frozen=True)
class Vocabulary:
    """The words that a small network knows; their numbers follow the special tokens'.

    Attributes:
        words: lower case, each once.

    Raises:
        ConfigError: a word is there twice, or is not one lower-case word.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        odd = [word for word in self.words if split_words(word) != [word]]
        if odd:
            raise ConfigError(f"a vocabulary holds single lower-case words, found {odd[0]!r}")
        if len(set(self.words)) < len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise ConfigError(f"a vocabulary holds each word once, found {twice!r} twice")

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.words)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, len(SPECIAL))}

    def number(self, word: str) -> int | None:
        """The number of a word, or of its singular when only that is known; None when neither is."""
        for form in (word, *_singulars(word)):
            if (found := self._numbers.get(form)) is not None:
                return found
        return None

    @classmethod
    def basic(cls) -> Vocabulary:
        """Colours, shapes, motions and some things: for networks with random weights."""
        return cls(tuple(dict.fromkeys(_BASIC.split())))

    @classmethod
    def of(cls, texts: Iterable[str], most: int) -> Vocabulary:
        """The words of captions, the most frequent first, ties in order of the alphabet.

        Args:
            texts: captions.
            most: largest size with the special tokens, ``vocab_size`` of the text encoder; rarer words are left out,
                and that is said in the log.
        """
        counts = Counter(word for text in texts for word in split_words(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        kept = ranked[: max(0, most - len(SPECIAL))]
        if len(kept) < len(ranked):
            log.warning("the %d rarest of %d words do not fit the vocabulary", len(ranked) - len(kept), len(ranked))
        return cls(tuple(kept))

    def save(self, path: str | Path) -> Path:
        """Write ``vocabulary.json``, also over one that is there."""
        target = Path(path) / VOCABULARY if Path(path).is_dir() else Path(path)
        with atomic_path(target, True) as part:
            part.write_text(json.dumps({"words": self.words}, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        return target

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read ``vocabulary.json`` or that of a folder.

        Raises:
            WeightsError: it is missing or damaged.
        """
        source = Path(path) / VOCABULARY if Path(path).is_dir() else Path(path)
        try:
            document = json.loads(source.read_text(encoding="utf-8"))
            words = document["words"]
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError("words must be a list of texts")
            return cls(tuple(words))
        except FileNotFoundError as error:
            raise WeightsError(f"{source} is missing", "these weights cannot read text without it") from error
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise WeightsError(f"{source} is damaged: {str(error).splitlines()[0]}") from error


class WordConditioner:
    """Prompts word by word, for text encoders of our own.

    A word that is not in the vocabulary is left out and said, never guessed; a plural counts as its singular.

    Args:
        vocabulary: the words.
        text: the text encoder.

    Raises:
        WeightsError: the text encoder has fewer tokens than the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, text: CLIPTextModel) -> None:
        held = int(text.config.vocab_size)
        if len(vocabulary) > held:
            raise WeightsError(f"the vocabulary has {len(vocabulary)} tokens, the text encoder holds {held}")
        self.vocabulary = vocabulary
        self.text = text

    @property
    def length(self) -> int:
        return int(self.text.config.max_position_embeddings)

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers, ``(B, L)`` int64 on the CPU: start, words, end, padding. What is lost is not said here."""
        rows = torch.zeros(len(prompts), self.length, dtype=torch.long)
        for row, prompt in zip(rows, prompts, strict=True):
            numbers = [1, *self._known(prompt)[1][: self.length - 2], 2]
            row[: len(numbers)] = torch.tensor(numbers)
        return rows

    def encode(self, prompts: Sequence[str]) -> Tensor:
        for prompt in prompts:
            if lost := self.unknown(prompt):
                log.warning("words that these weights do not know are left out: %s", _some(lost))
            _say_dropped(self.dropped(prompt), self.length - 2)
        return self.vectors(self.ids(prompts))

    def vectors(self, ids: Tensor) -> Tensor:
        """Text vectors ``(B, L, D)`` of `ids`; gradients reach the text encoder."""
        return self.text(input_ids=ids.to(self.text.device)).last_hidden_state

    def unknown(self, prompt: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(word for word in split_words(prompt) if self.vocabulary.number(word) is None))

    def dropped(self, prompt: str) -> tuple[str, ...]:
        return tuple(self._known(prompt)[0][self.length - 2 :])

    def _known(self, prompt: str) -> tuple[list[str], list[int]]:
        found = [(word, self.vocabulary.number(word)) for word in split_words(prompt)]
        known = [(word, number) for word, number in found if number is not None]
        return [word for word, _ in known], [number for _, number in known]


class ClipConditioner:
    """Prompts through CLIP's own tokenizer, as Stable Diffusion 1.5 reads them.

    Args:
        tokenizer: a ``CLIPTokenizer``.
        text: the text encoder of the same checkpoint.
    """

    def __init__(self, tokenizer: Any, text: CLIPTextModel) -> None:
        self.tokenizer = tokenizer
        self.text = text

    @property
    def length(self) -> int:
        return int(self.text.config.max_position_embeddings)

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers, ``(B, L)`` int64 on the CPU. What is lost is not said here."""
        read = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        return read["input_ids"]

    def encode(self, prompts: Sequence[str]) -> Tensor:
        for prompt in prompts:
            _say_dropped(self.dropped(prompt), self.length - 2)
        return self.vectors(self.ids(prompts))

    def vectors(self, ids: Tensor) -> Tensor:
        """Text vectors ``(B, L, D)`` of `ids`: the last hidden state after its norm."""
        return self.text(input_ids=ids.to(self.text.device)).last_hidden_state

    def unknown(self, prompt: str) -> tuple[str, ...]:
        return ()  # byte pairs spell every word

    def dropped(self, prompt: str) -> tuple[str, ...]:
        # Words rather than byte pairs, because that is what a user can shorten: the last part of the text that is cut.
        numbers = self.tokenizer(prompt, truncation=False, add_special_tokens=False)["input_ids"]
        return tuple(self.tokenizer.decode(numbers[self.length - 2 :]).split())


def _say_dropped(words: tuple[str, ...], most: int) -> None:
    if words:
        log.warning("only the first %d tokens of a prompt count, %d words left out: %s", most, len(words), _some(words))


def _singulars(word: str) -> Iterable[str]:
    if word.endswith("ies") and len(word) > 4:
        yield word[:-3] + "y"
    if word.endswith("es") and len(word) > 3:
        yield word[:-2]
    if word.endswith("s") and not word.endswith("ss") and len(word) > 2:
        yield word[:-1]


def _some(words: tuple[str, ...]) -> str:
    shown = ", ".join(words[:_SHOWN])
    return shown + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")
