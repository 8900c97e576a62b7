"""Training (Sec. 3.1, Eq. 3): cross-entropy over all classes, and lambda times the KL divergence of every part's code.

The paper names no optimiser. The public options say Adam, 1e-4, betas 0 and 0.9; ours are in the recipes, which also
say the length. Everything but the loss is optional and off in the paper's recipes: mirroring, the start at half size,
the warm-up of lambda.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pellucid.device import generator_of
from pellucid.hub.pretrained import save_pretrained
from pellucid.metrics.segmentation import SegmentationScores
from pellucid.semantic_vae.card import Training, write_card
from pellucid.semantic_vae.data import ELLIPSES, HELD_OUT_SEED, PROCEDURAL, MaskBank, MaskBatches, open_bank
from pellucid.semantic_vae.losses import COLLAPSED, SemanticVAELoss, class_weights, collapsed, kl_per_class
from pellucid.semantic_vae.masks.classes import ClassSet
from pellucid.semantic_vae.model import SemanticVAE, SemanticVAEConfig, open_gates
from pellucid.semantic_vae.recipe import DataSection, LossSection, Recipe
from pellucid.train.state import Accelerator, TrainState, clip

log = logging.getLogger(__name__)

ROOM = "semantic_vae"
_BATCH = 32  # masks measured at a time

__all__ = ["Recipe", "build", "export", "samples", "step", "validate"]


@dataclass
class Room:
    """What the steps need besides the network; the recipe makes it again.

    Attributes:
        recipe: of the run.
        classes: what the ids of the masks mean.
        loss: Eq. 3 with the weights of the training masks.
        train: the training masks.
        held_out: masks that choose the model.
        kl: nats of each part at the last validation, for the exported weights' record.
        collapsed: parts whose code said next to nothing then.
    """

    recipe: Recipe
    classes: ClassSet
    loss: SemanticVAELoss
    train: MaskBank
    held_out: MaskBank
    kl: dict[str, float] = field(default_factory=dict)
    collapsed: tuple[str, ...] = ()


def build(recipe: Recipe, accelerator: Accelerator) -> TrainState:
    """Build network, optimiser, loss and masks of a run.

    Raises:
        ConfigError: options or a class set that do not fit.
        InputError: a data folder is not there, or holds other than it should.
    """
    classes, device = recipe.open_classes(), accelerator.device
    config = recipe.config(classes)
    train, held_out = _banks(recipe.data, classes, config.size)
    model = SemanticVAE(config)
    if recipe.init == "open":
        open_gates(model)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(
        model.parameters(), lr=recipe.train.lr, betas=recipe.betas, fused=device.type == "cuda" or None
    )
    loss = SemanticVAELoss(_weights(recipe.loss, train), recipe.loss.kl_weight).to(device)
    train = train.to(device)
    batches = MaskBatches(
        train,
        recipe.train.batch,
        recipe.seed,
        (accelerator.process_index, accelerator.num_processes),
        mirror=recipe.data.mirror,
    )
    state = TrainState({"vae": model}, {"vae": optimizer}, batches)
    state.room = Room(recipe, classes, loss, train, held_out.to(device))
    return state


def step(state: TrainState, batch: Tensor) -> dict[str, Tensor]:
    """One step on label maps ``(B, S, S)``: Eq. 3."""
    room: Room = state.room
    accelerator = state.accelerator
    assert accelerator is not None
    network = state.bare()["vae"]
    _set_stride(network, _stride(state))
    network.decs_conv.coarse = state.step < room.recipe.half_steps  # type: ignore[union-attr]
    output = state.modules["vae"](batch)
    network.decs_conv.coarse = False  # type: ignore[union-attr]
    # A logit of half the side lies between four pixels: each of them in its turn is the truth.
    stride = batch.shape[-1] // output.logits.shape[-1]
    row, column = divmod(state.step % stride**2, stride)
    terms = room.loss(output.logits, batch[:, row::stride, column::stride], output.posterior, scale=_kl_scale(state))
    accelerator.backward(terms["loss"])
    clip(state, "vae")
    state.optimizers["vae"].step()
    state.optimizers["vae"].zero_grad()
    return {name: term.detach() for name, term in terms.items()}


@torch.no_grad()
def validate(state: TrainState, modules: dict[str, nn.Module]) -> dict[str, float]:
    """Measure reconstructions of the held-out masks, in eval mode (Sec. 4.2).

    Returns:
        The figures of `SegmentationScores` with codes at their mean; ``accuracy_sample`` and ``miou_sample`` with
        sampled codes, as the public code does; ``kl``: nats over all parts; ``collapsed``: parts below half a nat;
        ``empty_accuracy`` and ``empty_miou``: those of masks that are nothing but background.
    """
    room: Room = state.room
    network = _at_stride(state, modules)
    mean, sampled, nothing = (SegmentationScores(len(room.classes), room.classes.background) for _ in range(3))
    nats = torch.zeros(len(room.classes.parts), dtype=torch.float64)
    generator = generator_of(room.recipe.seed, 7)
    for labels in room.held_out.labels.split(_BATCH):
        posterior = network.encode(labels)
        nats += kl_per_class(posterior).sum(0).double().cpu()
        mean.update(reconstruct(network, posterior.mu), labels)
        sampled.update(reconstruct(network, posterior.sample(generator)), labels)
        nothing.update(torch.full_like(labels, room.classes.background or 0), labels)
    nats /= len(room.held_out)
    room.kl = dict(zip(room.classes.part_names, nats.tolist(), strict=True))
    room.collapsed = tuple(room.classes.part_names[place] for place in collapsed(nats))
    log.info("nats: %s", ", ".join(f"{name} {value:.1f}" for name, value in room.kl.items()))
    if room.collapsed:
        log.info("collapsed, below %g nats: %s", COLLAPSED, ", ".join(room.collapsed))
    drawn, empty = sampled.figures(), nothing.figures()
    return {
        **mean.figures(),
        "accuracy_sample": drawn["accuracy"],
        "miou_sample": drawn["miou"],
        "kl": float(nats.sum()),
        "collapsed": float(len(room.collapsed)),
        "empty_accuracy": empty["accuracy"],
        "empty_miou": empty["miou"],
    }


@torch.no_grad()
def samples(state: TrainState, modules: dict[str, nn.Module]) -> Tensor:
    """Eight held-out masks in the palette, a row each, under one another: ``(3, H, W)`` in [0, 1].

    Columns: the mask, its reconstruction, then one part after another generated anew (Fig. 3), the same noise in every
    row; last, every part generated.
    """
    room: Room = state.room
    network = _at_stride(state, modules)
    places = torch.linspace(0, len(room.held_out) - 1, min(8, len(room.held_out))).round().long()
    labels = room.held_out.labels[places.to(room.held_out.labels.device)]
    codes = network.encode(labels).mu  # (n, P, L)
    noise = torch.randn(codes.shape[1:], generator=generator_of(room.recipe.seed, 8)).to(codes)
    columns = [labels, reconstruct(network, codes)]
    for parts in _shown_parts(room.classes):
        chosen = torch.tensor([part in parts for part in room.classes.parts], device=codes.device)
        columns.append(reconstruct(network, torch.where(chosen[:, None], noise, codes)))
    sheet = torch.stack([column[:, ::2, ::2].cpu() for column in columns], dim=1)  # (n, columns, S/2, S/2)
    return room.classes.colored(sheet).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def export(state: TrainState, modules: dict[str, nn.Module], folder: Path, figures: dict[str, float]) -> None:
    """Write ``config.json``, ``model.safetensors`` (fp16), the card, and the class set as ``classes.json``."""
    room: Room = state.room
    training = {
        "recipe": room.recipe.name,
        "row": room.recipe.row,
        "step": state.step,
        "figures": figures,
        "weights": room.recipe.loss.weights,
        "kl_weight": room.recipe.loss.kl_weight,
        "kl_nats": room.kl,
        "collapsed": list(room.collapsed),
        "masks": room.train.name,
        # Priors and the choice of absent parts need them after the training masks are gone.
        "fractions": dict(zip(room.classes.names, room.train.fractions().tolist(), strict=True)),
    }
    facts = Training(
        recipe=room.recipe.name,
        row=room.recipe.row,
        masks=f"{len(room.train):,} masks: {room.train.name}",
        drawn=room.recipe.data.root in (PROCEDURAL, ELLIPSES),
        step=state.step,
        minutes=state.minutes,
        collapsed=room.collapsed,
    )
    save_pretrained(
        folder,
        method=ROOM,
        # The stride of now, not of the recipe: it is what the weights are good for.
        config=replace(_config(modules["vae"]), logit_stride=_stride(state)),
        state=modules["vae"],
        card=write_card(facts, figures, room.classes),
        training=training,
        dtype="float16",
        overwrite=True,
    )
    room.classes.save(folder / "classes.json")


def reconstruct(network: SemanticVAE, z: Tensor) -> Tensor:
    """Decode codes ``(B, P, L)`` to label maps ``(B, S, S)`` uint8."""
    return network.decode(z).argmax(dim=1).to(torch.uint8)


def _stride(state: TrainState) -> int:
    """2 in the first ``half_steps``, then the network's own."""
    room: Room = state.room
    return 2 if state.step < room.recipe.half_steps else _config(state.bare()["vae"]).logit_stride


