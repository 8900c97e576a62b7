"""Stage 2, from a base picture to a clip: noise becomes frames while the base frame stays as it is (Sec. III-B).

In every step frame m is put in clean and unscaled, both branches of classifier-free guidance see it, and the solver
steps the other frames only. diffusers' own pipeline cannot do that: its callback comes after the step, and a solver
with a history would remember frame m as noise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from torch import Tensor

from pellucid.device import cpu_generator
from pellucid.errors import ConfigError
from pellucid.layer_animate.attention.processor import FrameContext
from pellucid.layer_animate.model import middle, motion_off
from pellucid.layer_animate.sampling.frame_chunks import frame_chunks
from pellucid.layer_animate.sampling.loops import LOOPS, Fade
from pellucid.layer_animate.sampling.schedules import (
    MOTION_BETAS,
    PICTURE_BETAS,
    Betas,
    Scheduler,
    make_scheduler,
    signal_and_noise,
)
from pellucid.layer_animate.sampling.windows import check_length, motion_windows, plan_windows

log = logging.getLogger(__name__)

DRAFT_FRAMES = 8
OnStep = Callable[[int, Tensor], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sampling:
    """How a clip is sampled.

    Attributes:
        steps: how many times the network denoises, 1 to 100.
        guidance: g of ``e_u + g (e_c - e_u)``; 1 runs without the unconditional branch, in half the time.
        scheduler: ``ddim``, ``dpm++`` or ``euler-a``.
        betas: the noise schedule that the motion modules were trained on.
        base_index: m, zero-based; None is the middle, (F - 1) // 2, which was trained.
        reference_strength: lambda, 0 to 1.5: 0 is without Inter-Frame Attention, 1 as trained.
        similarity: 0 to 1, how much of the base picture is in the noise that the clip starts from; more of it is
            steadier and moves less. None starts from noise alone.
        reference: ``parallel`` is the paper's: K^m and V^m anew in each step. ``isolated`` runs the base frame once, at
            t = 0 and without motion, and leaves it out of the steps: faster, but not how the networks were trained.
        loop: ``closed`` fades the clip's ends into one another, ``circular`` lets the windows of the motion modules go
            round; ``pingpong`` changes nothing here, see `loops.play_order`.
        closed_frames: k, how many frames ``closed`` changes; None is a quarter of the clip.
        context_length: frames that motion modules see at once; longer clips are windowed. 16 is AnimateDiff's.
        context_stride: frames from one window to the next.
        guidance_branches: ``together`` in one batch, or ``apart``, one after the other, in half the memory.
        chunk: frames that spatial layers treat at once, to save memory; 0 is all.
        query_chunk: frames whose queries to the base frame are answered at once; 0 is all.
        pinned: False samples frame m like the others, from text alone.

    Raises:
        ConfigError: a value is out of its range.
    """

    steps: int = 25
    guidance: float = 7.5
    scheduler: str = "ddim"
    betas: Betas = MOTION_BETAS
    base_index: int | None = None
    reference_strength: float = 1.0
    similarity: float | None = None
    reference: Literal["parallel", "isolated"] = "parallel"
    loop: str = "none"
    closed_frames: int | None = None
    context_length: int = 16
    context_stride: int = 4
    guidance_branches: Literal["together", "apart"] = "together"
    chunk: int = 0
    query_chunk: int = 0
    pinned: bool = True

    def __post_init__(self) -> None:
        make_scheduler(self.scheduler, self.betas, self.steps)
        _within("guidance", self.guidance, 0.0, 100.0)
        _within("reference strength", self.reference_strength, 0.0, 1.5)
        if self.similarity is not None:
            _within("similarity", self.similarity, 0.0, 1.0)
        for name, value, known in (
            ("reference", self.reference, ("parallel", "isolated")),
            ("loop", self.loop, LOOPS),
            ("guidance_branches", self.guidance_branches, ("together", "apart")),
        ):
            if value not in known:
                raise ConfigError(f"{name} {value!r} is not known", f"use one of {', '.join(known)}")
        if min(self.chunk, self.query_chunk) < 0 or (self.closed_frames is not None and self.closed_frames < 1):
            raise ConfigError("chunk and query_chunk must be 0 or more, closed_frames 1 or more")
        if self.context_length < 1 or not 1 <= self.context_stride <= self.context_length:
            raise ConfigError(
                f"windows need a context_length of at least 1 and a context_stride from 1 to it, found "
                f"{self.context_length} and {self.context_stride}"
            )
        if self.reference == "isolated" and not self.pinned:
            raise ConfigError("the isolated reference needs a base frame, but none is pinned")

    def draft(self) -> Sampling:
        """The quick look: six steps and no unconditional branch. Ask for `DRAFT_FRAMES` frames with it."""
        return replace(self, steps=6, guidance=1.0)

    def frame_of_base(self, frames: int) -> int:
        """m for a clip of ``frames`` frames.

        Raises:
            ConfigError: there are no frames, or m is not one of them.
        """
        if frames < 1:
            raise ConfigError(f"a clip needs at least 1 frame, found {frames}")
        if self.base_index is None:
            return middle(frames)
        if not 0 <= self.base_index < frames:
            raise ConfigError(
                f"base index {self.base_index} is not one of the {frames} frames",
                f"use 0 to {frames - 1}; {middle(frames)} is the middle",
            )
        return self.base_index


@torch.no_grad()
def sample_clip(
    unet: UNetMotionModel,
    context: FrameContext,
    z_base: Tensor,
    text: Tensor,
    null: Tensor,
    frames: int,
    sampling: Sampling | None = None,
    seed: int | Sequence[int] | torch.Generator | None = None,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Sample clips around base pictures.

    Args:
        unet: the network; its state is as before when this is through.
        context: what its attention processors share.
        z_base: (B, C, h, w), base pictures as model latents.
        text: (B, L, D), what the clips show.
        null: (B, L, D), the empty or the negative prompt; not looked at without guidance.
        frames: F, 1 or more.
        sampling: how; None for the defaults.
        seed: of the noise, drawn on the CPU, so that it is the same on every device. A number serves the first clip,
            the next number the second one, and so on; or one number per clip, or a generator for all.
        progress: called with (steps done, steps).
        on_step: called with (step, latents (B, C, F, h, w)) after each step; frame m is the base picture there too.

    Returns:
        (B, C, F, h, w), float32 model latents; frame m is ``z_base``.

    Raises:
        ConfigError: F, m and the windows do not go together, or the motion modules know too few frames.
    """
    sampling = sampling or Sampling()
    base = sampling.frame_of_base(frames)
    z_base = z_base.float()
    noise = _noise(z_base, frames, seed)
    pinned = base if sampling.pinned else None
    if pinned not in (None, middle(frames)):
        log.warning(
            "the base picture is frame %d of %d; as a rule networks are trained with the middle one, %d",
            pinned,
            frames,
            middle(frames),
        )
    if pinned is not None and frames == 1:
        return z_base[:, :, None].clone()
    fade = Fade.closing(frames, pinned, sampling.closed_frames) if sampling.loop == "closed" else None
    if fade is not None:
        noise.values = fade.noise(noise.values)
    runner = _Runner(unet, context, z_base, text, null, frames, pinned, sampling)
    others = [frame for frame in range(frames) if frame != pinned]
    with runner.prepared(motion=True):
        found = _denoise(runner, noise, others, fade, progress, on_step)
    return runner.whole(found)


