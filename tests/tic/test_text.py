"""Phrases: their words, their vector, what is said about unknown words, and other ways to say them."""

import sys
from types import SimpleNamespace

import pytest
import torch

from pellucid.errors import DependencyError, WeightsError
from pellucid.tic.clip_text import ClipTextEncoder
from pellucid.tic.text import TextEncoder, colour_words, fold, paraphrases, tokenise
from pellucid.tic.vocabulary import COLOURS, SIX, SYNONYMS, canonical
from pellucid.tic.word_vectors import WordVectors

WORDS = ("red", "blue", "grey", "yellow", "dress", "shoe", "bunny", "lemon")


@pytest.fixture
def encoder() -> TextEncoder:
    return TextEncoder(WordVectors(WORDS, torch.eye(len(WORDS))))


@pytest.fixture(scope="module")
def bundled() -> TextEncoder:
    return TextEncoder(WordVectors.bundled())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A red dress", ["red", "dress"]),
        ("the GRAY/blue shirt's collar!", ["grey", "blue", "shirt", "collar"]),
        ("wing_color::white", ["wing", "color", "white"]),
        ("multi-colored, multicoloured", ["multicolored", "multicolored"]),
        ("a colour", ["color"]),
        ("two t-shirts, 3 T shirts", ["two", "tshirts", "tshirts"]),
        ("sky-blue", ["sky", "blue"]),
        ("Красное платье 红色 नीला", ["красное", "платье", "红色", "नीला"]),
        ("😀 42 --", []),
        ("", []),
    ],
)
def test_tokens(text: str, words: list[str]) -> None:
    assert tokenise(text) == words


def test_a_vector_is_the_mean_at_length_4(encoder: TextEncoder) -> None:
    found = encoder.encode("a red dress")
    expected = torch.zeros(len(WORDS))
    expected[0] = expected[4] = 4 / 2**0.5
    torch.testing.assert_close(found.vector, expected)
    plain = TextEncoder(encoder.vectors, norm="none").encode("red red dress").vector
    assert plain[0] == pytest.approx(2 / 3)
    assert plain[4] == pytest.approx(1 / 3)


def test_words_are_looked_for_in_other_forms(encoder: TextEncoder) -> None:
    found = encoder.encode("crimson shoes, reddish bunnies; azure dresses gray")
    assert found.known == ("crimson", "shoes", "reddish", "bunnies", "azure", "dresses", "grey")
    assert found.unknown == ()
    assert found.colours == ("red", "blue", "grey")
    torch.testing.assert_close(encoder.encode("crimson shoes").vector, encoder.encode("red shoe").vector)


def test_a_thing_with_its_own_vector_is_no_colour(encoder: TextEncoder) -> None:
    assert encoder.encode("a lemon").colours == ()
    without = TextEncoder(WordVectors(WORDS[:-1], torch.eye(len(WORDS) - 1)))
    assert without.encode("a lemon").colours == ("yellow",)


def test_unknown_words_are_named_once(encoder: TextEncoder) -> None:
    found = encoder.encode("xyzzy red Xyzzy платье 😀 😀")
    assert found.unknown == ("xyzzy", "платье", "😀")
    assert found.known == ("red",)


@pytest.mark.parametrize("text", ["", "   ", "xyzzy plugh", "😀🎉", "платье", "the of and", "\x00\n"])
def test_nothing_known_is_the_zero_vector(encoder: TextEncoder, text: str) -> None:
    found = encoder.encode(text)
    assert torch.equal(found.vector, torch.zeros(len(WORDS)))
    assert found.known == found.colours == ()


def test_ten_thousand_words(bundled: TextEncoder) -> None:
    found = bundled.encode("a red dress and xyzzy " * 2000)
    assert found.vector.norm() == pytest.approx(4, abs=1e-4)
    assert found.unknown == ("xyzzy",)
    torch.testing.assert_close(found.vector, bundled.encode("red dress").vector)


def test_many_at_once(encoder: TextEncoder) -> None:
    texts = ["a red dress", "", "blue xyzzy"]
    torch.testing.assert_close(encoder.encode_all(texts), torch.stack([encoder.encode(text).vector for text in texts]))
    assert encoder.encode_all([]).shape == (0, len(WORDS))


def test_the_bundled_vectors_know_all_colours(bundled: TextEncoder) -> None:
    for word in COLOURS:
        assert word in bundled.vectors
    for word, meant in SYNONYMS.items():
        found = bundled.encode(f"a {word} thing")
        assert found.unknown == ()
        if canonical(word, things=False):
            torch.testing.assert_close(found.vector, bundled.encode(f"a {meant} thing").vector)
    for noun in [
        "dress",
        "hat",
        "shirt",
        "trousers",
        "shoes",
        "shorts",
        "skirt",
        "jacket",
        "tshirt",
        "top",
        "bird",
        "apple",
        "photo",
    ]:
        assert bundled.encode(noun).unknown == ()


