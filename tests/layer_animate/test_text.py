"""Prompts to vectors: what is known, what is said to be lost, and files of words."""

import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pellucid.errors import ConfigError, WeightsError
from pellucid.layer_animate.clips.drawn import COLOURS, KINDS
from pellucid.layer_animate.model import LayerAnimate
from pellucid.layer_animate.text import ClipConditioner, Vocabulary, WordConditioner, split_words


@pytest.fixture(scope="module")
def words(tiny_model: LayerAnimate) -> WordConditioner:
    return WordConditioner(Vocabulary.basic(), tiny_model.text)


@pytest.fixture(scope="module")
def clip() -> ClipConditioner:
    pieces = ["<|startoftext|>", "<|endoftext|>", "a", "b", "a</w>", "b</w>", "ab</w>"]
    tokenizer = CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[("a", "b</w>")])
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(pieces), max_position_embeddings=8, **sizes, **special))
    return ClipConditioner(tokenizer, text.eval())


def test_a_prompt_becomes_one_vector_a_place_and_the_empty_one_as_many(words: WordConditioner) -> None:
    with torch.no_grad():
        vectors = words.encode(["a red ball, bouncing", ""])
    assert vectors.shape == (2, 32, 16)
    assert not torch.equal(vectors[0], vectors[1])


def test_numbers_of_words_stand_between_start_and_end(words: WordConditioner) -> None:
    red = words.vocabulary.number("red")
    assert words.ids(["Red"])[0, :4].tolist() == [1, red, 2, 0]
    assert words.ids([""])[0, :3].tolist() == [1, 2, 0]


def test_plurals_count_as_their_singular(words: WordConditioner) -> None:
    assert words.unknown("birds glasses butterflies") == ()
    assert words.ids(["birds"]).equal(words.ids(["bird"]))
    assert words.vocabulary.number("glass") is not None  # and "glass" is no plural of "glas"


def test_unknown_words_are_said_once_and_left_out(words: WordConditioner, caplog: pytest.LogCaptureFixture) -> None:
    assert words.unknown("a zyzzyx red zyzzyx") == ("zyzzyx",)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        with_it = words.encode(["a zyzzyx red ball"])
    assert "zyzzyx" in caplog.text
    assert with_it.equal(words.encode(["a red ball"]))


def test_two_thousand_words_are_cut_and_that_is_said(words: WordConditioner, caplog: pytest.LogCaptureFixture) -> None:
    prompt = "red blue " * 1000
    assert len(words.dropped(prompt)) == 2000 - 30
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        assert words.encode([prompt]).shape == (1, 32, 16)
    assert "1970 words left out" in caplog.text
    assert words.ids([prompt])[0, -1] == 2


def test_words_of_drawn_captions_are_known(words: WordConditioner) -> None:
    assert words.unknown(" ".join([*KINDS, *COLOURS, "an and"])) == ()


def test_a_vocabulary_of_captions_keeps_the_most_frequent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        vocabulary = Vocabulary.of(["a cat", "a dog", "a dog runs"], most=5)
    assert vocabulary.words == ("a", "dog")
    assert "2 rarest of 4" in caplog.text
    assert len(Vocabulary.of(["a cat", "a dog"], most=100)) == 6


def test_a_vocabulary_comes_back_from_its_file(tmp_path: Path) -> None:
    vocabulary = Vocabulary.of(["ein Löwe", "red"], most=10)
    vocabulary.save(tmp_path)
    assert Vocabulary.load(tmp_path) == vocabulary


@pytest.mark.parametrize(
    "content", ["{", '{"words": "red"}', '{"words": ["Two Words"]}', '{"words": ["a", "a"]}', "[]"]
)
def test_a_damaged_vocabulary_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(WeightsError, match="damaged"):
        Vocabulary.load(tmp_path)


def test_a_missing_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="missing"):
        Vocabulary.load(tmp_path)


def test_a_vocabulary_larger_than_the_text_encoder_is_refused(tiny_model: LayerAnimate) -> None:
    vocabulary = Vocabulary(tuple(f"w{number}" for number in range(600)))
    with pytest.raises(WeightsError, match="603 tokens, the text encoder holds 512"):
        WordConditioner(vocabulary, tiny_model.text)


def test_a_word_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        Vocabulary(("red", "red"))


def test_clip_pads_to_its_length_and_says_what_it_drops(
    clip: ClipConditioner, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        assert clip.encode(["ab a", ""]).shape == (2, 8, 8)
        assert not caplog.records
        clip.encode(["a a a a a a ab b"])
    assert clip.dropped("a a a a a a ab b") == ("ab", "b")
    assert "2 words left out: ab, b" in caplog.text
    assert clip.ids(["ab"])[0].tolist() == [0, 6, 1, 1, 1, 1, 1, 1]
    assert clip.unknown("zyzzyx") == ()


def test_words_are_split_at_everything_else() -> None:
    assert split_words("A Red-BALL, 2x; naïve_Löwe") == ["a", "red", "ball", "2x", "naïve", "löwe"]


def test_the_file_of_words_is_plain(tmp_path: Path) -> None:
    path = Vocabulary(("löwe",)).save(tmp_path / "vocabulary.json")
    assert json.loads(path.read_text(encoding="utf-8")) == {"words": ["löwe"]}
