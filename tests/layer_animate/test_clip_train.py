"""The tiny CLIP: its words, its pictures and batches, its figure by hand, and a folder that the score opens."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from math import comb
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.model import preset
from pellucid.layer_animate.text import Vocabulary, WordConditioner
from pellucid.layer_animate.tiny_clip import train as clip_train
from pellucid.layer_animate.tiny_clip.data import (
    NamedBatches,
    NamedPictures,
    draw_named,
    grounds,
    other_makers,
    over_grey,
    read_named,
)
from pellucid.layer_animate.tiny_clip.recipe import Recipe
from pellucid.layer_animate.tiny_clip.train import retrieval
from pellucid.layer_animate.tiny_clip.words import numbered, padded, word_tokenizer
from pellucid.metrics.clip_score import CLIPScorer
from pellucid.train.config import load_recipe
from pellucid.train.loop import make_accelerator, run
from pellucid.train.state import TrainState

RECIPES = Path(__file__).parents[2] / "recipes" / "layer_animate"
SMALL = ("data.count=96", "data.held_out=24", "train.batch=16", "vision.size=16", "vision.layers=1", "train.warmup=0")


def started(*overrides: str) -> TrainState:
    recipe = load_recipe(RECIPES / "clip-tiny.toml", Recipe, [*SMALL, *overrides])
    accelerator = make_accelerator(recipe, "cpu")
    torch.manual_seed(0)
    state = clip_train.build(recipe, accelerator)
    state.accelerator = accelerator
    return state


def test_the_recipe_of_the_real_one_fits_the_text_encoder_of_its_preset() -> None:
    recipe = load_recipe(RECIPES / "clip.toml", Recipe)
    assert recipe.train.select == "retrieval"
    same = preset("small").text
    assert {key: value for key, value in recipe.text_config().items() if key in same} | {"eos_token_id": 2} == same
    with pytest.raises(ConfigError, match="patch must divide size"):
        load_recipe(RECIPES / "clip.toml", Recipe, ["vision.patch=7"])


def test_words_are_numbered_as_the_text_encoder_numbers_them() -> None:
    vocabulary = Vocabulary(("red", "ring", "1st", "fine"))
    tokenizer = word_tokenizer(vocabulary, 32, 8)
    conditioner = WordConditioner(vocabulary, CLIPTextModel(CLIPTextConfig(**preset("tiny").text)))
    for text in ("a Red_ring, 1st!", "RED", "", "\ufb01ne-ring"):
        ours = [number for number in numbered(tokenizer, [text])[0] if number != tokenizer.unk_token_id]
        assert ours[-1] == tokenizer.eos_token_id == 31
        theirs = conditioner.ids([text])[0]
        assert ours[:-1] == theirs[theirs != 0].tolist()
    long = numbered(tokenizer, ["red ring " * 9])[0]
    assert (len(long), long[-2:]) == (8, [2, 31])
    assert padded([[1, 2], [1, 3, 2]]).tolist() == [[1, 2, 0], [1, 3, 2]]
    with pytest.raises(ConfigError, match="do not fit"):
        word_tokenizer(vocabulary, 8, 8)


def _archive(folder: Path, pictures: dict[str, tuple[Image.Image, dict[str, object]]]) -> None:
    rows = []
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name, (picture, facts) in pictures.items():
            data = io.BytesIO()
            picture.save(data, "png")
            member = tarfile.TarInfo(name)
            member.size = data.tell()
            archive.addfile(member, io.BytesIO(data.getvalue()))
            rows.append({"file": name, "shard": "a.tar", "split": "train", **facts})
    (folder / "stills.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_stills_and_animations_are_read_with_their_names(tmp_path: Path) -> None:
    sheet = Image.new("RGBA", (16, 16))  # four frames, of which the second is empty
    for place in ((0, 0), (0, 8), (8, 8)):
        sheet.paste((0, 0, 255, 255), (*place, place[0] + 8, place[1] + 6))
    still = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    facts = {"name": "box", "captions": ["a blue box", "box"], "sheet": [2, 2], "seconds": 1.0, "author": "One"}
    _archive(tmp_path, {"box": (sheet, facts), "dot": (still, {"name": "dot", "author": "Two"})})
    found = read_named(str(tmp_path), "stills", 8, "train", frames=4)
    assert found.names == ["box"] * 3 + ["dot"]
    assert found.captions(0) == ["box", "a blue box"]
    grey = 127 / 255
    assert over_grey(found.pixels)[3, :, 0, 0].tolist() == pytest.approx(
        [(1 - 128 / 255) * grey + 128 / 255, *[(1 - 128 / 255) * grey] * 2], abs=1e-5
    )
    with pytest.raises(InputError, match="no named picture of split 'val'"):
        read_named(str(tmp_path), "stills", 8, "val")
    _archive(tmp_path, {"wide": (Image.new("RGBA", (8, 6)), {"name": "wide"})})
    with pytest.raises(InputError, match="square, found 8x6"):
        read_named(str(tmp_path), "stills", 8, "train")


def test_one_hand_of_a_name_is_held_out_with_all_it_drew() -> None:
    hands = [("cat", "One"), ("cat", "One"), ("cat", "Two"), ("dog", "One"), ("sun", "One"), ("sun", "Three")]
    rows = tuple({"name": name, "author": author} for name, author in hands)
    pictures = NamedPictures(torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 4, 2, 2), rows)
    learned, held = other_makers(pictures, 0.999)
    for name in ("cat", "sun"):
        away = {row["author"] for row in held.rows if row["name"] == name}
        assert len(away) == 1
        assert away.isdisjoint(row["author"] for row in learned.rows if row["name"] == name)
        assert name in learned.names
    assert "dog" not in held.names  # one hand alone drew it
    assert sorted([*learned.pixels[:, 0, 0, 0].tolist(), *held.pixels[:, 0, 0, 0].tolist()]) == list(range(6))
    assert len(other_makers(pictures, 0.0)[1]) == 0


def test_batches_follow_from_seed_and_index_and_hold_no_name_twice() -> None:
    pictures = draw_named(200, 16, 0)
    tokens = [[[1, 100 + index, 7, 2, 31]] for index in range(len(pictures))]

    def batches(process: tuple[int, int] = (0, 1), drop: float = 0.0, batch: int = 24) -> NamedBatches:
        return NamedBatches(pictures, tokens, batch, 3, 30, process, affine=0.1, word_drop=drop)

    (seen, texts), (again, same) = batches()(5), batches()(5)
    assert torch.equal(seen, again)
    assert texts == same
    assert not torch.equal(seen, batches()(6)[0])
    assert not torch.equal(seen, batches((1, 2))(5)[0])
    names = [pictures.names[text[1] - 100] for text in texts]
    assert len(set(names)) == len(names) == 24
    assert 0.0 <= float(seen.min()) < float(seen.max()) <= 1.0
    heard = batches(drop=0.5)(5)[1]
    lost = [text[1:3].count(30) for text in heard]
    assert set(lost) == {0, 1}  # never both words
    assert all((text[0], text[3:]) == (1, [2, 31]) for text in heard)
    with pytest.raises(ConfigError, match="takes as many names"):
        batches(batch=100)


def test_half_of_the_grounds_are_those_of_the_score() -> None:
    found = grounds(400, torch.Generator().manual_seed(0))[:, :, 0, 0]
    plain = [float((found == value).all(1).float().mean()) for value in (127 / 255, 1.0, 0.0)]
    assert plain == pytest.approx([0.25, 0.125, 0.125], abs=0.06)


def test_retrieval_is_the_share_over_all_draws_of_other_names() -> None:
    names = torch.eye(6)
    images = torch.tensor([[0.9, 0.1, 0.2, 1.0, 0.3, 0.4], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    # Four of five others score below the first picture's name: C(4, 2) / C(5, 2) among three.
    expected = (comb(4, 2) / comb(5, 2) + 1.0) / 2
    assert retrieval(images, names, [0, 1], among=3) == pytest.approx(expected)
    assert retrieval(images, names, [0, 1]) == pytest.approx(0.5)  # all six
    assert retrieval(torch.zeros(1, 6), names, [0], among=3) == 0.0  # a tie is no find


def test_learning_makes_the_loss_smaller_and_keeps_the_scale_in_bounds() -> None:
    state = started("train.lr=3e-3")
    batch = state.batches(0)
    losses = [float(clip_train.step(state, batch)["loss"]) for _ in range(25)]
    assert losses[-1] < 0.5 * torch.tensor(16.0).log().item()  # half of what guessing costs
    model = state.bare()["clip"]
    assert isinstance(model.logit_scale, torch.nn.Parameter)
    model.logit_scale.data.fill_(9.0)
    assert float(clip_train.step(state, batch)["scale"]) == pytest.approx(100.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = load_recipe(RECIPES / "clip-tiny.toml", Recipe, [*SMALL, "train.steps=2", "name=mine"])
    result = run(recipe, tmp_path_factory.mktemp("clip") / "run", device="cpu")
    assert result.model is not None
    assert set(result.figures) == {"retrieval", "known"}
    return result.model


def test_the_score_opens_what_was_trained(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    scorer = CLIPScorer(folder)
    assert scorer.label == "our tiny CLIP (mine)"
    card = (folder / "README.md").read_text()
    assert "not OpenAI's" in card
    assert "right name among" in card
    with caplog.at_level(logging.WARNING):
        texts = scorer.texts(["a red ring", "red"])
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        scorer.texts(["a red Zebra", "zebra ring"])
    assert caplog.messages == ["our tiny CLIP (mine) does not know 'zebra'"]
    # What the score computes is what training measured: pictures over grey, the same tokens.
    pictures = draw_named(3, 16, 9)
    state = started()
    model = state.bare()["clip"]
    model.load_state_dict({key: value.float() for key, value in scorer._model.state_dict().items()})
    expected = clip_train._image_features(model.eval(), pictures)  # type: ignore[arg-type]
    assert F.cosine_similarity(scorer.images(over_grey(pictures.pixels)), expected).min() > 0.999
    expected = clip_train._text_features(model, state.room.tokenizer, ["a red ring", "red"])  # type: ignore[arg-type]
    assert torch.allclose(texts, expected, atol=1e-5)


def test_its_text_side_takes_the_place_of_the_text_encoder(folder: Path) -> None:
    scorer = CLIPScorer(folder)
    text = CLIPTextModel(CLIPTextConfig(**preset("tiny").text))
    text.load_state_dict(scorer._model.text_model.state_dict())
    vocabulary = Vocabulary.load(folder)
    ours = WordConditioner(vocabulary, text).encode(["a red ring"])[0, :5]
    ids = scorer._tokens(["a red ring"], return_tensors="pt")["input_ids"]
    theirs = scorer._model.text_model(input_ids=ids).last_hidden_state[0]
    assert torch.allclose(ours, theirs[:-1], atol=1e-5)  # start, three words, end; the last is CLIP's alone


def test_the_contact_sheet_has_a_row_for_each_name() -> None:
    state = started()
    sheet = clip_train.samples(state, state.bare())
    assert sheet.shape == (3, 8 * 16, 8 * 16)
    assert 0.0 <= float(sheet.min()) <= float(sheet.max()) <= 1.0
