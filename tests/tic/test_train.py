"""Training in small: D and G in turn, resuming with both optimisers, one seed one result, recipes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.tic import train
from pellucid.tic.model import TICConfig, TICGenerator
from pellucid.tic.word_vectors import WordVectors
from pellucid.train.config import check_recipe, dump_toml, open_recipe
from pellucid.train.loop import TrainState, make_accelerator, prepare, run

FOLDER = Path(__file__).parents[2] / "recipes" / "tic"
RECIPES = sorted(path for path in FOLDER.glob("*.toml") if path.stem != "vectors")  # that one trains words
WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "ball", "box")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(WordVectors(WORDS, torch.eye(8)).save(tmp_path_factory.mktemp("vectors") / "eight.npz"))


@pytest.fixture
def recipe(vectors: str) -> Any:
    """A run of a second; tables are laid over it key by key."""

    def make(**tables: Any) -> train.Recipe:
        base: dict[str, Any] = {
            "method": "tic",
            "name": "test",
            "train": {"steps": 4, "batch": 2, "lr": 1e-3, "precision": "fp32", "log_every": 1},
            "model": {"width": 4, "growth": 2, "ups": [4, 4, 2], "map_side": 4, "vector_dim": 8, "text_dim": 8},
            "data": {"stored": 40, "side": 32, "held_out": 4, "sets": [{"root": "synthetic", "count": 6}]},
            "text": {"vectors": vectors, "dropout": 0.2},
            "loss": {"d_width": 4},
        }
        base["model"]["working_side"] = 32
        for name, table in tables.items():
            base[name] = {**base[name], **table} if isinstance(base.get(name), dict) else table
        return check_recipe(base, train.Recipe)

    return make


def started(plan: train.Recipe) -> TrainState:
    return prepare(plan, train, make_accelerator(plan, "cpu"))


def weights(state: TrainState, name: str) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in state.modules[name].named_parameters()}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# A run


def test_a_run_from_recipe_to_weights(recipe: Any, tmp_path: Path) -> None:
    plan = recipe(train={"ema": 0.9, "select": "score"}, loss={"gan_from": 2})
    result = run(plan, tmp_path / "run", device="cpu")
    assert (result.step, result.finished) == (4, True)
    measured = {"ab_true", "ab_shuffled", "ab_empty", "ab_grey", "ab_mean", "obeyed", "chroma", "spread", "score"}
    assert measured <= set(result.figures)
    assert all(math.isfinite(value) for value in result.figures.values())
    logged = [set(line["losses"]) for line in lines(tmp_path / "run" / "log.jsonl")]
    assert logged[:2] == [{"loss", "l1"}] * 2  # no D before loss.gan_from
    assert logged[2:] == [{"loss", "l1", "gan", "discriminator"}] * 2
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    assert result.model is not None
    card = (result.model / "README.md").read_text()
    assert "4 optimiser steps, with the discriminator" in card
    stored = load_file(result.model / "model.safetensors")
    TICGenerator(train.TICConfig(**plan.model.model_dump())).load_state_dict(stored)
    assert stored["head.weight"].dtype == torch.float16
    assert WordVectors.load(result.model / "vectors.npz").words == WORDS  # not those that ship, so they come along


def test_two_and_two_steps_are_four(recipe: Any, tmp_path: Path) -> None:
    plan = recipe(
        train={"ema": 0.9, "validate_every": 2, "checkpoint_every": 2, "keep_checkpoints": 5},
        loss={"gan_from": 1, "gan_ramp": 3},
        recolour={"share": 0.5},
    )
    run(plan, tmp_path / "straight", device="cpu")
    assert not run(plan, tmp_path / "parts", device="cpu", stop_after=2).finished
    run(plan, tmp_path / "parts", device="cpu")
    folders = [tmp_path / part / "checkpoints" / "step_00000004" for part in ("straight", "parts")]
    for name in ("generator", "generator.ema", "discriminator"):
        one, other = (load_file(folder / f"{name}.safetensors") for folder in folders)
        assert all(torch.equal(one[key], other[key]) for key in one)
    adams = [torch.load(folder / "optimizers.pt", weights_only=True)["optimizers"] for folder in folders]
    assert set(adams[0]) == {"generator", "discriminator"}
    for name, steps in (("generator", 4), ("discriminator", 3)):
        one, other = (adam[name]["state"] for adam in adams)
        assert {int(entry["step"]) for entry in one.values()} == {steps}
        for key, entry in one.items():
            assert torch.equal(entry["exp_avg"], other[key]["exp_avg"])
            assert torch.equal(entry["exp_avg_sq"], other[key]["exp_avg_sq"])
    losses = [[line["losses"] for line in lines(tmp_path / part / "log.jsonl")] for part in ("straight", "parts")]
    assert losses[0] == losses[1]


def test_one_seed_one_result(recipe: Any) -> None:
    def trained(seed: int) -> dict[str, Tensor]:
        state = started(recipe(seed=seed))
        for state.step in range(2):
            train.step(state, state.batches(state.step))
        return weights(state, "generator")

    first, again, other = trained(0), trained(0), trained(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


# One step


def test_every_step_trains_both_and_neither_trains_the_other(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = started(recipe())
    batch = state.batches(0)
    before = {name: weights(state, name) for name in ("generator", "discriminator")}
    seen: dict[str, dict[str, bool]] = {}
    for name, other in (("generator", "discriminator"), ("discriminator", "generator")):
        step = state.optimizers[name].step

        def watch(name: str = name, other: str = other, step: Any = step) -> None:
            # At the step of one network, the other one holds no gradient.
            seen[name] = {
                "own": all(p.grad is not None for p in state.modules[name].parameters()),
                "other": any(p.grad is not None and bool(p.grad.any()) for p in state.modules[other].parameters()),
            }
            step()

        monkeypatch.setattr(state.optimizers[name], "step", watch)
    train.step(state, batch)
    assert list(seen) == ["discriminator", "generator"]  # in this order
    assert seen == {name: {"own": True, "other": False} for name in seen}
    for name, old in before.items():
        assert any(not torch.equal(value, old[key]) for key, value in weights(state, name).items())
        assert all(p.requires_grad for p in state.modules[name].parameters())


def test_before_its_time_the_discriminator_rests(recipe: Any) -> None:
    state = started(recipe(loss={"gan_from": 5, "gan_ramp": 4}))
    before = weights(state, "discriminator")
    assert set(train.step(state, state.batches(0))) == {"loss", "l1"}
    assert all(torch.equal(value, before[key]) for key, value in weights(state, "discriminator").items())
    state.step = 5
    first = train.step(state, state.batches(0))
    plain = started(recipe(loss={"gan_from": 5}))
    train.step(plain, plain.batches(0))
    plain.step = 5
    assert first["gan"] * 4 == pytest.approx(float(train.step(plain, plain.batches(0))["gan"]), rel=1e-4)


def test_without_the_adversarial_term_there_is_no_discriminator(recipe: Any) -> None:
    state = started(recipe(loss={"lambda_gan": 0.0}))
    assert set(state.modules) == set(state.optimizers) == {"generator"}
    assert set(train.step(state, state.batches(0))) == {"loss", "l1"}


def test_the_weight_of_the_adversarial_term_reaches_it(recipe: Any) -> None:
    one, half = (started(recipe(loss={"lambda_gan": weight})) for weight in (1.0, 0.5))
    gan = [float(train.step(state, state.batches(0))["gan"]) for state in (one, half)]
    assert gan[1] == pytest.approx(gan[0] / 2)


@pytest.mark.parametrize(("options", "wanted"), [({"l1_units": "lab"}, 110.0), ({"lambda_l1": 3.0}, 3.0)])
def test_options_of_the_loss_reach_it(recipe: Any, options: dict[str, Any], wanted: float) -> None:
    plain, changed = (started(recipe(loss={"lambda_gan": 0.0, **table})) for table in ({}, options))
    ratio = float(train.step(changed, changed.batches(0))["l1"] / train.step(plain, plain.batches(0))["l1"])
    assert ratio == pytest.approx(wanted, rel=1e-4)


def test_rates_and_betas_are_those_of_the_recipe(recipe: Any) -> None:
    state = train.build(recipe(loss={"d_lr": 0.5}), make_accelerator(recipe(), "cpu"))
    groups = {name: optimizer.param_groups[0] for name, optimizer in state.optimizers.items()}
    assert {name: group["lr"] for name, group in groups.items()} == {"generator": 1e-3, "discriminator": 5e-4}
    assert groups["generator"]["betas"] == groups["discriminator"]["betas"] == (0.5, 0.999)
    assert {group["weight_decay"] for group in groups.values()} == {0}


def test_the_usual_start_of_pix2pix(recipe: Any) -> None:
    drawn, default = (
        started(recipe(init=init, model={"width": 32})).modules["generator"] for init in ("pix2pix", "default")
    )
    spread = [float(network.down[1][0].conv.weight.detach().std()) for network in (drawn, default)]
    assert spread[0] == pytest.approx(0.02, rel=0.1)
    assert spread[1] > 0.03
    assert float(drawn.down[1][0].norm.weight.detach().std()) == pytest.approx(0.02, rel=0.5)


def test_a_step_lowers_the_loss(recipe: Any) -> None:
    state = started(recipe(loss={"lambda_gan": 0.0}, train={"lr": 1e-2}))
    batch = state.batches(0)
    losses = [float(train.step(state, batch)["loss"]) for _ in range(8)]
    assert losses[-1] < losses[0]


# Validation


def test_figures_of_a_network_that_leaves_everything_grey(recipe: Any) -> None:
    state = started(recipe())
    network = state.modules["generator"]
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    figures = train.validate(state, state.chosen())
    assert network.training  # as it was
    for name in ("ab_true", "ab_shuffled", "ab_empty"):
        assert figures[name] == pytest.approx(figures["ab_grey"])
    assert figures["ab_mean"] > figures["ab_grey"]
    assert (figures["obeyed"], figures["chroma"], figures["bleeding"]) == (0, 0, 0)
    assert figures["score"] == pytest.approx((figures["ab_grey"] - figures["ab_mean"]) / 10)


def test_a_network_that_obeys_scores_high(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = started(recipe())
    held_out = state.room.validation

    def knows(room: Any, network: Any, L: Tensor, texts: list[str]) -> Tensor:
        """Paints the objects in the colour of the first colour word."""
        start = next(place for place in range(len(held_out.L)) if torch.equal(held_out.L[place], L[0]))
        masks = torch.stack([held_out.objects[place] for place in _places(held_out.L, L)])
        anchors = [train_colour(text) for text in texts]
        assert start >= 0
        return torch.tensor(anchors)[:, :, None, None] * masks

    monkeypatch.setattr(train, "_predict", knows)
    figures = train.validate(state, state.chosen())
    assert figures["obeyed"] == 1
    assert figures["chroma"] > 30
    assert figures["bleeding"] < 6
    assert figures["ab_true"] > figures["ab_shuffled"] + 2
    assert figures["score"] == pytest.approx(3.0 + (figures["ab_true"] - figures["ab_mean"]) / 10)


def _places(known: Tensor, found: Tensor) -> list[int]:
    return [next(n for n, entry in enumerate(known) if torch.equal(entry, L)) for L in found]


def train_colour(text: str) -> tuple[float, float]:
    from pellucid.tic.vocabulary import COLOURS

    return next((COLOURS[word].ab for word in text.split() if word in COLOURS), (0.0, 0.0))


def test_shuffled_texts_are_all_of_other_pictures() -> None:
    texts = [f"text {number}" for number in range(9)]
    empty = torch.zeros(9, 1, 2, 2)
    shuffled = train.Validation(empty, empty, empty, texts, texts).shuffled()
    assert sorted(shuffled) == texts
    assert all(one != other for one, other in zip(texts, shuffled, strict=True))


def test_validation_is_the_same_whatever_the_seed(recipe: Any) -> None:
    first, second = (started(recipe(seed=seed)).room.validation for seed in (0, 5))
    assert torch.equal(first.ab, second.ab)
    assert first.texts == second.texts


def test_samples_show_grey_texts_and_truth(recipe: Any) -> None:
    state = started(recipe())
    drawn = train.samples(state, state.chosen())
    assert drawn.shape == (3, 4 * 32, 10 * 32)
    grey, truth = drawn[..., :32], drawn[..., -32:]
    assert float((grey[0] - grey[2]).abs().max()) < 1e-3
    assert float((truth[0] - truth[2]).abs().max()) > 0.2


# Data


def folder(root: Path, splits: tuple[str, ...] = ("train", "train", "val", "val")) -> Path:
    rows = []
    for number, split in enumerate(splits):
        Image.new("RGB", (40, 48), (40 * number, 80, 120)).save(root / f"{number}.png")
        row = {"file": f"{number}.png", "caption": "a red box", "split": split, "license": "CC0-1.0", "kind": split}
        rows.append(json.dumps(row))
    (root / "metadata.jsonl").write_text("\n".join(rows))
    return root


def test_training_on_a_captioned_folder(recipe: Any, tmp_path: Path) -> None:
    table = {"root": str(folder(tmp_path)), "splits": str(tmp_path / "lists")}
    state = started(recipe(data={"sets": [table]}))
    assert len(state.batches.banks[0]) == 2
    assert len(state.room.validation.texts) == 2
    assert (tmp_path / "lists" / "val.txt").read_text() == "2.png\n3.png\n"
    train.export(state, state.chosen(), tmp_path / "model", train.validate(state, state.chosen()))
    assert "2 pictures, CC0-1.0" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("tables", "error", "named"),
    [
        ({"data": {"sets": []}}, ConfigError, "no sets"),
        ({"data": {"sets": [{"root": "gone"}]}}, InputError, "gone is not there"),
        ({"text": {"dropout": 0.6, "plain": 0.6}}, ConfigError, "at most 1"),
        ({"text": {"vectors": "gone.npz"}}, WeightsError, "gone.npz"),
        ({"text": {"clip": "gone"}}, WeightsError, "gone"),
        ({"model": {"vector_dim": 256}}, WeightsError, "256 numbers"),
        ({"loss": {"lambda_perceptual": 1.0}}, ConfigError, "VGG19"),
        ({"model": {"width": 0}}, ConfigError, "width"),
        ({"recolour": {"colours": {"grey": 9.0}}}, ConfigError, "grey"),
    ],
)
def test_what_cannot_be_trained_is_refused(recipe: Any, tables: dict[str, Any], error: Any, named: str) -> None:
    with pytest.raises(error, match=named):
        started(recipe(**tables))


def test_a_filter_that_leaves_nothing(recipe: Any, tmp_path: Path) -> None:
    for table in ({"only": {"kind": "val"}}, {"without": {"kind": "train"}}):
        with pytest.raises(InputError, match="no picture to train on"):
            started(recipe(data={"sets": [{"root": str(folder(tmp_path)), **table}]}))


# Recipes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_ship_are_valid(path: Path, tmp_path: Path) -> None:
    plan = open_recipe(path)
    assert isinstance(plan, train.Recipe)
    assert plan.name == path.stem
    TICConfig(**plan.model.model_dump())
    train.RecolourOptions(**plan.recolour.model_dump())
    written = tmp_path / "recipe.toml"
    written.write_text(dump_toml(plan))
    assert open_recipe(written) == plan


def test_the_paper_is_trained_as_it_says() -> None:
    plan = open_recipe(next(path for path in RECIPES if path.stem == "paper"))
    assert isinstance(plan, train.Recipe)
    assert (plan.train.lr, plan.betas, plan.train.schedule) == (1e-4, (0.5, 0.999), "constant")
    assert plan.train.steps == 350_000
    assert TICConfig(**plan.model.model_dump()) == TICConfig()
    assert (plan.loss.lambda_gan, plan.loss.lambda_perceptual, plan.loss.lambda_l1) == (1, 1, 1)
    assert (plan.text.dropout, plan.text.plain, plan.recolour.share) == (0, 0, 0)


def test_small_and_product_differ_in_the_fusion_alone() -> None:
    small, product = (open_recipe(path).model_dump() for path in RECIPES[::-1] if path.stem in ("small", "product"))
    assert small["model"].pop("fusion") == "film"
    assert product["model"].pop("fusion") == "product"
    assert {key: value for key, value in small.items() if key != "name"} == {
        key: value for key, value in product.items() if key != "name"
    }


@pytest.mark.parametrize(
    ("tables", "near"),
    [
        ({"loss": {"gan_form": 3}}, "did you mean 'gan_from'"),
        ({"recolour": {"shares": 1}}, "did you mean 'share'"),
        ({"text": {"drop_out": 0.1}}, "did you mean 'dropout'"),
    ],
)
def test_an_unknown_key_names_the_nearest(recipe: Any, tables: dict[str, Any], near: str) -> None:
    with pytest.raises(ConfigError, match=near):
        recipe(**tables)


@pytest.mark.slow
def test_the_tiny_recipe_learns(tmp_path: Path) -> None:
    tiny = next(path for path in RECIPES if path.stem == "tiny")
    figures = run(open_recipe(tiny), tmp_path / "run", device="cpu").figures
    assert figures["ab_true"] > figures["ab_grey"] + 1
    assert figures["ab_true"] > figures["ab_shuffled"] + 1
