"""``pellucid colorize``: texts, regions, variants, captions, palettes, films; errors and exit codes.

The pipeline is the real one, with weights that nobody trained: what is tested is what a user gets for a command.
"""

import io
import json
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.cli.captions import read_captions
from pellucid.cli.colorize import join_regions
from pellucid.layers import Layer, LayerStack
from pellucid.tic.lab import rgb_to_lab
from pellucid.tic.model import TICConfig, TICGenerator
from pellucid.tic.pipeline import ColorizationPipeline
from pellucid.tic.text import TextEncoder
from pellucid.tic.word_vectors import WordVectors


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A small network that answers to words, though not as they mean."""
    torch.manual_seed(0)
    config = TICConfig(width=8, growth=4, ups=(8, 4, 4), rrdb_blocks=1, fusion="film", working_side=64)
    generator = TICGenerator(config)
    with torch.no_grad():
        for name, value in generator.named_parameters():
            if value.ndim == 4:
                torch.nn.init.kaiming_normal_(value)
            elif name.startswith("text"):
                value.mul_(0 if name.endswith("bias") else 8)
    folder = tmp_path_factory.mktemp("weights") / "w"
    pipe = ColorizationPipeline(generator, TextEncoder(WordVectors.bundled()), device="cpu")
    pipe.save_pretrained(folder, card="# Not trained\n")
    return folder


@pytest.fixture
def colorize(pellucid, weights, tmp_path, monkeypatch):
    """Run the verb with the small network, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: pellucid("colorize", *arguments, "--model", weights, "--device", "cpu")


def grey(name: str, size=(40, 30), **options) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.add.outer(np.linspace(60, 120, size[1]), np.linspace(0, 80, size[0])).astype(np.uint8)
    Image.fromarray(values).save(path, **options)
    return path


def rgb(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def spread(path: Path | str) -> int:
    """How coloured a picture is: the largest difference of two channels."""
    return int(np.ptp(rgb(path), axis=-1).max())


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file()}


def test_one_grey_photograph_gets_colours_and_keeps_its_lightness(colorize):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    source = grey("old.png", exif=exif)
    ended = colorize(source, "--text", "a red dress")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == "wrote old.colorized.png\n"
    assert files() == {"old.png", "old.colorized.png"}
    assert spread("old.colorized.png") > 20
    assert Image.open("old.colorized.png").getexif()[0x010F] == "a camera"
    L = [rgb_to_lab(torch.from_numpy(rgb(p) / 255.0).movedim(-1, 0).float())[0] for p in (source, "old.colorized.png")]
    assert (L[0] - L[1]).abs().max() <= 0.3

    again = colorize(source, "--text", "a blue dress")
    assert again.code == 1
    assert again.err.startswith("error: output old.colorized.png exists already")
    before = rgb("old.colorized.png")
    assert colorize(source, "--text", "a blue dress", "--overwrite", "--strip-metadata").code == 0
    assert np.abs(before - rgb("old.colorized.png")).max() > 10
    assert not Image.open("old.colorized.png").getexif()


def test_strength_and_saturation_count(colorize):
    source = grey("a.png")
    for name, options in {
        "words": ["-t", "a red dress"],
        "none": [],
        "weak": ["-t", "a red dress", "--strength", "0"],
        "grey": ["-t", "a red dress", "--saturation", "0"],
        "noise": ["-t", "a red dress", "--seed", "3"],
    }.items():
        assert colorize(source, *options, "-o", f"{name}.png").code == 0
    assert np.array_equal(rgb("weak.png"), rgb("none.png"))
    assert np.array_equal(rgb("grey.png"), rgb(source))
    assert not np.array_equal(rgb("words.png"), rgb("none.png"))
    assert not np.array_equal(rgb("words.png"), rgb("noise.png"))


def test_layered_files_hold_both_layers_and_layers_writes_both(colorize):
    source = grey("a.jpg")
    assert colorize(source, "-t", "a red dress", "--format", "ora").code == 0
    stack = LayerStack.load("a.colorized.ora")
    assert [(layer.name, layer.blend) for layer in stack.layers] == [("color", "over"), ("luminance", "luminosity")]
    assert stack.meta.parameters["text"] == "a red dress"
    assert colorize(source, "-t", "a red dress", "--layers").code == 0
    assert files() == {"a.jpg", "a.colorized.ora", "a.colorized.jpg", "a.luminance.jpg"}
    assert spread("a.luminance.jpg") <= 2
    assert np.abs(rgb("a.luminance.jpg") - rgb(source)).max() <= 6


