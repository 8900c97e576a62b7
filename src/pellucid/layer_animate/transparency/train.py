"""Training of latent transparency: E and D against a frozen VAE, and before that the VAE itself when asked.

The released encoder and decoder are used as they are; this is for stacks of our own sizes. Diffusion never enters: one
learns to hide alpha in a latent that the VAE still decodes to the same picture, the other to find it again.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from pellucid.device import generator_of
from pellucid.errors import ConfigError
from pellucid.hub.cards import Figure, credit_lines, model_card
from pellucid.hub.pretrained import load_state, save_pretrained
from pellucid.layer_animate.transparency.coding import (
    adjusted_latent,
    crop_to,
    decode_pixels,
    decode_rgba,
    encode_rgba,
    on_grey,
)
from pellucid.layer_animate.transparency.data import DRAWN, RgbaBank, RgbaBatches, draw_grounds, open_banks
from pellucid.layer_animate.transparency.losses import transparency_loss, vae_loss
from pellucid.layer_animate.transparency.networks import TransparencyDecoder, TransparencyEncoder
from pellucid.layer_animate.transparency.recipe import Recipe
from pellucid.layer_animate.transparency.weights import (
    TRANSPARENCY,
    LatentTransparency,
    read_config,
    transparency_state,
)
from pellucid.layers.padding import pad_rgb
from pellucid.train.state import Accelerator, TrainState, clip

log = logging.getLogger(__name__)

_BATCH = 16  # pictures measured at a time
_SHOWN = 8
_GROUNDS = 256
_FIRST_LOGVAR = -6.0  # a spread of 0.05

CITATION = "Bai, Zhou, Wang, Chen, Yang, Lei, Wang: Layer-Animate for Transparent Video Generation."

__all__ = ["Recipe", "build", "export", "samples", "step", "validate"]


class GreyVae(nn.Module):
    """The VAE as it learns: greyed pictures through a sampled latent and back."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, grey: Tensor, noise_seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """``(N, 3, H, W)`` in [-1, 1] -> the decoded picture, and mean and log-variance of the latent."""
        posterior = self.vae.encode(grey).latent_dist  # type: ignore[union-attr]
        # From the CPU, so that a run on another device sees the same noise.
        noise = torch.randn(posterior.mean.shape, generator=generator_of(noise_seed, 0x7AE)).to(posterior.mean)
        picture = self.vae.decode(posterior.mean + posterior.std * noise).sample  # type: ignore[union-attr]
        return picture, posterior.mean, posterior.logvar


class EncoderDecoder(nn.Module):
    """E and D as they learn together, with the VAE between them."""

    def __init__(self, encoder: TransparencyEncoder, decoder: TransparencyDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, rgba: Tensor, vae: AutoencoderKL, offset_scale: float) -> tuple[Tensor, Tensor]:
        """RGBA ``(N, 4, H, W)`` -> D's alpha, R, G, B, and the picture in [-1, 1] that the VAE decodes from x_a."""
        latent = adjusted_latent(rgba, vae, self.encoder, offset_scale)
        picture = vae.decode(latent).sample  # type: ignore[union-attr]
        return decode_pixels(self.decoder, (picture * 0.5 + 0.5).clamp(0.0, 1.0), latent), picture


@dataclass
class Room:
    """What the steps need besides the networks; the recipe makes it again.

    Attributes:
        recipe: of the run.
        model: sizes and parts, which the state's modules share.
        train: pictures to learn.
        held_out: pictures that choose the weights.
        latent: mean and spread of the held-out raw latents at the last validation.
    """

    recipe: Recipe
    model: LatentTransparency
    train: RgbaBank
    held_out: RgbaBank
    latent: dict[str, float] = field(default_factory=dict)


def build(recipe: Recipe, accelerator: Accelerator) -> TrainState:
    """Build networks, optimisers and pictures of a run.

    Raises:
        ConfigError: nothing says where a useful VAE comes from, or a folder is not there.
        InputError: a data folder holds no such pictures.
        WeightsError: ``start`` does not fit.
    """
    if recipe.start is None and not recipe.vae.steps:
        raise ConfigError(
            "a frozen VAE with random weights teaches nothing", "name weights in start, or let the VAE learn: vae.steps"
        )
    if recipe.start is None:
        model = LatentTransparency(recipe.config())
        _quieten(model.vae)
    else:
        config = read_config(recipe.start)
        model = LatentTransparency(
            replace(config, size=recipe.size or config.size, offset_scale=recipe.offset_scale or config.offset_scale)
        )
        load_state(model, transparency_state(recipe.start))
    device, data = accelerator.device, recipe.data
    model = model.to(device)
    train, held_out = open_banks(
        data.root,
        data.table,
        model.config.size,
        count=data.count,
        held_out=data.held_out,
        seed=data.seed,
        only=data.only,
        sheets=data.sheets,
        every=data.every,
    )
    log.info("%d pictures to learn, %d to measure: %s", len(train), len(held_out), train.name)
    modules: dict[str, nn.Module] = {
        "vae": GreyVae(model.vae),
        "transparency": EncoderDecoder(model.encoder, model.decoder),
    }
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.AdamW(
            module.parameters(),
            lr=recipe.train.lr,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=device.type == "cuda" or None,
        )
        for name, module in modules.items()
    }
    batches = RgbaBatches(
        train.to(device),
        recipe.train.batch,
        recipe.seed,
        (accelerator.process_index, accelerator.num_processes),
        affine=data.affine,
        opaque=data.opaque,
        grounds=draw_grounds(_GROUNDS, model.config.size, data.seed).to(device) if data.opaque else None,
    )
    state = TrainState(modules, optimizers, batches)
    state.room = Room(recipe, model, train, held_out.to(device))
    return state


