"""All candidates of Table I and Fig. 4, and some more: how each is trained, and how each makes a clip.

| candidate | what learns | base picture | at the making of a clip |
|---|---|---|---|
| `ours` | W_Q', W_O' (`stage = "ifa"`) | frame m, clean | Inter-Frame Attention, lambda as asked |
| `without_ifa` | as ours | frame m, clean | lambda = 0 |
| `naive` | nothing | not seen | motion modules plugged in, text alone |
| `motion_module` | motion modules (`stage = "motion"`) | not seen | as naive |
| `still_moving` | adapters (`method = "still_moving"`) | not seen | Motion Adapters at 0, Spatial Adapters at 1 |
| `still_moving_still` | as still_moving | not seen | Motion Adapters at 1, as they were trained |
| `first_frame` | W_Q', W_O' with `base_index = 0` | frame 0, clean | as ours |
| `masactrl` | nothing | frame m, clean | its K and V in place of a frame's own, on the way up |
| `static` | nothing, no network | every frame | |
| `warp` | nothing, no network | frame m | moved by code as the text says |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.hub.pretrained import STATE, expect_tensors, read_state
from pellucid.layer_animate.attention.attach import IFA_FILE, attach_spatial, ifa_state
from pellucid.layer_animate.attention.spatial import decoder_layers
from pellucid.layer_animate.baselines.adapters import load_adapters
from pellucid.layer_animate.baselines.procedural import static_clip, warped_clip
from pellucid.layer_animate.model import LayerAnimate
from pellucid.layer_animate.sampling.sampler import Progress, Sampling, sample_clip
from pellucid.layer_animate.text import Conditioner
from pellucid.layer_animate.transparency.coding import crop_to

log = logging.getLogger(__name__)

Part = Literal["", "ifa", "motion", "adapters"]

MASACTRL_FROM = 0.08  # of the steps: MasaCtrl leaves the first 4 of 50 alone, or nothing would move
_MOTION = "motion_modules"
_MOTION_FILE = "diffusion_pytorch_model.safetensors"
_CODE: dict[str, Callable[..., Tensor]] = {"static": static_clip, "warp": warped_clip}


@dataclass(frozen=True)
class Candidate:
    """One way to make a clip.

    Attributes:
        name: its key in `CANDIDATES`.
        title: as tables name it.
        learns: which weights are its own; "" takes the model as it is.
        recipe: what its recipe says in place of ours, dotted keys as for ``--set``; empty when it is not trained.
        required: it is nothing without weights of its own.
        pinned: the base picture is frame m of what the network sees; else it never sees it.
        strength: lambda that it fixes; None takes the caller's.
        base_index: m that it fixes; None takes the caller's, the middle when that is None too.
        replaces: keys and values of the base frame take the place of a frame's own (MasaCtrl).
        motion_scale: factor on its Motion Adapters.
        network: False when code alone makes the clip.
    """

    name: str
    title: str
    learns: Part = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    required: bool = False
    pinned: bool = True
    strength: float | None = None
    base_index: int | None = None
    replaces: bool = False
    motion_scale: float = 0.0
    network: bool = True

    def sampling(self, given: Sampling) -> Sampling:
        """The caller's sampling with what this candidate fixes."""
        changes: dict[str, Any] = {"pinned": self.pinned}
        if self.strength is not None:
            changes["reference_strength"] = self.strength
        if self.base_index is not None:
            changes["base_index"] = self.base_index
        if not self.pinned:
            # Without a base frame there is nothing to isolate, and no noise that is like it.
            changes |= {"reference": "parallel", "similarity": None}
        return replace(given, **changes)

    def frame_of_base(self, frames: int, given: Sampling | None = None) -> int:
        """m of this candidate in a clip of so many frames; of those that never see the picture, where it would be."""
        chosen = self.base_index if self.base_index is not None else (given.base_index if given else None)
        return (frames - 1) // 2 if chosen is None else chosen


