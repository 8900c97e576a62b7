"""Clips made by code: what they show is what their captions say, and every clip follows from its numbers."""

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from pellucid.data.shards import ShardIndex
from pellucid.errors import ConfigError
from pellucid.layer_animate.clips.drawn_clips import MANNERS, MovedClips, draw_motion, moved, told
from pellucid.layer_animate.clips.motions import MOTIONS


def clips(**options: object) -> MovedClips:
    return MovedClips(**({"stills": None, "count": 4, "frames": 8, "size": 24, "seed": 1} | options))  # type: ignore[arg-type]


def test_a_clip_follows_from_its_numbers() -> None:
    frames, captions = clips().cut(1, 0)
    again, same = clips().cut(1, 0)
    assert tuple(frames.shape) == (8, 4, 24, 24)
    assert torch.equal(frames, again)
    assert captions == same
    for other in (clips().cut(2, 0), clips().cut(1, 1), clips(seed=2).cut(1, 0)):
        assert not torch.equal(frames, other[0])


def test_variants_show_one_drawing_with_other_motions() -> None:
    source = clips(count=1)
    names = {source.cut(0, variant)[1][0].split(",")[0] for variant in range(6)}
    motions = {source.cut(0, variant)[1][0].split(",")[1] for variant in range(6)}
    assert len(names) == 1
    assert len(motions) > 2


def test_captions_say_the_motion() -> None:
    for index in range(4):
        _, captions = clips(motions=("turning",)).cut(index, 0)
        assert any(word in captions[0] for word in MOTIONS["turning"].words)
    assert told(["a bee"], "swinging fast") == ("a bee, swinging fast", "a bee swinging fast")


def test_some_are_told_by_their_name_alone() -> None:
    def told_so(named: float) -> int:
        source = clips(count=12, named=named)
        names = [set(source._named(index)) for index in range(12)]
        return sum(set(source.cut(index, 0)[1]) <= names[index] for index in range(12))

    assert (told_so(0.0), told_so(1.0)) == (0, 12)
    assert 0 < told_so(0.5) < 12


def test_words_of_manner_are_true() -> None:
    plain = {draw_motion(n, frames=16, motions=["up_down"]).turns for n in range(40)}
    assert plain == {1, 2, 3}
    for number in range(60):
        draw = draw_motion(number, frames=16, motions=["up_down"])
        manner = draw.words.rsplit(" ", 1)[-1]
        if manner in MANNERS:
            assert draw.turns == {"slowly": 1, "fast": 3, "gently": 2, "wildly": 3}[manner]
            assert (draw.amount < 0.7) == (manner == "gently")
        else:
            assert draw.turns == 2
    # In 8 frames one turn is the slowest and the fastest that can be shown, so neither is said.
    words = {draw_motion(n, frames=8).words.rsplit(" ", 1)[-1] for n in range(200)}
    assert not words & {"slowly", "fast", "wildly"}
    assert {draw_motion(n, frames=8).turns for n in range(50)} == {1}


def test_still_clips_are_told_so() -> None:
    draw = draw_motion(3, frames=8, still=1.0)
    assert draw.words == "motionless"
    still = torch.ones(4, 10, 10)
    clip = moved(still, draw, 8, 24)
    assert float((clip - clip[:1]).abs().max()) == 0


def test_room_to_move_and_any_shape_of_still() -> None:
    draw = draw_motion(0, frames=4, motions=["gently"])
    clip = moved(torch.ones(4, 30, 10), draw, 4, 32, base_index=1)
    assert tuple(clip.shape) == (4, 4, 32, 32)
    tall, wide = (int((clip[1, 3] > 0.5).any(side).sum()) for side in (1, 0))
    assert tall == pytest.approx(3 * wide, abs=2)
    assert tall <= 0.85 * 32


def test_stills_of_shards(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("RGBA", (12, 12), (10, 200, 30, 255)).save(data, "PNG")
    (tmp_path / "leaf.png").write_bytes(data.getvalue())
    row = {"file": "leaf.png", "split": "train", "name": "leaf", "captions": ["leaf, green", "leaf: nature"]}
    (tmp_path / "stills.jsonl").write_text(json.dumps(row) + "\n")
    source = clips(stills=ShardIndex.open(tmp_path, "stills"), count=1, motions=("growing",))
    frames, captions = source.cut(0, 0)
    assert captions[0].startswith("leaf, growing and shrinking")
    assert any(text.startswith("leaf, green, ") for text in captions)
    assert not any("nature" in text for text in captions)
    seen = frames[:, 3] > 0.5
    assert float(frames[:, 1][seen].mean()) == pytest.approx(200 / 255, abs=0.02)


def test_the_vocabulary_holds_every_caption() -> None:
    source = clips()
    words = {word for text in source.texts() for word in text.replace(",", " ").split()}
    for index in range(4):
        for variant in range(4):
            for caption in source.cut(index, variant)[1]:
                assert set(caption.replace(",", " ").split()) <= words


def test_unknown_motion() -> None:
    with pytest.raises(ConfigError, match="'tumbling' is not known"):
        draw_motion(0, motions=["tumbling"])