def step(state: TrainState, batch: tuple[Tensor, Tensor, int]) -> dict[str, Tensor]:
    """One step: of the VAE in the first ``vae.steps``, then of E and D."""
    rgba, backdrop, number = batch
    room: Room = state.room
    recipe, accelerator = room.recipe, state.accelerator
    assert accelerator is not None
    grey = on_grey(rgba)
    first = state.step < recipe.vae.steps
    name = "vae" if first else "transparency"
    vae = room.model.vae.requires_grad_(first)
    if first:
        found = state.modules[name](grey, number ^ recipe.seed << 32)
        factors = recipe.vae.model_dump(include={"square", "gradient", "kl"})
        terms = vae_loss(found[0], grey, *found[1:], **factors)
    else:
        found, picture = state.modules[name](rgba, vae, room.model.config.offset_scale)
        truth = torch.cat([rgba[:, 3:], pad_rgb(rgba)], dim=1)
        terms = transparency_loss(found, truth, picture, grey, backdrop, recipe.weights())
    accelerator.backward(terms["loss"])
    clip(state, name)
    state.optimizers[name].step()
    state.optimizers[name].zero_grad()
    return {f"{name}_{key}" if key != "loss" else key: term.detach() for key, term in terms.items()}


@torch.no_grad()
def validate(state: TrainState, modules: Mapping[str, nn.Module]) -> dict[str, float]:
    """Measure a round trip of the held-out pictures.

    Returns:
        ``alpha_mae`` and ``colour_mae``, mean absolute errors in [0, 1], the second weighted with the true alpha;
        ``nothing_mae``, the first of a decoder that says alpha 0 everywhere; ``grey_mae``, of the VAE's picture
        against the greyed truth; ``psnr``, dB, of truth and found over the same
        random colours, a mean over the pictures; ``latent_mean`` and ``latent_std`` of the raw latents.
    """
    room: Room = state.room
    vae, encoder, decoder = _parts(modules)
    sums = torch.zeros(5, dtype=torch.float64)
    latents: list[Tensor] = []
    decibels: list[Tensor] = []
    colours = torch.rand(len(room.held_out), 3, 1, 1, generator=generator_of(0, 0xC010))
    indices = torch.arange(len(room.held_out))
    for chosen in indices.split(_BATCH):
        truth = room.held_out.take(chosen)
        size = (truth.shape[-2], truth.shape[-1])
        raw = encode_rgba(truth, vae, encoder, room.model.config.offset_scale, chunk=_BATCH)
        found = decode_rgba(raw, vae, decoder, chunk=_BATCH, size=size)
        picture = vae.decode(raw).sample  # type: ignore[union-attr]
        alpha = truth[:, 3:]
        backdrop = colours[chosen].to(truth)
        error = (_over(found, backdrop) - _over(truth, backdrop)).square().mean(dim=(1, 2, 3))
        decibels.append((-10.0 * error.clamp(min=1e-10).log10()).double().cpu())
        grey = (crop_to(picture, size) - on_grey(truth)).abs().mean() / 2.0
        sums += (
            torch.stack(
                [
                    (found[:, 3:] - alpha).abs().mean() * len(truth),
                    ((found[:, :3] - truth[:, :3]).abs() * alpha).sum(),
                    3.0 * alpha.sum(),
                    alpha.mean() * len(truth),
                    grey * len(truth),
                ]
            )
            .double()
            .cpu()
        )
        latents.append(raw.cpu())
    every = torch.cat(latents)
    room.latent = {"latent_mean": float(every.mean()), "latent_std": float(every.std())}
    count = len(room.held_out)
    return {
        "alpha_mae": float(sums[0] / count),
        "colour_mae": float(sums[1] / sums[2].clamp(min=1e-8)),
        "nothing_mae": float(sums[3] / count),
        "grey_mae": float(sums[4] / count),
        "psnr": float(torch.cat(decibels).mean()),
        **room.latent,
    }


