"""Training on clips (Sec. III-B, spec Sec. 5): the base frame clean and outside the loss, one timestep a clip.

What learns is the recipe's `stage`: Inter-Frame Attention alone, as in the paper; or, for stacks of our own and for
Table I, motion modules, the UNet, or all at once. Clips go through the frozen VAE once (`data`), texts are dropped at
random for guidance, and everything random follows from the seed and the step, so a run resumes exactly.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.device import generator_of
from pellucid.layer_animate.card import write_card
from pellucid.layer_animate.clips.sets import ClipSets, Shares, open_sets
from pellucid.layer_animate.clips.strips import contact_sheet, curve, film_strip, stacked
from pellucid.layer_animate.data import Batch, ClipBatches, LatentBank, fingerprint, open_bank
from pellucid.layer_animate.denoiser import Denoiser
from pellucid.layer_animate.losses import inter_frame_loss, noised, squared_errors
from pellucid.layer_animate.model import LayerAnimate
from pellucid.layer_animate.opening import Opened, open_for_training, save_trained, training_side
from pellucid.layer_animate.recipe import Recipe
from pellucid.layer_animate.sampling.sampler import Sampling, sample_clip, sample_picture
from pellucid.layer_animate.sampling.schedules import TRAINED_STEPS, make_scheduler
from pellucid.layer_animate.transparency.coding import crop_to, encode_rgba
from pellucid.train.state import Accelerator, TrainState, clip

__all__ = ["Recipe", "build", "export", "samples", "step", "validate"]

log = logging.getLogger(__name__)

_PIXELS = 1 << 20  # that a GPU encodes at a time
_LEVELS = 8  # timesteps at which the loss is measured, evenly over all


@dataclass(frozen=True)
class Shown:
    """A clip whose copy is made and compared.

    Attributes:
        frames: the truth ``(F, 4, H, W)`` in [0, 1].
        latents: its latents ``(1, C, F, h, w)``.
        text: its caption.
        learned: it is one of those that are learned.
    """

    frames: Tensor
    latents: Tensor
    text: str
    learned: bool = False


@dataclass
class Room:
    """What the steps need besides the networks; the recipe makes it again.

    Attributes:
        recipe: of the run.
        opened: the model, and where it came from.
        kept: ``(1000,)`` abar_t of every timestep.
        measured: clips that are measured.
        shown: clips that are made.
        sets: where the clips come from.
    """

    recipe: Recipe
    opened: Opened
    kept: Tensor
    measured: LatentBank
    shown: list[Shown]
    sets: ClipSets


def build(recipe: Recipe, accelerator: Accelerator) -> TrainState:
    """Build networks, optimiser and clips of a run.

    Raises:
        ConfigError: no data, or options that do not fit.
        InputError: a data folder holds other than it should.
        WeightsError: weights do not fit.
    """
    device = accelerator.device
    side = training_side(recipe)
    sets = open_sets(recipe, recipe.data.size or (side, side), device)
    opened = open_for_training(recipe, sets.captions)
    model = opened.model.to(device)
    banks = [
        open_bank(
            sources,
            partial(_encode, model),
            cache=recipe.data.cache,
            facts=_facts(recipe, model, sources) if recipe.data.cache else {},
            variants=recipe.data.variants if number == 0 else 1,
            dtype=torch.float16 if device.type == "cuda" else torch.float32,
            device=device,
        )
        for number, sources in enumerate((sets.train, sets.measured))
    ]
    denoiser = Denoiser(model, opened.words, recipe.stage, recipe.clean, recipe.model.layers).to(device)
    if recipe.checkpointing:
        model.unet.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(
        denoiser.learning(),
        lr=recipe.train.lr,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=device.type == "cuda" or None,
    )
    batches = ClipBatches(
        banks[0],
        recipe.train.batch,
        recipe.seed,
        (accelerator.process_index, accelerator.num_processes),
        text_dropout=recipe.text_dropout,
        timesteps=TRAINED_STEPS,
        single=recipe.stage == "base",
    )
    state = TrainState({"denoiser": denoiser}, {"denoiser": optimizer}, batches)
    betas = model.config.stage1_betas if recipe.stage == "base" else model.config.betas
    state.room = Room(
        recipe,
        opened,
        make_scheduler("ddim", betas).alphas_cumprod.to(device, torch.float32),
        banks[1],
        _shown(recipe, sets, banks[0], banks[1]),
        sets,
    )
    count = sum(parameter.numel() for parameter in denoiser.learning())
    log.info("stage %s: %d values learn; %d clips measured", recipe.stage, count, len(banks[1]))
    return state


def step(state: TrainState, batch: Batch) -> dict[str, Tensor]:
    """One step of the stage's loss; see `losses`."""
    room: Room = state.room
    accelerator = state.accelerator
    assert accelerator is not None
    clean = room.recipe.clean
    z_t = noised(batch.latents, batch.noise, room.kept[batch.timesteps], clean)
    pred = state.modules["denoiser"](z_t, batch.timesteps, batch.texts)
    loss = inter_frame_loss(pred, batch.noise, clean)
    accelerator.backward(loss)
    clip(state, "denoiser")
    state.optimizers["denoiser"].step()
    state.optimizers["denoiser"].zero_grad()
    return {"loss": loss.detach()}


