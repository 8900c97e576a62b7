"""Training on clips: what learns, what the network is shown, and that a run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.layer_animate.published import publish
from torch import Tensor

from pellucid.errors import ConfigError, WeightsError
from pellucid.hub.pretrained import read_state, save_pretrained
from pellucid.layer_animate import train
from pellucid.layer_animate.attention.attach import ifa_state
from pellucid.layer_animate.clips.sets import open_sets
from pellucid.layer_animate.denoiser import Denoiser
from pellucid.layer_animate.model import METHOD, PRESETS, LayerAnimate, build
from pellucid.layer_animate.opening import training_side
from pellucid.layer_animate.published.checkpoints import open_components
from pellucid.layer_animate.recipe import Recipe
from pellucid.layer_animate.text import Vocabulary, WordConditioner
from pellucid.layer_animate.transparency.weights import TRANSPARENCY
from pellucid.train.config import open_recipe
from pellucid.train.loop import make_accelerator, prepare, run

REPOSITORY = Path(__file__).parents[2]
MOTIONS = ("up_down", "turning")


def recipe(stage: str = "ifa", steps: int = 2, **changes: Any) -> Recipe:
    data: dict[str, Any] = {
        "method": METHOD,
        "stage": stage,
        "frames": 4,
        "train": {"steps": steps, "batch": 2, "lr": 1e-2, "precision": "fp32", "schedule": "constant"},
        "data": {"sets": [{"count": 2, "motions": MOTIONS}], "held_out": 1},
        "sampling": {"steps": 2, "clips": 1},
    }
    for key, value in changes.items():
        data[key] = data.get(key, {}) | value if isinstance(value, dict) else value
    return Recipe.model_validate(data)


def prepared(made: Recipe) -> Any:
    return prepare(made, train, make_accelerator(made, "cpu"))


@pytest.fixture(autouse=True)
def _measured_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_LEVELS", 2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random weights whose motion modules move something (they begin as nothing)."""
    folder = tmp_path_factory.mktemp("weights") / "model"
    model = build(PRESETS["tiny"], generator_seed=1)
    words = Vocabulary.basic()
    save_pretrained(folder, method=METHOD, config=model.config, state=model, card="For a test.")
    words.save(folder / "vocabulary.json")
    return folder


def changed(before: dict[str, Tensor], model: LayerAnimate) -> set[str]:
    return {key for key, value in model.state_dict().items() if not torch.equal(before[key], value)}


WHAT: dict[str, Callable[[str], bool]] = {
    "ifa": lambda key: "_ifa." in key,
    "motion": lambda key: "motion_modules" in key,
    "base": lambda key: key.startswith(("unet.", "text.")) and "motion_modules" not in key and "_ifa." not in key,
    "all": lambda key: key.startswith(("unet.", "text.")),
}


@pytest.mark.parametrize("stage", WHAT)
def test_only_what_the_stage_names_learns(stage: str, weights: Path) -> None:
    state = prepared(recipe(stage, model={"weights": str(weights)}))
    model = state.room.opened.model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for index in range(2):
        train.step(state, state.batches(index))
        state.step += 1
    found = changed(before, model)
    assert found
    assert all(WHAT[stage](key) for key in found)
    if stage == "ifa":  # W_O' from the first step, W_Q' from the second
        assert found == {f"unet.{key}" for key in ifa_state(model.unet)}


def test_the_network_sees_the_base_frame_clean(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor, int, int, bool]] = []
    state = prepared(recipe(frames=5, model={"weights": str(weights)}))
    denoiser = state.modules["denoiser"]
    assert isinstance(denoiser, Denoiser)
    unet, context = denoiser.model.unet, denoiser.model.context
    whole = unet.forward

    def spied(z_t: Tensor, t: Tensor, **rest: Any) -> Any:
        seen.append((z_t.clone(), t, context.num_frames, context.base_index, context.enabled))
        assert rest["encoder_hidden_states"].shape[0] == z_t.shape[0] * z_t.shape[2]  # repeated for every frame
        return whole(z_t, t, **rest)

    monkeypatch.setattr(unet, "forward", spied)
    batch = state.batches(0)
    train.step(state, batch)
    ((z_t, t, frames, base, enabled),) = seen
    assert (frames, base, enabled) == (5, 2, True)
    assert torch.equal(z_t[:, :, 2], batch.latents[:, :, 2])
    assert all(not torch.equal(z_t[:, :, frame], batch.latents[:, :, frame]) for frame in (0, 1, 3, 4))
    assert torch.equal(t, batch.timesteps)


