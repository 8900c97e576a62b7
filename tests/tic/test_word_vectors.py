"""Word vectors: every format that is read, everything that is refused, and their training."""

import gzip
import json
import pickle
import struct
import sys

import numpy as np
import pytest
import torch

from pellucid.errors import ConfigError, DependencyError, InputError, WeightsError
from pellucid.tic.corpus import SHADES, THINGS, colour_sentences, read_sentences, train_vectors
from pellucid.tic.text import fold
from pellucid.tic.vocabulary import COLOURS
from pellucid.tic.word_vectors import WordVectors, train_word_vectors

WORDS = ("red", "grün", "红")
MATRIX = torch.tensor([[1.0, -2.5], [0.5, 3.0], [0.0, 0.25]])


def _text() -> bytes:
    rows = [f"{word} {' '.join(map(str, row))}\n" for word, row in zip(WORDS, MATRIX.tolist(), strict=True)]
    return ("3 2\n" + "".join(rows)).encode()


def _binary(end: bytes) -> bytes:
    rows = [
        word.encode() + b" " + struct.pack("<2f", *row) + end for word, row in zip(WORDS, MATRIX.tolist(), strict=True)
    ]
    return b"3 2\n" + b"".join(rows)


@pytest.mark.parametrize("data", [_text(), _binary(b""), _binary(b"\n")], ids=["text", "binary", "binary-lines"])
@pytest.mark.parametrize("packed", [False, True])
def test_word2vec_formats(tmp_path, data: bytes, packed: bool) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(gzip.compress(data) if packed else data)
    found = WordVectors.load(path)
    assert found.words == WORDS
    assert torch.equal(found.matrix, MATRIX)
    assert WordVectors.load(path, limit=2).words == WORDS[:2]


def test_gensim_agrees_about_the_formats(tmp_path) -> None:
    keyed = pytest.importorskip("gensim.models").KeyedVectors(2)
    keyed.add_vectors(list(WORDS), MATRIX.numpy())
    for name, binary in (("v.txt", False), ("v.bin", True)):
        keyed.save_word2vec_format(str(tmp_path / name), binary=binary)
        found = WordVectors.load(tmp_path / name)
        assert found.words == WORDS
        torch.testing.assert_close(found.matrix, MATRIX)
    keyed.save(str(tmp_path / "native.kv"))
    with pytest.raises(WeightsError, match="pickle") as refused:
        WordVectors.load(tmp_path / "native.kv")
    assert "save_word2vec_format" in refused.value.hint


def test_our_format_goes_round_and_is_steady(tmp_path) -> None:
    vectors = WordVectors(WORDS, MATRIX)
    first, second = vectors.save(tmp_path / "a.npz"), vectors.save(tmp_path / "b.npz")
    found = WordVectors.load(first)
    assert (found.words, found.dimension, len(found)) == (WORDS, 2, 3)
    assert torch.equal(found.matrix, MATRIX)  # these values are exact in float16
    assert first.read_bytes() == second.read_bytes()
    assert "red" in found
    assert "blue" not in found
    assert torch.equal(found["red"], MATRIX[0])


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_no_pickle_is_ever_opened(tmp_path) -> None:
    (tmp_path / "native.kv").write_bytes(pickle.dumps(_Bomb()))
    (tmp_path / "packed.kv.gz").write_bytes(gzip.compress(pickle.dumps(_Bomb())))
    np.savez(tmp_path / "objects.npz", words=np.array([_Bomb()], dtype=object), matrix=np.zeros((1, 2)))
    for name in ("native.kv", "packed.kv.gz", "objects.npz"):
        with pytest.raises(WeightsError, match=r"pickle|objects"):
            WordVectors.load(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "must begin with"),
        (b"red 1 2\n", "must begin with"),
        (b"0 2\n", "0 words"),
        (_text()[:-12], "word 3"),
        (_text().replace(b"0.5", b"x"), "word 2"),
        (_binary(b"")[:-3], "cut short at word 3"),
        (b"1 2\n" + b"w" * 5000, "no end"),
        (b"PK\x03\x04 no zip", "damaged"),
        (gzip.compress(_text())[:-20], "cannot be read"),
        (b"2 2\nred 1 2\nred 3 4\n", "'red' twice"),
        (b"1 2\nred 1 nan\n", "NaN"),
    ],
)
def test_damaged_files(tmp_path, data: bytes, complaint: str) -> None:
    path = tmp_path / "vectors.bin"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=complaint):
        WordVectors.load(path)