CANDIDATES: dict[str, Candidate] = {
    candidate.name: candidate
    for candidate in (
        Candidate("ours", "Layer-Animate", "ifa", {"method": "layer_animate", "stage": "ifa"}),
        Candidate("without_ifa", "without IFA", "ifa", strength=0.0),
        Candidate("naive", "naive plug-in", pinned=False),
        Candidate(
            "motion_module",
            "motion module",
            "motion",
            {"method": "layer_animate", "stage": "motion"},
            required=True,
            pinned=False,
        ),
        Candidate(
            "still_moving",
            "Still-Moving",
            "adapters",
            {"method": "still_moving"},
            required=True,
            pinned=False,
        ),
        Candidate(
            "still_moving_still",
            "Still-Moving, Motion Adapters at 1",
            "adapters",
            required=True,
            pinned=False,
            motion_scale=1.0,
        ),
        Candidate(
            "first_frame",
            "IFA to the first frame",
            "ifa",
            {"method": "layer_animate", "stage": "ifa", "base_index": 0},
            base_index=0,
        ),
        Candidate("masactrl", "MasaCtrl-style", strength=0.0, replaces=True),
        Candidate("static", "base picture standing still", network=False),
        Candidate("warp", "base picture moved by code", network=False),
    )
}


def find_candidate(name: str) -> Candidate:
    """Look a candidate up.

    Raises:
        ConfigError: there is none of that name; the message lists those that are.
    """
    if name not in CANDIDATES:
        raise ConfigError(f"candidate {name!r} is not known", f"use one of {', '.join(CANDIDATES)}")
    return CANDIDATES[name]


def part_state(unet: nn.Module, part: Part) -> dict[str, Tensor]:
    """The live tensors of a part of the UNet that a candidate learns, by the network's names.

    Args:
        unet: a UNetMotionModel.
        part: ``"ifa"``: `attach.ifa_state`; ``"motion"``: the weights of the motion modules, without position tables.

    Raises:
        ConfigError: the network does not have it.
    """
    if part == "ifa":
        state = ifa_state(unet)
    else:
        state = {name: value for name, value in unet.named_parameters() if _MOTION in name}
    if not state:
        raise ConfigError(f"the network has no {'Inter-Frame Attention' if part == 'ifa' else 'motion modules'}")
    return {name: value.detach() for name, value in state.items()}


def read_learned(source: str | Path, candidate: Candidate, model: LayerAnimate) -> dict[str, Tensor]:
    """Read what a candidate learned, checked against the model it goes into.

    Args:
        source: what the candidate's recipe exported, a folder of weights of this room or its safetensors file; for the
            Inter-Frame Attention also what `attach.save_ifa` wrote; for motion modules also a motion adapter of
            diffusers; for Still-Moving what `adapters.save_adapters` wrote.
        candidate: whose weights they are.
        model: whose UNet they must fit.

    Returns:
        For `make_clip`.

    Raises:
        ConfigError: the candidate learns nothing.
        WeightsError: missing, damaged, or of another network; up to five keys of each kind are named.
    """
    if not candidate.learns:
        raise ConfigError(f"candidate {candidate.name!r} has no weights of its own")
    file = _weights_file(Path(source).expanduser())
    state = read_state(file)
    if candidate.learns == "adapters":
        load_adapters(state, model.unet)
        return state
    expected = part_state(model.unet, candidate.learns)
    own = {key.removeprefix("unet."): value for key, value in state.items()}
    # A folder of weights holds all networks, and motion adapters hold tables of positions: neither is asked for.
    held = {key: value for key, value in own.items() if key in expected or _is_part(key, candidate.learns)}
    expect_tensors(expected, held, f"the model's {candidate.learns} weights", origin=f" in {file}")
    return held