def test_recomputed_activations_give_the_same_gradients(weights: Path) -> None:
    state = prepared(recipe(model={"weights": str(weights)}))
    denoiser, batch = state.modules["denoiser"], state.batches(0)
    assert isinstance(denoiser, Denoiser)

    def gradients() -> list[Tensor]:
        denoiser.zero_grad()
        denoiser(batch.latents, batch.timesteps, batch.texts).square().mean().backward()
        return [parameter.grad.clone() for parameter in denoiser.learning() if parameter.grad is not None]

    plain = gradients()
    denoiser.model.unet.enable_gradient_checkpointing()
    again = gradients()
    assert len(plain) == len(denoiser.learning())
    assert any(bool(gradient.any()) for gradient in plain)
    for found, wanted in zip(again, plain, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_fresh_inter_frame_attention_changes_nothing(weights: Path) -> None:
    made = recipe(model={"weights": str(weights)}, sampling={"clips": 0})
    figures = train.validate(state := prepared(made), state.chosen())
    assert figures["loss"] == figures["loss_alone"]
    assert set(figures) == {"loss", "loss_alone"}


def test_a_checkpoint_of_inter_frame_attention_holds_nothing_else(weights: Path) -> None:
    denoiser = prepared(recipe(model={"weights": str(weights)})).modules["denoiser"]
    model = denoiser.model
    assert sum(value.numel() for value in denoiser.state_dict().values()) == sum(
        value.numel() for value in ifa_state(model.unet).values()
    )
    few = Denoiser(model, denoiser.words, "ifa", 1, ["mid_block"])
    assert 0 < len(few.state_dict()) < len(denoiser.state_dict())
    with pytest.raises(ConfigError, match="nothing is there to learn"):
        Denoiser(model, denoiser.words, "ifa", 1, ["nowhere"])


def test_the_tiny_recipe_learns_and_its_weights_go_on(tmp_path: Path) -> None:
    """From nothing to weights, and from those weights to Inter-Frame Attention alone."""
    path = REPOSITORY / "recipes" / "layer_animate" / "tiny.toml"
    less = ["train.steps=6", "train.validate_every=3", "frames=4", "sampling.steps=1", "data.held_out=1"]
    result = run(open_recipe(path, less), tmp_path / "run", device="cpu")
    assert result.model is not None
    losses = [json.loads(line)["figures"]["loss"] for line in (tmp_path / "run" / "validate.jsonl").open()]
    assert losses[-1] < losses[0]
    assert (tmp_path / "run" / "samples" / "step_000006.png").is_file()
    assert {path.name for path in result.model.iterdir()} >= {"config.json", "model.safetensors", "vocabulary.json"}
    card = (result.model / "README.md").read_text()
    assert "UNet, motion modules, Inter-Frame Attention and text encoder learned" in card
    then = prepared(recipe(model={"weights": str(result.model)}))
    held = then.room.opened.model.state_dict()
    for key, value in read_state(result.model).items():
        assert torch.equal(held[key], value.float())


def test_a_stopped_run_goes_on_as_if_it_had_not(weights: Path, tmp_path: Path) -> None:
    made = recipe(steps=2, model={"weights": str(weights)}, sampling={"clips": 0})
    run(made, tmp_path / "once", device="cpu")
    run(made, tmp_path / "twice", device="cpu", stop_after=1)
    run(made, tmp_path / "twice", device="cpu")
    once, twice = (read_state(tmp_path / name / "model") for name in ("once", "twice"))
    assert all(torch.equal(once[key], twice[key]) for key in once)


def test_weights_of_the_transparency_recipe_are_taken_over(tmp_path: Path) -> None:
    config = PRESETS["tiny"]
    model = build(config, generator_seed=5)
    parts = {
        key: value for key, value in model.state_dict().items() if key.split(".")[0] in ("vae", "encoder", "decoder")
    }
    document = config.__dict__ | {"scaling_factor": 3.0, "size": 24}
    save_pretrained(tmp_path / "pictures", method=TRANSPARENCY, config=document, state=parts, card="For a test.")
    made = recipe("all", model={"transparency": str(tmp_path / "pictures"), "widths": [8, 16]})
    assert training_side(made) == 24
    state = prepared(made)
    found = state.room.opened.model
    assert (found.config.scaling_factor, found.config.size) == (3.0, 24)
    assert tuple(found.unet.config["block_out_channels"]) == (8, 16)
    held = found.state_dict()
    assert all(torch.equal(held[key], value) for key, value in parts.items())
    assert state.room.measured.latents.shape[-1] == 3  # 24 pixels, f8
    with pytest.raises(WeightsError, match="no weights in"):
        prepared(recipe(model={"weights": str(tmp_path)}))


def test_of_published_components_only_inter_frame_attention_is_written(tmp_path: Path) -> None:
    """What is trained on Stable Diffusion and AnimateDiff is a small file and a list of the rest, ready for use."""
    published = publish(tmp_path / "files")
    made = recipe(
        steps=1,
        model={"weights": str(published.components(inter_frame_attention=None))},
        data={"size": [16, 16]},
        sampling={"clips": 0},
    )
    result = run(made, tmp_path / "run", device="cpu")
    assert result.model is not None
    assert {path.name for path in result.model.iterdir()} == {
        "components.toml",
        "inter_frame_attention.json",
        "inter_frame_attention.safetensors",
        "README.md",
    }
    opened = open_components(result.model / "components.toml", dtype=torch.float32)
    stored = read_state(result.model / "inter_frame_attention.safetensors")
    assert all(torch.equal(value, stored[key].float()) for key, value in ifa_state(opened.model.unet).items())
    assert any(bool(value.any()) for key, value in stored.items() if "to_out_ifa" in key)
    facts = json.loads((result.model / "inter_frame_attention.json").read_text())
    assert (facts["frames"], facts["base_index"], facts["offset_scale"]) == (4, 1, 1.0)
    with pytest.raises(ConfigError, match="cannot be trained on real checkpoints"):
        prepared(made.model_copy(update={"stage": "motion"}))


def test_the_vocabulary_is_that_of_the_clips() -> None:
    words = prepared(recipe("all")).room.opened.words
    assert isinstance(words, WordConditioner)
    assert words.unknown("a shape moving up and down, turning fast") == ("shape",)
    assert words.unknown("bouncing") == ("bouncing",)


def test_sets_of_a_folder_are_split_and_named(tmp_path: Path) -> None:
    from tests.layer_animate.test_clips import ball, store

    for name in ("a", "b", "c"):
        store(ball(), tmp_path / f"{name}.webp")
        (tmp_path / f"{name}.txt").write_text(f"ball {name}")
    sets = open_sets(recipe(data={"sets": [{"root": str(tmp_path)}], "held_out": 1}), (16, 16))
    assert not sets.learning
    assert sets.captions() == ["ball a", "ball b"]
    assert [source.texts() for source, _ in sets.measured] == [["ball c"]]
    only = open_sets(recipe(data={"sets": [{"root": str(tmp_path), "only": ["b"]}], "held_out": 1}), (16, 16))
    assert only.learning
    assert only.captions() == ["ball b"]
    frames, _ = only.train[0][0].cut(0, 0)
    assert tuple(frames.shape) == (4, 4, 16, 16)
    with pytest.raises(ConfigError, match="has no clip 'z'"):
        open_sets(recipe(data={"sets": [{"root": str(tmp_path), "only": ["z"]}]}), (16, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_index": 4}, "base_index must lie in 0..3, found 4"),
        ({"frames": 1}, "needs at least 2 frames"),
        ({"frames": 40}, "tell 32 frames apart, the recipe has 40"),
        ({"data": {"sets": []}}, "no clips to train on"),
        ({"data": {"sets": [{"motions": ["tumbling"]}]}}, "motion 'tumbling' is not known"),
    ],
)
def test_recipes_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(recipe(**changes))


def test_the_base_index_may_be_chosen(weights: Path) -> None:
    assert recipe(base_index=0).clean == 0
    assert recipe().clean == 1
    assert recipe("motion").clean is None
