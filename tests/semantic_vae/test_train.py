"""Training in small: Eq. 3 on masks of any class set, the rows of Table 1, resuming, what is exported."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.hub.pretrained import load_config, load_state, read_document
from pellucid.semantic_vae import train
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.model import PRESETS, TABLE_1, SemanticVAE, SemanticVAEConfig
from pellucid.semantic_vae.recipe import Recipe
from pellucid.train.config import check_recipe, dump_toml, load_recipe
from pellucid.train.loop import TrainState, make_accelerator, prepare, run

FOLDER = Path(__file__).parents[2] / "recipes" / "semantic_vae"
RECIPES = sorted(path for path in FOLDER.glob("*.toml") if not path.stem.startswith("spade"))
NET = {
    "size": 32,
    "encoder_side": 16,
    "encoder_widths": [16, 16],
    "latent": 64,
    "lstm_layers": 1,
    "lstm_hidden": 8,
    "ff_width": 16,
    "channels": [8, 8, 8],
    "groups": 4,
}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(**tables: Any) -> Recipe:
    """A run of a second; tables are laid over it key by key."""
    base: dict[str, Any] = {
        "method": "semantic_vae",
        "name": "test",
        "preset": "tiny",
        "train": {"steps": 4, "batch": 4, "lr": 1e-3, "precision": "fp32", "log_every": 1},
        "model": NET,
        "data": {"root": "ellipses", "count": 12, "held_out": 4},
    }
    for name, table in tables.items():
        base[name] = {**base[name], **table} if isinstance(base.get(name), dict) else table
    return check_recipe(base, Recipe)


def started(plan: Recipe) -> TrainState:
    return prepare(plan, train, make_accelerator(plan, "cpu"))


def weights(state: TrainState) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in state.modules["vae"].named_parameters()}


def class_file(folder: Path, count: int, background: int | None) -> str:
    names = tuple(f"part {chr(97 + k % 26)}{k}" for k in range(count))
    return str(ClassSet("own", names, background=background).save(folder / f"{count}.json"))


# Recipes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_makes_a_network(path: Path) -> None:
    plan = load_recipe(path, Recipe)
    assert plan.name == path.stem
    assert plan.config(plan.open_classes()).classes == 19


def test_the_recipes_are_the_networks_of_the_paper() -> None:
    """Parameter counts of the specification, section 6.3 and 2.1."""
    counted = {
        name: sum(
            p.numel()
            for p in SemanticVAE(load_recipe(FOLDER / f"{name}.toml", Recipe).config(CELEBAMASK_HQ)).parameters()
        )
        for name in ("small", "official", "paper")
    }
    assert counted == {"small": 6_133_658, "official": 25_230_386, "paper": 24_705_074}


def test_a_recipe_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    plan = recipe(row="lstm3_wce", loss={"kl_weight": 1e-3})
    (tmp_path / "recipe.toml").write_text(dump_toml(plan))
    assert load_recipe(tmp_path / "recipe.toml", Recipe) == plan


def test_a_preset_fills_what_the_model_table_leaves_out() -> None:
    plan = check_recipe(
        {"method": "semantic_vae", "train": {"steps": 1}, "preset": "tiny", "model": {"groups": 4}}, Recipe
    )
    config = plan.config(CELEBAMASK_HQ)
    assert (config.groups, config.channels) == (4, PRESETS["tiny"].channels)


@pytest.mark.parametrize("row", TABLE_1)
def test_a_row_of_table_1_trains(row: str) -> None:
    """All of them run; the public code crashes on four."""
    plan = recipe(row=row)
    config = plan.config(CELEBAMASK_HQ)
    assert config.bidirectional == row.startswith(("bi", "no"))
    assert config.lstm_layers == (int(row.split("lstm")[1][0]) if "no" not in row else 0)
    assert plan.loss.weights == ("eq1" if row.endswith("_wce") else "none")
    state = started(plan)
    assert all(math.isfinite(float(term)) for term in train.step(state, state.batches(0)).values())


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"preset": "tini"}, "preset 'tini'"),
        ({"row": "lstm9"}, "row 'lstm9'"),
        ({"model": {"latents": 4}}, "'latents'"),
        ({"model": {"channels": [8, 8]}}, "model.size must be"),
        ({"model": {"classes": 4}}, "'classes'"),
        ({"loss": {"weights": "some"}}, "loss.weights"),
        ({"data": {"root": "procedural", "mirror": 2.0}}, "data.mirror"),
    ],
)
def test_a_wrong_recipe_is_refused(tables: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        recipe(**tables).config(CELEBAMASK_HQ)


# Steps


@pytest.mark.parametrize(("count", "background"), [(6, 0), (30, 2), (5, None)])
def test_any_class_set_trains(count: int, background: int | None, tmp_path: Path) -> None:
    plan = recipe(data={"class_set": class_file(tmp_path, count, background)})
    state = started(plan)
    before = weights(state)
    for index in range(2):  # the last convolutions start at zero: nothing before them moves in the first step
        terms = train.step(state, state.batches(index))
    assert set(terms) == {"loss", "ce", "kl"}
    assert all(math.isfinite(float(term)) for term in terms.values())
    assert [key for key, value in weights(state).items() if torch.equal(value, before[key])] == []
    assert train.validate(state, state.chosen())["miou"] >= 0
    parts = count - (background is not None)
    assert len(state.room.kl) == parts


def test_the_weights_are_those_of_eq_1() -> None:
    state = started(recipe())
    labels = state.room.train.labels
    for index in range(19):
        share = float((labels == index).double().mean())
        assert float(state.room.loss.weights[index]) == pytest.approx(1 - share, abs=1e-6)
    assert started(recipe(loss={"weights": "none"})).room.loss.weights is None


def test_the_kl_weight_rises() -> None:
    state = started(recipe(loss={"kl_weight": 0.5, "kl_warmup": 4}))
    shares = []
    for state.step in (0, 1, 3, 9):
        terms = train.step(state, state.batches(0))
        shares.append(float((terms["loss"] - terms["ce"]) / terms["kl"]) / 0.5)
    assert shares == pytest.approx([0.25, 0.5, 1.0, 1.0], rel=1e-3)


def test_the_first_steps_may_be_of_half_size(tmp_path: Path) -> None:
    plan = recipe(half_steps=2)
    state = started(plan)
    sizes = []
    for state.step in (0, 1, 2):
        train.step(state, state.batches(state.step))
        sizes.append(state.modules["vae"].decs_conv.decs[-1].enlarges)
    assert sizes == [False, False, True]
    for state.step, stride in ((1, 2), (2, 1)):
        train.export(state, state.chosen(), tmp_path / str(stride), train.validate(state, state.chosen()))
        assert load_config(tmp_path / str(stride), SemanticVAEConfig).logit_stride == stride


def test_it_learns() -> None:
    state = started(recipe(train={"lr": 1e-2}, data={"root": "procedural"}))
    first = float(train.step(state, state.batches(0))["ce"])
    for index in range(1, 40):
        last = float(train.step(state, state.batches(index))["ce"])
    assert last < 0.6 * first


def test_masks_of_a_folder_are_held_out_of_training(tmp_path: Path) -> None:
    for one in range(8):
        (tmp_path / "train" / "labels").mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), one).save(tmp_path / "train" / "labels" / f"{one}.png")
    room = started(recipe(data={"root": str(tmp_path), "count": None, "held_out": 3})).room
    trained, held_out = ({int(mask[0, 0]) for mask in bank.labels} for bank in (room.train, room.held_out))
    assert (len(trained), len(held_out)) == (5, 3)
    assert trained | held_out == set(range(8))


def test_drawn_masks_that_are_measured_are_not_trained_on() -> None:
    room = started(recipe(data={"root": "procedural", "count": 4})).room
    same = (room.train.labels[:, None] == room.held_out.labels).flatten(2).all(dim=2)
    assert same.shape == (4, 4)
    assert not same.any()


def test_a_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no-such-folder"):
        started(recipe(data={"root": "no-such-folder"}))


# Runs


def test_a_run_from_recipe_to_weights(tmp_path: Path) -> None:
    plan = recipe(train={"ema": 0.9, "select": "miou"})
    result = run(plan, tmp_path / "run", device="cpu")
    assert (result.step, result.finished) == (4, True)
    assert {"accuracy", "miou", "accuracy_sample", "miou_sample", "kl", "collapsed"} <= result.figures.keys()
    assert all(math.isfinite(value) for value in result.figures.values())
    model = tmp_path / "run" / "model"
    network = SemanticVAE(load_config(model, SemanticVAEConfig))
    load_state(network, model)
    assert ClassSet.load(model / "classes.json") == CELEBAMASK_HQ
    record = read_document(model)["training"]
    assert record["weights"] == "eq1"
    assert set(record["kl_nats"]) == set(CELEBAMASK_HQ.part_names)
    assert sum(record["fractions"].values()) == pytest.approx(1)
    card = (model / "README.md").read_text()
    assert "12 masks" in card
    assert f"{result.figures['miou']:.3f}" in card
    (sheet,) = sorted((tmp_path / "run" / "samples").iterdir())
    with Image.open(sheet) as picture:
        assert picture.size == (9 * 16, 4 * 16)  # mask, reconstruction, six groups, all; four masks, half size


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    plan = recipe(train={"ema": 0.9, "checkpoint_every": 2})
    run(plan, tmp_path / "whole", device="cpu")
    run(plan, tmp_path / "parts", device="cpu", stop_after=2)
    run(plan, tmp_path / "parts", device="cpu")
    logs = [
        [json.loads(line)["losses"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert logs[0] == logs[1]
    files = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]
