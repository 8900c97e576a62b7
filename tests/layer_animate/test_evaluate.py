"""Measuring clips: what is measured, against what, and what a table says of it."""

import json
import logging

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("cv2")

from pellucid.cli.main import app
from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.layer_animate import evaluate as room
from pellucid.layer_animate.clip_figures import FREE, MOVED, NO_CLIP, SEEN, TRUE, Meter, mean_figures
from pellucid.layer_animate.evaluate import (
    PROTOCOLS,
    ClipProtocol,
    Example,
    System,
    evaluate,
    measure,
    read_set,
)
from pellucid.layer_animate.study import key_path
from pellucid.metrics.dynamic_degree import on_colour
from pellucid.metrics.flow import DISFlow

RULE = ClipProtocol("test", "for tests", frames=4, size=32, steps=1, guidance=1.0)


class MeanColour:
    label = "told"

    def images(self, frames):
        return frames.mean((2, 3)) - 0.2

    def texts(self, prompts):
        return torch.ones(len(prompts), 3)


def square(frames=4, size=32, step=2):
    clip = torch.zeros(frames, 4, size, size)
    for frame in range(frames):
        clip[frame, :, 8:20, 6 + step * frame : 18 + step * frame] = 1.0
    return clip


def examples(count=2):
    return [Example(f"clip {n}", f"a square, sliding {n}", square(step=n + 1)) for n in range(count)]


def test_every_column_is_there_and_the_truth_has_no_error():
    found = Meter(DISFlow(), MeanColour()).measure(square(), square()[1], 1, "a square", 8.0, square())
    assert set(found) == {*FREE, *TRUE, *SEEN, *MOVED}
    assert [found[key] for key in TRUE] == [0.0, 0.0, 0.0, 0.0, 0.0, 100.0, pytest.approx(1.0)]
    assert found["base alpha %"] == 0.0
    assert found["alpha change %"] == pytest.approx(100 * 2 * 2 * 12 / 32**2)
    assert found["motion px inside"] > 1.0
    expected = MeanColour().images(on_colour(square()))
    assert found["text score"] == pytest.approx(
        100 * float(torch.nn.functional.cosine_similarity(expected, torch.ones(4, 3)).mean()), abs=1e-3
    )
    assert set(Meter(DISFlow()).measure(square(), square()[1], 1, "", 8.0)) == {*FREE, *MOVED}


def test_flow_backwards_belongs_to_its_own_frames():
    class FromMiddleToMiddle:
        label = "told"

        def __call__(self, first, second):
            x = torch.arange(first.shape[-1]).float()
            middles = [((each[:, 0] > 0.7) * x).sum((1, 2)) / 144 for each in (first, second)]
            flow = torch.zeros(len(first), 2, *first.shape[-2:])
            flow[:, 0] = (middles[1] - middles[0])[:, None, None]
            return flow

    clip = torch.zeros(5, 4, 64, 64)
    for frame, left in enumerate((8, 8, 8, 20, 32)):  # stands, then slides
        clip[frame, :, 20:32, left : left + 12] = 1.0
    found = Meter(FromMiddleToMiddle()).measure(clip, clip[2], 2, "", 8.0)
    assert (found["leak %"], found["holes %"], found["flicker %"]) == (0.0, 0.0, 0.0)


def test_a_base_frame_that_is_given_back_is_no_achievement():
    broken = square()
    broken[[0, 2, 3], 3] = 0.0  # nothing is made but the base frame
    found = Meter(DISFlow()).measure(broken, square()[1], 1, "", 8.0, square())
    assert found["MAE"] == pytest.approx(1000 * 144 / 32**2)
    assert found["PSNR"] < 12.0  # with the base frame's 100 dB it would be 30 and more


def test_means_leave_out_what_cannot_be_asked():
    assert mean_figures([{"a": 1.0, "b": None}, {"a": 2.0, "b": 3.0}, {"a": 6.0, "c": None}]) == {
        "a": 3.0,
        "b": 3.0,
        "c": None,
    }


def test_systems_are_given_their_base_frame_and_a_seed_for_each_clip():
    seen = []

    def make(example, seed):
        seen.append((example.name, seed))
        return example.frames.roll(1, -1)

    systems = [System("moved", make, 1), System("truth", lambda example, seed: example.frames, 0, shown=False)]
    rows, questions = measure(systems, examples(), RULE, Meter(DISFlow()), "squares", seed=5)
    assert seen == [("clip 0", 5), ("clip 1", 6)]
    assert [row["system"] for row in rows[:6]] == ["moved", "truth"] * 3
    assert set(rows[0]) == {"system", "set", "protocol", *FREE}
    assert set(rows[2]) == {"system", "set", "protocol", *TRUE}
    assert rows[0]["base alpha %"] == pytest.approx(100 * 2 * 12 / 32**2)  # frame 1 of its own truth, one px off
    assert rows[1]["base alpha %"] == 0.0
    assert rows[4]["CLIP"] == NO_CLIP
    assert rows[4]["text score"] is None
    assert rows[4]["flow"] == "DIS medium"
    assert [row["text score"] for row in rows[6:]] == [27.72, 28.96, 30.63]
    assert [row["paper's degree"] for row in rows[6:]] == [3.96, 0.01, 4.43]
    assert [question.prompt for question in questions] == ["a square, sliding 0", "a square, sliding 1"]
    assert questions[0].clips.keys() == {"moved"}
    assert questions[0].clips["moved"].dtype == torch.uint8


