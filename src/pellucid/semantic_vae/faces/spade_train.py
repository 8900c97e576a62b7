"""Training of mask-to-face networks of the SPADE and SEAN layouts (Sec. 5.3): a step of D, then one of G.

Published: Adam with betas 0 and 0.9, 1e-4 for G and 4e-4 for D, 50 epochs and 50 more in which the rates fall to 0;
SEAN renders every picture from its own style. Differences: the public code steps G first and renders again for D, here
both see one rendering; rates fall as ``train.schedule`` says; pictures have no second augmentation.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.hub.cards import Figure, model_card
from pellucid.hub.convert import load_foreign
from pellucid.hub.pretrained import save_pretrained
from pellucid.semantic_vae.faces.face_discriminator import MultiscaleDiscriminator
from pellucid.semantic_vae.faces.face_pairs import FaceBatch, FaceBatches, PairBank, open_pairs
from pellucid.semantic_vae.faces.network_generators import MEAN_STYLE, network_around
from pellucid.semantic_vae.faces.sean import SEANGenerator, draw_noise
from pellucid.semantic_vae.faces.spade import FaceNetworkConfig, SPADEGenerator, draw_weights, one_hot, settle_spectral
from pellucid.semantic_vae.faces.spade_losses import Answer, FaceLoss, hinge_discriminator_loss, vgg_features
from pellucid.semantic_vae.faces.spade_recipe import LossSection, Recipe
from pellucid.semantic_vae.faces.style_codes import StyleCodes, mean_codes, save_codes
from pellucid.semantic_vae.masks.classes import ClassSet
from pellucid.train.state import Accelerator, TrainState, clip

log = logging.getLogger(__name__)

METHOD = "spade"
_CITATIONS = {
    "spade": "Taesung Park, Ming-Yu Liu, Ting-Chun Wang, Jun-Yan Zhu: Semantic Image Synthesis with Spatially-Adaptive "
    "Normalization, CVPR 2019, arXiv 1903.07291.",
    "sean": "Peihao Zhu, Rameen Abdal, Yipeng Qin, Peter Wonka: SEAN: Image Synthesis with Semantic Region-Adaptive "
    "Normalization, CVPR 2020, arXiv 1911.12861.",
}
_CHUNK = 16  # pictures rendered at a time when measuring
_STYLED = 256  # training pictures behind the mean style

__all__ = ["Recipe", "build", "export", "samples", "step", "validate"]


@dataclass
class Room:
    """What the steps need besides the networks; the recipe makes it again.

    Attributes:
        recipe: of the run.
        config: of the generator.
        classes: what the ids of the masks mean.
        loss: of the generator.
        train: pairs to train on.
        held_out: pairs that choose the model.
        colors: ``(K, 3)`` mean colour of each class, what a network must beat.
    """

    recipe: Recipe
    config: FaceNetworkConfig
    classes: ClassSet
    loss: FaceLoss
    train: PairBank
    held_out: PairBank
    colors: Tensor


def build(recipe: Recipe, accelerator: Accelerator) -> TrainState:
    """Build networks, optimisers, loss and pairs of a run.

    Raises:
        ConfigError: options or a class set that do not fit.
        InputError: a data folder is not there, or holds no pairs.
        WeightsError: VGG weights do not fit.
    """
    classes, device = recipe.open_classes(), accelerator.device
    config = recipe.config(classes)
    data = recipe.data
    train, held_out = open_pairs(
        data.root,
        classes,
        config.size,
        count=data.count,
        held_out=data.held_out,
        styles=data.styles,
        seed=data.seed,
    )
    modules: dict[str, nn.Module] = {
        "generator": (SPADEGenerator if config.layout == "spade" else SEANGenerator)(config),
        "discriminator": MultiscaleDiscriminator(config.classes + 3, **recipe.loss.discriminator(config.layout)),
    }
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for name, module in modules.items():
        draw_weights(module, recipe.init_gain)
        modules[name] = module.to(device)
        rate = recipe.train.lr * (recipe.loss.d_lr if name == "discriminator" else 1.0)
        optimizers[name] = torch.optim.Adam(module.parameters(), lr=rate, betas=recipe.betas)
    batches = FaceBatches(train.to(device), recipe.train.batch, recipe.seed, accelerator.process_index, data.mirror)
    state = TrainState(modules, optimizers, batches)
    loss = _loss(recipe.loss, device)
    state.room = Room(recipe, config, classes, loss, train, held_out, train.class_colors())
    return state


def step(state: TrainState, batch: FaceBatch) -> dict[str, Tensor]:
    """One step of D and one of G on the same masks and pictures."""
    room: Room = state.room
    accelerator = state.accelerator
    assert accelerator is not None
    planes = one_hot(batch.labels, room.config.classes)  # (B, K, S, S)
    if room.config.layout == "sean":
        size = (planes.shape[2], planes.shape[3])
        noise = draw_noise(size, batch.noise, count=len(planes))
        fake = state.modules["generator"](planes, batch.pictures, {k: v.to(planes.device) for k, v in noise.items()})
    else:
        fake = state.modules["generator"](planes)
    fake = fake.float()

    discriminator = state.modules["discriminator"]
    judged_real = _floats(discriminator(torch.cat([planes, batch.pictures], dim=1)))
    judged_fake = _floats(discriminator(torch.cat([planes, fake.detach()], dim=1)))
    d_loss = hinge_discriminator_loss(judged_real, judged_fake)
    accelerator.backward(d_loss)
    clip(state, "discriminator")
    state.optimizers["discriminator"].step()
    state.optimizers["discriminator"].zero_grad()

    # The bare one, fixed: its weights get no gradient from the generator's step, in several processes neither.
    judge = state.bare()["discriminator"].requires_grad_(False)
    with torch.no_grad():
        on_real = _floats(judge(torch.cat([planes, batch.pictures], dim=1)))
    terms = room.loss(fake, batch.pictures, _floats(judge(torch.cat([planes, fake], dim=1))), on_real)
    judge.requires_grad_(True)
    total = torch.stack(list(terms.values())).sum()
    accelerator.backward(total)
    clip(state, "generator")
    state.optimizers["generator"].step()
    state.optimizers["generator"].zero_grad()
    return {"loss": total.detach(), "discriminator": d_loss.detach(), **{k: v.detach() for k, v in terms.items()}}


@torch.no_grad()
def validate(state: TrainState, modules: dict[str, nn.Module]) -> dict[str, float]:
    """Measure held-out pairs, rendered in eval mode, SEAN from the picture's own style and without noise.

    Returns:
        ``psnr`` in dB over all pixels of [0, 1] pictures; ``psnr_colors`` of masks painted in each class's mean colour
        of the training pictures; ``l1`` and ``l1_colors`` likewise.
    """
    room: Room = state.room
    bank = room.held_out
    rendered = _render(room, _evaluated(room.config, modules["generator"]), bank.labels, bank.pictures)
    truth = bank.pictures.float() / 255
    painted = room.colors[bank.labels.long()].movedim(-1, 1)
    figures: dict[str, float] = {}
    for name, picture in (("", rendered), ("_colors", painted)):
        figures[f"psnr{name}"] = float(-10 * torch.log10(F.mse_loss(picture, truth)))
        figures[f"l1{name}"] = float(F.l1_loss(picture, truth))
    return figures


@torch.no_grad()
def samples(state: TrainState, modules: dict[str, nn.Module]) -> Tensor:
    """Eight held-out pairs, a row each: mask, rendered, truth: ``(3, 8S, 3S)`` in [0, 1]."""
    room: Room = state.room
    labels, pictures = room.held_out.labels[:8], room.held_out.pictures[:8]
    rendered = _render(room, _evaluated(room.config, modules["generator"]), labels, pictures)
    rows = [room.classes.colored(labels).cpu(), rendered, pictures.float() / 255]
    return torch.cat([torch.cat(list(column), dim=1) for column in rows], dim=2)


def export(state: TrainState, modules: dict[str, nn.Module], folder: Path, figures: dict[str, float]) -> None:
    """Write ``config.json``, ``model.safetensors`` in the published layout, card, class set; SEAN's mean style."""
    room: Room = state.room
    settled = settle_spectral(modules["generator"].state_dict())
    save_pretrained(
        folder,
        method=METHOD,
        config=room.config,
        state=settled,
        card=_card(state, figures),
        training={"recipe": room.recipe.name, "step": state.step, "figures": figures},
        overwrite=True,
    )
    room.classes.save(folder / "classes.json")
    if room.config.layout == "sean":
        network = network_around(room.config, settled)
        assert isinstance(network, SEANGenerator)
        save_codes(folder / MEAN_STYLE, _mean_style(room, network))


