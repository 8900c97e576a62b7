"""The recipes of the embedded stack, one after the other: each begins with what the one before left behind."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from pellucid.hub.pretrained import read_document, read_state
from pellucid.layer_animate import train
from pellucid.layer_animate.clips.files import evenly
from pellucid.layer_animate.clips.grounds import GROUND_WORDS, Grounded
from pellucid.layer_animate.clips.sets import open_sets
from pellucid.layer_animate.clips.strips import contact_sheet
from pellucid.layer_animate.pipeline import TransparentVideoPipeline
from pellucid.layer_animate.recipe import Recipe
from pellucid.train.config import open_recipe
from pellucid.train.loop import make_accelerator, prepare, run

RECIPES = Path(__file__).parents[2] / "recipes" / "layer_animate"
# What each begins with, by the key that names it.
CHAIN = {
    "vae": None,
    "transparency": ("start", "vae"),
    "base": ("model.transparency", "transparency"),
    "motion": ("model.weights", "base"),
    "ifa": ("model.weights", "motion"),
    "motion-direct": ("model.weights", "motion"),
}
BRIEF = ("minutes=1", "batch=2", 'precision="fp32"', "warmup=0", "validate_every=1", "sample_every=1", "ema=0.0")
DRAWN = '{root="drawn", count=3, motions=["up_down", "turning"]'


def brief(stage: str, folder: Path) -> list[str]:
    """Overrides that make a recipe of the house a matter of a second: one step, tiny networks, drawings."""
    changes = ["train.steps=1", *(f"train.{change}" for change in BRIEF)]
    if (before := CHAIN[stage]) is not None:
        changes.append(f'{before[0]}="{folder / before[1] / "model"}"')
    if stage in ("vae", "transparency"):
        changes += ['data.root="drawn"', "data.count=8", "data.held_out=2"]
        return changes + (['preset="tiny"', "size=16", "vae.steps=1"] if stage == "vae" else [])
    ground = ', ground="drawn"' if stage == "motion" else ""
    more = [", anywhere=0.5, named=0.5}", ', ground="drawn"}'] if stage == "base" else [f"{ground}}}"]
    changes.append(f"data.sets=[{', '.join(DRAWN + end for end in more)}]")
    changes += ["data.variants=1", "data.held_out=1", f'data.cache="{folder / "latents"}"', "sampling.steps=1"]
    if stage == "base":
        return [*changes, 'model.preset="tiny"', "sampling.clips=2"]
    return [*changes, "frames=4", "sampling.clips=1"]


@pytest.mark.parametrize("stage", CHAIN)
def test_every_recipe_reads_and_begins_with_the_one_before(stage: str) -> None:
    recipe = open_recipe(RECIPES / f"{stage}.toml")
    assert recipe.name == stage
    assert recipe.train.minutes is not None, "every stage has a time budget"
    before = CHAIN[stage]
    if before is not None:
        value = recipe.model_dump()
        for key in before[0].split("."):
            value = value[key]
        assert value == f"runs/layer_animate-{before[1]}/model"


def test_motion_learns_from_opaque_clips_and_ifa_from_clips_with_alpha() -> None:
    """One part of real animations to three of moved stills, in both."""
    grounds = {}
    for stage in ("motion", "ifa", "motion-direct"):
        recipe = open_recipe(RECIPES / f"{stage}.toml")
        assert isinstance(recipe, Recipe)
        assert [(entry.what, entry.share) for entry in recipe.data.sets] == [("clips", 1.0), ("stills", 3.0)]
        grounds[stage] = {entry.ground for entry in recipe.data.sets}
    assert grounds == {"motion": {"drawn"}, "ifa": {"none"}, "motion-direct": {"none"}}


def test_grounds_of_a_recipe_are_those_of_its_clips() -> None:
    opaque = '{root="drawn", count=3, ground="drawn", drift=0.5, share=3}'
    made = open_recipe(RECIPES / "tiny.toml", [f'data.sets=[{opaque}, {{root="drawn", count=2}}]', "frames=4"])
    assert isinstance(made, Recipe)
    sets = open_sets(made, (16, 16))
    (first, _), (second, _) = sets.train
    assert isinstance(first, Grounded)
    assert first.drift == 0.5
    assert bool((first.cut(0, 0)[0][:, 3] == 1).all())
    assert not bool((second.cut(0, 0)[0][:, 3] == 1).all())
    held = sets.measured[0][0]
    assert isinstance(held, Grounded)
    assert bool((held.cut(0, 0)[0][:, 3] == 1).all())
    assert GROUND_WORDS in sets.captions()
    assert sets.shares == [
        "3 drawings, moved by code, opaque over drawn grounds (75 % of the draws)",
        "2 drawings, moved by code (25 % of the draws)",
    ]


def test_fewer_of_a_table_are_taken_evenly() -> None:
    """The tables are sorted by style: the first thousand stills would be of one hand."""
    assert evenly(range(10), 5) == [1, 3, 5, 7, 9]
    assert evenly(range(10), 3) == [1, 5, 8]
    assert evenly(range(4), 4) == evenly(range(4), 9) == evenly(range(4), None) == [0, 1, 2, 3]
    assert evenly(range(4), 0) == []


def test_stills_of_a_folder_are_taken_from_all_of_it(tmp_path: Path) -> None:
    rows = []
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(8):
            data = io.BytesIO()
            Image.new("RGBA", (8, 8), (30 * number, 0, 0, 255)).save(data, "png")
            member = tarfile.TarInfo(f"{number}.png")
            member.size = data.tell()
            archive.addfile(member, io.BytesIO(data.getvalue()))
            split = "val" if number > 5 else "train"
            rows.append({"file": f"{number}.png", "shard": "a.tar", "split": split, "name": f"square {number}"})
    (tmp_path / "stills.jsonl").write_text("\n".join(map(json.dumps, rows)))
    few = f'data.sets=[{{root="{tmp_path}", what="stills", count=2, ground="drawn"}}]'
    made = open_recipe(RECIPES / "tiny.toml", [few, "frames=4", "data.held_out=1"])
    assert isinstance(made, Recipe)
    sets = open_sets(made, (16, 16))
    assert [row["name"] for row in sets.rows] == ["square 1", "square 4"]
    assert [row["name"] for source, _ in sets.measured for row in source.rows] == ["square 7"]
    assert len(sets.train[0][0]) == 2


def test_a_contact_sheet_lays_true_beside_made() -> None:
    red = torch.tensor([1.0, 0.0, 0.0, 1.0]).reshape(4, 1, 1).expand(4, 16, 16)
    blue = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(4, 1, 1).expand(4, 16, 16)
    sheet = contact_sheet([("a", red, blue)] * 3, columns=2)
    reds, blues = ((sheet[here] > 0.9) & (sheet[1] < 0.1) & (sheet[away] < 0.1) for here, away in ((0, 2), (2, 0)))
    assert int(reds.sum()) == int(blues.sum()) == 3 * 64 * 64
    assert float(reds.nonzero()[:, 1].float().mean()) < float(blues.nonzero()[:, 1].float().mean())
    assert bool((sheet[:, -60:, -60:] == 1).all())  # no fourth pair


def test_the_stages_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All six recipes at tiny size, from nothing to weights that animate; what a stage does not teach stays."""
    monkeypatch.setattr(train, "_LEVELS", 2)
    states = {}
    for stage in CHAIN:
        result = run(open_recipe(RECIPES / f"{stage}.toml", brief(stage, tmp_path)), tmp_path / stage, device="cpu")
        assert result.model is not None, stage
        assert list((tmp_path / stage / "samples").glob("*.png")), stage
        assert (result.model / "README.md").is_file()
        figures = json.loads((tmp_path / stage / "validate.jsonl").read_text().splitlines()[-1])["figures"]
        assert {"vae": "psnr", "transparency": "psnr"}.get(stage, "loss") in figures
        states[stage] = read_state(result.model)

    def changed(after: str, before: str) -> set[str]:
        old, new = states[before], states[after]
        return {key for key in old.keys() & new.keys() if not torch.equal(old[key].float(), new[key].float())}

    assert all(key.startswith(("encoder.", "decoder.")) for key in changed("transparency", "vae"))
    assert not changed("base", "transparency")
    assert all("motion_modules" in key for key in changed("motion", "base"))
    assert all("_ifa." in key for key in changed("ifa", "motion"))
    assert all("motion_modules" in key for key in changed("motion-direct", "motion"))
    for after, before in (("transparency", "vae"), ("motion", "base"), ("ifa", "motion"), ("motion-direct", "motion")):
        assert changed(after, before), after
    assert "opaque over drawn grounds" in (tmp_path / "motion" / "model" / "README.md").read_text()
    assert "50 % of the draws" in (tmp_path / "base" / "model" / "README.md").read_text()
    assert read_document(tmp_path / "base" / "model")["config"]["frames"] == 16  # single pictures say nothing of clips
    pipeline = TransparentVideoPipeline.from_pretrained(tmp_path / "ifa" / "model")
    made = pipeline("a red ring, turning", seed=0, num_inference_steps=1)
    assert made.layers[0].pixels.shape[0] == 4


def test_the_contact_sheet_of_stage_base_has_measured_texts_and_learned_ones(tmp_path: Path) -> None:
    changes = [change for change in brief("base", tmp_path) if not change.startswith("model.transparency")]
    recipe = open_recipe(RECIPES / "base.toml", [*changes, "sampling.clips=3", "data.held_out=2"])
    assert isinstance(recipe, Recipe)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"transparency": None})})
    state = prepare(recipe, train, make_accelerator(recipe, "cpu"))
    shown = state.room.shown
    assert [one.learned for one in shown] == [False] * 3 + [True] * 3
    assert {one.text.endswith(GROUND_WORDS) for one in shown} == {True, False}  # of both sets
    learned = {text for source, _ in state.room.sets.train for index in range(3) for text in source.cut(index, 0)[1]}
    assert all((one.text in learned) == one.learned for one in shown)
