"""The command itself, and the verbs that need no network."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid import registry
from pellucid.cli import demo as demo_verb
from pellucid.cli.doctor import import_errors
from pellucid.cli.main import VERBS
from pellucid.hub.pretrained import save_pretrained
from pellucid.layers import Layer, LayerStack


def test_help_is_quick_and_loads_nothing_heavy(tmp_path):
    probe = (
        "import sys\nfrom pellucid.cli.main import main\nsys.argv = ['pellucid', '--help']\n"
        "try:\n    main()\nfinally:\n    print([m for m in sys.modules if m in "
        "('torch', 'numpy', 'PIL', 'av', 'pydantic', 'kornia')])"
    )
    begun = time.perf_counter()
    ended = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    spent = time.perf_counter() - begun
    assert ended.stdout.splitlines()[-1] == "[]"
    assert all(f"  {verb} " in ended.stdout for verb in VERBS)
    assert spent < 2  # 0.15 s when nothing else runs; `make bench` holds it to 0.4


def test_usage_errors_suggest_and_exit_with_2(pellucid):
    wrong = pellucid("dereflct")
    assert wrong.code == 2
    assert "dereflect" in wrong.err
    assert pellucid("--version").out.startswith("pellucid ")
    assert pellucid("dereflect", "--nope").code == 2


def test_ctrl_c_exits_with_130(pellucid, monkeypatch, tmp_path):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(LayerStack, "load", interrupted)
    ended = pellucid("layers", "show", tmp_path / "a.png")
    assert (ended.code, ended.err) == (130, "interrupted\n")


def test_surprises_are_one_line_too(pellucid, monkeypatch):
    def broken(path):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(LayerStack, "load", broken)
    ended = pellucid("layers", "show", "a.png")
    assert ended.code == 1
    assert ended.err.startswith("error: this should not have happened: ZeroDivisionError: oh\nhint: ")


def save(path: Path, value: int, size=(6, 4), mode="RGB") -> Path:
    Image.fromarray(np.full((size[1], size[0], len(mode)), value, np.uint8), mode=mode).save(path)
    return path


def test_layers_merge_show_split_and_convert(tmp_path, pellucid):
    base, light = save(tmp_path / "pic.base.png", 100), save(tmp_path / "pic.light.png", 50, mode="RGBA")
    ora = tmp_path / "pic.ora"
    assert pellucid("layers", "merge", base, light, "-o", ora, "--blend", "add").code == 0
    facts = json.loads(pellucid("layers", "show", ora, "--json").out)
    assert (facts["width"], facts["height"]) == (6, 4)
    assert [(layer["name"], layer["blend"]) for layer in facts["layers"]] == [("base", "over"), ("light", "add")]
    table = pellucid("layers", "show", ora).out
    assert "6 x 4" in table
    assert table.index("light") < table.index("base")

    assert pellucid("layers", "split", ora, "-o", tmp_path / "parts").code == 0
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["pic.base.png", "pic.light.png"]
    assert Image.open(tmp_path / "parts/pic.light.png").getpixel((0, 0)) == (50, 50, 50, 50)
    assert pellucid("layers", "split", ora, "-o", tmp_path / "parts").code == 1  # they are there

    assert pellucid("layers", "convert", ora, tmp_path / "flat.png").code == 0
    assert Image.open(tmp_path / "flat.png").getpixel((0, 0)) == (110, 110, 110)  # 100 + 50 * 50 / 255
    assert pellucid("layers", "convert", light, tmp_path / "a.jpg").code == 2
    assert pellucid("layers", "convert", light, tmp_path / "a.jpg", "--background", "white").code == 0
    assert abs(Image.open(tmp_path / "a.jpg").getpixel((0, 0))[0] - 215) <= 2  # 50 * .196 + 255 * .804
    assert pellucid("layers", "convert", light, tmp_path / "b.jpg", "--background", "nope").code == 2
    assert pellucid("layers", "merge", base, light, "-o", ora, "--blend", "xyz").code == 2


def test_split_does_not_climb_out(tmp_path, pellucid, monkeypatch):
    evil = LayerStack((Layer("../../evil", torch.zeros(3, 2, 2)),))
    monkeypatch.setattr(LayerStack, "load", lambda path: evil)
    out = tmp_path / "a" / "b"
    assert pellucid("layers", "split", "x.ora", "-o", out).code == 0
    (written,) = out.iterdir()
    assert written.name == "x._.._evil.png"


@pytest.mark.usefixtures("fake_room")
def test_demo_shows_everything_twice_in_a_row(tmp_path, pellucid, monkeypatch):
    examples = tmp_path / "examples" / "reflection"
    examples.mkdir(parents=True)
    save(examples / "window.jpg", 200, size=(60, 40))
    (tmp_path / "examples" / "colorize").mkdir()
    save(tmp_path / "examples" / "colorize" / "old.jpg", 200, size=(60, 40))
    (tmp_path / "examples" / "parts").mkdir()
    for name in ("face.png", "other.png"):
        save(tmp_path / "examples" / "parts" / name, 0, size=(40, 40))
    monkeypatch.setattr(demo_verb, "EXAMPLES", tmp_path / "examples")
    out = tmp_path / "demo"
    for _ in range(2):
        ended = pellucid("demo", "-o", out)
        assert ended.code == 0, ended.err
        listed = [Path(line) for line in ended.out.splitlines()]
        assert {path.name for path in listed} == {
            *("window.transmission.jpg", "window.reflection.jpg", "window.ora", "index.png"),
            *(f"old.colorized-{number}.jpg" for number in (1, 2, 3, 4)),
            "old.ora",
            *("face.png", "other.png", "face.new-hair.png", "face.new-hair.ora", "face.other-new-hair.png"),
            *("face.hair-of-the-other.png", "face.mouth-of-the-other.png", "face.nose-perturbed.png"),
            "face.half-way-to-the-other.png",
        }
        assert all(path.stat().st_size for path in listed)
    sheet = Image.open(out / "index.png").convert("RGB")
    assert sheet.width > 4 * 240  # input, transmission, reflection and two ranges side by side
    colours = {sheet.getpixel((12 + index * 252 + 20, 12 + 48 + 20)) for index in range(2)}
    assert len(colours) == 2  # the input and half of it
    top = sheet.height - 12 - 20  # in the lower half of the pictures of the last row
    for index in range(8):  # the other mask, the mask and six edits: labels above, drawn in the style below
        label, drawn = (sheet.getpixel((12 + index * 252 + 20, top - up)) for up in (100, 0))
        assert label[0] == label[1] == drawn[0] > 2 * drawn[1]
    top -= 200  # above these two rows
    words = [sheet.getpixel((12 + index * 252 + 20, top)) for index in range(5)]
    assert [value.index(max(value)) for value in words[1:4]] == [0, 1, 2]  # red, green, blue
    assert len(set(words)) == 5  # the grey one, three texts, and other words for the lower half
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "index.png").write_text("mine")
    assert pellucid("demo", "-o", theirs).code == 1
    assert (theirs / "index.png").read_text() == "mine"
    one = pellucid("demo", "-o", tmp_path / "one", "--task", "colorize", "--model", "any")
    assert one.code == 0
    assert not (tmp_path / "one" / "dereflect").exists()
    assert pellucid("demo", "-o", out, "--model", "any").code == 2


@pytest.mark.usefixtures("fake_room")
def test_demo_says_what_it_leaves_out(tmp_path, pellucid, monkeypatch):
    (tmp_path / "colorize").mkdir()
    save(tmp_path / "colorize" / "old.jpg", 200, size=(60, 40))
    monkeypatch.setattr(demo_verb, "EXAMPLES", tmp_path)
    for name in ("multistep_sirr", "semantic_vae"):
        bare = replace(registry.METHODS[name], pipeline="fake_pipeline:NoWeights")
        monkeypatch.setitem(registry.METHODS, name, bare)
    ended = pellucid("demo", "-o", tmp_path / "demo")
    assert ended.code == 0
    assert "parts is left out: no weights here" in ended.err
    assert "colorized" in ended.out
    assert pellucid("demo", "-o", tmp_path / "one", "--task", "face-parts").code == 3


@pytest.mark.usefixtures("fake_room")
def test_eval_prints_the_rooms_rows(tmp_path, pellucid):
    ended = pellucid("eval", "--set", tmp_path, "--protocol", "disk", "--model", "small", "--way", "exact")
    assert ended.out.splitlines() == [
        "| system |  PSNR |  SSIM | way   |",
        "| ------ | ----: | ----: | ----- |",
        "| input  | 22.10 | 0.750 |       |",
        "| small  | 23.46 |       | exact |",
    ]
    rows = json.loads(pellucid("eval", "--set", tmp_path, "--model", "small", "--json").out)
    assert rows[1] == {"system": "small", "PSNR": 23.456}
    assert pellucid("eval", "--set", tmp_path / "none").code == 1
    refused = pellucid("eval", "--set", tmp_path, "--obedience")
    assert refused.code == 2
    assert "--obedience is not for reflection-removal" in refused.err


@dataclass(frozen=True)
class Config:
    width: int = 3


def test_models_finds_and_describes_weights(tmp_path, pellucid):
    save_pretrained(
        tmp_path / "w", method="multistep_sirr", config=Config(), state={"a": torch.zeros(5)}, card="# A card\n"
    )
    assert pellucid("models", "path", tmp_path / "w").out.strip() == str(tmp_path / "w")
    facts = json.loads(pellucid("models", "info", tmp_path / "w", "--json").out)
    assert (facts["parameters"], facts["method"], facts["config"]) == (5, "multistep_sirr", {"width": 3})
    assert "A card" in pellucid("models", "info", tmp_path / "w").out
    assert pellucid("models", "path", "./nothing", "--offline").code == 3
    assert isinstance(json.loads(pellucid("models", "list", "--json").out), list)


def test_doctor_names_what_is_broken(tmp_path, monkeypatch):
    (tmp_path / "raises_here.py").write_text("raise RuntimeError('operator\\nmissing')")
    (tmp_path / "dies_here.py").write_text("import os; print('hello'); os._exit(7)")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    errors = import_errors(["json", "raises_here", "dies_here", "string"])
    assert errors == ["", "RuntimeError: operator missing", "ends Python with code 7", ""]
