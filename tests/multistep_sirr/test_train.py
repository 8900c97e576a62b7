"""Training in small: a run from recipe to weights, the schedule of loss steps, depth dropout and resuming."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.multistep_sirr import train
from pellucid.multistep_sirr.depth import CueDepth
from pellucid.multistep_sirr.pipeline import ReflectionRemovalPipeline
from pellucid.train.config import check_recipe, open_recipe
from pellucid.train.loop import TrainState, make_accelerator, prepare, run

Save = Callable[[Path, Tensor], Path]
RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "multistep_sirr").glob("*.toml"))


def recipe(**tables: Any) -> train.Recipe:
    """A run of a second; tables are laid over it key by key."""
    base: dict[str, Any] = {
        "method": "multistep_sirr",
        "name": "test",
        "train": {"steps": 3, "batch": 2, "lr": 1e-3, "precision": "fp32", "log_every": 1},
        "model": {"width": 2},
        "data": {"side": 48, "crop": 32, "photos": [{"root": "synthetic", "count": 4}]},
        "loss": {"features": "none", "step_schedule": "0:2"},
    }
    for name, table in tables.items():
        base[name] = {**base[name], **table} if isinstance(base.get(name), dict) else table
    return check_recipe(base, train.Recipe)


def started(plan: train.Recipe) -> TrainState:
    return prepare(plan, train, make_accelerator(plan, "cpu"))


def terms(state: TrainState, index: int = 0) -> dict[str, Tensor]:
    return train.step(state, state.batches(index))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# A run


def test_a_run_from_recipe_to_weights(tmp_path: Path) -> None:
    plan = recipe(train={"ema": 0.9, "select": "score"}, model={"ranges": 5}, data={"crop": 30})
    result = run(plan, tmp_path / "run", device="cpu")
    assert (result.step, result.finished) == (3, True)
    assert set(result.figures) == {"blends", "blends_input", "clean", "score"}
    assert all(math.isfinite(value) for value in result.figures.values())
    logged = lines(tmp_path / "run" / "log.jsonl")
    assert len(logged) == 3
    expected = {f"{name}_{t}" for name in ("pixel", "reflection", "gradient", "loss") for t in (1, 2)}
    assert set(logged[0]["losses"]) == {"loss", *expected}
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    assert result.model is not None
    card = (result.model / "README.md").read_text()
    assert "multistep_sirr/test" in card
    assert "3 optimiser steps" in card
    document = json.loads((result.model / "config.json").read_text(), parse_constant=pytest.fail)
    assert document["training"]["figures"] == pytest.approx(result.figures)
    assert load_file(result.model / "model.safetensors")["r_cnn.stem1.weight"].dtype == torch.float16
    pipe = ReflectionRemovalPipeline.from_pretrained(result.model, device="cpu")
    assert (pipe.config.width, pipe.config.ranges) == (2, 5)
    assert pipe(torch.rand(3, 20, 30))["transmission"].pixels.shape == (3, 20, 30)


def test_two_and_two_steps_are_four(tmp_path: Path) -> None:
    plan = recipe(
        train={"steps": 4, "ema": 0.9, "validate_every": 2, "checkpoint_every": 2, "keep_checkpoints": 5},
        loss={"step_schedule": "0:1,3:2"},
        blend={"veil": 0.5},
    )
    run(plan, tmp_path / "straight", device="cpu")
    assert not run(plan, tmp_path / "parts", device="cpu", stop_after=2).finished
    run(plan, tmp_path / "parts", device="cpu")
    for name in ("pair.safetensors", "pair.ema.safetensors"):
        one, other = (
            load_file(tmp_path / folder / "checkpoints" / "step_00000004" / name) for folder in ("straight", "parts")
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    losses = [[line["losses"] for line in lines(tmp_path / folder / "log.jsonl")] for folder in ("straight", "parts")]
    assert losses[0] == losses[1]


def test_accumulated_steps_are_one_step_of_the_optimiser(tmp_path: Path) -> None:
    run(recipe(train={"steps": 2, "accumulate": 2, "batch": 1}), tmp_path / "run", device="cpu")
    saved = torch.load(tmp_path / "run" / "checkpoints" / "step_00000002" / "optimizers.pt", weights_only=True)
    assert {int(entry["step"]) for entry in saved["optimizers"]["adam"]["state"].values()} == {2}


def test_training_on_real_pairs(tmp_path: Path, save_picture: Save, pictures: Tensor) -> None:
    for folder in ("one/test", "two/test"):
        for number in range(2):
            T = pictures[number]
            save_picture(tmp_path / folder / "blended" / f"{number}.png", 0.8 * T + 0.1)
            save_picture(tmp_path / folder / "transmission_layer" / f"{number}.png", T)
    roots = [str(tmp_path / folder) for folder in ("one/test", "two/test")]
    plan = recipe(data={"photos": [], "pairs": roots[:1], "validate_pairs": roots}, loss={"r_weight_derived": 0.0})
    state = started(plan)
    seen = terms(state)
    assert seen["reflection_1"] == 0  # the set has no reflections, and derived ones were given no weight
    assert seen["pixel_1"] > 0
    figures = train.validate(state, state.chosen())
    names = {name.removesuffix("_input") for name in figures} - {"score"}
    assert len(names) == 2  # two sets of one name are both measured
    assert figures["score"] == pytest.approx(
        sum(figures[name] - figures[f"{name}_input"] for name in names) / 2, abs=1e-4
    )
    drawn = train.samples(state, state.chosen())
    assert drawn.shape == (3, 4 * 128, 512)
    # Four panels a row: mixture, found transmission, found reflection, truth; untrained, nothing is found.
    assert torch.allclose(drawn[:, :128, 8:96], drawn[:, :128, 136:224], atol=0.05)
    assert not torch.allclose(drawn[:, :128, 8:96], drawn[:, :128, 392:480], atol=0.05)


def test_validation_sees_the_depth_of_training() -> None:
    """Weights of a learned provider are known to the recipe alone."""
    state = started(recipe(model={"depth": "midas_small"}))
    seen: list[tuple[int, ...]] = []

    class Spy(CueDepth):
        def __call__(self, rgb01: Tensor) -> Tensor:
            seen.append(tuple(rgb01.shape))
            return super().__call__(rgb01)

    state.room.providers = [(CueDepth(), 0.0), (Spy(), 1.0)]
    train.validate(state, state.chosen())
    assert seen == [(8, 3, 32, 32)] * 4 + [(1, 3, 48, 48)] * 4


def test_the_result_of_an_untrained_network_is_the_input() -> None:
    state = started(recipe())
    figures = train.validate(state, state.chosen())
    assert figures["blends"] == pytest.approx(figures["blends_input"])
    assert figures["clean"] == 60
    assert figures["score"] == pytest.approx(0)


def test_pairs_without_a_difference_do_not_make_the_figures_infinite() -> None:
    usual, clean = (started(recipe(blend={"clean": share})) for share in (0.0, 1.0))
    figures = train.validate(clean, clean.chosen())
    assert figures == pytest.approx(train.validate(usual, usual.chosen()))  # held-out blends are blends; clean is apart
    blends = usual.room.validation.blends
    blends.mixture[:4] = blends.transmission[:4]
    figures = train.validate(usual, usual.chosen())
    assert all(math.isfinite(value) for value in figures.values())


def test_validation_is_the_same_whatever_the_seed() -> None:
    first, second = (started(recipe(seed=seed)).room.validation for seed in (0, 5))
    assert torch.equal(first.blends.mixture, second.blends.mixture)


# One step


def test_every_parameter_gets_a_gradient() -> None:
    state = started(recipe(model={"se": True}))
    terms(state)  # the first step moves the heads away from zero
    state.optimizers["adam"].zero_grad = lambda: None  # type: ignore[method-assign]
    terms(state, 1)
    silent = [name for name, p in state.modules["pair"].named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_a_step_changes_both_networks_and_lowers_the_loss() -> None:
    state = started(recipe(train={"lr": 5e-3}))
    before = {name: p.clone() for name, p in state.modules["pair"].named_parameters()}
    batch = state.batches(0)
    losses = [float(train.step(state, batch)["loss"]) for _ in range(8)]
    assert losses[-1] < losses[0]
    moved = {
        name.split(".")[0] for name, p in state.modules["pair"].named_parameters() if not torch.equal(p, before[name])
    }
    assert moved == {"r_cnn", "t_cnn"}


@pytest.mark.parametrize(
    "options", [{"detach_steps": True}, {"r_multistep": "first"}, {"factor": 3.0}, {"pixel": "log"}]
)
def test_options_of_the_loss_reach_it(options: dict[str, Any]) -> None:
    plain, changed = terms(started(recipe())), terms(started(recipe(loss=options)))
    if "r_multistep" in options:
        assert "reflection_2" in plain
        assert "reflection_2" not in changed
    elif "factor" in options:
        assert changed["loss"] == pytest.approx(3 * float(plain["loss"]))
    elif "pixel" in options:
        assert changed["pixel_1"] != plain["pixel_1"]
    else:
        assert changed["loss"] == pytest.approx(float(plain["loss"]))
        assert not changed["loss"].requires_grad


@pytest.mark.parametrize(("redepth", "calls"), [(False, 1), (True, 3)])
def test_depth_is_computed_once_unless_asked(redepth: bool, calls: int) -> None:
    state = started(recipe(depth={"redepth": redepth}, loss={"step_schedule": "0:3"}))
    seen: list[Tensor] = []

    class Spy(CueDepth):
        def __call__(self, rgb01: Tensor) -> Tensor:
            seen.append(rgb01)
            return super().__call__(rgb01)

    state.room.providers = [(Spy(), 1.0)]
    batch = state.batches(0)
    train.step(state, batch)
    assert len(seen) == calls
    assert torch.equal(seen[0], batch.mixture)
    assert all(given.min() >= 0 and given.max() <= 1 for given in seen)


def test_depth_dropout_follows_from_seed_and_step() -> None:
    def drawn(seed: int, steps: list[int]) -> list[str]:
        plan = recipe(seed=seed, depth={"drop_to_none": 0.25, "drop_to_cue": 0.35})
        state = TrainState({}, {}, lambda index: None)
        state.room = train.Room(plan, None, None, train._providers(plan.depth), None, [])  # type: ignore[arg-type]
        state.room.providers[2] = (type("Best", (CueDepth,), {"name": "best"})(), 0.4)
        return [train._drawn(state.room, step).name for step in steps]

    names = drawn(0, list(range(400)))
    assert drawn(0, list(range(399, -1, -1))) == names[::-1]
    assert drawn(1, list(range(400))) != names
    for name, share in (("none", 0.25), ("cue", 0.35), ("best", 0.4)):
        assert names.count(name) / 400 == pytest.approx(share, abs=0.08)


def test_shares_of_depth_that_are_zero_are_not_drawn() -> None:
    plan = recipe(depth={"drop_to_none": 1.0, "drop_to_cue": 0.0})
    assert [(provider.name, share) for provider, share in train._providers(plan.depth)] == [("none", 1.0)]


# The number of loss steps


def count(seen: dict[str, Tensor]) -> int:
    return sum(name.startswith("loss_") for name in seen)


def test_a_fixed_schedule_switches_at_its_steps() -> None:
    state = started(recipe(loss={"step_schedule": "0:2,2:3,4:1"}))
    found = []
    for state.step in range(6):
        found.append(count(terms(state)))
    assert found == [2, 2, 3, 3, 1, 1]


def test_auto_goes_to_three_steps_once_validation_has_settled() -> None:
    state = started(recipe(train={"steps": 1000}, loss={"step_schedule": "auto", "patience": 2}))
    modules = state.chosen()
    train.validate(state, modules)  # the first is the best so far
    train.validate(state, modules)
    assert count(terms(state)) == 2
    state.extra["best"] = -1.0  # a gain: the count begins anew
    state.extra["stale"] = 1
    modules = started(recipe()).chosen()
    train.validate(state, modules)
    assert state.extra["stale"] == 0
    train.validate(state, modules)
    assert count(terms(state)) == 2
    train.validate(state, modules)
    assert count(terms(state)) == 3
    assert json.loads(json.dumps(state.extra)) == state.extra


def test_auto_goes_to_three_steps_at_half_time_at_the_latest() -> None:
    state = started(recipe(train={"steps": 10, "minutes": 6.0}, loss={"step_schedule": "auto"}))
    state.step, state.minutes = 4, 2.9
    assert count(terms(state)) == 2
    state.minutes = 3.0
    assert count(terms(state)) == 3
    other = started(recipe(train={"steps": 10}, loss={"step_schedule": "auto"}))
    other.step = 5
    assert count(terms(other)) == 3


@pytest.mark.parametrize("schedule", ["", "2", "0:2;3:3", "1:2", "0:0", "0:2,5:3,3:1", "soon"])
def test_a_schedule_that_is_not_understood(schedule: str) -> None:
    with pytest.raises(ConfigError, match="step_schedule"):
        started(recipe(loss={"step_schedule": schedule}))


# Recipes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_ship_are_valid(path: Path) -> None:
    plan = open_recipe(path)
    assert isinstance(plan, train.Recipe)
    assert plan.name == path.stem
    train._parse_schedule(plan.loss.step_schedule)
    train.BlendOptions(**plan.blend.model_dump())
    train.ReflectionPairConfig(**plan.model.model_dump())


def test_there_are_recipes() -> None:
    assert {"small", "tiny"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize(
    ("tables", "near"),
    [
        ({"model": {"widht": 3}}, "did you mean 'width'"),
        ({"loss": {"step_shedule": "0:2"}}, "did you mean 'step_schedule'"),
        ({"blend": {"veils": 1}}, "did you mean 'veil'"),
        ({"depth": {"redeph": True}}, "did you mean 'redepth'"),
        ({"train": {"width": 3}}, r"did you mean 'width' in \[model\]"),
    ],
)
def test_an_unknown_key_names_the_nearest(tables: dict[str, Any], near: str) -> None:
    with pytest.raises(ConfigError, match=near):
        recipe(**tables)


@pytest.mark.parametrize(
    ("tables", "error", "named"),
    [
        ({"data": {"photos": []}}, ConfigError, "neither photos nor pairs"),
        ({"data": {"photos": [], "pairs": ["gone"]}}, InputError, "gone is not there"),
        ({"data": {"photos": [{"root": "gone"}]}}, ConfigError, "gone is not there"),
        ({"loss": {"features": "vgg19"}}, ConfigError, "vgg_weights"),
        ({"depth": {"drop_to_none": 0.6, "drop_to_cue": 0.6}}, ConfigError, "at most 1"),
        ({"depth": {"provider": "lidar"}}, ConfigError, "'lidar'"),
        ({"blend": {"shares": {"ceilnett": 1.0}}}, ConfigError, "'ceilnett'"),
        ({"model": {"width": 0}}, ConfigError, "width"),
    ],
)
def test_what_cannot_be_trained_is_refused(tables: dict[str, Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        started(recipe(**tables))


@pytest.mark.slow
def test_the_tiny_recipe_learns(tmp_path: Path) -> None:
    tiny = next(path for path in RECIPES if path.stem == "tiny")
    result = run(open_recipe(tiny), tmp_path / "run", device="cpu")
    assert result.figures["blends"] > result.figures["blends_input"] + 1
