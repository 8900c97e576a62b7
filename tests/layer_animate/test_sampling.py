"""Sampling: the base frame stays clean, one seed is one clip, and every way of saving work gives the same clip."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError
from pellucid.layer_animate.model import LayerAnimate, build, preset
from pellucid.layer_animate.sampling.loops import seam
from pellucid.layer_animate.sampling.sampler import Sampling, sample_clip, sample_picture
from pellucid.layer_animate.sampling.schedules import SOLVERS, make_scheduler, signal_and_noise

QUICK = Sampling(steps=2, guidance=2.0)


@pytest.fixture(scope="module")
def model() -> LayerAnimate:
    """Random weights, with Inter-Frame Attention that does something."""
    made = build(preset("tiny"), generator_seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in made.unet.named_parameters():
            if "to_out_ifa" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return made


def _given(clips: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    draw = [torch.randn(clips, *shape, generator=generator) for shape in ((4, 4, 4), (5, 16), (5, 16))]
    return draw[0], draw[1], draw[2]


def _clip(
    model: LayerAnimate, sampling: Sampling = QUICK, frames: int = 5, seed: Any = 7, clips: int = 1, **kwargs: Any
) -> Tensor:
    return sample_clip(model.unet, model.context, *_given(clips), frames, sampling, seed, **kwargs)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-3 * float(b.abs().max()))


@pytest.mark.parametrize("scheduler", SOLVERS)
@pytest.mark.parametrize("reference", ["parallel", "isolated"])
def test_the_base_frame_is_clean_after_every_step(model: LayerAnimate, scheduler: str, reference: Any) -> None:
    seen: list[Tensor] = []
    done: list[tuple[int, int]] = []
    sampling = replace(QUICK, scheduler=scheduler, reference=reference, base_index=1)
    clip = _clip(
        model,
        sampling,
        on_step=lambda _, latents: seen.append(latents),
        progress=lambda step, steps: done.append((step, steps)),
    )
    base = _given()[0]
    assert len(seen) == 2
    assert all(torch.equal(latents[:, :, 1], base) for latents in [*seen, clip])
    assert not torch.equal(seen[0][:, :, 0], seen[1][:, :, 0])
    assert done == [(1, 2), (2, 2)]


@pytest.mark.parametrize("scheduler", SOLVERS)
def test_the_network_sees_the_base_frame_unscaled(model: LayerAnimate, scheduler: str) -> None:
    inputs: list[Tensor] = []
    handle = model.unet.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        _clip(model, replace(QUICK, scheduler=scheduler))
    finally:
        handle.remove()
    base = _given()[0]
    for latents in inputs:
        assert latents.shape == (2, 4, 5, 4, 4)
        assert torch.equal(latents[:, :, 2], base.expand(2, -1, -1, -1))
    assert 0.5 < float(inputs[0][:, :, 0].std()) < 2  # noise, brought to unit variance


@pytest.mark.parametrize("scheduler", SOLVERS)
def test_one_seed_is_one_clip(model: LayerAnimate, scheduler: str) -> None:
    sampling = replace(QUICK, scheduler=scheduler)
    state = torch.random.get_rng_state()
    first = _clip(model, sampling)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(_clip(model, sampling), first)
    assert not _close(_clip(model, sampling, seed=8), first)
    assert torch.equal(_clip(model, sampling, seed=torch.Generator().manual_seed(7)), first)


@pytest.mark.parametrize("scheduler", SOLVERS)
def test_a_clip_in_a_batch_is_the_clip_alone(model: LayerAnimate, scheduler: str) -> None:
    sampling = replace(QUICK, scheduler=scheduler)
    both = _clip(model, sampling, clips=2)
    base, text, null = (part[1:] for part in _given(2))
    alone = sample_clip(model.unet, model.context, base, text, null, 5, sampling, 8)
    assert _close(both[1:], alone)
    assert _close(_clip(model, sampling, clips=2, seed=[3, 8])[1:], alone)
    with pytest.raises(ConfigError, match="2 clips need as many seeds, found 3"):
        _clip(model, sampling, clips=2, seed=[1, 2, 3])


@pytest.mark.parametrize("reference", ["parallel", "isolated"])
@pytest.mark.parametrize(
    "saving",
    [{"guidance_branches": "apart"}, {"chunk": 2}, {"query_chunk": 2}, {"chunk": 3, "guidance_branches": "apart"}],
)
def test_saving_memory_gives_the_same_clip(model: LayerAnimate, reference: Any, saving: dict[str, Any]) -> None:
    sampling = replace(QUICK, reference=reference)
    assert _close(_clip(model, replace(sampling, **saving)), _clip(model, sampling))


def test_guidance_is_the_mixture_of_both_branches(model: LayerAnimate) -> None:
    base, text, null = _given()
    one_step = Sampling(steps=1, guidance=3.0)

    def run(sampling: Sampling, with_text: Tensor) -> Tensor:
        return sample_clip(model.unet, model.context, base, with_text, null, 5, sampling, 7)

    # With one step of DDIM the clip is linear in the predicted noise.
    with_text, without = run(replace(one_step, guidance=1.0), text), run(replace(one_step, guidance=1.0), null)
    assert _close(run(one_step, text), without + 3 * (with_text - without))
    assert not _close(with_text, without)


@pytest.mark.parametrize("chunk", [0, 2])
def test_one_step_by_hand(model: LayerAnimate, chunk: int) -> None:
    """Every frame refers to frame 3, which is clean, with the strength that was asked for."""
    base, text, null = _given()
    sampling = Sampling(steps=1, guidance=1.0, base_index=3, reference_strength=0.5, chunk=chunk)
    clip = sample_clip(model.unet, model.context, base, text, null, 5, sampling, 7)
    latents = torch.randn(4, 5, 4, 4, generator=torch.Generator().manual_seed(7))[None]
    latents[:, :, 3] = base
    scheduler = make_scheduler("ddim", steps=1)
    with torch.no_grad(), model.context.changed(num_frames=5, base_index=3, scale=0.5):
        noise = model.unet(latents, scheduler.timesteps[0], text.expand(5, -1, -1), return_dict=False)[0]
    expected = scheduler.step(noise, scheduler.timesteps[0], latents).prev_sample
    expected[:, :, 3] = base
    assert _close(clip, expected)


def test_the_network_is_left_as_it_was(model: LayerAnimate) -> None:
    before = {name: getattr(model.context, name) for name in model.context.__dataclass_fields__}
    forwards = [module for module in model.unet.modules() if "forward" in module.__dict__]

    def broken(*_: Any) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        _clip(model, replace(QUICK, reference="isolated", chunk=2, loop="circular"), on_step=broken)
    assert {name: getattr(model.context, name) for name in model.context.__dataclass_fields__} == before
    assert [module for module in model.unet.modules() if "forward" in module.__dict__] == forwards


def test_reference_strength_zero_is_without_the_attention(model: LayerAnimate) -> None:
    off = _clip(model, replace(QUICK, reference_strength=0.0))
    with model.context.changed(enabled=False):
        assert torch.equal(_clip(model), off)
    strengths = [_clip(model, replace(QUICK, reference_strength=value)) for value in (0.5, 1.0)]
    assert not _close(strengths[0], off)
    assert not _close(strengths[1], strengths[0])


def test_isolated_runs_the_base_frame_once_and_leaves_it_out(model: LayerAnimate) -> None:
    shapes: list[tuple[int, ...]] = []
    times: list[int] = []

    def note(_: Any, arguments: tuple[Any, ...]) -> None:
        shapes.append(tuple(arguments[0].shape))
        times.append(int(arguments[1]))

    handle = model.unet.register_forward_pre_hook(note)
    try:
        isolated = _clip(model, replace(QUICK, reference="isolated"))
    finally:
        handle.remove()
    assert shapes == [(2, 4, 1, 4, 4)] + [(2, 4, 4, 4, 4)] * 2
    assert times[0] == 0
    assert not _close(isolated, _clip(model))
    # The reference is what makes the difference to a clip without it, in this mode too.
    assert not _close(_clip(model, replace(QUICK, reference="isolated", reference_strength=0.0)), isolated)


@pytest.mark.parametrize("frames", [1, 2, 33])
@pytest.mark.parametrize("loop", ["none", "closed", "circular"])
@pytest.mark.parametrize("reference", ["parallel", "isolated"])
def test_any_number_of_frames(model: LayerAnimate, frames: int, loop: str, reference: Any) -> None:
    sampling = Sampling(steps=1, guidance=1.0, loop=loop, reference=reference)
    clip = _clip(model, sampling, frames=frames)
    assert clip.shape == (1, 4, frames, 4, 4)
    assert clip.isfinite().all()
    assert torch.equal(clip[:, :, (frames - 1) // 2], _given()[0])


class _Drift:
    """The best network for clips that drift steadily, each frame off by some chance: the mean of what may be there."""

    def __init__(self, sure: float) -> None:
        self.sure = sure

    def __call__(self, sample: Tensor, timestep: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        a, s = signal_and_noise(make_scheduler("ddim"), timestep)
        drift = torch.arange(sample.shape[2]).sub(7).mul(0.5).reshape(1, 1, -1, 1, 1)
        spread = 1 / self.sure
        clean = drift + a * spread**2 / (a**2 * spread**2 + s**2) * (sample - a * drift)
        return ((sample - a * clean) / s,)


@pytest.mark.parametrize("scheduler", SOLVERS)
@pytest.mark.parametrize("sure", [1.0, 5.0])
def test_a_closed_loop_closes(
    model: LayerAnimate, monkeypatch: pytest.MonkeyPatch, scheduler: str, sure: float
) -> None:
    monkeypatch.setattr(model.unet, "forward", _Drift(sure))
    seams: dict[str, list[float]] = {}
    for loop in ("none", "closed"):
        found: list[float] = []
        seams[loop] = found
        sampling = Sampling(steps=20, guidance=1.0, scheduler=scheduler, loop=loop)
        _clip(model, sampling, 16, on_step=lambda _, latents, found=found: found.append(seam(latents[0].movedim(1, 0))))
    assert seams["none"][-1] > 4 > 1.5 >= seams["closed"][-1], seams
    assert seams["closed"][15] < 0.6 * seams["none"][15]  # before the last steps, in which a network cleans up


def test_a_circular_loop_has_no_first_frame(model: LayerAnimate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a fixed frame, noise that begins elsewhere gives the clip that begins elsewhere."""
    sampling = replace(QUICK, loop="circular", pinned=False, context_length=8, context_stride=1)
    first = _clip(model, sampling, frames=10)
    draw: Callable[..., Tensor] = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *args, **kwargs: draw(*args, **kwargs).roll(4, 1))
    turned = _clip(model, sampling, frames=10)
    assert _close(turned, first.roll(4, 2))
    assert not _close(_clip(model, replace(sampling, loop="none"), frames=10), first)


