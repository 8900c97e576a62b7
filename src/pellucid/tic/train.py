"""Alternating training of generator and discriminator (Sec. 4): a step of D, then one of G on the same batch.

The paper says: Adam with lr 1e-4 and betas 0.5 and 0.999 for both, no decay, up to 350,000 iterations, one network
fixed while the other trains. Batch size, crops and initialisation are ours. Text dropout and plain texts, both off in
the paper, give a network that also colours without words; recoloured objects one that obeys them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.device import cpu_generator
from pellucid.errors import ConfigError, InputError
from pellucid.hub.convert import load_foreign
from pellucid.hub.pretrained import save_pretrained
from pellucid.metrics.colour import ab_psnr
from pellucid.nn.patch_discriminator import PatchDiscriminator
from pellucid.tic.batches import Batch, CaptionedBank, CaptionedBatches, drawn_bank, make_bank
from pellucid.tic.card import write_card
from pellucid.tic.clip_text import ClipTextEncoder
from pellucid.tic.data import Captioned, fixed_splits, read_pictures
from pellucid.tic.lab import rgb_to_lab, to_gamut
from pellucid.tic.losses import (
    ColorizationLoss,
    Scales,
    discriminator_loss,
    vgg_features,
)
from pellucid.tic.model import TICConfig, TICGenerator
from pellucid.tic.obedience import obedience, prompt
from pellucid.tic.recipe import DataSection, LossSection, PictureSet, Recipe, TextSection
from pellucid.tic.recolour import Recolouring, RecolourOptions
from pellucid.tic.text import TextEncoder
from pellucid.tic.vocabulary import SIX
from pellucid.tic.word_vectors import WordVectors
from pellucid.train.state import Accelerator, TrainState, clip

log = logging.getLogger(__name__)

ROOM = "tic"


@dataclass(frozen=True)
class Validation:
    """Held-out pictures, read once.

    Attributes:
        L: ``(N, 1, S, S)`` in [0, 100].
        ab: ``(N, 2, S, S)`` in Lab units.
        objects: ``(N, 1, S, S)`` soft masks.
        texts: captions.
        nouns: what each shows.
    """

    L: Tensor
    ab: Tensor
    objects: Tensor
    texts: list[str]
    nouns: list[str]

    def shuffled(self) -> list[str]:
        """Every picture with the text of another one."""
        order = torch.randperm(len(self.texts), generator=cpu_generator(0)).tolist()
        other = dict(zip(order, order[1:] + order[:1], strict=True))
        return [self.texts[other[place]] for place in range(len(self.texts))]


@dataclass
class Room:
    """What the steps need besides the networks; the recipe makes it again."""

    recipe: Recipe
    config: TICConfig
    loss: ColorizationLoss
    encoder: TextEncoder | ClipTextEncoder
    validation: Validation | None
    sources: list[Mapping[str, Any]]


def build(recipe: Recipe, accelerator: Accelerator) -> TrainState:
    """Build networks, optimisers, loss and data of a run.

    Raises:
        ConfigError: no data, or options that do not fit.
        InputError: a data folder is not there, or holds other than it should.
        WeightsError: word vectors or VGG weights do not fit.
    """
    config = TICConfig(**recipe.model.model_dump())
    device = accelerator.device
    modules: dict[str, nn.Module] = {"generator": TICGenerator(config)}
    if recipe.loss.lambda_gan > 0:
        modules["discriminator"] = PatchDiscriminator(width=recipe.loss.d_width, first_norm=recipe.loss.d_first_norm)
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for name, module in modules.items():
        if recipe.init == "pix2pix":
            _draw_weights(module)
        modules[name] = module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rate = recipe.train.lr * (recipe.loss.d_lr if name == "discriminator" else 1.0)
        optimizers[name] = torch.optim.Adam(module.parameters(), lr=rate, betas=recipe.betas)
    encoder = _encoder(recipe.text, config)
    if recipe.data.side != config.working_side:
        log.info("pictures of %d px train weights for %d px: model.working_side", recipe.data.side, config.working_side)
    batches, validation, sources = _data(recipe, config, encoder, accelerator)
    state = TrainState(modules, optimizers, batches)
    state.room = Room(recipe, config, _loss(recipe.loss, config).to(device), encoder, validation, sources)
    return state


def step(state: TrainState, batch: Batch) -> dict[str, Tensor]:
    """One step of D (Eq. 2, lower line) and one of G (Eq. 4) on the same batch; D only from ``loss.gan_from`` on."""
    room: Room = state.room
    accelerator, options = state.accelerator, room.recipe.loss
    assert accelerator is not None
    L, ab = normalised(batch.lab, room.config)
    fake = state.modules["generator"](L, batch.vectors).float()
    terms: dict[str, Tensor] = {}
    logits: Tensor | None = None
    if "discriminator" in state.modules and state.step >= options.gan_from:
        terms["discriminator"] = _step_discriminator(state, L, ab, fake.detach())
        # The bare one, fixed: its weights get no gradient from the generator's step, in several processes neither.
        judge = state.bare()["discriminator"]
        with _fixed(judge):
            logits = judge(torch.cat([L, fake], dim=1))
    found = room.loss(L, fake, ab, logits)
    if "gan" in found and options.gan_ramp:
        found["gan"] = found["gan"] * min(1.0, (state.step - options.gan_from + 1) / options.gan_ramp)
    total = torch.stack(list(found.values())).sum()
    accelerator.backward(total)
    clip(state, "generator")
    state.optimizers["generator"].step()
    state.optimizers["generator"].zero_grad()
    return {"loss": total.detach(), **{name: term.detach() for name, term in found.items()}, **terms}


@torch.no_grad()
def validate(state: TrainState, modules: dict[str, nn.Module]) -> dict[str, float]:
    """Measure on held-out pictures at the working size, in eval mode.

    Returns:
        ``ab_true``, ``ab_shuffled``, ``ab_empty``: PSNR of a*, b* (`metrics.colour.ab_psnr`) with the picture's text,
        another picture's, none; ``ab_grey`` and ``ab_mean``: no colour, and the picture's mean colour. The figures of
        `obedience` as ``obeyed``, ``opposite``, ``chroma``, ``bleeding``, ``spread``. ``score``: how far the room's
        four aims are reached, each counting 1: obedience, chroma of 30, 2 dB between true and shuffled text, and
        bleeding below 6, beyond which it takes away; and a tenth of the dB by which true text beats the mean colour.
    """
    room: Room = state.room
    held_out = room.validation
    if held_out is None:
        return {"score": 0.0}
    network = modules["generator"]
    with _evaluating(network):

        def predict(L: Tensor, texts: list[str]) -> Tensor:
            return _predict(room, network, L, texts)

        texts = {"true": held_out.texts, "shuffled": held_out.shuffled(), "empty": [""] * len(held_out.texts)}
        figures = {
            f"ab_{name}": fmean(
                float(value)
                for start in range(0, len(said), 32)
                for value in ab_psnr(
                    predict(held_out.L[start : start + 32], said[start : start + 32]),
                    held_out.ab[start : start + 32],
                )
            )
            for name, said in texts.items()
        }
        figures["ab_grey"] = float(ab_psnr(torch.zeros_like(held_out.ab), held_out.ab).mean())
        mean = held_out.ab.mean((-2, -1), keepdim=True).expand_as(held_out.ab)
        figures["ab_mean"] = float(ab_psnr(mean, held_out.ab).mean())
        obeyed = obedience(predict, held_out.L, held_out.objects, held_out.nouns, truth=held_out.ab)
    figures["obeyed"] = obeyed["accuracy"]
    figures |= {name: obeyed[name] for name in ("opposite", "chroma", "bleeding", "spread") if name in obeyed}
    gap = figures["ab_true"] - figures["ab_shuffled"]
    figures["score"] = (
        figures["obeyed"]
        + min(figures["chroma"] / 30, 1.0)
        + min(max(gap, 0.0) / 2, 1.0)
        - max(0.0, figures.get("bleeding", 0.0) / 6 - 1)
        + (figures["ab_true"] - figures["ab_mean"]) / 10
    )
    return figures


@torch.no_grad()
def samples(state: TrainState, modules: dict[str, nn.Module]) -> Tensor:
    """Eight held-out pictures, a row each: grey, no text, true text, the six colours, truth: ``(3, 8S, 10S)``."""
    room: Room = state.room
    held_out = room.validation
    if held_out is None:
        return torch.zeros(3, 16, 16)
    rows = torch.linspace(0, len(held_out.texts) - 1, min(8, len(held_out.texts))).round().long()
    L, ab = held_out.L[rows], held_out.ab[rows]
    nouns, texts = ([said[int(row)] for row in rows] for said in (held_out.nouns, held_out.texts))
    network = modules["generator"]
    columns = [torch.zeros_like(ab)]
    with _evaluating(network):
        for said in ([""] * len(rows), texts, *([prompt(word, noun) for noun in nouns] for word in SIX)):
            columns.append(_predict(room, network, L, said))
    shown = [to_gamut(L, column) for column in [*columns, ab]]  # each (n, 3, S, S)
    sheet = torch.stack(shown, dim=1)  # (n, 10, 3, S, S)
    side = min(128, L.shape[-1])
    small = F.interpolate(sheet.flatten(0, 1), (side, side), mode="bilinear", antialias=True).unflatten(
        0, sheet.shape[:2]
    )
    return small.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2).clamp(0, 1)


def export(state: TrainState, modules: dict[str, nn.Module], folder: Path, figures: dict[str, float]) -> None:
    """Write ``config.json``, ``model.safetensors`` (fp16), the card, and the word vectors where they are not ours."""
    room: Room = state.room
    training = {
        "recipe": room.recipe.name,
        "step": state.step,
        "figures": figures,
        "vgg_layer": room.recipe.loss.vgg_layer if room.recipe.loss.lambda_perceptual else None,
    }
    save_pretrained(
        folder,
        method=ROOM,
        config=room.config,
        state=modules["generator"],
        card=write_card(
            room.recipe.name,
            figures,
            sources=room.sources,
            step=state.step,
            minutes=state.minutes,
            adversarial="discriminator" in state.modules and state.step > room.recipe.loss.gan_from,
        ),
        training=training,
        dtype=_storable(modules["generator"]),
        overwrite=True,
    )
    if room.recipe.text.vectors is not None and isinstance(room.encoder, TextEncoder):
        room.encoder.vectors.save(folder / "vectors.npz")


def normalised(lab: Tensor, config: TICConfig) -> tuple[Tensor, Tensor]:
    """Lab ``(B, 3, H, W)`` as the networks see it: L_n ``(B, 1, H, W)`` and ab_n ``(B, 2, H, W)``."""
    lab = lab.contiguous(memory_format=torch.channels_last)
    return (lab[:, :1] - config.l_centre) / config.l_scale, lab[:, 1:] / config.ab_scale


def _storable(module: nn.Module) -> str:
    """fp16, unless a value is too large for it: the statistics of a norm can be, early in a run."""
    largest = max(float(value.abs().max()) for value in module.state_dict().values())
    if largest <= torch.finfo(torch.float16).max:
        return "float16"
    log.info("a value of %.3g does not fit float16: weights are stored as float32", largest)
    return "float32"


def _step_discriminator(state: TrainState, L: Tensor, ab: Tensor, fake: Tensor) -> Tensor:
    room: Room = state.room
    discriminator, accelerator = state.modules["discriminator"], state.accelerator
    assert accelerator is not None
    # Real and fake pass one after the other, so that batch norm does not mix their statistics.
    real_logits = discriminator(torch.cat([L, ab], dim=1))
    fake_logits = discriminator(torch.cat([L, fake], dim=1))
    loss = discriminator_loss(real_logits, fake_logits, room.recipe.loss.d_reduce)
    accelerator.backward(loss)
    clip(state, "discriminator")
    state.optimizers["discriminator"].step()
    state.optimizers["discriminator"].zero_grad()
    return loss.detach()


@contextmanager
def _fixed(module: nn.Module) -> Iterator[None]:
    """Keep a network's weights out of a backward pass."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _predict(room: Room, network: nn.Module, L: Tensor, texts: list[str]) -> Tensor:
    """a*, b* ``(B, 2, S, S)`` in Lab units, on the CPU, for L in [0, 100] and texts."""
    device = next(network.parameters()).device
    L_n = ((L.to(device) - room.config.l_centre) / room.config.l_scale).contiguous(memory_format=torch.channels_last)
    vectors = room.encoder.encode_all(texts).to(device)
    return (network(L_n, vectors).float() * room.config.ab_scale).cpu()