@contextmanager
def worn(model: LayerAnimate, candidate: Candidate, learned: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Let the model have a candidate's weights for the length of a ``with`` block; it is then what it was.

    Args:
        model: the model.
        candidate: the candidate.
        learned: from `read_learned`; None leaves the model's own in place.

    Raises:
        ConfigError: the candidate is nothing without weights of its own, or has none.
        WeightsError: they do not fit the model.
    """
    if learned is None:
        if candidate.required:
            asked = ", ".join(f"{key} = {value!r}" for key, value in candidate.recipe.items())
            raise ConfigError(
                f"candidate {candidate.name!r} needs weights of its own",
                f"train a recipe with {asked}" if asked else f"those of {_trained_like(candidate)}",
            )
        yield
        return
    if not candidate.learns:
        raise ConfigError(f"candidate {candidate.name!r} has no weights of its own")
    if candidate.learns == "adapters":
        sets = load_adapters(learned, model.unet)
        if "spatial" not in sets or "motion" not in sets:
            raise WeightsError(f"Still-Moving needs motion and spatial adapters, found {', '.join(sets)}")
        sets["motion"].scale = candidate.motion_scale
        try:
            for adapters in sets.values():
                adapters.attach(model.unet)
            yield
        finally:
            for adapters in sets.values():
                adapters.detach()
        return
    live = part_state(model.unet, candidate.learns)
    expect_tensors(live, learned, f"the model's {candidate.learns} weights")
    before = {name: value.clone() for name, value in live.items()}
    try:
        for name, value in live.items():
            value.copy_(learned[name])
        yield
    finally:
        for name, value in live.items():
            value.copy_(before[name])


@torch.no_grad()
def make_clip(
    candidate: Candidate | str,
    base: Tensor,
    prompt: str,
    *,
    model: LayerAnimate | None = None,
    words: Conditioner | None = None,
    negative: str = "",
    frames: int = 16,
    sampling: Sampling | None = None,
    seed: int = 0,
    learned: Mapping[str, Tensor] | None = None,
    keep_base: bool = True,
    tta: int = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Make the clip of one candidate; all of one seed start from the same noise.

    Args:
        candidate: one of `CANDIDATES`, or its name.
        base: ``(4, H, W)`` float in [0, 1], straight alpha; what the candidate does with it is in the table above.
        prompt: what the clip shows.
        model: the networks; not needed by candidates without one.
        words: reads the prompt for ``model``.
        negative: what it shall not show.
        frames: F.
        sampling: how; a candidate overrides what makes it what it is.
        seed: of the noise, or of what a motion leaves open.
        learned: from `read_learned`; None takes the weights that ``model`` has.
        keep_base: where the base picture is a frame of the clip, give back the picture itself and not its copy through
            the autoencoder.
        tta: views that the transparency decoder combines, see `transparency.decode_rgba`.
        progress: called with (steps done, steps).

    Returns:
        ``(F, 4, H, W)`` float32 in [0, 1], straight alpha, where ``base`` is.

    Raises:
        ConfigError: the candidate needs a model or weights that were not given, or sampling and frames do not fit.
        InputError: the picture has another shape.
        WeightsError: the weights do not fit the model.
    """
    chosen = find_candidate(candidate) if isinstance(candidate, str) else candidate
    given = sampling or Sampling()
    if chosen.name == "static":
        return static_clip(base, frames).float()
    if not chosen.network:
        return warped_clip(base, prompt, frames, base_index=given.base_index, seed=seed).float()
    if base.ndim != 3 or base.shape[0] != 4:
        raise InputError(f"a base picture must be (4, H, W), found {tuple(base.shape)}")
    if model is None or words is None:
        raise ConfigError(f"candidate {chosen.name!r} needs a model and what reads its prompts")
    settings = chosen.sampling(given)
    z_base = model.encode(base[None].to(model.device))
    text, null = words.encode([prompt]), words.encode([negative])
    with worn(model, chosen, learned), _replacing(model, chosen, settings.steps) as on_step:
        latents = sample_clip(
            model.unet, model.context, z_base, text, null, frames, settings, seed, progress, on_step
        )  # (1, C, F, h, w)
    clip = model.decode(latents[0].movedim(1, 0), tta=tta).float().to(base.device)
    clip = crop_to(clip, (base.shape[-2], base.shape[-1]))
    if keep_base and chosen.pinned:
        clip[chosen.frame_of_base(frames, given)] = base.float()
    return clip


@contextmanager
def _replacing(model: LayerAnimate, candidate: Candidate, steps: int) -> Iterator[Callable[[int, Tensor], None] | None]:
    """Give what begins MasaCtrl's replacement once the first steps are through; None for other candidates."""
    if not candidate.replaces:
        yield None
        return
    names = frozenset(decoder_layers(model.unet))
    attach_spatial(model.unet, model.context, sorted(names))
    free = round(MASACTRL_FROM * steps)
    context = model.context

    def on_step(index: int, _: Tensor) -> None:
        if index + 1 >= free:
            context.replace = names

    with context.changed(replace=names if free == 0 else frozenset()):
        yield on_step


def _weights_file(source: Path) -> Path:
    if source.is_file() or not source.is_dir():
        return source
    for name in (STATE, IFA_FILE, _MOTION_FILE):
        if (source / name).is_file():
            return source / name
    raise WeightsError(f"{source} holds no weights: none of {STATE}, {IFA_FILE}, {_MOTION_FILE} is there")


def _is_part(key: str, part: Part) -> bool:
    if part == "motion":
        return _MOTION in key and not key.endswith("pos_embed.pe")
    return "_ifa." in key


def _trained_like(candidate: Candidate) -> str:
    return next(other.name for other in CANDIDATES.values() if other.recipe and other.learns == candidate.learns)