def test_variants_are_numbered_and_differ(colorize):
    source = grey("a.png")
    assert colorize(source, "-t", "a red dress", "--variants", 3, "--seed", 5, "--layers").code == 0
    assert files() == {"a.png", "a.luminance.png", *(f"a.colorized-{k}.png" for k in (1, 2, 3))}
    made = [rgb(f"a.colorized-{k}.png") for k in (1, 2, 3)]
    assert all(not np.array_equal(made[i], made[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    Path("out").mkdir()
    assert colorize(source, "-t", "a red dress", "--variants", 3, "--seed", 5, "-o", "out/b.png").code == 0
    assert all(np.array_equal(rgb(f"out/b-{k}.png"), made[k - 1]) for k in (1, 2, 3))
    assert colorize(source, "-t", "a red dress", "--variants", 3, "--seed", 6, "-o", "other.png").code == 0
    assert np.array_equal(rgb("other-1.png"), made[0])
    assert not np.array_equal(rgb("other-2.png"), made[1])

    Path("out/b-3.png").unlink()
    refused = colorize(source, "--variants", 3, "-o", "out/b.png")
    assert (refused.code, "b-1.png" in refused.err) == (1, True)
    assert not Path("out/b-3.png").exists()
    grey("c-2.png")
    into = colorize("c-2.png", "--variants", 2, "-o", "c.png", "--overwrite")
    assert (into.code, into.err.splitlines()[0]) == (2, "error: output c-2.png is also an input")


def test_a_region_changes_only_its_part(colorize):
    source = grey("a.png", size=(200, 80))
    assert colorize(source, "-t", "a red dress", "-o", "whole.png").code == 0
    box = ("--region", "0%,0%,30%,100%", "a green hat")
    assert colorize(source, "-t", "a red dress", *box, "-o", "box.png").code == 0
    mask = np.zeros((80, 200), np.uint8)
    mask[:, :60] = 255
    Image.fromarray(mask).save("mask.png")
    masked = ("--region=mask.png", "a green hat")
    assert colorize(source, "-t", "a red dress", *masked, "-o", "mask.out.png").code == 0
    whole, boxed = rgb("whole.png"), rgb("box.png")
    assert np.array_equal(boxed, rgb("mask.out.png"))
    assert np.abs(whole - boxed)[:, :50].max() > 10
    assert np.array_equal(whole[:, 80:], boxed[:, 80:])
    two = ("--region", "150,0,200,80", "a blue hat")
    assert colorize(source, "-t", "a red dress", *box, *two, "-o", "two.png").code == 0
    assert np.array_equal(rgb("two.png")[:, :120], boxed[:, :120])
    assert not np.array_equal(rgb("two.png")[:, 180:], boxed[:, 180:])


def test_unknown_words_are_named_once(colorize):
    source = grey("a.png")
    some = colorize(source, "-t", "a sparkqly red dress 🎈 sparkqly", "--region", "0,0,9,9", "qwzx", "-o", "b.png")
    assert some.code == 0
    lines = some.err.splitlines()
    assert lines[0] == "WARNING: a.png: not known: sparkqly, 🎈"
    assert lines[1] == "WARNING: a.png: not known: qwzx; no word is left, so its colours are guessed"
    assert lines[2:] == ["wrote b.png"]
    quiet = colorize(source, "-t", "qwzx", "-o", "c.png", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    none = colorize(source, "-o", "none.png")
    assert (none.code, none.err) == (0, "wrote none.png\n")
    assert np.array_equal(rgb("c.png"), rgb("none.png"))

    many = " ".join(f"qwzx{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)}" for i in range(9_998))
    long = colorize(source, "-t", f"красное платье 赤いドレス red {many}", "-o", "d.png")
    assert long.code == 0
    assert "more" in long.err
    assert len(long.err) < 400
    assert spread("d.png") > 5


def test_a_coloured_picture_says_so_and_keep_leaves_the_rest(colorize):
    values = np.full((40, 100, 3), (200, 60, 30), np.uint8)
    Image.fromarray(values).save("a.png")
    ended = colorize("a.png", "-t", "a blue dress", "-o", "b.png")
    assert ended.code == 0
    assert "a.png is coloured: only its lightness is used" in ended.err
    kept = colorize("a.png", "--keep", "--region", "0,0,30,40", "a green hat", "-o", "c.png")
    assert (kept.code, kept.err) == (0, "wrote c.png\n")
    assert np.array_equal(rgb("c.png")[:, 60:], values[:, 60:])
    assert not np.array_equal(rgb("c.png")[:, :20], values[:, :20])


def test_palettes_are_json(colorize):
    source = grey("in/a.png")
    assert colorize(source, "-t", "red", "-o", "a.png", "--palette", "a.json").code == 0
    row = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert (row["input"], row["text"], row["results"][0]["output"]) == ("in/a.png", "red", "a.png")
    colours = row["results"][0]["colors"]
    assert {"hex", "name", "share"} <= colours[0].keys()
    assert sum(colour["share"] for colour in colours) == pytest.approx(1.0, abs=0.01)
    refused = colorize(source, "-o", "again.png", "--palette", "a.json")
    assert (refused.code, Path("again.png").exists()) == (1, False)
    printed = colorize(source, "-t", "red", "--variants", 2, "-o", "v.png", "--palette", "-")
    assert [result["output"] for result in json.loads(printed.out)["results"]] == ["v-1.png", "v-2.png"]


def test_captions_give_each_picture_its_text(colorize):
    for name in ("a.png", "deep/b.png", "c.png"):
        grey(f"in/{name}")
    Path("texts.csv").write_text("file,text,mood\na.png,a red dress,\ndeep/b.png,a blue dress,sad\nz.png,x,\n")
    batch = ("in", "-o", "out", "--format", "ora", "--workers", 1, "--palette", "palettes")
    ended = colorize(*batch, "--captions", "texts.csv", "-t", "green")
    assert ended.code == 0, ended.err
    assert {"palettes/a.palette.json", "palettes/deep/b.palette.json", "palettes/c.palette.json"} < files()
    texts = {path.name: LayerStack.load(path).meta.parameters["text"] for path in Path("out").rglob("*.ora")}
    assert texts == {
        "a.colorized.ora": "a red dress",
        "b.colorized.ora": "a blue dress",
        "c.colorized.ora": "green",
    }
    assert "captions: in/c.png is not named and coloured with 'green'" in ended.err
    assert "captions: z.png is no picture of this batch" in ended.err


def test_captions_are_read_as_csv_and_as_jsonl(tmp_path):
    table, lines = tmp_path / "a.csv", tmp_path / "b.jsonl"
    table.write_text('\ufefffile,caption\r\na.png,"red, blue"\r\nb.png,\r\n', encoding="utf-8")
    lines.write_text('{"file": "x/a.png", "caption": "é\u2028x", "width": 3}\n\n{"file": "b.png"}\n', encoding="utf-8")
    assert read_captions(table) == {"a.png": "red, blue", "b.png": ""}
    assert read_captions(lines) == {"x/a.png": "é\u2028x", "b.png": ""}


def test_stdin_to_stdout(colorize, monkeypatch):
    data, written = io.BytesIO(), io.BytesIO()
    Image.open(grey("a.jpg")).save(data, "JPEG")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data.getvalue())))
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", SimpleNamespace(buffer=written, flush=lambda: None))
        ended = colorize("-", "-t", "a red dress")
    assert ended.code == 0, ended.err
    assert Image.open(io.BytesIO(written.getvalue())).format == "JPEG"


def film(name: str, frames: int, *, sound: bool = False) -> Path:
    """A grey film of 10 frames a second."""
    with av.open(name, "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 24, "yuv420p"
        voice = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for index in range(frames):
            picture = np.full((24, 32, 3), 60 + 10 * index, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode())
        if voice is not None:
            beep = av.AudioFrame.from_ndarray(np.zeros((1, 1024 * frames), np.float32), "fltp", "mono")
            beep.rate = 8000
            container.mux(voice.encode(beep))
            container.mux(voice.encode())
    return Path(name)


def test_films_keep_their_frames_and_sound(colorize):
    film("a.mp4", 5, sound=True)
    ended = colorize("a.mp4", "-t", "a red qwzx", "--seed", 1)
    assert ended.code == 0, ended.err
    assert "a.mp4: not known: qwzx" in ended.err
    made = LayerStack.load("a.colorized.mp4")
    assert (made.frames, made.fps) == (5, Fraction(10))
    pixels = made.layers[0].pixels[2]
    assert float((pixels.amax(0) - pixels.amin(0)).max()) > 0.05
    with av.open("a.colorized.mp4") as container:
        assert len(container.streams.audio) == 1
    assert colorize("a.mp4", "-t", "a red qwzx", "-o", "plain.mp4").code == 0
    assert not torch.equal(LayerStack.load("plain.mp4").layers[0].pixels, made.layers[0].pixels)
    film("one.mp4", 1)
    assert colorize("one.mp4").code == 0
    assert LayerStack.load("one.colorized.mp4").frames == 1


def test_a_film_with_a_broken_end_is_one_line_and_leaves_nothing(colorize):
    LayerStack((Layer("v", torch.rand(6, 3, 24, 32)),), fps=Fraction(10)).save("a.apng")
    whole = Path("a.apng").read_bytes()
    Path("a.apng").write_bytes(whole[: len(whole) - 300])
    ended = colorize("a.apng", "-t", "red")
    assert ended.code == 1
    assert "a.apng" in ended.err.splitlines()[-1]
    assert [line.split(":")[0] for line in ended.err.splitlines() if "coloured" not in line] == ["error"]
    assert files() == {"a.apng"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.png", "--region", "0,0,50,10", "red"], 1, "40x30"),
        (["a.png", "--region", "9,9,3,3", "red"], 1, "no area"),
        (["a.png", "--region", "0,0,50%,10", "red"], 2, "percent"),
        (["a.png", "--region", "small.png", "red"], 1, "40x30, found 8x8"),
        (["a.png", "--region", "gone.png", "red"], 1, "gone.png"),
        (["a.png", "--region", "0,0,9,9"], 2, "two values"),
        (["a.png", "--keep"], 2, "region"),
        (["a.png", "--strength", "1.6"], 2, "--strength"),
        (["a.png", "--saturation", "-1"], 2, "--saturation"),
        (["a.png", "--saturation", "nan"], 2, "saturation"),
        (["a.png", "--variants", "0"], 2, "--variants"),
        (["a.png", "--variants", "2", "-o", "-"], 2, "stdout"),
        (["a.png", "--palette", "-", "-o", "-"], 2, "stdout"),
        (["a.png", "small.png", "--palette", "p.json"], 2, "several inputs"),
        (["a.png", "--gamut", "wide"], 2, "--gamut"),
        (["a.png", "--captions", "gone.csv"], 1, "gone.csv"),
        (["a.png", "--captions", "a.png"], 2, ".csv or .jsonl"),
        (["a.png", "--captions", "other.csv"], 1, "none of the 1 pictures"),
        (["a.png", "--captions", "columns.csv"], 1, "found picture, words"),
        (["a.png", "--captions", "cells.csv"], 1, "line 2: more cells"),
        (["a.png", "--captions", "twice.jsonl"], 1, "line 2: a.png has another text"),
        (["a.png", "--captions", "broken.jsonl"], 1, "line 1: not JSON"),
        (["a.png", "--captions", "latin.csv"], 1, "not UTF-8"),
        (["a.mp4", "--variants", "2"], 2, "--variants is for pictures"),
        (["a.mp4", "--region", "0,0,9,9", "red"], 2, "--region is for pictures"),
        (["a.mp4", "--palette", "p.json"], 2, "--palette is for pictures"),
        (["a.png", "--model", "nowhere"], 3, "no weights"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(colorize, pellucid, arguments, code, message):
    grey("a.png")
    grey("small.png", size=(8, 8))
    film("a.mp4", 2)
    Path("other.csv").write_text("file,text\nz.png,red\n")
    Path("columns.csv").write_text("picture,words\na.png,red\n")
    Path("cells.csv").write_text("file,text\na.png,red, blue\n")
    Path("twice.jsonl").write_text('{"file": "a.png", "text": "red"}\n{"file": "a.png", "text": "blue"}\n')
    Path("broken.jsonl").write_text("{file: a.png}\n")
    Path("latin.csv").write_bytes("file,text\na.png,caf\xe9\n".encode("latin-1"))
    before = files()
    ended = pellucid("colorize", *arguments) if "--model" in arguments else colorize(*arguments)
    assert ended.code == code, ended.err
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert files() == before
    if "Usage" not in ended.err:
        assert [line.split(":")[0] for line in ended.err.splitlines()] in (["error"], ["error", "hint"])


def test_vectors_of_another_size_or_with_nan_are_refused(colorize, weights):
    own = weights / "vectors.npz"
    grey("a.png")
    for matrix, message in ((np.ones((2, 5)), "256"), (np.full((2, 256), np.nan), "NaN")):
        try:
            np.savez(own, words=np.array(["red", "blue"]), matrix=matrix.astype(np.float16))
            ended = colorize("a.png", "-t", "red")
        finally:
            own.unlink()
        assert ended.code in (1, 3), ended.err
        assert message in ended.err
        assert len(ended.err.splitlines()) <= 2
        assert files() == {"a.png"}


def test_both_values_of_a_region_travel_as_one():
    joined = join_regions(
        ["a", "--region", "m.png", "red hat", "--region=1,2,3,4", "x", "--text", "t", "--", "--region"]
    )
    assert joined == ["a", "--region", "m.png\0red hat", "--region=1,2,3,4\0x", "--text", "t", "--", "--region"]
    assert join_regions(["--region", "m.png"]) == ["--region", "m.png"]
