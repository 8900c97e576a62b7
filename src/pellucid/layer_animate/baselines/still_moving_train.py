"""Training of Still-Moving's adapters (spec Sec. 8), in two runs; a candidate of Table I.

Step A: Motion Adapters learn clips that stand still, one frame repeated F times. Step B: on the customised model, with
those in place, Spatial Adapters learn clips of its own domain that stand still; and as many that move, with the Motion
Adapters out, so that the motion is not forgotten (the prior). To make a clip, the Motion Adapters are set to 0.

    loss = mean (pred - eps)^2 over all frames, standing still at scale 1 (+ the same over the prior at scale 0, halved)
"""

from __future__ import annotations

import logging
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pellucid.device import generator_of
from pellucid.errors import ConfigError, WeightsError
from pellucid.hub.cards import Figure, credit_lines, model_card
from pellucid.layer_animate.baselines.adapters import Adapters, load_adapters, make_adapters, save_adapters
from pellucid.layer_animate.baselines.still_moving_recipe import Recipe
from pellucid.layer_animate.clips.sets import ClipSets, Shares, open_sets
from pellucid.layer_animate.clips.strips import film_strip
from pellucid.layer_animate.data import Batch, ClipBatches, LatentBank, fingerprint, open_bank
from pellucid.layer_animate.denoiser import Words
from pellucid.layer_animate.losses import inter_frame_loss, noised
from pellucid.layer_animate.model import LayerAnimate
from pellucid.layer_animate.opening import Opened, open_for_training, training_side
from pellucid.layer_animate.sampling.sampler import Sampling, sample_clip
from pellucid.layer_animate.sampling.schedules import TRAINED_STEPS, make_scheduler
from pellucid.train.state import Accelerator, TrainState, clip

__all__ = ["Recipe", "build", "export", "samples", "step", "validate"]

log = logging.getLogger(__name__)

_LEVELS = 4  # timesteps at which the loss is measured, evenly over all
_SCALES = (1.0, 0.0, -1.0)  # of the Motion Adapters, in the film strips
CITATION = (
    "Chefer, Zada, Paiss, Ephrat, Tov, Rubinstein, Wolf, Dekel, Michaeli, Mosseri: Still-Moving: Customized Video "
    "Generation without Customized Video Data."
)


class AdaptedDenoiser(nn.Module):
    """A frozen model with adapters on it; one set of them learns.

    Only what learns is registered, so that checkpoints are small.

    Args:
        model: all networks.
        words: reads the texts.
        sets: the adapters that are in place, ``"motion"`` and for step B ``"spatial"``; attached here.
        learns: which set.
    """

    def __init__(self, model: LayerAnimate, words: Words, sets: dict[str, Adapters], learns: str) -> None:
        super().__init__()
        model.requires_grad_(False)
        for title, adapters in sets.items():
            adapters.requires_grad_(title == learns)
            adapters.attach(model.unet)
        self.adapters = sets[learns]
        # In a tuple: registered, the frozen networks would be in every checkpoint.
        self._held = (model, words, sets)

    @property
    def model(self) -> LayerAnimate:
        """All networks."""
        return self._held[0]

    @property
    def words(self) -> Words:
        """What reads the texts."""
        return self._held[1]

    @property
    def sets(self) -> dict[str, Adapters]:
        """All adapters in place."""
        return self._held[2]

    def forward(self, z_t: Tensor, timesteps: Tensor, texts: tuple[str, ...], motion: float = 1.0) -> Tensor:
        """Say what noise is in clips of which no frame is clean.

        The scales stay as set here after the call: a backward pass with recomputed activations needs them.

        Args:
            z_t: ``(B, C, F, h, w)``.
            timesteps: ``(B,)``.
            texts: B captions.
            motion: scale of the Motion Adapters.

        Returns:
            ``(B, C, F, h, w)``.
        """
        model, frames = self.model, z_t.shape[2]
        with torch.no_grad():
            vectors = self.words.vectors(self.words.ids(texts)).repeat_interleave(frames, dim=0)  # (B * F, L, D)
        model.context.num_frames, model.context.base_index, model.context.enabled = frames, 0, False
        self.sets["motion"].scale = motion
        return model.unet(z_t, timesteps, encoder_hidden_states=vectors).sample


