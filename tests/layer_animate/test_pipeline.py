"""From a text and a picture to a clip, end to end with random weights."""

import json
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.layer_animate.published import publish
from torch import Tensor, nn

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.layer_animate import pipeline as module
from pellucid.layer_animate.model import LayerAnimate
from pellucid.layer_animate.pipeline import TransparentVideoPipeline
from pellucid.layer_animate.transparency.coding import OffsetCheck, RoundTrip
from pellucid.layer_animate.working_memory import WorkingMemory
from pellucid.layers import LayerStack


@pytest.fixture(scope="module")
def pipe() -> TransparentVideoPipeline:
    return TransparentVideoPipeline.random("tiny", device="cpu")


@pytest.fixture(scope="module")
def picture() -> Tensor:
    rgba = torch.rand(4, 32, 32, generator=torch.Generator().manual_seed(0))
    rgba[3, :8] = 0
    return rgba


def clip(pipe: TransparentVideoPipeline, prompt: str = "a red ball bouncing", **options: Any) -> LayerStack:
    return pipe(prompt, **({"frames": 5, "num_inference_steps": 2, "seed": 3} | options))


def pixels(stack: LayerStack) -> Tensor:
    return stack["foreground"].rgba


def test_a_clip_has_alpha_over_time_and_says_how_it_was_made(pipe: TransparentVideoPipeline, picture: Tensor) -> None:
    stack = pipe("a red ball", base_image=picture, num_inference_steps=2, seed=3)
    assert stack.names == ("foreground",)
    assert pixels(stack).shape == (16, 4, 32, 32)
    assert stack.fps == 8
    assert (stack.meta.method, stack.meta.weights, stack.meta.seed) == ("layer_animate", "random:tiny@0", 3)
    said = stack.meta.parameters
    assert (said["prompt"], said["steps"], said["base_index"], said["base"]) == ("a red ball", 2, 7, "given")
    assert said["random_weights"] is True
    json.dumps(dict(said))  # plain values: they go into files