def test_similarity_starts_from_the_base_picture(model: LayerAnimate) -> None:
    inputs: list[Tensor] = []
    handle = model.unet.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        for similarity in (None, 0.0, 1.0):
            _clip(model, Sampling(steps=1, guidance=1.0, similarity=similarity), frames=9)
    finally:
        handle.remove()
    noise, none, full = inputs
    assert torch.allclose(none, noise, atol=0.01)
    leak = (full - none)[:, :, 0]
    assert torch.allclose(leak, _given()[0] * float(leak.flatten()[0] / _given()[0].flatten()[0]), atol=1e-5)
    assert leak.abs().max() > 0.01


def test_unpinned_is_text_to_clip(model: LayerAnimate) -> None:
    clip = _clip(model, replace(QUICK, pinned=False))
    assert not _close(clip[:, :, 2], _given()[0])
    assert clip.shape == (1, 4, 5, 4, 4)


def test_a_picture_knows_no_motion_and_no_reference(model: LayerAnimate) -> None:
    _, text, null = _given()
    picture = sample_picture(model.unet, model.context, (1, 4, 4, 6), text, null, QUICK, 3)
    assert picture.shape == (1, 4, 4, 6)
    strong = replace(QUICK, reference_strength=0.3, base_index=9, reference="isolated", loop="closed")
    assert torch.equal(sample_picture(model.unet, model.context, (1, 4, 4, 6), text, null, strong, 3), picture)
    linear = sample_picture(
        model.unet, model.context, (1, 4, 4, 6), text, null, QUICK, 3, betas=("linear", 0.00085, 0.012)
    )
    assert not torch.equal(linear, picture)