def _evaluated(config: FaceNetworkConfig, module: nn.Module) -> SPADEGenerator | SEANGenerator:
    """A network for measuring. The average of a spectral norm's vectors is no singular vector: they are found anew."""
    return network_around(config, settle_spectral(module.state_dict()))


def _render(room: Room, network: SPADEGenerator | SEANGenerator, labels: Tensor, pictures: Tensor) -> Tensor:
    """Render ``(N, S, S)``, from the styles of ``(N, 3, S, S)`` uint8: ``(N, 3, S, S)`` in [0, 1] on the CPU."""
    device = network.fc.weight.device
    out: list[Tensor] = []
    for start in range(0, len(labels), _CHUNK):
        planes = one_hot(labels[start : start + _CHUNK].to(device), room.config.classes)
        if isinstance(network, SEANGenerator):
            made = network(planes, pictures[start : start + _CHUNK].to(device).float() / 127.5 - 1)
        else:
            made = network(planes)
        out.append((made.float().cpu() + 1) / 2)
    return torch.cat(out)


def _mean_style(room: Room, network: SEANGenerator) -> StyleCodes:
    device = network.fc.weight.device
    found: list[StyleCodes] = []
    for labels, picture in zip(room.train.labels[:_STYLED], room.train.pictures[:_STYLED], strict=True):
        planes = one_hot(labels[None].to(device), room.config.classes)
        codes = network.encode(picture[None].to(device).float() / 127.5 - 1, planes)
        found.append(StyleCodes(codes[0].cpu(), planes[0].flatten(1).any(dim=1).cpu()))
    return mean_codes(found)


