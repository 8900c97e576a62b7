"""``pellucid animate`` with real networks of a toy size and random weights: every format, and what users get wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid import io
from pellucid.io.settings import read_settings
from pellucid.io.sprites import load_sheet
from pellucid.io.video import load_video

Run = Callable[..., Any]
MIDDLE = 3  # of the eight frames of a draft
QUICK = ("--model", "random:tiny", "--draft", "--seed", "3", "--no-sidecar", "--quiet")


@pytest.fixture
def glass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A soft disc of noise, whose hidden colour is noise too, of the size the toy networks make."""
    monkeypatch.chdir(tmp_path)
    y, x = np.mgrid[:32, :32]
    alpha = np.clip((12 - np.hypot(x - 15.5, y - 15.5)) / 4, 0, 1)
    colour = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    Image.fromarray(np.dstack([colour, alpha * 255]).astype(np.uint8)).save("glass.png")
    return tmp_path / "glass.png"


def test_every_format_holds_the_clip_and_frame_m_is_the_picture(glass: Path, pellucid: Run) -> None:
    exact = ("a.apng", "a.webp", "a.sheet.png", "frames")
    outs = (*exact, "a.mov", "a.webm", "a.gif")
    ended = pellucid("animate", "a glass", "--image", glass, *QUICK, *(w for out in outs for w in ("-o", out)))
    assert ended.code == 0, ended.err
    picture = io.load_image(glass).layers[0].rgba
    shown = (picture[3:] > 0).expand(3, -1, -1)
    films = {out: load_sheet(out) if "sheet" in out else load_video(out) for out in outs}
    truth = films["frames"].layers[0].rgba
    assert truth.shape == (8, 4, 32, 32)
    assert not torch.equal(truth[0], truth[7])
    for out, film in films.items():
        found = film.layers[0].rgba
        if out in exact:
            assert torch.equal(found, truth), out
            assert torch.equal(found[MIDDLE, 3], picture[3]), out
            assert torch.equal(found[MIDDLE, :3][shown], picture[:3][shown]), out
        elif out == "a.gif":
            assert torch.equal(found[:, 3], (truth[:, 3] >= 0.5).float())
        else:
            limit = 1 if out == "a.mov" else 2
            assert float((found[:, 3] - truth[:, 3]).abs().max()) * 255 <= limit + 0.01, out
    settings = read_settings("frames")
    assert settings is not None
    assert (settings["seed"], settings["weights"], settings["parameters"]["base_index"]) == (3, "random:tiny@0", MIDDLE)


def test_without_padding_the_picture_comes_back_as_a_whole(glass: Path, pellucid: Run) -> None:
    for name, more in (("a", ["--no-padding"]), ("b", [])):
        assert pellucid("animate", "", "--image", glass, *QUICK, "-o", name, *more).code == 0
    found = [np.array(Image.open(f"{name}/frame_{MIDDLE:05d}.png")) for name in "ab"]
    assert np.array_equal(found[0], np.array(Image.open(glass)))
    assert not np.array_equal(found[1], found[0])  # hidden noise became smooth


def test_a_seed_is_a_clip(glass: Path, pellucid: Run) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert pellucid("animate", "a ball", *QUICK, "--seed", seed, "-o", f"{name}.webp").code == 0
    first, again, other = (load_video(f"{name}.webp").layers[0].rgba for name in "abc")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("frames", "kept"), [(1, 1), (2, 2), (33, 33)])
def test_any_number_of_frames(glass: Path, pellucid: Run, frames: int, kept: int) -> None:
    ended = pellucid("animate", "a", "--image", glass, *QUICK, "--frames", frames, "-o", "f")
    assert ended.code == 0, ended.err
    assert load_video("f").frames == kept


def test_there_and_back(glass: Path, pellucid: Run) -> None:
    assert pellucid("animate", "a", "--image", glass, *QUICK, "--loop", "pingpong", "-o", "f.webp").code == 0
    film = load_video("f.webp").layers[0].rgba
    assert len(film) == 14
    assert torch.equal(film[1], film[13])


