"""Training R-CNN and T-CNN together with the multi-step loss, first in 2 steps, later in 3 (Sec. 4)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.data.bank import PixelBank
from pellucid.data.shards import ShardIndex
from pellucid.data.synthetic import draw_pictures
from pellucid.device import generator_of
from pellucid.errors import ConfigError
from pellucid.hub.convert import load_foreign
from pellucid.hub.pretrained import save_pretrained
from pellucid.layers import LayerStack
from pellucid.metrics.protocols import psnr
from pellucid.multistep_sirr.blending import BlendOptions
from pellucid.multistep_sirr.card import write_card
from pellucid.multistep_sirr.data import Batch, BlendBatches, PairBatches, find_pairs, read_pair
from pellucid.multistep_sirr.depth import DepthProvider, make_provider
from pellucid.multistep_sirr.losses import Features, MultiStepLoss, ReflectionStepLoss
from pellucid.multistep_sirr.model import ReflectionPair, ReflectionPairConfig
from pellucid.multistep_sirr.pipeline import ROOM, ReflectionRemovalPipeline
from pellucid.multistep_sirr.ranged_depth import RangedDepthMap
from pellucid.multistep_sirr.recipe import DepthSection, LossSection, Photos, Recipe
from pellucid.nn.filter_bank import FilterBankFeatures
from pellucid.nn.vgg import VGG19Features
from pellucid.train.state import Accelerator, TrainState, clip

log = logging.getLogger(__name__)

FIRST_FLOOR = 0.05  # of the logarithm, with `floor_steps`: the slope at MSE 0 is then that of the plain mean
SETTLED = 0.05  # dB: less than this in `patience` validations is what "settled" means; the paper gives no number


@dataclass(frozen=True)
class Validation:
    """What `validate` measures on, read once.

    Attributes:
        blends: held-out mixtures, or None without photographs.
        clean: pictures without reflection ``(3, H, W)``.
        pairs: real pairs by folder name.
    """

    blends: Batch | None
    clean: list[Tensor]
    pairs: dict[str, list[Batch]]


@dataclass
class Room:
    """What the steps need besides the networks; kept outside the checkpoint because the recipe makes it again."""

    recipe: Recipe
    loss: MultiStepLoss
    ranged_depth: RangedDepthMap
    providers: list[tuple[DepthProvider, float]]
    validation: Validation
    sources: list[Mapping[str, Any]]


def build(recipe: Recipe, accelerator: Accelerator) -> TrainState:
    """Build networks, optimiser, loss and data of a run.

    Raises:
        ConfigError: neither photographs nor pairs, or an option that does not fit.
        InputError: a data folder is not there.
    """
    config = ReflectionPairConfig(**recipe.model.model_dump())
    pair = ReflectionPair(config)
    _initialise(pair, recipe.init)
    pair = pair.to(accelerator.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(pair.parameters(), lr=recipe.train.lr, betas=(0.9, 0.999))
    batches, validation, sources = _data(recipe, accelerator)
    schedule = _parse_schedule(recipe.loss.step_schedule)
    state = TrainState(
        {"pair": pair}, {"adam": optimizer}, batches, extra={"steps": schedule[0][1], "best": None, "stale": 0}
    )
    state.room = Room(
        recipe,
        MultiStepLoss(
            pair,
            _step_loss(recipe.loss).to(accelerator.device),
            detach=recipe.loss.detach_steps,
            r_multistep=recipe.loss.r_multistep,
            factor=recipe.loss.factor,
        ),
        RangedDepthMap(config.ranges, config.range_mode, config.encoding),
        _providers(recipe.depth),
        validation,
        sources,
    )
    return state


def step(state: TrainState, batch: Batch) -> dict[str, Tensor]:
    """One optimiser step of Eq. 5 on both networks."""
    room: Room = state.room
    accelerator = state.accelerator
    assert accelerator is not None
    provider = _drawn(room, state.step)

    def condition(x: Tensor) -> tuple[Tensor, ...]:
        return (room.ranged_depth(provider(x.detach().clamp(0, 1).float())).to(x),)

    loss = room.loss
    loss.model = state.modules["pair"]  # the prepared one
    loss.steps = _steps_now(state, room.recipe)
    assert isinstance(loss.step_loss, ReflectionStepLoss)
    loss.step_loss.pixel_floor = floor_at(room.recipe.loss, state.step)
    loss.condition = condition if room.recipe.depth.redepth else None
    r_weight = torch.where(batch.has_reflection, 1.0, room.recipe.loss.r_weight_derived)
    mixture = batch.mixture.contiguous(memory_format=torch.channels_last)
    total, terms = loss(
        mixture,
        batch.transmission,
        *condition(mixture),
        R=batch.reflection,
        r_weight=r_weight,
        backward=accelerator.backward,
    )
    clip(state, "pair")
    state.optimizers["adam"].step()
    state.optimizers["adam"].zero_grad()
    return {"loss": total, **terms}


@torch.no_grad()
def validate(state: TrainState, modules: dict[str, nn.Module]) -> dict[str, float]:
    """Measure on held-out blends, clean pictures and real pairs; PSNR in dB, at most 60, joint over RGB, native size.

    Returns:
        ``blends`` and ``blends_input`` (held-out blends, and doing nothing to them), the same for every set of real
        pairs by its folder's name, ``clean`` (how near a reflection-free picture stays to itself), and ``score``: the
        mean gain on real pairs (on blends when there are none) less what ``clean`` falls short of 36.5 dB.
    """
    room: Room = state.room
    device = _device(state)
    network = deepcopy(modules["pair"]).eval()
    pipe = _pipeline(room, network, device)
    figures: dict[str, float] = {}
    if room.validation.blends is not None:
        mixture, truth = room.validation.blends.mixture, room.validation.blends.transmission
        found = torch.cat([_forward(room, network, piece.to(device))[0] for piece in mixture.split(8)]).cpu()
        figures["blends"] = fmean(_likeness(ours, real) for ours, real in zip(found.clamp(0, 1), truth, strict=True))
        figures["blends_input"] = fmean(_likeness(given, real) for given, real in zip(mixture, truth, strict=True))
    if room.validation.clean:
        figures["clean"] = fmean(_likeness(pipe(x)["transmission"].pixels, x) for x in room.validation.clean)
    for name, pairs in room.validation.pairs.items():
        outputs = [pipe(pair.mixture[0])["transmission"].pixels for pair in pairs]
        figures[name] = fmean(_likeness(ours, pair.transmission[0]) for ours, pair in zip(outputs, pairs, strict=True))
        figures[f"{name}_input"] = fmean(_likeness(pair.mixture[0], pair.transmission[0]) for pair in pairs)
    measured = list(room.validation.pairs) or (["blends"] if "blends" in figures else [])
    gains = [figures[name] - figures[f"{name}_input"] for name in measured]
    figures["score"] = fmean(gains or [0.0]) - max(0.0, 36.5 - figures.get("clean", 36.5))
    _watch(state, room.recipe, figures["score"])
    return figures


@torch.no_grad()
def samples(state: TrainState, modules: dict[str, nn.Module]) -> Tensor:
    """Rows of mixture, found transmission, found reflection, true transmission: ``(3, H, W)`` in [0, 1]."""
    room: Room = state.room
    device = _device(state)
    network = deepcopy(modules["pair"]).eval()
    rows: list[Tensor] = []
    if room.validation.blends is not None:
        mixture, truth = room.validation.blends.mixture[:8], room.validation.blends.transmission[:8]
        found, removed = _forward(room, network, mixture.to(device))
        for picture in (mixture, found.cpu(), removed.cpu(), truth):
            rows.append(torch.cat(list(picture.clamp(0, 1)), dim=-1))
    else:
        pipe = _pipeline(room, network, device)
        for pair in [pair for group in room.validation.pairs.values() for pair in group][:4]:
            found, removed = (layer.pixels for layer in pipe(pair.mixture[0]).layers)
            strip = torch.cat([pair.mixture[0], found, removed, pair.transmission[0]], dim=-1)
            rows.append(F.interpolate(strip[None].clamp(0, 1), (128, 512), mode="bilinear", antialias=True)[0])
    return torch.cat(rows, dim=-2) if rows else torch.zeros(3, 16, 16)


def export(state: TrainState, modules: dict[str, nn.Module], folder: Path, figures: dict[str, float]) -> None:
    """Write ``config.json``, ``model.safetensors`` (fp16) and the card of the run."""
    room: Room = state.room
    pair = modules["pair"]
    training = {"recipe": room.recipe.name, "step": state.step, "figures": figures, "loss_steps": state.extra["steps"]}
    save_pretrained(
        folder,
        method=ROOM,
        config=pair.config,
        state=pair,
        card=write_card(room.recipe.name, figures, sources=room.sources, step=state.step, minutes=state.minutes),
        training=training,
        dtype="float16",
        overwrite=True,
    )


def floor_at(loss: LossSection, step: int) -> float:
    """Floor of the logarithm at an optimiser step: from `FIRST_FLOOR` to ``pixel_floor``, evenly in its logarithm."""
    if step >= loss.floor_steps:
        return loss.pixel_floor
    return FIRST_FLOOR * (loss.pixel_floor / FIRST_FLOOR) ** (step / loss.floor_steps)


def _initialise(pair: ReflectionPair, init: str) -> None:
    if init == "he":
        # torch's default shrinks the signal in every layer, and nothing here normalises it again. Keeping its power is
        # meant to wake the deep end sooner; in 500 steps of `small.toml` it made no clear difference.
        for module in pair.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, a=0.01, nonlinearity="leaky_relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    if pair.config.final == "residual":
        # Start as the identity: doing nothing is a good answer, and the gradient finds the way from there.
        for network in (pair.r_cnn, pair.t_cnn):
            nn.init.zeros_(network.head2.weight)
            nn.init.zeros_(network.head2.bias)  # type: ignore[arg-type]


def _data(recipe: Recipe, accelerator: Accelerator) -> tuple[Any, Validation, list[Mapping[str, Any]]]:
    data, train = recipe.data, recipe.train
    process = (accelerator.process_index, accelerator.num_processes)
    options = BlendOptions(**recipe.blend.model_dump())
    sources: list[Mapping[str, Any]] = []
    if data.pairs:
        pairs = [pair for root in data.pairs for pair in find_pairs(root)]
        batches: Any = PairBatches(pairs, train.batch, data.crop, recipe.seed, process, accelerator.device)
    elif data.photos:
        banks = []
        for photos in data.photos:
            bank, rows = photo_bank(photos, data.side, "train")
            banks.append((bank.to(accelerator.device), photos.share))
            sources += rows
        batches = BlendBatches(banks, train.batch, data.crop, data.scale, options, recipe.seed, process, data.relit)
    else:
        raise ConfigError("recipe: [data] has neither photos nor pairs", 'add [[data.photos]] root = "..."')
    blends, clean = None, []
    if data.photos:
        held_out, _ = photo_bank(data.photos[0], data.side, "val")
        # Seed 1 whatever the run's: every run is measured on the same blends. None clean: those are measured apart.
        blends = BlendBatches(
            [(held_out, 1.0)], 32, data.crop, data.scale, replace(options, clean=0.0), 1, relit=data.relit
        )(0)
        clean = [held_out.picture(index).float() / 255 for index in range(min(16, len(held_out)))]
    names = [Path(root).resolve().name for root in data.validate_pairs]
    # Two folders of one name, or one named like a figure of our own, go by their paths.
    taken = {name for name in names if names.count(name) > 1} | {"blends", "clean", "score"}
    real = {
        root if name in taken else name: [read_pair(pair) for pair in find_pairs(root)]
        for name, root in zip(names, data.validate_pairs, strict=True)
    }
    return batches, Validation(blends, clean, real), sources


def photo_bank(photos: Photos, side: int, split: str) -> tuple[PixelBank, list[Mapping[str, Any]]]:
    """Pictures of a set's split, and their rows for the credits."""
    if photos.root == "synthetic":
        drawn = draw_pictures(photos.count, side, seed=0 if split == "train" else 1)
        return PixelBank.from_pictures((drawn * 255).round().to(torch.uint8), side=side), []
    index = ShardIndex.open(Path(photos.root).expanduser())
    chosen = index.select(where=lambda row: all(str(row.get(key)) == value for key, value in photos.only.items()))
    if any("split" in row for row in chosen):
        chosen = chosen.select(split=split)
    else:  # the colour set has its split in the source's path
        validation = split == "val"
        chosen = chosen.select(
            where=lambda row: str(row.get("source_path", "")).startswith("validation/") == validation
        )
    return PixelBank.from_index(chosen, side=side), list(chosen)


