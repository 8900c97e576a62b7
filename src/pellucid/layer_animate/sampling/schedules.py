"""Noise schedules and the solvers that walk down them: DDIM, DPM++ 2M and Euler-a, all of diffusers.

AnimateDiff's motion modules were trained on the ``linear`` schedule, Stable Diffusion and LayerDiffuse on
``scaled_linear``; take the first with motion, the second for single pictures.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, cast, get_args

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from torch import Tensor

from pellucid.errors import ConfigError

Solver = Literal["ddim", "dpm++", "euler-a"]
Betas = tuple[str, float, float]

SOLVERS: tuple[str, ...] = get_args(Solver)
MOTION_BETAS: Betas = ("linear", 0.00085, 0.012)
PICTURE_BETAS: Betas = ("scaled_linear", 0.00085, 0.012)
TRAINED_STEPS = 1000
MOST_STEPS = 100

# Fewer DDIM steps than this would begin far below the noise that they are given: 6 steps "leading" begin at t = 831.
_FEW = 20


class Scheduler(Protocol):
    """What the sampling loop uses of diffusers' solvers."""

    timesteps: Tensor
    alphas_cumprod: Tensor
    init_noise_sigma: Any

    def set_timesteps(self, num_inference_steps: int) -> None: ...
    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor: ...
    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Any) -> Tensor: ...
    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any: ...


def make_scheduler(name: str = "ddim", betas: Betas = MOTION_BETAS, steps: int = 25) -> Scheduler:
    """Make a solver that is ready for ``steps`` steps.

    Args:
        name: ``ddim`` as AnimateDiff runs it (``leading`` timesteps, offset 1), but below 20 steps from the very last
            timestep on, like the others; ``dpm++``, the second-order multistep solver; ``euler-a``, which adds fresh
            noise in every step.
        betas: name of the schedule, first and last beta, over 1000 steps.
        steps: how many times the network runs, 1 to 100. The timesteps are in the solver's ``timesteps``, highest
            first, all whole numbers below 1000.

    Raises:
        ConfigError: solver or schedule is not known, or so many steps make no sense.
    """
    scheduler = cast(Scheduler, _scheduler(name, betas, "leading" if steps >= _FEW else "trailing"))
    if not 1 <= steps <= MOST_STEPS:
        raise ConfigError(f"steps must be from 1 to {MOST_STEPS}, found {steps}", "25 is usual, 12 is quick")
    scheduler.set_timesteps(steps)
    return scheduler


def _scheduler(name: str, betas: Betas, ddim_spacing: Literal["leading", "trailing"]) -> object:
    schedule, first, last = betas
    if schedule not in ("linear", "scaled_linear"):
        raise ConfigError(f"noise schedule {schedule!r} is not known", "use linear or scaled_linear")
    if name == "ddim":
        return DDIMScheduler(
            TRAINED_STEPS,
            first,
            last,
            schedule,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            timestep_spacing=ddim_spacing,
        )
    if name == "dpm++":
        return DPMSolverMultistepScheduler(
            TRAINED_STEPS, first, last, schedule, algorithm_type="dpmsolver++", timestep_spacing="trailing"
        )
    if name == "euler-a":
        return EulerAncestralDiscreteScheduler(TRAINED_STEPS, first, last, schedule, timestep_spacing="trailing")
    raise ConfigError(f"scheduler {name!r} is not known", f"use one of {', '.join(SOLVERS)}")


def signal_and_noise(scheduler: Scheduler, timestep: Tensor) -> tuple[float, float]:
    """Factors of picture and noise in what the network sees at a timestep: ``input = a * x_0 + s * eps``.

    The same for all solvers: Euler-a's own latents are larger, but `scale_model_input` brings them here.
    """
    signal = float(scheduler.alphas_cumprod[int(timestep)])
    return signal**0.5, (1.0 - signal) ** 0.5
