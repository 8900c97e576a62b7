"""Word vectors: read, checked, saved, and trained.

Colouring needs only the table of words and numbers that ships as ``weights/tic/vectors.npz``; gensim is needed to train
another one. A pickle is never opened: gensim's native files are refused, its word2vec text and binary files are read
here.
"""

from __future__ import annotations

import gzip
import logging
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self, cast

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import DependencyError, InputError, WeightsError
from pellucid.hub.pretrained import BUNDLED

log = logging.getLogger(__name__)

BUNDLED_VECTORS = BUNDLED / "tic" / "vectors.npz"
DIMENSION = 256  # of the paper's word vectors (Sec. 3)
_LONGEST_WORD = 1000  # bytes; a longer one means that the file is no table of words


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words and their vectors.

    Attributes:
        words: ``N`` different words.
        matrix: ``(N, D)`` float32, finite; row i belongs to word i.

    Raises:
        WeightsError: on making one, when words and rows do not match, a word is there twice, or a number is not finite.
    """

    words: tuple[str, ...]
    matrix: Tensor
    _rows: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.shape[0] != len(self.words) or not self.words:
            raise WeightsError(
                f"word vectors must be one row per word, found {len(self.words)} words "
                f"and a table of {' x '.join(map(str, self.matrix.shape))}"
            )
        rows = {word: row for row, word in enumerate(self.words)}
        if len(rows) != len(self.words):
            twice = next(word for row, word in enumerate(self.words) if rows[word] != row)
            raise WeightsError(f"word vectors must name each word once, found {twice!r} twice")
        bad = ~torch.isfinite(self.matrix).all(dim=1)
        if bad.any():
            first = self.words[int(bad.nonzero()[0])]
            raise WeightsError(
                f"word vectors must be finite, found NaN or infinity in {int(bad.sum())} of {len(self.words)}, "
                f"first {first!r}",
                "use a file that was written whole",
            )
        object.__setattr__(self, "_rows", rows)

    @property
    def dimension(self) -> int:
        """D, the numbers per word."""
        return self.matrix.shape[1]

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._rows

    def __getitem__(self, word: str) -> Tensor:
        """Vector ``(D,)`` of a word; a KeyError when it has none."""
        return self.matrix[self._rows[word]]

    def row(self, word: str) -> int | None:
        """Row of a word in `matrix`, or None."""
        return self._rows.get(word)

    def expect_dimension(self, wanted: int) -> Self:
        """Return itself when it has ``wanted`` numbers per word.

        Raises:
            WeightsError: it has another number; the message says both.
        """
        if self.dimension != wanted:
            raise WeightsError(
                f"word vectors must have {wanted} numbers per word for these weights, found {self.dimension}",
                f"use the vectors the weights were trained with, or train weights with vector_dim = {self.dimension}",
            )
        return self

    @classmethod
    def bundled(cls) -> WordVectors:
        """Load the vectors that ship with the package: 256 numbers per word."""
        return cls.load(BUNDLED_VECTORS)

    @classmethod
    def load(cls, path: str | Path, *, limit: int | None = None) -> WordVectors:
        """Read our ``.npz``, or word2vec's text or binary format, also with ``.gz``.

        Args:
            path: the file.
            limit: read the first ``limit`` words only; word2vec files begin with the most frequent ones.

        Raises:
            WeightsError: the file is missing, is a pickle, is cut short, or is none of these formats.
        """
        file = Path(path).expanduser()
        try:
            with open(file, "rb") as opened:
                magic = opened.read(4)
            if magic.startswith(b"PK"):
                return _read_npz(file)
            with cast("IO[bytes]", gzip.open(file) if magic.startswith(b"\x1f\x8b") else open(file, "rb")) as opened:
                _refuse_pickle(opened.read(2), file)
                opened.seek(0)
                return _read_word2vec(opened, file, limit)
        except (OSError, EOFError, gzip.BadGzipFile) as error:
            reason = getattr(error, "strerror", None) or error
            raise WeightsError(f"word vectors {str(file)!r} cannot be read: {reason}") from error

    def save(self, path: str | Path) -> Path:
        """Write ``.npz`` with the words as UTF-8 lines and the matrix as float16; the same vectors, the same bytes."""
        target = Path(path)
        lines = np.frombuffer("\n".join(self.words).encode(), dtype=np.uint8)
        with open(target, "wb") as file:
            np.savez_compressed(file, words=lines, matrix=self.matrix.half().numpy())
        return target


def _read_npz(path: Path) -> WordVectors:
    try:
        with np.load(path, allow_pickle=False) as table:
            missing = {"words", "matrix"} - set(table.files)
            if missing:
                raise WeightsError(
                    f"word vectors {str(path)!r} must hold 'words' and 'matrix', found {', '.join(table.files)}"
                )
            words, matrix = table["words"], table["matrix"]
        names = words.tobytes().decode().split("\n") if words.dtype == np.uint8 else [str(word) for word in words]
    except (ValueError, zipfile.BadZipFile, zlib.error) as error:  # numpy itself refuses an array of Python objects
        raise WeightsError(f"word vectors {str(path)!r} are damaged or hold objects: {error}") from error
    if matrix.dtype.kind != "f":
        raise WeightsError(f"word vectors {str(path)!r}: 'matrix' must be floats, found {matrix.dtype}")
    return WordVectors(tuple(names), torch.from_numpy(matrix.astype(np.float32)))


def _refuse_pickle(start: bytes, path: Path) -> None:
    if start[:1] == b"\x80":  # protocol 2 and later
        raise WeightsError(
            f"word vectors {str(path)!r} are a pickle, which can run code; expected .npz or word2vec format",
            'if you trust it: python -c "from gensim.models import KeyedVectors as K; '
            f"K.load('{path}').save_word2vec_format('vectors.txt')\"",
        )


def _read_word2vec(file: IO[bytes], path: Path, limit: int | None) -> WordVectors:
    """Read ``N D`` and then N times a word and D numbers, as text lines or as little-endian float32."""
    header = file.readline(64).split()
    if len(header) != 2 or not all(part.isdigit() for part in header):
        raise WeightsError(
            f"word vectors {str(path)!r} must begin with a line 'words dimension', found no such line",
            "give an .npz of ours or a word2vec file, text or binary",
        )
    count, dimension = (int(part) for part in header)
    count = count if limit is None else min(count, limit)
    if not dimension or not count:
        raise WeightsError(f"word vectors {str(path)!r} hold {count} words of {dimension} numbers")
    begin = file.tell()
    is_text = _is_text_row(file.readline(32 * dimension + _LONGEST_WORD), dimension)
    file.seek(begin)
    words: list[str] = []
    rows: list[np.ndarray] = []  # not one array of the header's size: a damaged header must not fill the memory
    for _ in range(count):
        word, row = (_text_row if is_text else _binary_row)(file, dimension, path, len(words))
        words.append(word)
        rows.append(row)
    return WordVectors(tuple(words), torch.from_numpy(np.stack(rows)))


def _is_text_row(line: bytes, dimension: int) -> bool:
    try:
        return len([float(part) for part in line.decode().rstrip().split(" ")[1:]]) == dimension
    except ValueError:  # UnicodeDecodeError is one too
        return False


def _text_row(file: IO[bytes], dimension: int, path: Path, number: int) -> tuple[str, np.ndarray]:
    parts = file.readline().decode(errors="replace").rstrip().split(" ")
    if len(parts) != dimension + 1:
        raise WeightsError(
            f"word vectors {str(path)!r}: word {number + 1} must have {dimension} numbers, found {len(parts) - 1}"
        )
    try:
        return parts[0], np.array(parts[1:], dtype=np.float32)
    except ValueError as error:
        raise WeightsError(f"word vectors {str(path)!r}: word {number + 1}: {error}") from error


def _binary_row(file: IO[bytes], dimension: int, path: Path, number: int) -> tuple[str, np.ndarray]:
    word = bytearray()
    while (byte := file.read(1)) not in (b" ", b""):
        if byte != b"\n":  # some writers end each row with one
            word += byte
        if len(word) > _LONGEST_WORD:
            raise WeightsError(f"word vectors {str(path)!r} are not word2vec binary: word {number + 1} has no end")
    data = file.read(4 * dimension)
    if len(data) != 4 * dimension:
        raise WeightsError(f"word vectors {str(path)!r} are cut short at word {number + 1}")
    return word.decode(errors="replace"), np.frombuffer(data, dtype="<f4")


def train_word_vectors(
    sentences: Iterable[Sequence[str]],
    *,
    dimension: int = DIMENSION,
    window: int = 5,
    min_count: int = 2,
    negative: int = 5,
    epochs: int = 20,
    seed: int = 1,
    keep: int | None = None,
    always: Iterable[str] = (),
    centre: bool = True,
) -> WordVectors:
    """Train skip-gram word vectors (spec section 3; Mikolov et al. 2013, the paper's reference 18).

    One worker, and Python's hashes do not enter: one corpus and one seed give one table.

    Args:
        sentences: tokens of each sentence.
        dimension: numbers per word.
        window, min_count, negative, epochs, seed: as in gensim's ``Word2Vec``.
        keep: keep the ``keep`` most frequent words only; None for all.
        always: words that are kept however rare, when they have a vector.
        centre: subtract the mean of all words, the first half of Mu and Viswanath's "all-but-the-top" (2018). Skip-gram
            gives all words a part in common, which would be most of a sentence's mean; without it "a red shirt" and "a
            blue shirt" are farther apart (cosine 0.56 instead of 0.66 on our corpus).

    Raises:
        DependencyError: gensim is not installed.
        InputError: the corpus has no word often enough.
    """
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        raise DependencyError("training word vectors needs gensim", "pip install 'pellucid[vectors]'") from error
    corpus = [list(sentence) for sentence in sentences if sentence]
    if not corpus:
        raise InputError("the corpus for word vectors has no words")
    try:
        model = Word2Vec(
            corpus,
            vector_size=dimension,
            sg=1,
            window=window,
            min_count=min_count,
            negative=negative,
            epochs=epochs,
            seed=seed,
            workers=1,
            hashfxn=_steady_hash,
        )
    except RuntimeError as error:  # gensim's for a vocabulary that min_count left empty
        raise InputError(f"no word of the corpus occurs {min_count} times") from error
    words = cast("list[str]", model.wv.index_to_key)  # most frequent first
    wanted = set(words[:keep]) | (set(always) & set(words))
    kept = [row for row, word in enumerate(words) if word in wanted]
    log.info("trained %d words on %d sentences, kept %d", len(words), len(corpus), len(kept))
    matrix = model.wv.vectors - model.wv.vectors.mean(axis=0) if centre else model.wv.vectors
    return WordVectors(tuple(words[row] for row in kept), torch.from_numpy(matrix[kept].copy()))


def _steady_hash(word: str) -> int:
    """A hash that is the same in every process, unlike Python's own."""
    return zlib.crc32(word.encode())