def _step_loss(options: LossSection) -> ReflectionStepLoss:
    wanted = options.features
    if wanted == "auto":
        wanted = "vgg19" if options.vgg_weights else "filter_bank"
        log.info("feature loss: %s", wanted)
    features: Features | None = None
    if wanted == "vgg19":
        if options.vgg_weights is None:
            raise ConfigError("loss.features 'vgg19' needs weights", "set loss.vgg_weights to a vgg19-*.pth")
        features = VGG19Features(load_foreign(options.vgg_weights), post_relu=options.post_relu)
    elif wanted == "filter_bank":
        features = FilterBankFeatures()
    weight = options.feature_weight
    if weight is None:
        weight = 1.0 if wanted == "vgg19" else 0.5
    return ReflectionStepLoss(features, weight, options.feature_on_reflection, options.pixel, options.pixel_floor)


def _providers(options: DepthSection) -> list[tuple[DepthProvider, float]]:
    best = 1 - options.drop_to_none - options.drop_to_cue
    if best < -1e-6:
        raise ConfigError("depth.drop_to_none and depth.drop_to_cue must add up to at most 1")
    shares = [
        (make_provider("none"), options.drop_to_none),
        (make_provider("cue"), options.drop_to_cue),
        (make_provider(options.provider, weights=options.weights), max(best, 0.0)),
    ]
    return [(provider, share) for provider, share in shares if share > 0]