def _draw_weights(module: nn.Module) -> None:
    """Convolutions from N(0, 0.02), norms from N(1, 0.02), as in pix2pix; the text path keeps torch's default."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(part.weight, 0.0, 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.02)
            nn.init.zeros_(part.bias)


def _encoder(text: TextSection, config: TICConfig) -> TextEncoder | ClipTextEncoder:
    if text.clip is not None:
        tower = ClipTextEncoder(text.clip, config.text_norm)
        if tower.dimension != config.vector_dim:
            raise ConfigError(f"model.vector_dim must be {tower.dimension} for {text.clip}, found {config.vector_dim}")
        return tower
    vectors = WordVectors.load(text.vectors) if text.vectors is not None else WordVectors.bundled()
    return TextEncoder(vectors.expect_dimension(config.vector_dim), config.text_norm)


def _loss(options: LossSection, config: TICConfig) -> ColorizationLoss:
    features = None
    if options.lambda_perceptual > 0 and options.vgg_weights is not None:
        features = vgg_features(load_foreign(options.vgg_weights), options.vgg_layer)
    return ColorizationLoss(
        features,
        options.lambda_gan,
        options.lambda_perceptual,
        options.lambda_l1,
        units=options.l1_units,
        reduce=options.d_reduce,
        colours=options.vgg_input,
        scales=Scales(config.l_centre, config.l_scale, config.ab_scale),
    )


def _data(
    recipe: Recipe, config: TICConfig, encoder: TextEncoder | ClipTextEncoder, accelerator: Accelerator
) -> tuple[CaptionedBatches, Validation | None, list[Mapping[str, Any]]]:
    data = recipe.data
    banks: list[CaptionedBank] = []
    sources: list[Mapping[str, Any]] = []
    validation: Validation | None = None
    for number, wanted in enumerate(data.sets):
        if wanted.root == "synthetic":
            bank = drawn_bank(wanted.count, data.stored, seed=0, share=wanted.share)
            held_out = drawn_bank(min(data.held_out, wanted.count), data.stored, seed=1) if number == 0 else None
        else:
            pictures = list_set(wanted)
            train = [item for item in pictures if item.split == "train"]
            bank = make_bank(train, data.stored, wanted.objects, data.balance, wanted.share)
            sources += [item.row for item in train]
            held_out = _held_out(pictures, data, wanted) if number == 0 else None
        banks.append(bank.to(accelerator.device))
        if held_out is not None:
            validation = _validation(held_out, config.working_side)
    options = RecolourOptions(**recipe.recolour.model_dump())
    batches = CaptionedBatches(
        banks,
        encoder,
        recipe.train.batch,
        data.side,
        scale=data.scale,
        seed=recipe.seed,
        process=(accelerator.process_index, accelerator.num_processes),
        dropout=recipe.text.dropout,
        plain=recipe.text.plain,
        unsaid=recipe.text.unsaid,
        achromatic=recipe.text.achromatic,
        scenes=data.scenes,
        recolour=Recolouring(options) if options.share > 0 else None,
        scenic=data.scenic,
        length=recipe.train.steps * recipe.train.accumulate,
    )
    return batches, validation, sources


def list_set(wanted: PictureSet) -> list[Captioned]:
    """The pictures of one ``[[data.sets]]`` with their splits, after ``only`` and ``without``.

    Raises:
        InputError: the folder is not there, or nothing is left of it.
    """
    pictures = [
        item
        for item in read_pictures(wanted.root, wanted.layout, wanted.name)
        if all(str(item.row.get(key)) == value for key, value in wanted.only.items())
        and not any(str(item.row.get(key)) == value for key, value in wanted.without.items())
    ]
    if not any(item.split == "train" for item in pictures):
        raise InputError(f"{wanted.root}: no picture to train on", "look at only and without of [[data.sets]]")
    return fixed_splits(pictures, Path(wanted.splits).expanduser()) if wanted.splits else pictures


def _held_out(pictures: list[Captioned], data: DataSection, wanted: PictureSet) -> CaptionedBank | None:
    """Pictures that choose the model: the ``val`` split, else the ``test`` split, evenly thinned."""
    for split in ("val", "test"):
        chosen = [item for item in pictures if item.split == split]
        if chosen:
            stride = max(len(chosen) / data.held_out, 1.0)
            thinned = [chosen[int(place * stride)] for place in range(int(len(chosen) / stride))]
            log.info("%s: %d pictures of split %r choose the model", wanted.root, len(thinned), split)
            return make_bank(thinned, data.stored, wanted.objects)
    log.warning("%s has no held-out pictures: nothing is measured during training", wanted.root)
    return None


def _validation(held_out: CaptionedBank, side: int) -> Validation:
    if held_out.cut_out:
        raise ConfigError("recipe: the first set of [data] must be whole pictures, found cut-outs")
    whole = torch.stack(
        [
            F.interpolate(
                held_out.bank.picture(place)[None].float() / 255, (side, side), mode="bicubic", antialias=True
            )
            for place in range(len(held_out))
        ]
    )[:, 0].clamp(0, 1)  # (N, 4, S, S)
    lab = rgb_to_lab(whole[:, :3])
    texts = [options[0] for options in held_out.texts]
    return Validation(lab[:, :1], lab[:, 1:], whole[:, 3:], texts, list(held_out.nouns))