def test_missing_files_and_arrays(tmp_path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        WordVectors.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(WeightsError, match="'words' and 'matrix'"):
        WordVectors.load(tmp_path / "other.npz")


def test_bad_tables() -> None:
    with pytest.raises(WeightsError, match="one row per word"):
        WordVectors(("red",), torch.zeros(2, 2))
    with pytest.raises(WeightsError, match="one row per word"):
        WordVectors((), torch.zeros(0, 2))
    with pytest.raises(WeightsError, match="1 of 2, first 'blue'"):
        WordVectors(("red", "blue"), torch.tensor([[0.0, 1.0], [float("inf"), 0.0]]))
    with pytest.raises(WeightsError, match="256 numbers per word for these weights, found 2"):
        WordVectors(WORDS, MATRIX).expect_dimension(256)


def test_the_bundled_table() -> None:
    found = WordVectors.bundled()
    assert found.expect_dimension(256) is found
    assert len(found) > 4000


def test_sentences_of_a_corpus(tmp_path) -> None:
    rows = [{"file": "a", "caption": "a red hat", "captions": ["a hat", "a red hat"]}, {"file": "b", "caption": ""}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(b"17\ta bus\n18\tone dog\n"))
    (tmp_path / "c.txt").write_text("a cat\n\n")
    assert list(read_sentences(tmp_path / "a.jsonl")) == ["a red hat", "a hat"]
    assert list(read_sentences(tmp_path / "b.tsv.gz")) == ["a bus", "one dog"]
    assert list(read_sentences(tmp_path / "c.txt")) == ["a cat", ""]
    (tmp_path / "d.jsonl").write_text("[1]")
    with pytest.raises(InputError, match="line 1 must be an object"):
        list(read_sentences(tmp_path / "d.jsonl"))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_sentences(tmp_path / "none.txt"))


def test_every_colour_is_said() -> None:
    assert set(THINGS) == set(COLOURS)
    assert set(SHADES) < set(COLOURS)
    sentences = colour_sentences(2)
    assert {token for sentence in sentences for token in sentence if fold(token) != token} == set()
    said = [sentence[0] for sentence in sentences]
    assert {word: said.count(word) >= 20 for word in COLOURS} == dict.fromkeys(COLOURS, True)


def _recipe(tmp_path, extra: str = ""):
    (tmp_path / "captions.txt").write_text("a crimson dress\na crimson hat\na scarlet dress\na blue car\na blue boat\n")
    path = tmp_path / "vectors.toml"
    path.write_text(f'method = "tic"\ncorpus = ["{tmp_path / "captions.txt"}"]\ndimension = 8\nepochs = 2\n{extra}')
    return path


def test_training_is_repeatable_and_folds_synonyms(tmp_path) -> None:
    pytest.importorskip("gensim")
    first, second = (train_vectors(_recipe(tmp_path)) for _ in range(2))
    assert first.words == second.words
    assert torch.equal(first.matrix, second.matrix)
    assert "crimson" not in first
    assert first.dimension == 8
    other = train_vectors(_recipe(tmp_path), ["seed=2"])
    assert not torch.equal(other.matrix[: len(first)], first.matrix[: len(other)])
    few = train_vectors(_recipe(tmp_path), ["keep=1"])
    assert set(COLOURS) <= set(few.words)
    assert len(few) <= len(COLOURS) + 1


def test_the_part_in_common_is_taken_out() -> None:
    pytest.importorskip("gensim")
    said = [["red", "dress"], ["blue", "car"], ["green", "tree"]] * 20
    centred, plain = (train_word_vectors(said, dimension=8, epochs=2, centre=on) for on in (True, False))
    torch.testing.assert_close(centred.matrix, plain.matrix - plain.matrix.mean(dim=0))


def test_training_says_what_it_lacks(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="window"):
        train_vectors(_recipe(tmp_path, 'widow = 3\nwindow = "x"\n'))
    pytest.importorskip("gensim")
    with pytest.raises(InputError, match="no words"):
        train_word_vectors([[]])
    with pytest.raises(InputError, match="occurs 9 times"):
        train_word_vectors([["red"], ["blue"]], min_count=9)
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(DependencyError, match="gensim"):
        train_word_vectors([["red"]])