def _drawn(room: Room, step: int) -> DepthProvider:
    """Depth dropout: which provider this step sees, from the seed and the step alone."""
    generator = generator_of(room.recipe.seed, 1 << 41, step)  # the middle number keeps off the streams of the data
    shares = torch.tensor([share for _, share in room.providers])
    return room.providers[int(torch.multinomial(shares, 1, generator=generator))][0]


def _forward(room: Room, network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    depth = room.providers[-1][0](x.clamp(0, 1))
    transmission, reflection = network(x, room.ranged_depth(depth).to(x))
    return transmission.float(), reflection.float()


def _parse_schedule(text: str) -> list[tuple[int, int]]:
    """``"0:2,5000:3"`` -> [(0, 2), (5000, 3)]; ``"auto"`` -> [(0, 2)]."""
    if text == "auto":
        return [(0, 2)]
    try:
        pairs = [(int(start), int(steps)) for start, steps in (part.split(":") for part in text.split(","))]
    except ValueError:
        pairs = []
    if not pairs or pairs[0][0] != 0 or any(steps < 1 for _, steps in pairs) or pairs != sorted(pairs):
        raise ConfigError(f"loss.step_schedule {text!r} is not understood", 'use "auto" or "0:2,5000:3"')
    return pairs


def _steps_now(state: TrainState, recipe: Recipe) -> int:
    if recipe.loss.step_schedule == "auto":
        plan = recipe.train
        half = state.step >= plan.steps // 2 or (plan.minutes is not None and state.minutes >= plan.minutes / 2)
        if state.extra["steps"] == 2 and half:
            _upgrade(state)
    else:
        state.extra["steps"] = [
            steps for start, steps in _parse_schedule(recipe.loss.step_schedule) if state.step >= start
        ][-1]
    return state.extra["steps"]


def _watch(state: TrainState, recipe: Recipe, score: float) -> None:
    """ "Upgrading to a 3-step loss once the model's performance settled down" (Sec. 4)."""
    best = state.extra["best"]
    if best is None or score > best + SETTLED:
        state.extra["best"], state.extra["stale"] = score, 0
        return
    state.extra["stale"] += 1
    settled = state.extra["stale"] >= recipe.loss.patience
    if recipe.loss.step_schedule == "auto" and settled and state.extra["steps"] == 2:
        _upgrade(state)


def _upgrade(state: TrainState) -> None:
    log.info("step %d: from 2-step to 3-step loss", state.step)
    state.extra["steps"] = 3


def _pipeline(room: Room, network: nn.Module, device: torch.device) -> Callable[[Tensor], LayerStack]:
    """The pipeline with the recipe's own depth: the config names a provider, but not where its weights are."""
    pipe = ReflectionRemovalPipeline(network, device=device, dtype="float32")  # type: ignore[arg-type]
    return partial(pipe, depth=room.providers[-1][0])


def _likeness(ours: Tensor, real: Tensor) -> float:
    """PSNR in dB, cut at 60: a single pair of equal pictures would make a mean infinite."""
    return min(psnr(ours, real), 60.0)


def _device(state: TrainState) -> torch.device:
    assert state.accelerator is not None
    return state.accelerator.device
