"""Solvers: where they begin, that they find a clean picture, and what is refused."""

import pytest
import torch

from pellucid.errors import ConfigError
from pellucid.layer_animate.sampling.schedules import PICTURE_BETAS, SOLVERS, make_scheduler, signal_and_noise


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 6, 25, 100])
def test_a_perfect_network_is_led_to_the_picture(name: str, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 4, 3, 2, 2, generator=generator)
    scheduler = make_scheduler(name, steps=steps)
    assert len(scheduler.timesteps) == steps
    latents = torch.randn(clean.shape, generator=generator) * float(scheduler.init_noise_sigma)
    for timestep in scheduler.timesteps:
        seen = scheduler.scale_model_input(latents, timestep)
        a, s = signal_and_noise(scheduler, timestep)
        latents = scheduler.step((seen - a * clean) / s, timestep, latents).prev_sample
    # DDIM ends one timestep before the clean picture, as AnimateDiff's does, with a trace of noise in it.
    assert (latents - clean).abs().max() < 0.15


@pytest.mark.parametrize("name", SOLVERS)
def test_few_steps_begin_where_there_is_noise_only(name: str) -> None:
    scheduler = make_scheduler(name, steps=6)
    assert int(scheduler.timesteps[0]) == 999
    assert all(float(timestep) == int(timestep) < 1000 for timestep in scheduler.timesteps)


def test_ddim_has_the_timesteps_of_animatediff() -> None:
    assert make_scheduler("ddim", steps=25).timesteps[:3].tolist() == [961, 921, 881]


def test_schedules_with_and_without_motion_differ() -> None:
    timestep = torch.tensor(500)
    motion = signal_and_noise(make_scheduler("ddim"), timestep)
    picture = signal_and_noise(make_scheduler("ddim", PICTURE_BETAS), timestep)
    assert motion[0] < picture[0]
    # The product of 1 - beta over 501 betas, linear from 0.00085 to 0.012 in 1000.
    betas = torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)[:501]
    assert motion[0] ** 2 == pytest.approx(float((1 - betas).prod()), rel=1e-5)


@pytest.mark.parametrize("steps", [0, -1, 101])
def test_steps_that_make_no_sense_are_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"found {steps}"):
        make_scheduler("ddim", steps=steps)


def test_unknown_names_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"'pndm'.*euler-a"):
        make_scheduler("pndm")
    with pytest.raises(ConfigError, match="'cosine'"):
        make_scheduler("ddim", ("cosine", 0.1, 0.2))