@dataclass(frozen=True)
class StillBatches:
    """Clips that stand still, and for step B as many that move; a pure function of the micro-step.

    Attributes:
        clips: where the frames are taken from.
        prior: clips that move; None in step A.
    """

    clips: ClipBatches
    prior: ClipBatches | None = None

    def __call__(self, index: int) -> tuple[Batch, Batch | None]:
        """One frame of each clip in all its F places, each with noise of its own; and the prior's batch."""
        batch = self.clips(index)
        count, frames = batch.latents.shape[0], batch.latents.shape[2]
        rank, world = self.clips.process
        random = generator_of(self.clips.seed, index * world + rank, 0x5711)
        places = torch.randint(frames, (count,), generator=random)
        rows = torch.arange(count, device=batch.latents.device)
        shown = batch.latents[rows, :, places.to(rows.device)]  # (B, C, h, w)
        still = shown[:, :, None].expand(-1, -1, frames, -1, -1)
        frozen = Batch(still, batch.noise, batch.timesteps, batch.texts)
        return frozen, self.prior(index) if self.prior is not None else None


@dataclass
class Room:
    """What the steps need besides the networks; the recipe makes it again.

    Attributes:
        recipe: of the run.
        opened: the model, and where it came from.
        kept: ``(1000,)`` abar_t of every timestep.
        measured: clips that are measured, standing still.
        measured_prior: clips that are measured as they move; None in step A.
        sets: where the clips come from.
    """

    recipe: Recipe
    opened: Opened
    kept: Tensor
    measured: LatentBank
    measured_prior: LatentBank | None
    sets: ClipSets


def build(recipe: Recipe, accelerator: Accelerator) -> TrainState:
    """Build networks, adapters, optimiser and clips of a run.

    Raises:
        ConfigError: no data, or options that do not fit.
        InputError: a data folder holds other than it should.
        WeightsError: weights, or the adapters of step A, do not fit.
    """
    device = accelerator.device
    side = training_side(recipe)
    size = recipe.data.size or (side, side)
    sets = open_sets(recipe, size)
    # As for Inter-Frame Attention, nothing of the model itself changes; so real checkpoints are welcome too.
    opened = open_for_training(recipe.model_copy(update={"stage": "ifa"}), sets.captions)
    model = opened.model.to(device)
    about = [(recipe, sets)]
    if recipe.learns == "spatial":
        about.append((recipe.about_prior(), open_sets(recipe.about_prior(), size)))
    banks = [
        [_bank(of, model, sources, device, measured) for measured, sources in enumerate((found.train, found.measured))]
        for of, found in about
    ]
    batches = [
        ClipBatches(
            bank[0],
            recipe.train.batch,
            # Of numbers of its own, or the prior would be the same clips with the same noise.
            recipe.seed + 7919 * number,
            (accelerator.process_index, accelerator.num_processes),
            text_dropout=recipe.text_dropout,
            timesteps=TRAINED_STEPS,
        )
        for number, bank in enumerate(banks)
    ]
    denoiser = AdaptedDenoiser(model, opened.words, _adapters(recipe, model), recipe.learns).to(device)
    if recipe.checkpointing:
        model.unet.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(
        denoiser.parameters(),
        lr=recipe.train.lr,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=device.type == "cuda" or None,
    )
    state = TrainState({"denoiser": denoiser}, {"denoiser": optimizer}, StillBatches(*batches))
    state.room = Room(
        recipe,
        opened,
        make_scheduler("ddim", model.config.betas).alphas_cumprod.to(device, torch.float32),
        banks[0][1],
        banks[1][1] if len(banks) > 1 else None,
        sets,
    )
    count = sum(parameter.numel() for parameter in denoiser.parameters())
    log.info("%s adapters in %d layers: %d values learn", recipe.learns, len(denoiser.adapters.names), count)
    return state


