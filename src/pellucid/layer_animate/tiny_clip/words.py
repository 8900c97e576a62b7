"""The room's vocabulary as a tokeniser that ``transformers`` reads, so that the folder opens as any CLIP does.

A text becomes start, words, end, last. The first three have the numbers of `text.SPECIAL`; what the room's text encoder
reads of a text is therefore the same, as no place looks at a later one. CLIP takes its feature at the last token, which
has the largest number: ``transformers`` looks for the largest number itself where the end is number 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pellucid.errors import ConfigError
from pellucid.layer_animate.text import SPECIAL, Vocabulary

UNKNOWN, LAST = "<unk>", "<last>"  # the two largest numbers
PAD = 0


def word_tokenizer(vocabulary: Vocabulary, size: int, length: int) -> PreTrainedTokenizerFast:
    """Make the tokeniser of a vocabulary: lower case, whole words, an unknown word becomes ``<unk>``.

    Args:
        vocabulary: the words.
        size: tokens of the text encoder, special ones included.
        length: places of a text, special tokens included.

    Raises:
        ConfigError: the words do not fit.
    """
    if len(vocabulary) > size - 2:
        raise ConfigError(f"{len(vocabulary)} tokens and two more do not fit a text encoder of {size}")
    pad, start, end = SPECIAL
    numbers = {word: number for number, word in enumerate((*SPECIAL, *vocabulary.words))}
    numbers |= {UNKNOWN: size - 2, LAST: size - 1}
    inner = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    # As `text.split_words`: runs of letters and digits of any script, the underscore apart.
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\p{L}\p{N}]+"), behavior="removed", invert=True)
    inner.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end} {LAST}",
        special_tokens=[(name, numbers[name]) for name in (start, end, LAST)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=pad,
        bos_token=start,
        eos_token=LAST,
        unk_token=UNKNOWN,
        model_max_length=length,
    )


def numbered(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token numbers of texts, cut to the tokeniser's length with end and last kept."""
    read: Any = tokenizer(list(texts), truncation=True, max_length=tokenizer.model_max_length)
    return read["input_ids"]


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Texts of different lengths as one ``(B, L)`` int64 tensor."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])