@torch.no_grad()
def samples(state: TrainState, modules: Mapping[str, nn.Module]) -> Tensor:
    """Eight held-out pictures, a row each: over white, alpha, the VAE's picture, then alpha and over white as found.

    Returns:
        ``(3, H, W)`` in [0, 1].
    """
    room: Room = state.room
    vae, encoder, decoder = _parts(modules)
    places = torch.linspace(0, len(room.held_out) - 1, min(_SHOWN, len(room.held_out))).round().long()
    truth = room.held_out.take(places)
    raw = encode_rgba(truth, vae, encoder, room.model.config.offset_scale)
    found = decode_rgba(raw, vae, decoder, size=(truth.shape[-2], truth.shape[-1]))
    picture = (vae.decode(raw).sample * 0.5 + 0.5).clamp(0.0, 1.0)  # type: ignore[union-attr]

    def on_white(rgba: Tensor) -> Tensor:
        return rgba[:, :3] * rgba[:, 3:] + 1.0 - rgba[:, 3:]

    picture = crop_to(picture, (truth.shape[-2], truth.shape[-1]))
    columns = [on_white(truth), truth[:, 3:].expand(-1, 3, -1, -1), picture]
    columns += [found[:, 3:].expand(-1, 3, -1, -1), on_white(found)]
    sheet = torch.stack(columns, dim=1)  # (n, columns, 3, S, S)
    return sheet.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2).cpu()


def export(state: TrainState, modules: Mapping[str, nn.Module], folder: Path, figures: dict[str, float]) -> None:
    """Write VAE, encoder and decoder as weights of method ``transparency``, with the measured scaling factor."""
    room: Room = state.room
    vae, encoder, decoder = _parts(modules)
    spread = room.latent.get("latent_std") or validate(state, modules)["latent_std"]
    # Latents of spread 1 are what a diffusion model begins and ends with.
    config = replace(room.model.config, scaling_factor=1.0 / max(spread, 1e-6))
    parts = {"vae": vae, "encoder": encoder, "decoder": decoder}
    tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    save_pretrained(
        folder,
        method=TRANSPARENCY,
        config=config,
        state=tensors,
        card=_card(state, figures),
        training={
            "recipe": room.recipe.name,
            "step": state.step,
            "vae_steps": min(state.step, room.recipe.vae.steps),
            "pictures": room.train.name,
            "figures": figures,
            "loss": asdict(room.recipe.weights()),
        },
        dtype="float16",
        overwrite=True,
    )


def _quieten(vae: AutoencoderKL) -> None:
    """Let a random VAE begin with little noise: at a spread of 1, as torch begins, it learns to ignore its latent."""
    with torch.no_grad():
        convolution = vae.quant_conv
        assert convolution is not None
        assert convolution.bias is not None
        half = convolution.bias.shape[0] // 2
        convolution.weight[half:] *= 0.1
        convolution.bias[half:] = _FIRST_LOGVAR


def _over(rgba: Tensor, backdrop: Tensor) -> Tensor:
    return rgba[:, :3] * rgba[:, 3:] + backdrop * (1.0 - rgba[:, 3:])


def _parts(modules: Mapping[str, nn.Module]) -> tuple[AutoencoderKL, TransparencyEncoder, TransparencyDecoder]:
    grey, both = modules["vae"], modules["transparency"]
    assert isinstance(grey, GreyVae)
    assert isinstance(both, EncoderDecoder)
    return grey.vae, both.encoder, both.decoder


def _card(state: TrainState, figures: Mapping[str, float]) -> str:
    room: Room = state.room
    recipe = room.recipe
    drawn = recipe.data.root == DRAWN
    licensed = [row for row in room.train.rows if row.get("licence") or row.get("license")]
    licences = ", ".join(sorted({str(row.get("licence") or row.get("license")) for row in licensed}))
    name = recipe.name or "unnamed"
    rows = [
        Figure(
            "held-out pictures, round trip", "alpha, mean absolute error", figures["alpha_mae"], figures["nothing_mae"]
        )
        if "alpha_mae" in figures
        else Figure("training", "step", float(state.step), 0.0)
    ]
    gpu = torch.cuda.is_available()
    return model_card(
        f"layer_animate/{name}",
        summary=(
            "Turns pictures with alpha into latents of a small VAE and back: VAE, transparency encoder and decoder. "
            "Doing nothing is here to call every pixel transparent."
        ),
        data=f"Trained on {len(room.train):,} pictures: {room.train.name}."
        + (
            " Drawn by code of this package, free of rights of others."
            if drawn
            else f" Licences: {licences or 'see the data set'}."
        ),
        credits="None needed." if drawn else credit_lines(licensed) or "See the data set.",
        recipe=f"`pellucid train recipes/layer_animate/{name}.toml`, {state.step} optimiser steps, "
        f"{min(state.step, recipe.vae.steps)} of them for the VAE.",
        hardware=f"One {torch.cuda.get_device_name(0)}"
        if gpu
        else f"{os.cpu_count()} cores of a {platform.machine()} CPU, no GPU",
        minutes=max(state.minutes, 0.01),
        figures=rows,
        seeds=1,
        limits="- It knows the kind of pictures it was trained on; it is no part of Stable Diffusion's latent space.",
        citation=CITATION,
    )