@torch.no_grad()
def validate(state: TrainState, modules: dict[str, nn.Module]) -> dict[str, float]:
    """Measure on the measured clips, with the same noise every time.

    Returns:
        ``loss``: of the stage, over eight noise levels; ``loss_alone``, in the stages with a base frame: the same with
        Inter-Frame Attention off, lambda 0. Of clips that were made from base frame and text: ``psnr`` (dB, over grey),
        ``alpha_mae``, and what the base frame standing still scores, ``psnr_still`` and ``alpha_mae_still``.
    """
    room: Room = state.room
    denoiser = modules["denoiser"]
    clean = room.recipe.clean
    figures = {"loss": _measured_loss(room, denoiser, 1.0)}
    if clean is not None:
        figures["loss_alone"] = _measured_loss(room, denoiser, 0.0)
    found: list[dict[str, float]] = []
    for number, shown in enumerate(room.shown):
        if clean is None:
            break  # what is made without a base frame is another clip
        made = _make(room, denoiser, shown, number)
        still = shown.frames[clean : clean + 1].expand_as(shown.frames)
        ours, nothing = (_compare(frames, shown, clean) for frames in (made, still))
        found.append({**ours, **{f"{key}_still": value for key, value in nothing.items()}})
    for key in found[0] if found else ():
        figures[key] = sum(one[key] for one in found) / len(found)
    curve_ = state.extra.setdefault("curve", [])
    curve_[:] = [row for row in curve_ if row[0] < state.step]
    curve_.append([state.step, figures["loss"], figures.get("loss_alone", float("nan"))])
    return figures


@torch.no_grad()
def samples(state: TrainState, modules: dict[str, nn.Module]) -> Tensor:
    """What is made, and how the loss fell: ``(3, H, W)`` in [0, 1].

    Clips as film strips, true and made; in stage ``"base"`` a contact sheet: to every text the true picture and the one
    made, of the texts that are measured, then of those that were learned.
    """
    room: Room = state.room
    denoiser = modules["denoiser"]
    rows: list[Tensor] = []
    if room.recipe.stage == "base" and room.shown:
        made = _pictures(room, denoiser)
        pairs = [
            (f"{'' if one.learned or room.sets.learning else '* '}{one.text}", one.frames[_middle(one)], picture)
            for one, picture in zip(room.shown, made, strict=True)
        ]
        rows.append(contact_sheet(pairs))
    for number, shown in enumerate(room.shown if room.recipe.stage != "base" else ()):
        clips = [(f"true: {shown.text}", shown.frames)]
        clips.append(("through the autoencoder", _decoded(_model(denoiser), shown.latents[0].movedim(1, 0), shown)))
        given = "the text" if room.recipe.clean is None else f"frame {room.recipe.clean} and the text"
        made = _make(room, denoiser, shown, number)
        clips.append((f"made at step {state.step} from {given}", made))
        rows.append(film_strip(clips))
    points = state.extra.get("curve") or [[state.step, 0.0, 0.0]]
    names = ["loss"] + (["lambda 0"] if room.recipe.clean is not None else [])
    rows.append(curve([row[: 1 + len(names)] for row in points], names))
    return stacked(rows)