def test_pictures_that_cannot_be_animated(glass: Path, pellucid: Run) -> None:
    colour = np.asarray(Image.open(glass))[..., :3]
    Image.fromarray(np.dstack([colour, np.zeros_like(colour[..., :1])])).save("clear.png")
    Image.fromarray(np.full((1, 1, 4), 255, np.uint8)).save("dot.png")
    for name, said in {
        "clear.png": "clear.png is fully transparent",
        "dot.png": "dot.png is 1x1 pixels, at least 8x8 are needed",
        "none.png": "none.png: no such file",
    }.items():
        ended = pellucid("animate", "a", "--image", name, *QUICK, "-o", "f.webp")
        assert (ended.code, ended.err.splitlines()[0]) == (1, f"error: {said}")
        assert len(ended.err.splitlines()) <= 2
    assert not Path("f.webp").exists()


def test_pictures_that_need_a_word(glass: Path, pellucid: Run) -> None:
    loud = tuple(word for word in QUICK if word != "--quiet")
    Image.fromarray(np.asarray(Image.open(glass))[..., :3]).save("opaque.png")
    ended = pellucid("animate", "a", "--image", "opaque.png", *loud, "-o", "a.webp")
    assert (ended.code, "opaque.png has no alpha" in ended.err) == (0, True)
    wide = np.zeros((40, 20_000, 4), np.uint8)
    wide[..., 1:] = 255
    Image.fromarray(wide).save("wide.png")
    ended = pellucid("animate", "a", "--image", "wide.png", *loud, "--fit", "cover", "-o", "b.webp")
    assert ended.code == 0, ended.err
    assert load_video("b.webp").layers[0].rgba.shape == (8, 4, 32, 32)
    ended = pellucid("animate", "", "--image", glass, *loud, "-o", "c.webp")
    assert (ended.code, "the prompt is empty" in ended.err) == (0, True)
    ended = pellucid("animate", "ball " * 2000, "--image", glass, *loud, "-o", "d.webp")
    assert ended.code == 0, ended.err
    assert "words left out" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--steps", "0"), "steps must be from 1 to 100, found 0"),
        (("--frames", "0"), "a clip needs at least 1 frame, found 0"),
        (("--frames", "8", "--base-index", "8"), "base index 8 is not one of the 8 frames"),
        (("--frames", "8", "--base-index", "-1"), "base index -1 is not one of the 8 frames"),
        (("--reference-strength", "2"), "reference strength must be from 0 to 1.5, found 2"),
        (("--guidance", "-1"), "guidance must be from 0 to 100, found -1"),
        (("--fps", "0"), "fps must be above 0 and at most 240, found 0"),
        (("--size", "1x1"), "height must be at least 8 pixels, found 1"),
        (("--tta", "3"), "tta must be 1, 2, 4 or 8, found 3"),
        (("--model", "random:huge"), "preset 'huge' is not known"),
    ],
)
def test_settings_out_of_range_are_one_line(glass: Path, pellucid: Run, words: tuple[str, ...], said: str) -> None:
    ended = pellucid("animate", "a", "--image", glass, "--model", "random:tiny", "-o", "f.webp", *words)
    errors = [line for line in ended.err.splitlines() if not line.startswith(("WARNING", "hint"))]
    assert (ended.code, errors) == (2, [f"error: {said}"])
    assert not Path("f.webp").exists()


def test_weights_that_do_not_fit_or_are_half_written(glass: Path, pellucid: Run, tmp_path: Path) -> None:
    from pellucid.layer_animate.model import PRESETS, build
    from pellucid.layer_animate.pipeline import TransparentVideoPipeline
    from pellucid.layer_animate.text import Vocabulary, WordConditioner

    config = PRESETS["tiny"]
    short = replace(config, motion=dict(config.motion) | {"motion_max_seq_length": 4})
    model = build(short, generator_seed=0)
    pipe = TransparentVideoPipeline(model, WordConditioner(Vocabulary.basic(), model.text))
    folder = pipe.save_pretrained(tmp_path / "short", card="A toy.")
    ended = pellucid("animate", "a", "--image", glass, "--model", folder, "--frames", 8, "-o", "f.webp")
    assert ended.code == 2
    assert "4" in ended.err.splitlines()[-2]
    assert ended.err.splitlines()[-1].startswith("hint: ")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    ended = pellucid("animate", "a", "--image", glass, "--model", folder, "-o", "f.webp")
    assert ended.code == 3
    assert len([line for line in ended.err.splitlines() if line.startswith("error")]) == 1
    assert not Path("f.webp").exists()
