"""``pellucid animate`` and ``pellucid study`` as a user types them."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_clips import FakeClips

from pellucid import registry
from pellucid.io.settings import read_settings
from pellucid.io.video import load_video
from pellucid.layers import Layer, LayerStack

Run = Callable[..., Any]


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[FakeClips]]:
    """The fake pipeline in the place of the room's, and an empty folder to be in."""
    fake = replace(registry.METHODS["layer_animate"], pipeline="fake_clips:FakeClips")
    monkeypatch.setitem(registry.METHODS, "layer_animate", fake)
    monkeypatch.chdir(tmp_path)
    yield FakeClips
    FakeClips.calls.clear()
    FakeClips.opened.clear()


def test_without_weights_it_says_what_to_do(clips: type[FakeClips], pellucid: Run, tmp_path: Path) -> None:
    ended = pellucid("animate", "a ball", "-o", "a.webm")
    assert ended.code == 3
    assert ended.err.splitlines()[0] == "error: no weights for clips with alpha ship with this package yet"
    assert "--model DIR" in ended.err.splitlines()[1]
    assert clips.opened == []
    assert list(tmp_path.iterdir()) == []


def test_one_clip_goes_into_as_many_files_as_are_asked_for(clips: type[FakeClips], pellucid: Run) -> None:
    outs = ("a.mov", "b.webm", "c.sheet.png", "d", "e.gif")
    ended = pellucid("animate", "a ball", "--model", "some", *(word for out in outs for word in ("-o", out)))
    assert ended.code == 0, ended.err
    assert len(clips.calls) == 1
    assert clips.opened == [("some", {"device": "auto", "offline": False})]
    for out in outs:
        assert f"wrote {out}\n" in ended.err
        settings = read_settings(out)
        assert settings is not None
        assert (settings["seed"], settings["parameters"]) == (5, {"prompt": "a ball"})
    assert Path("a.mov.json").exists()
    assert Path("c.sheet.json").exists()
    pellucid("animate", "a ball", "--model", "some", "--no-sidecar", "--quiet")
    assert load_video("clip.webm").layers[0].alpha is not None
    assert not Path("clip.webm.json").exists()


