"""Table I in small: lists, means and spreads over seeds, the order of candidates, the page, and the command."""

import base64
import io
import json
import re
from html import unescape
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageSequence
from typer.testing import CliRunner

pytest.importorskip("cv2")

from pellucid.cli.main import app
from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.baselines.candidates import find_candidate
from pellucid.layer_animate.clip_figures import FREE, MOVED, TRUE, Meter
from pellucid.layer_animate.comparison.entries import Entry, TableList, read_list
from pellucid.layer_animate.comparison.nearest import PictureBank
from pellucid.layer_animate.comparison.page import Near, animated_webp, write_page
from pellucid.layer_animate.comparison.results import Result, paper_order, table_rows
from pellucid.layer_animate.comparison.table import compare
from pellucid.layer_animate.evaluate import PAPER, PROTOCOLS, ClipProtocol
from pellucid.metrics.flow import DISFlow

LIST = Path(__file__).parents[2] / "recipes" / "layer_animate" / "tables" / "table-one.toml"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "animate-draft", ClipProtocol("animate-draft", "", 4, 8.0, None, 1, 1.0))


def square(frames=4, size=16):
    clip = torch.zeros(frames, 4, size, size, dtype=torch.uint8)
    for frame in range(frames):
        clip[frame, 0], clip[frame, 3, 4:12, frame : frame + 8] = 220, 255
    return clip


def result(name, *figures, clips=1):
    title = find_candidate(name).title if name else "true clips"
    return Result(title, figures, tuple(square() for _ in range(clips)), 1, name)


def write(path, text):
    path.write_text(text)
    return path