def test_the_bundled_vectors_tell_colours_apart(bundled: TextEncoder) -> None:
    said = torch.nn.functional.normalize(bundled.encode_all([f"a {word} shirt" for word in SIX]), dim=1)
    alike = said @ said.T - torch.eye(len(SIX))
    assert float(alike.max()) < 0.8  # orange and yellow; 0.87 to 0.93 for all pairs in plain vectors, says the spec


def test_colours_of_a_text() -> None:
    assert colour_words("Blue jeans, scarlet top, blueish bag") == ("blue", "red")
    assert fold("scarlet") == "red"
    assert fold("shirt") == "shirt"
    assert fold("lemon") == "lemon"


def test_paraphrases_differ_and_follow_the_generator() -> None:
    def say(seed: int) -> list[str]:
        return paraphrases("a blue dress with a red belt", 6, torch.Generator().manual_seed(seed))

    assert say(0) == say(0) != say(1)
    assert len(set(say(0))) == 6
    for way in say(0):
        assert colour_words(way)[0] in ("blue", "navy")
        assert "dress" in way
    assert paraphrases("a dress", 2, torch.Generator()) == ["a dress", "a dress"]
    assert len(paraphrases("orange", 40, torch.Generator())) == 40


class _Tower:
    """Stands in for CLIP: its vector is the tokens' sum."""

    config = SimpleNamespace(projection_dim=3, max_position_embeddings=4)

    def eval(self) -> "_Tower":
        return self

    def requires_grad_(self, wanted: bool) -> None:
        assert not wanted

    def __call__(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(text_embeds=input_ids.sum(dim=1, keepdim=True) * torch.tensor([[1.0, 0.0, 0.0]]))


def _tokens(texts, padding=False, truncation=False, max_length=None, return_tensors=None):
    rows = [[len(word) for word in text.split()][:max_length] for text in texts]
    if return_tensors is None:
        return {"input_ids": rows}
    longest = max(map(len, rows))
    return {"input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows])}


def test_clip_is_read_from_a_folder_only(tmp_path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    asked = []

    def loader(found):
        return SimpleNamespace(from_pretrained=lambda folder, **options: asked.append(options) or found)

    tower = (_Tower(), {"missing_keys": set()})
    library = SimpleNamespace(CLIPTokenizer=loader(_tokens), CLIPTextModelWithProjection=loader(tower))
    monkeypatch.setitem(sys.modules, "transformers", library)
    with pytest.raises(WeightsError, match=r"no config\.json"):
        ClipTextEncoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    encoder = ClipTextEncoder(tmp_path, norm="none")
    assert [options.pop("local_files_only") for options in asked] == [True, True]
    assert asked[1]["use_safetensors"] is True
    assert encoder.dimension == 3
    with caplog.at_level("WARNING", logger="pellucid"):
        found = encoder.encode_all(["a red dress", "", "one two three four five"])
    assert found[:, 0].tolist() == [9, 0, 15]
    assert "1 of 2 phrases" in caplog.text
    assert ClipTextEncoder(tmp_path).encode("a crimson dress").vector.norm() == pytest.approx(4)
    assert encoder.encode("a crimson dress").colours == ("red",)


def test_clip_with_a_tensor_too_few_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    tower = (_Tower(), {"missing_keys": {"text_projection.weight"}})
    library = SimpleNamespace(
        CLIPTokenizer=SimpleNamespace(from_pretrained=lambda *_, **__: _tokens),
        CLIPTextModelWithProjection=SimpleNamespace(from_pretrained=lambda *_, **__: tower),
    )
    monkeypatch.setitem(sys.modules, "transformers", library)
    with pytest.raises(WeightsError, match=r"lacks 1 tensors, first text_projection\.weight"):
        ClipTextEncoder(tmp_path)


def test_a_damaged_clip_is_refused_in_one_line(tmp_path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, projection_dim=4, num_hidden_layers=1, num_attention_heads=1
    )
    CLIPTextModelWithProjection(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    assert ClipTextEncoder(tmp_path).dimension == 4
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(WeightsError, match=r"cannot be loaded: [^\n]+$"):
        ClipTextEncoder(tmp_path)


def test_clip_without_its_library(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DependencyError, match="transformers"):
        ClipTextEncoder(tmp_path)