@torch.no_grad()
def sample_picture(
    unet: UNetMotionModel,
    context: FrameContext,
    shape: tuple[int, int, int, int],
    text: Tensor,
    null: Tensor,
    sampling: Sampling | None = None,
    seed: int | Sequence[int] | torch.Generator | None = None,
    progress: Progress | None = None,
    betas: Betas = PICTURE_BETAS,
) -> Tensor:
    """Sample single pictures with the same network, motion modules and Inter-Frame Attention off (stage 1).

    Args:
        unet: the network.
        context: what its attention processors share.
        shape: (B, C, h, w) of the latents.
        text: (B, L, D).
        null: (B, L, D).
        sampling: steps, guidance, scheduler, branches and chunks are taken from it.
        seed: as in `sample_clip`.
        progress: called with (steps done, steps).
        betas: the noise schedule of single pictures, not the one of ``sampling``.

    Returns:
        (B, C, h, w), float32 model latents.
    """
    sampling = replace(
        sampling or Sampling(), betas=betas, pinned=False, base_index=None, reference="parallel", loop="none"
    )
    empty = torch.zeros(shape, device=next(unet.parameters()).device)
    noise = _noise(empty, 1, seed)
    runner = _Runner(unet, context, empty, text, null, 1, None, sampling)
    with runner.prepared(motion=False):
        return _denoise(runner, noise, [0], None, progress, None)[:, :, 0]


