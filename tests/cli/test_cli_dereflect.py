"""``pellucid dereflect``: files, folders, stdin; names, layers, meta data, errors, exit codes."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.io.video import VideoWriter
from pellucid.layers import LayerStack

pytestmark = pytest.mark.usefixtures("fake_room")


def picture(path: Path, mode: str = "RGB", size=(9, 7), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((size[1], size[0], len(mode)), 200, dtype=np.uint8)
    Image.fromarray(values.squeeze(), mode=mode).save(path, **options)
    return path


def pixel(path: Path) -> tuple:
    with Image.open(path) as image:
        return image.getpixel((2, 2))


def test_one_file_gives_its_transmission_beside_it(tmp_path, pellucid):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    source = picture(tmp_path / "window.jpg", exif=exif, quality=95)
    ended = pellucid("dereflect", source, "--device", "cpu")
    target = tmp_path / "window.transmission.jpg"
    assert (ended.code, ended.out) == (0, "")
    assert str(target) in ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["window.jpg", "window.transmission.jpg"]
    assert abs(pixel(target)[0] - 100) <= 2
    assert Image.open(target).getexif()[0x010F] == "a camera"

    before = target.read_bytes()
    again = pellucid("dereflect", source)
    assert again.code == 1
    assert again.err.splitlines() == [
        f"error: output {target} exists already",
        "hint: add --overwrite, or give another -o",
    ]
    assert target.read_bytes() == before
    assert pellucid("dereflect", source, "--overwrite", "--strength", "0.5", "--strip-metadata").code == 0
    assert abs(pixel(target)[0] - 150) <= 2
    assert not Image.open(target).getexif()


def test_layers_are_written_beside_the_main_one(tmp_path, pellucid):
    source = picture(tmp_path / "a.png", "RGBA")
    assert pellucid("dereflect", source, "-o", tmp_path / "clean.png", "--layers").code == 0
    names = {path.name for path in tmp_path.iterdir()} - {"a.png"}
    assert names == {f"clean.{x}png" for x in ("", "reflection.", "range_0.", "range_1.", "confidence.")}
    assert pixel(tmp_path / "clean.png") == (100, 100, 100, 200)
    assert pixel(tmp_path / "clean.reflection.png") == (100, 100, 100, 200)
    assert pixel(tmp_path / "clean.range_0.png")[3] in (127, 128)
    assert LayerStack.load(tmp_path / "clean.confidence.png").meta.bit_depth == 16

    (tmp_path / "clean.png").unlink()
    refused = pellucid("dereflect", source, "-o", tmp_path / "clean.png", "--layers")
    assert refused.code == 1
    assert "exists already" in refused.err
    assert not (tmp_path / "clean.png").exists()


def test_folder_goes_through_worker_processes(tmp_path, pellucid):
    photos, out = tmp_path / "photos", tmp_path / "out"
    picture(photos / "a.jpg")
    picture(photos / "deep" / "b.png")
    (photos / "bad.png").write_bytes(b"not a picture")
    ended = pellucid("dereflect", photos, "-o", out, "--device", "cpu", "--workers", 2)
    assert ended.code == 1
    assert "error:" in ended.err
    assert "bad.png" in ended.err
    assert ended.err.splitlines()[-1].startswith("2 done, 0 skipped, 1 failed")
    assert abs(pixel(out / "deep" / "b.transmission.png")[0] - 100) <= 1
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert sorted((Path(row["input"]).name, row["status"]) for row in rows) == [
        ("a.jpg", "done"),
        ("b.png", "done"),
        ("bad.png", "failed"),
    ]
    (photos / "bad.png").unlink()
    again = pellucid("dereflect", photos, "-o", out, "--device", "cpu", "--quiet")
    assert (again.code, again.err) == (0, "")
    assert len((out / "results.jsonl").read_text().splitlines()) == 5


def test_stdin_to_stdout_keeps_the_format(tmp_path, pellucid, monkeypatch):
    for format in ("JPEG", "PNG"):
        data, written = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (9, 7), (200, 200, 200)).save(data, format)
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data.getvalue())))
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", SimpleNamespace(buffer=written, flush=lambda: None))
            ended = pellucid("dereflect", "-")
        assert ended.code == 0, ended.err
        result = Image.open(io.BytesIO(written.getvalue()))
        assert result.format == format
        assert abs(result.getpixel((1, 1))[0] - 100) <= 2


def test_options_reach_the_pipeline(tmp_path, pellucid):
    source = picture(tmp_path / "in" / "a.png")
    depth = picture(tmp_path / "depth" / "a.png", "L")
    ended = pellucid(
        *("dereflect", source, "-o", tmp_path / "a.ora", "--passes", 2, "--way", "exact", "--tile", 256),
        *("--depth", tmp_path / "depth", "--depth-kind", "metric"),
    )
    assert ended.code == 0, ended.err
    stack = LayerStack.load(tmp_path / "a.ora")
    assert stack.names == ("transmission", "reflection", "range_0", "range_1", "confidence")
    wanted = {"strength": 1.0, "passes": 2, "way": "exact", "tile": 256, "depth": str(depth), "kind": "metric"}
    assert dict(stack.meta.parameters) == wanted


def test_film_goes_through_frame_by_frame(tmp_path, pellucid):
    with VideoWriter(tmp_path / "a.apng", 8, 6, 12, True) as writer:
        for level in (0.2, 0.4, 0.6):
            writer.write(torch.full((4, 6, 8), level))
    ended = pellucid("dereflect", tmp_path / "a.apng")
    assert ended.code == 0, ended.err
    film = LayerStack.load(tmp_path / "a.transmission.apng")
    assert (film.frames, film.fps) == (3, 12)
    assert film.layers[0].alpha is not None
    assert torch.allclose(film.layers[0].pixels[:, 0, 0, 0], torch.tensor([0.1, 0.2, 0.3]), atol=0.003)
    assert pellucid("dereflect", tmp_path / "a.apng", "--layers", "--overwrite").code == 2
    assert pellucid("dereflect", tmp_path / "a.apng", "-o", tmp_path / "b.mp4").code == 2  # alpha
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.png", "--model", "missing"], 3, "no weights"),
        (["."], 3, "no weights"),
        (["none.png"], 1, "not there"),
        (["empty.png"], 1, "empty.png"),
        (["a.png", "--format", "xyz"], 2, "cannot be written"),
        (["a.png", "--format", "jpg", "-o", "b.png"], 2, "different formats"),
        (["rgba.png", "--format", "jpg"], 2, "alpha"),
        (["a.png", "-o", "a.png"], 2, "also an input"),
        (["a.png", "-o", "missing/b.png"], 1, "missing"),
        (["a.png", "--strength", "2"], 2, "--strength"),
        (["a.png", "--device", "abacus"], 2, "abacus"),
        (["a.png", "--layers", "-o", "-"], 2, "stdout"),
        (["a.png", "rgba.png", "--depth", "a.png"], 2, "one picture"),
        (["a.png", "--depth", "deep"], 1, "no depth picture"),
        ([], 2, "INPUT"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(tmp_path, pellucid, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    picture(Path("a.png"))
    picture(Path("rgba.png"), "RGBA")
    Path("deep").mkdir()
    Path("empty.png").touch()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    if arguments == ["."]:
        arguments = [".", "--model", "missing", "--workers", "1", "-o", "deep", "--device", "cpu"]
    ended = pellucid("dereflect", *arguments)
    assert ended.code == code, ended.err
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    if "Usage" not in ended.err:
        assert [line.split(":")[0] for line in ended.err.splitlines()] in (["error"], ["error", "hint"])


def test_debug_shows_the_traceback(tmp_path, pellucid):
    ended = pellucid("dereflect", tmp_path / "none.png", "--debug")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "error: " in ended.err


def test_parent_of_a_batch_starts_as_a_command(tmp_path):
    """The installed command and its workers, not this test's process: what is reported is what a user sees."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bad.png").write_bytes(b"x")
    ended = subprocess.run(
        [sys.executable, "-m", "pellucid", "dereflect", "photos", "--model", "./none", "--offline", "--device", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 3, ended.stderr
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr
