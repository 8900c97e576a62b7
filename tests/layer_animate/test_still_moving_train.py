"""Still-Moving's two trainings in small: what learns, what it learns from, resuming, what is written, recipes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pellucid.errors import ConfigError, WeightsError
from pellucid.layer_animate.baselines import still_moving_train
from pellucid.layer_animate.baselines.adapters import load_adapters
from pellucid.layer_animate.baselines.still_moving_recipe import Recipe
from pellucid.layer_animate.baselines.still_moving_train import AdaptedDenoiser, StillBatches
from pellucid.layer_animate.data import ClipBatches, LatentBank
from pellucid.layer_animate.model import build, preset
from pellucid.train.config import check_recipe, open_recipe
from pellucid.train.loop import make_accelerator, prepare, run
from pellucid.train.state import TrainState

RECIPES = Path(__file__).parents[2] / "recipes" / "layer_animate"


def _recipe(*, train: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "method": "still_moving",
        "name": "test",
        "frames": 2,
        "rank": 2,
        "train": {"steps": 2, "batch": 2, "lr": 1e-2, "precision": "fp32", "log_every": 1} | (train or {}),
        "data": {"sets": [{"root": "drawn", "count": 2}], "held_out": 1, "size": [16, 16]},
        "sampling": {"steps": 1, "guidance": 1.0},
    }
    return check_recipe(base | changes, Recipe)


@pytest.fixture(scope="module")
def step_a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("still") / "a"
    assert run(_recipe(sampling={"clips": 0}), folder, device="cpu").finished
    assert list((folder / "samples").glob("*.png"))
    return folder


def _state(recipe: Recipe) -> TrainState:
    return prepare(recipe, still_moving_train, make_accelerator(recipe, "cpu"))


def _values(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def test_step_a_then_step_b_from_recipe_to_weights(step_a: Path, tmp_path: Path) -> None:
    prior = [{"root": "drawn", "count": 2, "motions": ["turning"]}]
    plan = _recipe(learns="spatial", motion_adapters=str(step_a / "model"), prior=prior, train={"ema": 0.5})
    result = run(plan, tmp_path / "b", device="cpu")
    assert (result.step, result.finished) == (2, True)
    assert set(result.figures) == {"still", "still_without", "prior", "prior_without"}
    assert all(math.isfinite(value) for value in result.figures.values())
    assert list((tmp_path / "b" / "samples").glob("*.png"))
    assert result.model is not None
    assert "2 optimiser steps" in (result.model / "README.md").read_text()
    unet = build(preset("tiny")).unet
    first, both = load_adapters(step_a / "model", unet), load_adapters(result.model, unet)
    assert set(first) == {"motion"}
    assert set(both) == {"motion", "spatial"}
    # The Motion Adapters of step A are in the weights of step B, as they were.
    mine, theirs = both["motion"].state_dict(), first["motion"].state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert any(bool(value.any()) for key, value in both["spatial"].state_dict().items() if key.endswith("up"))


@pytest.mark.parametrize("learns", ["motion", "spatial"])
def test_one_set_of_adapters_moves_and_nothing_else(learns: str, step_a: Path) -> None:
    more = {"learns": "spatial", "motion_adapters": str(step_a / "model")} if learns == "spatial" else {}
    state = _state(_recipe(**more))
    denoiser = state.modules["denoiser"]
    assert isinstance(denoiser, AdaptedDenoiser)
    model, sets = _values(denoiser.model), {title: _values(one) for title, one in denoiser.sets.items()}
    for index in range(2):
        still_moving_train.step(state, state.batches(index))
    after = denoiser.model.state_dict()
    assert all(torch.equal(after[key], model[key]) for key in model)
    for title, adapters in denoiser.sets.items():
        changed = [not torch.equal(value, sets[title][key]) for key, value in adapters.state_dict().items()]
        assert all(changed) if title == learns else not any(changed)
        assert all(parameter.requires_grad == (title == learns) for parameter in adapters.parameters())
    assert set(denoiser.state_dict()) == {f"adapters.{key}" for key in sets[learns]}


def test_frozen_clips_repeat_one_frame_with_noise_of_its_own() -> None:
    latents = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 4, 5, 2, 2).clone()
    bank = LatentBank(latents, (("a ball",),), torch.ones(1), torch.zeros(1, dtype=torch.long))
    batches = StillBatches(ClipBatches(bank, 6, 0), ClipBatches(bank, 6, 1))
    frozen, prior = batches(3)
    assert prior is not None
    assert torch.equal(frozen.latents, frozen.latents[:, :, :1].expand(-1, -1, 5, -1, -1))
    assert len(set(frozen.latents[:, 0, 0, 0, 0].tolist())) > 1  # not always the same frame
    assert not torch.equal(frozen.noise[:, :, 0], frozen.noise[:, :, 1])
    assert torch.equal(prior.latents, latents.expand(6, -1, -1, -1, -1))
    assert not torch.equal(frozen.noise, prior.noise)
    again, _ = batches(3)
    assert torch.equal(again.latents, frozen.latents)
    assert not torch.equal(batches(4)[0].noise, frozen.noise)


def test_motion_adapters_are_in_for_still_clips_and_out_for_the_prior(step_a: Path) -> None:
    state = _state(_recipe(learns="spatial", motion_adapters=str(step_a / "model")))
    denoiser = state.modules["denoiser"]
    assert isinstance(denoiser, AdaptedDenoiser)
    seen: list[float] = []
    unet = denoiser.model.unet
    handle = unet.register_forward_pre_hook(lambda *_: seen.append(denoiser.sets["motion"].scale))
    still_moving_train.step(state, state.batches(0))
    handle.remove()
    assert seen == [1.0, 0.0]


def test_one_and_one_step_are_two(tmp_path: Path) -> None:
    plan = _recipe(train={"checkpoint_every": 1, "ema": 0.5}, sampling={"clips": 0})
    run(plan, tmp_path / "straight", device="cpu")
    assert not run(plan, tmp_path / "parts", device="cpu", stop_after=1).finished
    run(plan, tmp_path / "parts", device="cpu")
    for name in ("denoiser", "denoiser.ema"):
        one, other = (
            load_file(tmp_path / part / "checkpoints" / "step_00000002" / f"{name}.safetensors")
            for part in ("straight", "parts")
        )
        assert one
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_recipes_open_and_wrong_ones_are_refused(step_a: Path, tmp_path: Path) -> None:
    for name in ("motion", "spatial"):
        recipe = open_recipe(RECIPES / f"still-moving-{name}.toml")
        assert isinstance(recipe, Recipe)
        assert recipe.learns == name
        assert recipe.clean is None
    with pytest.raises(ConfigError, match="motion_adapters is not set"):
        _recipe(learns="spatial")
    with pytest.raises(ConfigError, match="belong to"):
        _recipe(motion_adapters="somewhere")
    with pytest.raises(WeightsError, match="missing"):
        _state(_recipe(learns="spatial", motion_adapters=str(tmp_path)))