def test_draft_is_quick() -> None:
    draft = Sampling(scheduler="dpm++").draft()
    assert (draft.steps, draft.guidance, draft.scheduler) == (6, 1.0, "dpm++")


def test_another_base_index_than_the_trained_one_is_said(model: LayerAnimate, caplog: pytest.LogCaptureFixture) -> None:
    assert Sampling().frame_of_base(16) == 7
    one_step = Sampling(steps=1, guidance=1.0)
    with caplog.at_level(logging.WARNING):
        _clip(model, one_step)
        _clip(model, replace(one_step, base_index=2))
        assert not caplog.records
        _clip(model, replace(one_step, base_index=0))
    assert "frame 0 of 5" in caplog.text
    assert "the middle one, 2" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be from 1 to 100, found 0"),
        ({"guidance": -1.0}, "guidance must be from 0"),
        ({"reference_strength": 2.0}, "reference strength must be from 0 to 1.5, found 2"),
        ({"similarity": 1.5}, "similarity must be from 0 to 1"),
        ({"loop": "round"}, "loop 'round' is not known"),
        ({"reference": "serial"}, "reference 'serial'"),
        ({"scheduler": "pndm"}, "scheduler 'pndm'"),
        ({"context_length": 4, "context_stride": 8}, "context_stride from 1 to it"),
        ({"chunk": -1}, "chunk"),
        ({"closed_frames": 0}, "closed_frames"),
        ({"reference": "isolated", "pinned": False}, "needs a base frame"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**values)


@pytest.mark.parametrize(
    ("values", "frames", "message"),
    [
        ({"base_index": 5}, 5, "base index 5 is not one of the 5 frames.*0 to 4"),
        ({"base_index": -1}, 5, "base index -1"),
        ({}, 0, "at least 1 frame, found 0"),
        ({"context_length": 64}, 33, "33 frames at once.*know 32.*context_length 32"),
        ({"context_length": 40, "loop": "circular"}, 44, "40 frames at once.*know 32"),
    ],
)
def test_clips_that_do_not_fit_are_refused(
    model: LayerAnimate, values: dict[str, Any], frames: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _clip(model, replace(QUICK, **values), frames=frames)