def _loss(options: LossSection, device: torch.device) -> FaceLoss:
    features = None
    if options.lambda_perceptual > 0 and options.vgg_weights is not None:
        features = vgg_features(load_foreign(options.vgg_weights)).to(device)
    return FaceLoss(options.lambda_features, options.lambda_perceptual, options.lambda_l1, features)


def _floats(answer: Answer) -> Answer:
    """Losses are computed in float32 also where the discriminator ran in bfloat16."""
    return [[features.float() for features in scale] for scale in answer]


def _card(state: TrainState, figures: Mapping[str, float]) -> str:
    room: Room = state.room
    recipe, layout = room.recipe, room.config.layout
    name = recipe.name or "unnamed"
    drawn = recipe.data.root in ("procedural", "ellipses")
    return model_card(
        f"{METHOD}/{name}",
        summary=f"Renders face masks of the class set {room.classes.name!r}: a generator of the {layout.upper()} "
        f"layout at {room.config.size} pixels, trained by us.",
        data=f"{room.train.name}."
        + (" Masks and pictures are drawn by code." if drawn else " No picture is redistributed with these weights."),
        credits="None needed." if drawn else f"See the pictures' own terms: {Path(recipe.data.root).name}.",
        recipe=f"`pellucid train recipes/semantic_vae/{name}.toml`, {state.step} optimiser steps.",
        hardware=_hardware(),
        minutes=max(state.minutes, 0.01),
        figures=[
            Figure(f"{len(room.held_out)} held-out pairs", "PSNR dB", figures["psnr"], figures["psnr_colors"]),
            Figure(f"{len(room.held_out)} held-out pairs", "L1", figures["l1"], figures["l1_colors"]),
        ],
        seeds=1,
        limits="- Doing nothing means here: every class in its mean colour.\n"
        + ("- It has only seen drawings and makes drawings." if drawn else "- It knows the faces it was trained on."),
        citation=_CITATIONS[layout],
    )


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"One {torch.cuda.get_device_name(0)}"
    return f"{os.cpu_count()} cores of a {platform.machine()} CPU, no GPU"