def _set_stride(network: nn.Module, stride: int) -> None:
    decoder = network.decs_conv
    decoder.stride = stride  # type: ignore[union-attr,assignment]
    decoder.decs[-1].enlarges = stride == 1  # type: ignore[index,union-attr]


def _at_stride(state: TrainState, modules: dict[str, nn.Module]) -> SemanticVAE:
    network = modules["vae"]
    assert isinstance(network, SemanticVAE)
    _set_stride(network, _stride(state))
    return network


def _config(network: nn.Module) -> SemanticVAEConfig:
    assert isinstance(network, SemanticVAE)
    return network.config


def _kl_scale(state: TrainState) -> float:
    warmup = state.room.recipe.loss.kl_warmup
    return min(1.0, (state.step + 1) / warmup) if warmup else 1.0


def _banks(data: DataSection, classes: ClassSet, size: int) -> tuple[MaskBank, MaskBank]:
    """Masks to train on and masks to measure on, without a common one."""
    if data.root in (PROCEDURAL, ELLIPSES):
        train = open_bank(data.root, classes, size, count=data.count, seed=data.seed, cache=data.cache)
        return train, open_bank(data.root, classes, size, count=data.held_out, seed=data.seed + HELD_OUT_SEED)
    # Of the training split: the test masks are for one measurement at the end, not for choosing a model.
    found = open_bank(data.root, classes, size, split="train", count=data.count, order=data.label_order)
    return found.split(data.held_out)


def _weights(options: LossSection, train: MaskBank) -> Tensor | None:
    if options.weights == "none":
        return None
    weights = class_weights(train.pixel_counts(), len(train.classes), options.weights)
    text = ", ".join(f"{name} {value:.4f}" for name, value in zip(train.classes.names, weights.tolist(), strict=True))
    log.info("class weights, %s: %s", options.weights, text)
    return weights


def _shown_parts(classes: ClassSet) -> list[tuple[int, ...]]:
    """What the sheet's columns generate: the paper's choice where the class set has it, else the first five parts."""
    wanted = ("hair", "nose", "mouth_group", "brows", "eyes", "skin")
    known = [classes.ids(name) for name in wanted if name in classes.names or name in classes.groups]
    return [*(known or [(part,) for part in classes.parts[:5]]), classes.parts]