def test_the_list_that_ships_can_be_read():
    found = read_list(LIST)
    assert [entry.name for entry in found.candidates] == [
        "ours",
        "without_ifa",
        "naive",
        "motion_module",
        "still_moving",
    ]
    assert len(found.seeds) == 3
    assert found.nearest is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "candidates"),
        ('[[candidates]]\nname = "best"', "candidate 'best'"),
        ('[[candidates]]\nname = "ours"\nweigths = ["a"]', "weigths"),
        ('[[candidates]]\nname = "ours"\nweights = ["a", "b"]', "2 weights for 3 seeds"),
        ('seeds = [1, 1]\n[[candidates]]\nname = "ours"', "seeds must differ"),
        ('seeds = [-1]\n[[candidates]]\nname = "ours"', "seeds must differ"),
        ('[[candidates]]\nname = "ours"\n[[candidates]]\nname = "ours"', "two candidates"),
        ('[[candidates]]\nname = "static"', "needs no line"),
        ('nearest = {root = "drawn", space = "sound"}\n[[candidates]]\nname = "ours"', "space"),
    ],
)
def test_lists_that_make_no_sense_are_refused(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        read_list(write(tmp_path / "list.toml", text))


def test_rows_tell_mean_and_spread_over_seeds():
    several = result("ours", {"motion px": 1.0, "leak %": 2.0}, {"motion px": 3.0, "leak %": None})
    once = result("", {"motion px": 5.0, "leak %": 0.0, "another %": 50.0})
    rows = table_rows([once, several], "a set", "quick", Meter(DISFlow()))
    assert [row["system"] for row in rows] == [
        "true clips",
        "Layer-Animate",
        "± Layer-Animate",
        *(f"{peer}, paper's Table I" for peer in PAPER),
        "true clips",
        "Layer-Animate",
        "± Layer-Animate",
    ]
    assert [row["motion px"] for row in rows[:3]] == [5.0, 2.0, pytest.approx(2**0.5)]
    assert [row["protocol"] for row in rows[:3]] == ["quick, 1 seed", "quick, 2 seeds", "quick, 2 seeds"]
    assert rows[0]["another %"] == 50.0  # what a meter has besides stands with motion
    assert [row["leak %"] for row in rows[-3:]] == [0.0, 2.0, None]


def test_the_order_of_the_paper_is_asked_and_a_tie_is_no_first_place():
    def of(text, leak, moved):
        return {"text score": text, "leak %": leak, "holes %": 1.0, "flicker %": 1.0, "motion px inside": moved}

    peers = [result("ours", of(30.0, 1.0, 3.0)), result("motion_module", of(28.0, 1.0, 4.0))]
    text, clean, moved = paper_order([*peers, result("still_moving", of(29.0, 3.0, 1.0))])
    assert (text.holds, clean.holds, moved.holds) == (True, False, True)
    assert text.figures == "Layer-Animate 30.00, Still-Moving 29.00, motion module 28.00"
    assert "does not hold" in str(clean)
    assert [claim.holds for claim in paper_order(peers)] == [True, False, None]
    assert "cannot be asked" in str(paper_order([result("ours", {})])[0])
    # clips that no network makes do not count: standing still is as clean as can be
    still = Result("still", (of(99.0, 0.0, 0.0),), (), 1)
    assert paper_order([still, *peers])[0].holds


def test_the_page_shows_clips_with_alpha_and_the_pictures_they_are_like(tmp_path):
    bank = PictureBank(torch.stack([torch.zeros_like(square()[0]), square()[2]]), ("nothing", "a <square> (Ann)"))
    results = [result("", {"leak %": 3.5}, clips=2), result("ours", {"leak %": 3.0}, {"leak %": 4.0}, clips=2)]
    page = write_page(
        results,
        ["a <b>bold</b> square", "another"],
        tmp_path / "page.html",
        facts={"set": "<squares>"},
        claims=paper_order(results),
        near=Near(bank),
        fps=8.0,
    )
    text = page.read_text(encoding="utf-8")
    assert "<b>bold" not in text
    assert "&lt;squares&gt;" in text
    assert "<b>3.50 ± 0.71</b>" in text  # the best candidate; what is no candidate is not in the race
    assert "<td>3.50</td>" in text
    assert "__" not in re.sub(r"base64,[^\"]+", "", text)
    assert "http" not in text.replace("http-equiv", "")
    assert unescape(text).count("frame 1 is nearest to a <square> (Ann), 0.000 in pixels") == 4
    films = re.findall(r'class="film" alt="[^"]*" src="data:image/webp;base64,([^"]+)"', text)
    assert len(films) == 4
    film = Image.open(io.BytesIO(base64.b64decode(films[0])))
    assert film.n_frames == 4
    assert film.info["loop"] == 0
    with pytest.raises(InputError):
        write_page(results, ["a", "b"], page, facts={})


def test_an_animated_webp_is_the_clip():
    film = Image.open(io.BytesIO(animated_webp(square(), 8.0)))
    alphas = [
        torch.tensor(list(frame.convert("RGBA").getchannel("A").getdata())) for frame in ImageSequence.Iterator(film)
    ]
    assert torch.equal(torch.stack(alphas).reshape(4, 16, 16).to(torch.uint8), square()[:, 3])
    assert film.info["duration"] == 125


def test_a_long_set_is_shown_in_part_and_that_is_said(tmp_path, caplog):
    made = [result("ours", {"leak %": 3.0}, clips=3)]
    text = write_page(made, ["a", "b", "c"], tmp_path / "page.html", facts={}, most=2).read_text()
    assert text.count("<section>") == 2
    assert "2 of 3 are shown here" in text
    assert "2 of 3" in caplog.text
    with pytest.raises(InputError, match="missing"):
        write_page(made, ["a"], tmp_path / "other.html", facts={})


def test_every_seed_makes_other_clips_with_its_own_weights(tmp_path, quick, tiny_config):
    from safetensors.torch import save_file

    from pellucid.layer_animate.attention.attach import ifa_state
    from pellucid.layer_animate.model import build

    states = []
    for number in range(2):
        state = {name: value.clone() for name, value in ifa_state(build(tiny_config, generator_seed=0).unet).items()}
        if number:
            state = {name: value + 0.5 for name, value in state.items()}
        save_file(state, tmp_path / f"{number}.safetensors")
        states.append(str(tmp_path / f"{number}.safetensors"))
    entries = (
        Entry(name="ours", weights=tuple(states)),
        Entry(name="ours", title="first weights", weights=(states[0],)),
        Entry(name="without_ifa", weights=tuple(states)),
    )
    listed = TableList(candidates=entries, seeds=(0, 1))
    rows = compare("drawn:1", listed, "animate-draft", "random:tiny", "cpu")
    spread = {row["system"]: row for row in rows if row["system"].startswith("±") and "MAE" in row}
    assert set(spread) == {"± Layer-Animate", "± first weights", "± without IFA"}
    assert spread["± first weights"]["MAE"] > 0.0  # other noise
    assert spread["± Layer-Animate"]["MAE"] != spread["± first weights"]["MAE"]  # other weights too
    assert spread["± without IFA"]["MAE"] == spread["± first weights"]["MAE"]  # lambda 0 hears of none


def test_one_command_remakes_table_and_page(tmp_path, quick):
    listed = write(
        tmp_path / "list.toml",
        'seeds = [0, 1]\nmodel = "random:tiny"\n[nearest]\nroot = "drawn"\n'
        '[[candidates]]\nname = "ours"\n[[candidates]]\nname = "naive"\n',
    )
    page, study = tmp_path / "page.html", tmp_path / "study.html"
    options = ["eval", "--task", "transparent-video", "--set", "drawn:2", "--protocol", "animate-draft", "--limit", "1"]
    options += ["--table", str(listed), "--device", "cpu", "-q"]
    done = CliRunner().invoke(app, [*options, "--page", str(page), "--study", str(study), "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    made = [row for row in rows if row["system"] in ("Layer-Animate", "± Layer-Animate")]
    assert set(MOVED) <= set(made[0])
    assert {*FREE, *TRUE} <= set(made[2])
    assert made[0]["text score"] is None
    assert made[3]["system"] == "± Layer-Animate"
    text = page.read_text(encoding="utf-8")
    assert text.count('class="film"') == 6
    assert text.count("is nearest to drawn") + text.count("nothing visible") == 6
    assert study.exists()
    again = CliRunner().invoke(app, [*options, "--page", str(page)])
    assert (again.exit_code, "page.html" in again.output) == (1, True)
    assert CliRunner().invoke(app, [*options]).stdout.startswith("| system")


def test_the_command_says_what_does_not_go_together(tmp_path):
    options = ["eval", "--task", "transparent-video", "--set", "drawn:1"]
    listed = write(tmp_path / "list.toml", 'nearest = {root = "drawn", space = "clip"}\n[[candidates]]\nname = "ours"')
    for more, said in (
        (["--page", "a.html"], "--table"),
        (["--table", str(listed), "--candidate", "ours"], "--candidate"),
        (["--table", str(listed), "--page", "a.png"], ".html"),
        (["--table", str(listed), "--page", str(tmp_path / "a.html")], "--clip"),
        (["--table", str(tmp_path / "none.toml")], "cannot be read"),
    ):
        result = CliRunner().invoke(app, [*options, *more])
        assert result.exit_code in (1, 2)
        assert said in result.output, more