def export(state: TrainState, modules: dict[str, nn.Module], folder: Path, figures: dict[str, float]) -> None:
    """Write the weights: all networks of our own stacks; of real checkpoints Inter-Frame Attention alone."""
    room: Room = state.room
    denoiser = modules["denoiser"]
    assert isinstance(denoiser, Denoiser)
    recipe = room.recipe
    record = {
        "recipe": recipe.name,
        "stage": recipe.stage,
        "step": state.step,
        "base_index": recipe.clean,
        "frames": recipe.frames,
        "clips": room.sets.shares,
        "figures": figures,
        "sampling": recipe.sampling.model_dump(),
    }
    card = write_card(recipe, figures, room.sets, state.step, state.minutes)
    save_trained(folder, room.opened, _model(denoiser), record, card)


def _encode(model: LayerAnimate, rgba: Tensor) -> Tensor:
    """Model latents of frames, as many at a time as the place bears."""
    at_once = max(1, _PIXELS // (rgba.shape[-1] * rgba.shape[-2])) if model.device.type == "cuda" else 4
    raw = encode_rgba(rgba, model.vae, model.encoder, model.config.offset_scale, chunk=at_once)
    return raw * model.config.scaling_factor


def _measured_loss(room: Room, denoiser: nn.Module, scale: float) -> float:
    """Mean over clips and noise levels; the noise of a clip is the same every time."""
    assert isinstance(denoiser, Denoiser)
    bank, clean = room.measured, room.recipe.clean
    total = torch.zeros((), dtype=torch.float64)
    levels = ((torch.arange(_LEVELS) + 0.5) / _LEVELS * TRAINED_STEPS).long()
    for number in range(len(bank)):
        z_0 = bank.latents[number : number + 1].float()
        if room.recipe.stage == "base":
            z_0 = z_0[:, :, (z_0.shape[2] - 1) // 2][:, :, None]
        for level in levels.tolist():
            eps = torch.randn(z_0.shape, generator=generator_of(room.recipe.seed, number, level)).to(z_0)
            t = torch.tensor([level], device=z_0.device)
            z_t = noised(z_0, eps, room.kept[t], clean)
            pred = denoiser(z_t, t, bank.captions[number][:1], scale)
            total += squared_errors(pred, eps, clean).double().cpu()[0]
    return float(total / (len(bank) * _LEVELS))


def _make(room: Room, denoiser: nn.Module, shown: Shown, number: int) -> Tensor:
    """Make a clip from a base frame and its text, or from the text alone: ``(F, 4, H, W)``."""
    assert isinstance(denoiser, Denoiser)
    recipe, model, words = room.recipe, denoiser.model, denoiser.words
    sampling = _sampling(recipe, model)
    text, null = (words.vectors(words.ids([said])) for said in (shown.text, ""))
    latents, seed = shown.latents.float(), recipe.seed + number
    model.context.enabled = recipe.clean is not None
    base = latents[:, :, recipe.clean or 0]
    made = sample_clip(model.unet, model.context, base, text, null, recipe.frames, sampling, seed)[0].movedim(1, 0)
    return _decoded(model, made, shown)


def _pictures(room: Room, denoiser: nn.Module) -> Tensor:
    """Make pictures from the texts that are shown, all at once: ``(N, 4, H, W)``."""
    assert isinstance(denoiser, Denoiser)
    recipe, model, words = room.recipe, denoiser.model, denoiser.words
    texts = [shown.text for shown in room.shown]
    text, null = (words.vectors(words.ids(said)) for said in (texts, [""] * len(texts)))
    _, channels, _, height, width = room.shown[0].latents.shape
    seeds = [recipe.seed + number for number in range(len(texts))]
    shape, betas = (len(texts), channels, height, width), model.config.stage1_betas
    model.context.enabled = False
    made = sample_picture(model.unet, model.context, shape, text, null, _sampling(recipe, model), seeds, betas=betas)
    return _decoded(model, made, room.shown[0])


def _sampling(recipe: Recipe, model: LayerAnimate) -> Sampling:
    return Sampling(
        steps=recipe.sampling.steps,
        guidance=recipe.sampling.guidance,
        scheduler=recipe.sampling.scheduler,
        betas=model.config.betas,
        base_index=recipe.clean,
        pinned=recipe.clean is not None,
    )


def _middle(shown: Shown) -> int:
    return (len(shown.frames) - 1) // 2


def _decoded(model: LayerAnimate, latents: Tensor, shown: Shown) -> Tensor:
    """Latents ``(F, C, h, w)`` as pictures of the size of the clip, ``(F, 4, H, W)`` on the CPU."""
    return crop_to(model.decode(latents).float().cpu(), (shown.frames.shape[-2], shown.frames.shape[-1]))


def _compare(made: Tensor, shown: Shown, clean: int) -> dict[str, float]:
    """Errors of the frames that were made: PSNR over grey, and mean error of alpha."""
    asked = torch.arange(len(made)) != clean
    grey = [part[asked, :3] * part[asked, 3:] + 0.5 * (1.0 - part[asked, 3:]) for part in (made, shown.frames)]
    error = float((grey[0] - grey[1]).square().mean())
    alpha = float((made[asked, 3] - shown.frames[asked, 3]).abs().mean())
    return {"psnr": -10.0 * torch.log10(torch.tensor(max(error, 1e-10))).item(), "alpha_mae": alpha}


def _model(denoiser: nn.Module) -> LayerAnimate:
    assert isinstance(denoiser, Denoiser)
    return denoiser.model


def _facts(recipe: Recipe, model: LayerAnimate, sources: Shares) -> dict[str, Any]:
    """What cached latents depend on."""
    return {
        "weights": fingerprint([model.vae, model.encoder]),
        "scale": [model.config.scaling_factor, model.config.offset_scale],
        "data": recipe.data.model_dump(exclude={"cache"}),
        "run": [recipe.frames, recipe.clean, recipe.seed, training_side(recipe)],
        "sources": [source.facts() for source, _ in sources],
    }


def _shown(recipe: Recipe, sets: ClipSets, learned: LatentBank, measured: LatentBank) -> list[Shown]:
    """Clips as pictures too: some that are measured, of every set; in stage ``"base"`` as many that are learned."""
    found = _some(sets.measured, measured, recipe.sampling.clips)
    if recipe.stage != "base" or sets.learning:  # then those that are measured are learned
        return found
    seen = _some(sets.train, learned, recipe.sampling.clips)
    return [*found, *(replace(one, learned=True) for one in seen)]


def _some(sources: Shares, bank: LatentBank, most: int) -> list[Shown]:
    """Clips of all sources in turn, evenly over each."""
    offsets = [0]
    for source, _ in sources:
        offsets.append(offsets[-1] + len(source))
    each = -(-most // len(sources))
    places = [
        (number, round(turn * (len(source) - 1) / max(each - 1, 1)))
        for turn in range(each)
        for number, (source, _) in enumerate(sources)
        if len(source)
    ]
    found: list[Shown] = []
    for number, index in dict.fromkeys(places):
        cuts = (bank.clips == offsets[number] + index).nonzero().flatten()
        if len(found) < most and len(cuts):
            frames, texts = sources[number][0].cut(index, 0)
            place = int(cuts[0])
            found.append(Shown(frames.cpu(), bank.latents[place : place + 1], texts[0]))
    return found