@dataclass
class _Noise:
    """What the clip starts from, (B, C, F, h, w), and who draws more of it, one per clip or one for all."""

    values: Tensor
    generators: list[torch.Generator]


def _noise(like: Tensor, frames: int, seed: int | Sequence[int] | torch.Generator | None) -> _Noise:
    clips, channels, height, width = like.shape
    shape = (channels, frames, height, width)
    if isinstance(seed, torch.Generator):
        drawn = torch.randn((clips, *shape), generator=seed)
        return _Noise(drawn.to(like.device), [seed])
    if seed is None or isinstance(seed, int):
        seeds: list[int | None] = [None if seed is None else seed + clip for clip in range(clips)]
    else:
        seeds = list(seed)
    if len(seeds) != clips:
        raise ConfigError(f"{clips} clips need as many seeds, found {len(seeds)}")
    generators = [cpu_generator(number) for number in seeds]
    drawn = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    return _Noise(drawn.to(like.device), generators)


def _denoise(
    runner: _Runner,
    noise: _Noise,
    others: list[int],
    fade: Fade | None,
    progress: Progress | None,
    on_step: OnStep | None,
) -> Tensor:
    """The loop of Sec. 6 of the notes: all frames but m, (B, C, F', h, w), from noise to pictures."""
    sampling = runner.sampling
    scheduler = make_scheduler(sampling.scheduler, sampling.betas, sampling.steps)
    timesteps = scheduler.timesteps
    start = noise.values[:, :, others]
    if sampling.similarity is None:
        moving = start * float(scheduler.init_noise_sigma)
    else:
        clean = runner.z_base[:, :, None].expand_as(start) * sampling.similarity
        moving = scheduler.add_noise(clean, start, timesteps[:1].to(start.device))
    extra: dict[str, Any] = {}
    if sampling.scheduler == "euler-a":
        extra["generator"] = noise.generators if len(noise.generators) > 1 else noise.generators[0]
    # With a fifth of the steps left the network still cleans up what a fade leaves behind; after the last step nothing
    # pulls the ends apart any more.
    early, last = len(timesteps) - 1 - len(timesteps) // 5, len(timesteps) - 1
    for index, timestep in enumerate(timesteps):
        seen = scheduler.scale_model_input(moving, timestep)
        predicted = runner.predict(seen, timestep)
        if fade is not None and index == early != last:
            moving = moving + _towards_closed(runner, scheduler, fade, seen, predicted, timestep)
        moving = scheduler.step(predicted, timestep, moving, **extra).prev_sample
        if fade is not None and index == last:
            moving = runner.without_base(fade.picture(runner.whole(moving)))
        if on_step is not None:
            on_step(index, runner.whole(moving))
        if progress is not None:
            progress(index + 1, len(timesteps))
    return moving


def _towards_closed(
    runner: _Runner, scheduler: Scheduler, fade: Fade, seen: Tensor, predicted: Tensor, timestep: Tensor
) -> Tensor:
    """What to add to the solver's latents so that the pictures in them go over into one another; the noise stays."""
    a, s = signal_and_noise(scheduler, timestep)
    clean = (seen - s * predicted) / a
    faded = runner.without_base(fade.picture(runner.whole(clean)))
    scale = float(scheduler.scale_model_input(torch.ones(()), timestep))
    return (faded - clean) * (a / scale)