def test_options_reach_the_pipeline_by_its_own_names(clips: type[FakeClips], pellucid: Run) -> None:
    plain = pellucid("animate", "", "--model", "random:tiny", "-o", "a.webp")
    assert plain.code == 0, plain.err
    assert clips.opened == [("random:tiny", {"device": "auto", "offline": False})]
    words = (
        "a ball --model w -o b.webp --image me.png --fit cover --key-color #00ff00 --size 40x16 --frames 4 --steps 3 "
        "--guidance 2 --negative dull --scheduler dpm++ --reference-strength 0.5 --base-index 1 --loop pingpong "
        "--reference isolated --similarity 0.2 --no-keep-base --draft --tta 2 --fps 12 --seed 9 --low-memory"
    )
    first, *rest = words.removeprefix("a ball ").split()
    ended = pellucid("animate", "a ball", first, *rest)
    assert ended.code == 0, ended.err
    bare, full = clips.calls
    assert bare == {
        "prompt": "",
        "negative_prompt": "",
        "fit": "contain",
        "reference_strength": 1.0,
        "loop": "none",
        "reference": "parallel",
        "scheduler": "ddim",
        "draft": False,
        "low_memory": False,
    }
    assert full.pop("key_color").tolist() == [0.0, 1.0, 0.0]
    assert full == {
        "prompt": "a ball",
        "negative_prompt": "dull",
        "base_image": "me.png",
        "fit": "cover",
        "width": 40,
        "height": 16,
        "frames": 4,
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "scheduler": "dpm++",
        "reference_strength": 0.5,
        "base_index": 1,
        "loop": "pingpong",
        "reference": "isolated",
        "similarity": 0.2,
        "keep_base_exact": False,
        "draft": True,
        "tta": 2,
        "fps": 12.0,
        "seed": 9,
        "low_memory": True,
    }


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-o", "a.mp4"), 2, "a.mp4: MP4 cannot hold alpha"),
        (("-o", "a.jpg"), 2, "a.jpg: JPEG (.jpg) cannot hold frames over time"),
        (("-o", "no/a.webm"), 1, "no/a.webm: its folder does not exist"),
        (("-o", "taken.webm"), 1, "taken.webm: exists already"),
        (("-o", "a.webm", "-o", "./a.webm"), 2, "a.webm would be written twice"),
        (("-o", "-"), 2, "a clip cannot go to stdout"),
        (("--size", "big"), 2, "size 'big' is not WxH in pixels"),
        (("--over", "nowhere"), 2, "'nowhere' is neither a colour nor a file"),
        (("--over", "white", "--premultiplied"), 2, "premultiplied and over exclude each other"),
        (("--linear-light",), 2, "--linear-light is for a clip laid over something"),
        (("--matte", "nocolour"), 2, "colour 'nocolour' is not known"),
        (("--key-color", "white"), 2, "--key-color is about your picture, and there is none"),
        (("--bits", "12"), 2, "bit depth must be 8 or 16, found 12"),
        (("--bits", "16", "-o", "a.webm"), 2, "a.webm: VP9 WebM holds 8 bits per channel"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_before_the_work(
    clips: type[FakeClips], pellucid: Run, words: tuple[str, ...], code: int, said: str
) -> None:
    Path("taken.webm").write_bytes(b"mine")
    ended = pellucid("animate", "a ball", "--model", "some", *words)
    assert (ended.code, ended.err.splitlines()[0]) == (code, f"error: {said}")
    assert len(ended.err.splitlines()) <= 2
    assert clips.opened == []
    assert Path("taken.webm").read_bytes() == b"mine"


def test_opaque_and_named_ways_of_writing(clips: type[FakeClips], pellucid: Run) -> None:
    model = ("--model", "some", "--no-sidecar")
    assert pellucid("animate", "", *model, "-o", "a.mp4", "-o", "a.webp", "--over", "#0000ff").code == 0
    assert load_video("a.webp").layers[0].rgba[0, :, 23, 31].tolist() == [0.0, 0.0, 1.0]
    assert pellucid("animate", "", *model, "-o", "b.mov", "--premultiplied").code == 0
    assert pellucid("animate", "", *model, "-o", "c.mp4", "--split").code == 0
    assert {path.name for path in Path().iterdir()} == {
        "a.mp4",
        "a.webp",
        "b_premultiplied.mov",
        "c_rgb.mp4",
        "c_alpha.mp4",
    }


def test_a_file_that_fails_does_not_lose_the_others(
    clips: type[FakeClips], pellucid: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pellucid.io.gif as gif

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gif.GifSink, "write", full)
    ended = pellucid("animate", "", "--model", "some", "-o", "a.gif", "-o", "b.webp")
    assert ended.code == 1
    assert "error: a.gif: the disk is full, nothing was written" in ended.err
    assert not Path("a.gif").exists()
    assert load_video("b.webp").frames == 3


def test_people_rank_clips_and_their_answers_are_counted(pellucid: Run, tmp_path: Path) -> None:
    for name, level in (("ours", 0.2), ("naive", 0.8)):
        frames = torch.full((2, 3, 16, 16), level)
        stack = LayerStack((Layer("video", frames, torch.ones(2, 1, 16, 16)),), fps=8)  # type: ignore[arg-type]
        (tmp_path / name).mkdir()
        stack.save(tmp_path / name / "ball.webp")
    page = tmp_path / "study.html"
    given = [f"{name}={tmp_path / name}" for name in ("ours", "naive")]
    ended = pellucid("study", "page", *given, "-o", page, "--seed", 1)
    assert ended.code == 0, ended.err
    assert "1 questions" in ended.err
    key = json.loads((tmp_path / "study.key.json").read_text())
    (question, asked), *_ = key["questions"].items()
    with (tmp_path / "anna.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("study", "participant", "question", "clip", "rank"))
        for clip, whose in asked["clips"].items():
            rows.writerow((key["study"], "anna", question, clip, 1 if whose == "ours" else 2))
    counted = pellucid("study", "tally", tmp_path / "study.key.json", tmp_path / "anna.csv", "--json")
    assert counted.code == 0, counted.err
    assert json.loads(counted.out)[0]["system"] == "ours"
    assert json.loads(counted.out)[0]["first %"] == 100.0
    assert pellucid("study", "page", "ours", "-o", page).code == 2
    assert pellucid("study", "page", given[0], given[0], "-o", page).code == 2