def test_a_set_is_cut_spread_and_told(tmp_path, caplog):
    from PIL import Image

    for name, alpha in (("a", 255), ("b", 0), ("c", 200), ("d", 90)):
        (tmp_path / name).mkdir()
        for frame in range(6):
            picture = Image.new("RGBA", (20, 12), (250, 40 * frame, 0, alpha if frame != 5 else 255))
            picture.save(tmp_path / name / f"{frame:03}.png")
        (tmp_path / f"{name}.txt").write_text(f"{name}\n{name} moving\n")
    with caplog.at_level(logging.WARNING):
        found = read_set(tmp_path, RULE, 32)
    assert [example.caption for example in found] == ["a moving", "c moving", "d moving"]
    assert "'b moving' (number 1) shows nothing" in caplog.text
    assert found[0].frames.shape == (4, 4, 32, 32)
    assert bool((found[0].frames[:, 3, :6] == 0).all())  # all of a wide clip is shown, in a transparent margin
    assert [example.caption for example in read_set(tmp_path, RULE, 32, limit=2)] == ["a moving", "d moving"]
    assert len(read_set("drawn:3", RULE, 32)) == 3
    assert torch.equal(read_set("drawn:1", RULE, 32)[0].frames, read_set("drawn:1", RULE, 32)[0].frames)


def test_what_makes_no_sense_is_said(tmp_path):
    with pytest.raises(ConfigError, match="protocol 'best'"):
        evaluate("drawn:1", "best")
    with pytest.raises(ConfigError, match="candidate 'better'"):
        evaluate("drawn:1", "animate-draft", "random:tiny", candidate={"better": None})
    with pytest.raises(ConfigError, match="needs weights of its own"):
        evaluate("drawn:1", "animate-draft", "random:tiny", "cpu", candidate={"motion_module": None})
    with pytest.raises(ConfigError, match="drawn:N"):
        evaluate("drawn:many", "animate-draft", "random:tiny", "cpu")
    with pytest.raises(ConfigError, match="limit"):
        evaluate("drawn:1", "animate-draft", "random:tiny", "cpu", limit=0)
    with pytest.raises(WeightsError, match=r"no config\.json"):
        evaluate("drawn:1", "animate-draft", "random:tiny", clip=tmp_path)
    (tmp_path / "page.key.json").touch()
    with pytest.raises(InputError):
        evaluate("drawn:1", "animate-draft", "random:tiny", study=tmp_path / "page.html")
    with pytest.raises(ConfigError):
        evaluate(tmp_path, "animate-draft", "random:tiny", "cpu")


def test_the_command_measures_random_weights_and_writes_the_study(tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "animate-draft", ClipProtocol("animate-draft", "", 4, 8.0, None, 1, 1.0))
    page = tmp_path / "study.html"
    options = ["--task", "transparent-video", "--set", "drawn:2", "--protocol", "animate-draft", "--limit", "1"]
    options += ["--candidate", "ours", "--candidate", "first_frame", "--model", "random:tiny", "--study", str(page)]
    result = CliRunner().invoke(app, ["eval", *options, "--json", "--device", "cpu", "-q"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    names = [
        "base picture standing still",
        "base picture moved by code",
        "true clips",
        "true clips through the latents",
        "Layer-Animate (random:tiny@0)",
        "IFA to the first frame (random:tiny@0)",
    ]
    assert [row["system"] for row in rows] == names * 3 + [f"{peer}, paper's Table I" for peer in room.PAPER]
    assert rows[0]["set"] == "drawn by code, 1 clip"
    still, _, truth, through, ours, first = rows[:6]
    assert still["alpha change %"] == 0.0
    assert (ours["base alpha %"], first["base alpha %"], truth["base alpha %"]) == (0.0, 0.0, 0.0)
    assert through["base alpha %"] > 0.0  # random codes keep nothing
    assert {each for question in json.loads(key_path(page).read_text())["questions"].values()
            for each in question["clips"].values()} == {names[0], names[1], names[4], names[5]}  # fmt: skip


def test_the_command_refuses_what_the_task_does_not_take():
    bad = ["eval", "--task", "transparent-video", "--set", "drawn:1", "--obedience"]
    result = CliRunner().invoke(app, bad)
    assert result.exit_code == 2
    assert "--clip" in result.output
    result = CliRunner().invoke(app, ["eval", "--task", "transparent-video", "--set", "drawn:1", "--candidate", "x="])
    assert (result.exit_code, "NAME=WEIGHTS" in result.output) == (2, True)