@dataclass
class _Runner:
    """Runs the network on all frames, the base frame among them, and gives back noise for those that move.

    Attributes:
        unet: the network.
        context: what its attentions share.
        z_base: (B, C, h, w), float32.
        text: (B, L, D).
        null: (B, L, D).
        frames: F.
        pinned: m; None when no frame is fixed.
        sampling: how.
        kept: per branch, what the isolated base frame left behind.
    """

    unet: UNetMotionModel
    context: FrameContext
    z_base: Tensor
    text: Tensor
    null: Tensor
    frames: int
    pinned: int | None
    sampling: Sampling
    kept: list[dict[str, tuple[Tensor, Tensor]]] = field(default_factory=list)

    @property
    def isolated(self) -> bool:
        return self.sampling.reference == "isolated"

    @contextmanager
    def prepared(self, motion: bool) -> Iterator[None]:
        """Set the network up for one clip, and put everything back."""
        sampling = self.sampling
        with (
            self.context.changed(
                num_frames=self.frames - self.isolated,
                # Without a base frame nothing refers to it; the index must only be a valid one.
                base_index=self.pinned or 0,
                scale=sampling.reference_strength,
                enabled=self.context.enabled and self.pinned is not None,
                query_chunk=sampling.query_chunk,
                source="live",
            ),
            frame_chunks(self.unet, self.context, sampling.chunk),
        ):
            if self.isolated:
                self._capture()
            with self._motion() if motion else motion_off(self.unet):
                yield

    def _motion(self) -> Any:
        sampling, circular = self.sampling, self.sampling.loop == "circular"
        if self.frames <= sampling.context_length and not circular and not self.isolated:
            check_length(self.unet, self.frames)
            return nullcontext()
        windows = plan_windows(
            self.frames,
            sampling.context_length,
            sampling.context_stride,
            circular=circular,
            absent=self.pinned if self.isolated else None,
        )
        return motion_windows(self.unet, windows)

    def _capture(self) -> None:
        """Run the base frame alone, clean and at t = 0, and keep its K and V for all steps."""
        for clean, text in self._branches(self.z_base[:, :, None]):
            kept: dict[str, tuple[Tensor, Tensor]] = {}
            with (
                self.context.changed(num_frames=1, base_index=0, source="capture", kept=kept),
                motion_off(self.unet),
            ):
                self._unet(clean, 0, text)
            self.kept.append(kept)

    def predict(self, seen: Tensor, timestep: Tensor | int) -> Tensor:
        """Noise in the frames that move, with guidance.

        Args:
            seen: (B, C, F', h, w), scaled as the network wants it.
            timestep: one for all.

        Returns:
            (B, C, F', h, w), float32.
        """
        found = []
        for index, (states, text) in enumerate(self._branches(seen if self.isolated else self.whole(seen))):
            source = {"source": "kept", "kept": self.kept[index]} if self.isolated else {}
            with self.context.changed(**source):
                found.append(self._unet(states, timestep, text))
        noise = torch.cat(found)
        if not self.isolated:
            noise = self.without_base(noise)
        if self.sampling.guidance == 1:
            return noise
        unconditional, conditional = noise.chunk(2)
        return unconditional + self.sampling.guidance * (conditional - unconditional)

    def whole(self, moving: Tensor) -> Tensor:
        """Put the base frame, clean and unscaled, at its place among the others: (B, C, F, h, w)."""
        if self.pinned is None:
            return moving
        before, after = moving[:, :, : self.pinned], moving[:, :, self.pinned :]
        return torch.cat([before, self.z_base[:, :, None], after], dim=2)

    def without_base(self, frames: Tensor) -> Tensor:
        """Take the base frame out: (B, C, F', h, w)."""
        if self.pinned is None:
            return frames
        return torch.cat([frames[:, :, : self.pinned], frames[:, :, self.pinned + 1 :]], dim=2)

    def _branches(self, states: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What runs one after the other: latents (B', C, F, h, w) and text (B', L, D)."""
        if self.sampling.guidance == 1:
            return [(states, self.text)]
        if self.sampling.guidance_branches == "apart":
            return [(states, self.null), (states, self.text)]
        return [(torch.cat([states, states]), torch.cat([self.null, self.text]))]

    def _unet(self, states: Tensor, timestep: Tensor | int, text: Tensor) -> Tensor:
        weight = next(self.unet.parameters())
        # The UNet does not repeat the text itself; its layers want one row per frame.
        rows = text.to(weight.device, weight.dtype).repeat_interleave(states.shape[2], dim=0)
        at = torch.as_tensor(timestep, device=weight.device)
        return self.unet(states.to(weight.device, weight.dtype), at, rows, return_dict=False)[0].to(states)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} must be from {low:g} to {high:g}, found {value:g}")