def step(state: TrainState, batch: tuple[Batch, Batch | None]) -> dict[str, Tensor]:
    """One step on clips that stand still, and in step B on as many that move."""
    room: Room = state.room
    accelerator = state.accelerator
    assert accelerator is not None
    frozen, prior = batch
    losses: dict[str, Tensor] = {}
    parts = [("still", frozen, 1.0)] + ([("prior", prior, 0.0)] if prior is not None else [])
    for name, part, motion in parts:
        z_t = noised(part.latents, part.noise, room.kept[part.timesteps], None)
        pred = state.modules["denoiser"](z_t, part.timesteps, part.texts, motion)
        loss = inter_frame_loss(pred, part.noise, None)
        # One after the other: half the memory.
        accelerator.backward(loss / len(parts))
        losses[name] = loss.detach()
    clip(state, "denoiser")
    state.optimizers["denoiser"].step()
    state.optimizers["denoiser"].zero_grad()
    return {"loss": torch.stack(list(losses.values())).mean(), **losses}


@torch.no_grad()
def validate(state: TrainState, modules: dict[str, nn.Module]) -> dict[str, float]:
    """Measure on the measured clips, with the same noise every time.

    Returns:
        ``still``: the loss on clips that stand still, Motion Adapters at 1; ``still_without``: the same without the
        adapters that learn. In step B also ``prior`` and ``prior_without``, on clips that move, Motion Adapters at 0.
    """
    room: Room = state.room
    denoiser = modules["denoiser"]
    assert isinstance(denoiser, AdaptedDenoiser)
    figures: dict[str, float] = {}
    for name, bank, motion in (("still", room.measured, 1.0), ("prior", room.measured_prior, 0.0)):
        if bank is None:
            continue
        figures[name] = _measured_loss(room, denoiser, bank, motion)
        without = 0.0 if denoiser.adapters is denoiser.sets["motion"] else motion
        with denoiser.adapters.scaled(0.0):
            figures[f"{name}_without"] = _measured_loss(room, denoiser, bank, without)
    return figures


@torch.no_grad()
def samples(state: TrainState, modules: dict[str, nn.Module]) -> Tensor:
    """Clips from the first measured texts, Motion Adapters at 1, 0 and -1: ``(3, H, W)`` in [0, 1].

    With ``sampling.clips = 0`` none is made, and the first measured clip is shown as it went through the autoencoder.
    """
    room: Room = state.room
    denoiser = modules["denoiser"]
    assert isinstance(denoiser, AdaptedDenoiser)
    recipe, model, words, bank = room.recipe, denoiser.model, denoiser.words, room.measured
    sampling = Sampling(
        steps=recipe.sampling.steps,
        guidance=recipe.sampling.guidance,
        scheduler=recipe.sampling.scheduler,
        betas=model.config.betas,
        pinned=False,
    )
    rows: list[tuple[str, Tensor]] = []
    if recipe.sampling.clips == 0:
        shown = model.decode(bank.latents[0].float().movedim(1, 0))
        rows.append((f"through the autoencoder: {bank.captions[0][0]}", shown.float().cpu()))
    for number in range(min(recipe.sampling.clips, len(bank))):
        said = bank.captions[number][0]
        text, null = (words.vectors(words.ids([prompt])) for prompt in (said, ""))
        shape = bank.latents[number : number + 1, :, 0].float()
        for scale in _SCALES:
            with denoiser.sets["motion"].scaled(scale):
                found = sample_clip(
                    model.unet, model.context, shape, text, null, recipe.frames, sampling, recipe.seed + number
                )
            rows.append((f"Motion Adapters at {scale:g}: {said}", model.decode(found[0].movedim(1, 0)).float().cpu()))
    return film_strip(rows)


def export(state: TrainState, modules: dict[str, nn.Module], folder: Path, figures: dict[str, float]) -> None:
    """Write all adapters in place as a folder of weights; of step B it holds those of step A too."""
    room: Room = state.room
    denoiser = modules["denoiser"]
    assert isinstance(denoiser, AdaptedDenoiser)
    recipe = room.recipe
    record = {
        "recipe": recipe.name,
        "learned": recipe.learns,
        "step": state.step,
        "frames": recipe.frames,
        "figures": figures,
    }
    save_adapters(folder, denoiser.sets, _card(state, figures), record, overwrite=True)


