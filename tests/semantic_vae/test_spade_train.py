"""Mask-to-face training in small: both layouts, resuming, the exported weights render, recipes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.faces.face_pairs import FaceBatches, PairBank, drawn_pairs
from pellucid.semantic_vae.faces.generators import open_generator
from pellucid.semantic_vae.faces.network_generators import SEANRenderer
from pellucid.semantic_vae.faces.spade_recipe import Recipe
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.train.config import check_recipe, open_recipe
from pellucid.train.loop import run

RECIPES = Path(__file__).parents[2] / "recipes" / "semantic_vae"


CLASSES = ClassSet("five", ("background", "skin", "l_eye", "r_eye", "hat"), mirror=((2, 3),))


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """A run of a second for a class set of five; tables are laid over it key by key."""
    path = str(CLASSES.save(tmp_path / "five.json"))
    return lambda **tables: _recipe(path, **tables)


def _recipe(classes: str, **tables: Any) -> Recipe:
    base: dict[str, Any] = {
        "method": "spade",
        "name": "test",
        "train": {"steps": 2, "batch": 2, "lr": 1e-3, "precision": "fp32", "ema": 0.9, "log_every": 1},
        "model": {"layout": "spade", "width": 1, "hidden": 4, "style": 4, "size": 32},
        "data": {"root": "ellipses", "class_set": classes, "count": 4, "held_out": 2},
        "loss": {"lambda_perceptual": 0, "lambda_l1": 10, "d_width": 2, "d_layers": 2},
    }
    return check_recipe({key: {**base[key], **tables[key]} if key in tables else base[key] for key in base}, Recipe)


@pytest.mark.parametrize("layout", ["spade", "sean"])
def test_a_run_from_recipe_to_pictures(recipe: Callable[..., Recipe], layout: str, tmp_path: Path) -> None:
    result = run(recipe(model={"layout": layout}), tmp_path / "run", device="cpu")
    assert (result.step, result.finished) == (2, True)
    assert set(result.figures) == {"psnr", "psnr_colors", "l1", "l1_colors"}
    assert all(math.isfinite(value) for value in result.figures.values())
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    assert result.model is not None
    card = (result.model / "README.md").read_text()
    assert "2 optimiser steps" in card
    assert f"{layout.upper()} layout" in card
    generator = open_generator(result.model, classes=CLASSES, device="cpu")
    labels = drawn_pairs("ellipses", CLASSES, 32, 1).labels[0]
    assert generator.render(labels, generator.mean_style()).shape == (3, 32, 32)
    assert isinstance(generator, SEANRenderer) == (layout == "sean")
    assert ClassSet.load(result.model / "classes.json") == CLASSES


def test_one_and_one_step_are_two(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    plan = recipe(model={"layout": "sean"}, train={"checkpoint_every": 1, "validate_every": 1})
    run(plan, tmp_path / "straight", device="cpu")
    assert not run(plan, tmp_path / "parts", device="cpu", stop_after=1).finished
    run(plan, tmp_path / "parts", device="cpu")
    for name in ("generator", "generator.ema", "discriminator"):
        one, other = (
            load_file(tmp_path / part / "checkpoints" / "step_00000002" / f"{name}.safetensors")
            for part in ("straight", "parts")
        )
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_batches_follow_from_the_index() -> None:
    bank = drawn_pairs("ellipses", CLASSES, 32, 6)
    batches = FaceBatches(bank, 3, seed=1, mirror=0.5)
    one, again, next_one = batches(4), batches(4), batches(5)
    assert torch.equal(one.pictures, again.pictures)
    assert torch.equal(torch.rand(3, generator=one.noise), torch.rand(3, generator=again.noise))
    assert not torch.equal(one.labels, next_one.labels)
    assert -1 <= one.pictures.min() < 0 < one.pictures.max() <= 1
    flipped = FaceBatches(bank, 6, seed=1, mirror=1.0)(0)
    plain = FaceBatches(bank, 6, seed=1)(0)
    assert torch.equal(flipped.pictures, plain.pictures.flip(-1))
    assert torch.equal(flipped.labels, CLASSES.mirrored(plain.labels))


def test_colours_of_classes() -> None:
    labels = torch.tensor([[[0, 1], [1, 1]]], dtype=torch.uint8)
    pictures = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    pictures[0, 0] = torch.tensor([[255, 0], [102, 0]])
    bank = PairBank(labels, pictures, ClassSet("three", ("a", "b", "c"), background=None), "a bank")
    colors = bank.class_colors()
    assert colors[:, 0].tolist() == pytest.approx([1.0, 102 / 255 / 3, 0.5])  # c is nowhere: grey


def test_pairs_that_do_not_go_together() -> None:
    labels = torch.zeros(2, 8, 8, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"found \(2, 8, 8\)"):
        PairBank(labels, torch.zeros(2, 3, 8, 4, dtype=torch.uint8), CELEBAMASK_HQ, "a bank")
    bank = PairBank(labels, torch.zeros(2, 3, 8, 8, dtype=torch.uint8), CELEBAMASK_HQ, "a bank")
    with pytest.raises(InputError, match="2 pairs, of which 2"):
        bank.split(2)


def test_a_perceptual_term_needs_weights(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs weights of VGG19"):
        run(recipe(loss={"lambda_perceptual": 10}), tmp_path / "run", device="cpu")


@pytest.mark.parametrize("name", ["spade-tiny", "spade"])
def test_recipes_are_read(name: str) -> None:
    plan = open_recipe(RECIPES / f"{name}.toml")
    assert isinstance(plan, Recipe)
    assert plan.config(CELEBAMASK_HQ).classes == 19
    assert plan.loss.discriminator("sean") == {
        **plan.loss.discriminator("spade"),
        "layers": plan.loss.d_layers or 3,
        "last_stride": 2,
    }


@pytest.mark.slow  # half a minute
@pytest.mark.parametrize("layout", ["spade", "sean"])
def test_the_tiny_recipe_learns_more_than_colours(layout: str, tmp_path: Path) -> None:
    plan = open_recipe(RECIPES / "spade-tiny.toml", [f"model.layout={layout}"])
    figures = run(plan, tmp_path / "run", device="cpu").figures
    assert figures["psnr"] > figures["psnr_colors"] + 1
