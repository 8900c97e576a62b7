"""Learning-rate schedules as free functions: a factor on every optimiser's own base rate."""

import math
from typing import Literal


def progress(step: int, steps: int, elapsed: float = 0.0, budget: float | None = None) -> float:
    """How far a run is, in [0, 1], by steps or by time, whichever is further.

    Args:
        step: optimiser steps done.
        steps: optimiser steps of the whole run.
        elapsed: seconds spent, over all resumed parts.
        budget: seconds allowed; None for no limit.
    """
    by_time = elapsed / budget if budget else 0.0
    return min(1.0, max(step / steps, by_time))


def warmup_factor(step: int, warmup: int) -> float:
    """Rise linearly to 1 over the first ``warmup`` steps; the first step is not 0, it would be wasted."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def cosine_factor(done: float) -> float:
    """Fall from 1 to 0 along half a cosine while ``done`` goes from 0 to 1."""
    return 0.5 * (1.0 + math.cos(math.pi * done))


def lr_factor(
    schedule: Literal["constant", "cosine"],
    step: int,
    steps: int,
    *,
    warmup: int = 0,
    elapsed: float = 0.0,
    budget: float | None = None,
) -> float:
    """Factor on the base learning rate of the step with this 0-based index; see the functions above for the terms."""
    fall = cosine_factor(progress(step, steps, elapsed, budget)) if schedule == "cosine" else 1.0
    return warmup_factor(step, warmup) * fall