def _adapters(recipe: Recipe, model: LayerAnimate) -> dict[str, Adapters]:
    """The sets that are in place: that of step A drawn anew, or read, and then that of step B drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if recipe.learns == "motion":
            return {"motion": make_adapters(model.unet, "motion", recipe.rank)}
        assert recipe.motion_adapters is not None
        folder = Path(recipe.motion_adapters).expanduser()
        found = load_adapters(folder, model.unet)
        if "motion" not in found:
            raise WeightsError(f"{folder} holds no Motion Adapters", 'name what learns = "motion" exported')
        made = make_adapters(model.unet, "spatial", recipe.rank, feed_forward=recipe.feed_forward)
        return {"motion": found["motion"], "spatial": made}


def _bank(recipe: Recipe, model: LayerAnimate, sources: Shares, device: torch.device, measured: int) -> LatentBank:
    facts = {
        "weights": fingerprint([model.vae, model.encoder]) if recipe.data.cache else "",
        "scale": [model.config.scaling_factor, model.config.offset_scale],
        "data": recipe.data.model_dump(exclude={"cache"}),
        "run": [recipe.frames, recipe.seed, training_side(recipe), measured],
        "sources": [source.facts() for source, _ in sources],
    }
    return open_bank(
        sources,
        model.encode,
        cache=recipe.data.cache,
        facts=facts,
        variants=1 if measured else recipe.data.variants,
        dtype=torch.float16 if device.type == "cuda" else torch.float32,
        device=device,
    )


def _measured_loss(room: Room, denoiser: AdaptedDenoiser, bank: LatentBank, motion: float) -> float:
    total = 0.0
    levels = ((torch.arange(_LEVELS) + 0.5) / _LEVELS * TRAINED_STEPS).long()
    for number in range(len(bank)):
        z_0 = bank.latents[number : number + 1].float()
        if bank is room.measured:
            z_0 = z_0[:, :, (z_0.shape[2] - 1) // 2][:, :, None].expand_as(z_0)
        for level in levels.tolist():
            eps = torch.randn(z_0.shape, generator=generator_of(room.recipe.seed, number, level)).to(z_0.device)
            t = torch.tensor([level], device=z_0.device)
            pred = denoiser(noised(z_0, eps, room.kept[t], None), t, bank.captions[number][:1], motion)
            total += float(inter_frame_loss(pred, eps, None))
    return total / (len(bank) * _LEVELS)


def _card(state: TrainState, figures: dict[str, float]) -> str:
    room: Room = state.room
    recipe = room.recipe
    which = "clips that were learned" if room.sets.learning else "held-out clips"
    titles = {"still": "noise loss, standing still", "prior": "noise loss, moving"}
    licensed = [row for row in room.sets.rows if row.get("licence") or row.get("license")]
    try:
        credits = credit_lines(licensed) or "None needed: drawn by code, or the user's own clips."
    except ConfigError:
        credits = "See the data set."
    return model_card(
        f"still_moving/{recipe.name or 'unnamed'}",
        summary=f"Still-Moving's adapters for a model of layer_animate, the {recipe.learns} ones: the "
        "comparison of Table I, not a method of its own.",
        data=f"Trained on {'; '.join(room.sets.names)}, standing still.",
        credits=credits,
        recipe=f"`pellucid train recipes/layer_animate/{recipe.name or 'your'}.toml`, {state.step} optimiser steps.",
        hardware=f"One {torch.cuda.get_device_name(0)}"
        if torch.cuda.is_available()
        else f"{os.cpu_count()} cores of a {platform.machine()} CPU, no GPU",
        minutes=max(state.minutes, 0.01),
        figures=[
            Figure(which, f"{title}; doing nothing is without these adapters", figures[key], figures[f"{key}_without"])
            for key, title in titles.items()
            if key in figures
        ],
        seeds=1,
        limits="- They fit the model they were trained on and no other.",
        citation=CITATION,
    )