def test_frame_m_is_the_given_picture_exactly(pipe: TransparentVideoPipeline, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    Image.fromarray(array, "RGBA").save(tmp_path / "glass.png")
    stack = clip(pipe, base_image=tmp_path / "glass.png", base_index=1)
    frame = (pixels(stack)[1] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    assert np.array_equal(frame, array)
    assert stack.meta.source == "glass.png"
    through = clip(pipe, base_image=tmp_path / "glass.png", base_index=1, keep_base_exact=False)
    assert not torch.equal(pixels(through)[1], pixels(stack)[1])
    assert torch.equal(pixels(through)[2], pixels(stack)[2])


def test_one_seed_is_one_clip_and_another_seed_another(pipe: TransparentVideoPipeline, picture: Tensor) -> None:
    first, again = (clip(pipe, base_image=picture) for _ in range(2))
    assert torch.equal(pixels(first), pixels(again))
    assert not torch.equal(pixels(first), pixels(clip(pipe, base_image=picture, seed=4)))


def test_a_drawn_seed_is_written_down(pipe: TransparentVideoPipeline) -> None:
    stack = clip(pipe, seed=None)
    assert stack.meta.seed is not None
    assert torch.equal(pixels(clip(pipe, seed=stack.meta.seed)), pixels(stack))


def test_without_a_picture_one_is_drawn_from_the_words(pipe: TransparentVideoPipeline) -> None:
    stack = clip(pipe)
    assert stack.meta.parameters["base"] == "drawn"
    assert stack.meta.parameters["keep_base_exact"] is False
    assert not torch.equal(pixels(stack)[2], pixels(clip(pipe, "a blue star"))[2])
    drawn, other = (pixels(clip(pipe, frames=1, seed=seed)) for seed in (3, 4))  # a clip of the picture alone
    assert not torch.equal(drawn, other)
    direct = clip(pipe, base_latent="direct")
    assert not torch.equal(pixels(direct), pixels(stack))


def test_the_words_and_the_negative_ones_count(pipe: TransparentVideoPipeline, picture: Tensor) -> None:
    plain = pixels(clip(pipe, base_image=picture))
    assert not torch.equal(pixels(clip(pipe, "a blue star", base_image=picture)), plain)
    assert not torch.equal(pixels(clip(pipe, base_image=picture, negative_prompt="a blue star")), plain)


@pytest.mark.parametrize("frames", [1, 2, 33])
def test_any_number_of_frames(pipe: TransparentVideoPipeline, picture: Tensor, frames: int) -> None:
    assert pixels(clip(pipe, base_image=picture, frames=frames)).shape[0] == frames


def test_any_size_from_8_pixels(pipe: TransparentVideoPipeline, picture: Tensor) -> None:
    for height, width in ((40, 27), (8, 9)):
        stack = clip(pipe, base_image=picture, frames=2, height=height, width=width, fit="stretch")
        assert pixels(stack).shape == (2, 4, height, width)
    drawn = clip(pipe, frames=2, height=40, width=27)
    assert pixels(drawn).shape == (2, 4, 40, 27)


def test_pingpong_goes_forward_and_back(pipe: TransparentVideoPipeline, picture: Tensor) -> None:
    there = pixels(clip(pipe, base_image=picture))
    back = pixels(clip(pipe, base_image=picture, loop="pingpong"))
    assert torch.equal(back, there[[0, 1, 2, 3, 4, 3, 2, 1]])


def test_draft_takes_eight_frames_and_six_steps(pipe: TransparentVideoPipeline, picture: Tensor) -> None:
    seen: list[tuple[int, int]] = []
    stack = pipe("a ball", base_image=picture, draft=True, seed=0, progress=lambda *done: seen.append(done))
    assert pixels(stack).shape[0] == 8
    assert seen == [(step, 6) for step in range(1, 7)]
    assert stack.meta.parameters["guidance"] == 1


def test_progress_counts_picture_and_clip_together(pipe: TransparentVideoPipeline) -> None:
    seen: list[tuple[int, int]] = []
    clip(pipe, progress=lambda *done: seen.append(done))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    seen.clear()
    clip(pipe, frames=1, progress=lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]


def test_low_memory_is_the_same_clip(pipe: TransparentVideoPipeline, picture: Tensor) -> None:
    plain, low = (pixels(clip(pipe, base_image=picture, low_memory=low)) for low in (False, True))
    assert torch.allclose(plain, low, atol=1e-4)


def test_the_other_ways_to_sample_run(pipe: TransparentVideoPipeline, picture: Tensor) -> None:
    plain = pixels(clip(pipe, base_image=picture))
    for options in (
        {"reference": "isolated"},
        {"scheduler": "dpm++"},
        {"similarity": 0.5},
        {"loop": "closed"},
        {"loop": "circular"},
        {"context_length": 3},
        {"tta": 2},
    ):
        found = pixels(clip(pipe, base_image=picture, **options))
        assert found.shape == plain.shape
        # Inter-Frame Attention is zero at its start, and a circular window of all frames is one window.
        assert not torch.equal(found, plain) or "reference" in options or "circular" in options.values(), options


def test_words_that_are_not_known_are_kept_with_the_clip(pipe: TransparentVideoPipeline, picture: Tensor) -> None:
    stack = clip(pipe, "a zyzzyx " + "red " * 2000, base_image=picture, frames=1)
    assert stack.meta.parameters["unknown"] == ["zyzzyx"]
    assert stack.meta.parameters["dropped"] == 2001 - 30


def test_an_empty_prompt_is_said(
    pipe: TransparentVideoPipeline, picture: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert pixels(clip(pipe, "", base_image=picture, frames=2)).shape[0] == 2
    assert "prompt is empty" in caplog.text


def test_random_weights_are_said(pipe: TransparentVideoPipeline, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        clip(pipe, frames=1)
    assert "random weights" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_inference_steps": 0}, "steps"),
        ({"frames": 0}, "at least 1 frame"),
        ({"base_index": 5}, "base index 5"),
        ({"base_index": -1}, "base index -1"),
        ({"height": 4}, "height must be at least 8"),
        ({"fps": 0}, "fps"),
        ({"fps": "eight"}, "fps"),
        ({"tta": 3}, "tta"),
        ({"base_latent": "kept"}, "base latent"),
        ({"fit": "fill"}, "fit"),
        ({"scheduler": "heun"}, "scheduler"),
        ({"reference_strength": 2}, "reference strength"),
        ({"frames": 40, "context_length": 40}, "motion modules that know 32"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    pipe: TransparentVideoPipeline, picture: Tensor, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        clip(pipe, base_image=picture, **options)


def test_pictures_that_show_nothing_are_refused(pipe: TransparentVideoPipeline) -> None:
    with pytest.raises(InputError, match="fully transparent"):
        clip(pipe, base_image=torch.zeros(4, 32, 32))
    with pytest.raises(InputError, match="1x1"):
        clip(pipe, base_image=torch.ones(4, 1, 1))


def test_fps_may_be_a_fraction(pipe: TransparentVideoPipeline, picture: Tensor) -> None:
    assert clip(pipe, base_image=picture, frames=1, fps=Fraction(24000, 1001)).fps == Fraction(24000, 1001)
    assert clip(pipe, base_image=picture, frames=1, fps=12.5).fps == Fraction(25, 2)


@pytest.fixture
def measured(tiny_model: LayerAnimate, pipe: TransparentVideoPipeline) -> TransparentVideoPipeline:
    """A pipeline that takes its weights for trained ones."""
    return TransparentVideoPipeline(tiny_model, pipe.conditioner, "trained", device="cpu")


def test_a_wrong_offset_scale_is_said_with_the_error_measured(
    measured: TransparentVideoPipeline,
    picture: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[float] = []

    def round_trip(rgba: Tensor, *parts: Any) -> RoundTrip:
        asked.append(parts[-1])
        return RoundTrip(0.25, 0.1)

    def check(rgba: Tensor, *parts: Any) -> OffsetCheck:
        logging.getLogger("pellucid").warning("offset scale %g does not fit: %.3f", parts[-1], 0.25)
        return OffsetCheck(parts[-1], 0.25, 300, 0.01)

    monkeypatch.setattr(module, "round_trip_error", round_trip)
    monkeypatch.setattr(module, "check_offset_scale", check)
    with caplog.at_level(logging.WARNING):
        clip(measured, base_image=picture, frames=1)
        clip(measured, base_image=picture, frames=1)
    assert asked == [1.0]  # once for a pipeline
    assert caplog.text.count("does not fit: 0.250") == 1


def test_alpha_that_does_not_survive_is_said(
    measured: TransparentVideoPipeline, picture: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        clip(measured, base_image=torch.cat([picture[:3], torch.ones(1, 32, 32)]), frames=1)
        assert "alpha of the base picture" not in caplog.text  # an opaque one tells nothing
        clip(measured, base_image=picture, frames=1)
    assert "alpha of the base picture changes by" in caplog.text or "offset scale" in caplog.text


def test_weights_come_back_from_their_folder(pipe: TransparentVideoPipeline, picture: Tensor, tmp_path: Path) -> None:
    folder = pipe.save_pretrained(tmp_path / "weights", card="# A card\n")
    loaded = TransparentVideoPipeline.from_pretrained(folder, device="cpu")
    assert loaded.config == pipe.config
    assert loaded.weights.startswith("layer_animate/weights@")
    assert not loaded.random_weights
    assert torch.equal(pixels(clip(loaded, base_image=picture)), pixels(clip(pipe, base_image=picture)))


def test_weights_that_are_not_whole_are_refused(
    pipe: TransparentVideoPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = pipe.save_pretrained(tmp_path / "weights", card="# A card\n")
    state = load_file(folder / "model.safetensors")
    without = {key: value for key, value in state.items() if "_ifa." not in key}
    save_file(without, folder / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        TransparentVideoPipeline.from_pretrained(folder, device="cpu")
    assert "no Inter-Frame Attention" in caplog.text
    without.pop("unet.conv_in.weight")
    save_file(without, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"unet\.conv_in\.weight"):
        TransparentVideoPipeline.from_pretrained(folder, device="cpu")
    (folder / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(WeightsError, match="damaged"):
        TransparentVideoPipeline.from_pretrained(folder, device="cpu")
    save_file(state, folder / "model.safetensors")
    (folder / "vocabulary.json").unlink()
    with pytest.raises(WeightsError, match="vocabulary"):
        TransparentVideoPipeline.from_pretrained(folder, device="cpu")


def test_random_weights_are_had_by_name() -> None:
    assert TransparentVideoPipeline.from_pretrained("random:tiny", device="cpu").random_weights
    with pytest.raises(ConfigError, match="random:tiny, random:small"):
        TransparentVideoPipeline.from_pretrained("random:huge")


def test_without_weights_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bundled", lambda room: [])
    with pytest.raises(WeightsError, match="ship") as caught:
        TransparentVideoPipeline.from_pretrained()
    assert "--model" in caught.value.hint


def test_published_components_make_clips_and_are_not_saved_again(picture: Tensor, tmp_path: Path) -> None:
    files = publish(tmp_path)
    published = TransparentVideoPipeline.from_pretrained(files.components(), device="cpu", offline=True)
    assert pixels(clip(published, "ab", base_image=picture, height=32, width=32)).shape == (5, 4, 32, 32)
    assert pixels(clip(published, "ab", height=32, width=32, frames=2)).shape[0] == 2
    with pytest.raises(ConfigError, match="not saved again"):
        published.save_pretrained(tmp_path / "out", card="# A card\n")


def test_networks_take_turns_where_memory_is_short(tiny_model: LayerAnimate, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {part: name for name, part in tiny_model.named_children()}
    places: dict[str, tuple[Any, ...]] = {}

    def moved(part: nn.Module, *where: Any) -> nn.Module:
        before = places.get(names[part], ())
        places[names[part]] = (str(where[0]), *(where[1:] or before[1:]))
        return part

    monkeypatch.setattr(nn.Module, "to", moved)
    memory = WorkingMemory(tiny_model, torch.device("cuda"), torch.bfloat16)
    memory.move_in()
    pixel, words = ("cuda", torch.float32), ("cuda", torch.bfloat16)
    everything = {"vae": pixel, "encoder": pixel, "decoder": pixel, "text": words, "unet": words}
    assert places == everything
    with memory.low():
        assert {place for place, _ in places.values()} == {"cpu"}
        assert places["vae"] == ("cpu", torch.float16)
        with memory.at_work(tiny_model.unet):
            assert {name for name, (place, _) in places.items() if place == "cuda"} == {"unet"}
        assert {place for place, _ in places.values()} == {"cpu"}
    assert places == everything
