"""The recipe of this room: which tables and keys a TOML file may hold, and what each does (Sec. 5 of the design)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pellucid.errors import ConfigError
from pellucid.layer_animate.clips.cuts import Cutting
from pellucid.layer_animate.clips.motions import MOTIONS
from pellucid.layer_animate.model import LayerAnimateConfig, middle, preset
from pellucid.train.config import Recipe as BaseRecipe
from pellucid.train.config import Section

DRAWN = "drawn"
Stage = Literal["ifa", "motion", "base", "all"]


class ModelSection(Section):
    """``[model]``: what is trained on.

    Attributes:
        weights: a folder of weights of this room, or a ``components.toml`` that names real checkpoints; None begins
            with random weights of ``preset``.
        ifa: begin with this file of Inter-Frame Attention.
        preset: a key of `model.PRESETS`; only without ``weights``.
        transparency: folder that a recipe of method ``transparency`` made: VAE, transparency encoder and decoder, with
            their sizes. Without it and without ``weights`` they are random, which only tests bear.
        widths: of the levels of UNet and motion modules, in place of the preset's.
        layers: attach Inter-Frame Attention only to attentions whose names begin so, for example ``"up_blocks"``;
            all 16 (spec Sec. 7, A12) when empty.
    """

    weights: str | None = None
    ifa: str | None = None
    preset: str = "tiny"
    transparency: str | None = None
    widths: tuple[int, ...] | None = None
    layers: tuple[str, ...] = ()


class ClipSet(Section):
    """One set of clips.

    Attributes:
        root: ``"drawn"`` makes clips by code, of drawings; else a folder (or one file) in a layout of `clips`.
        what: ``"clips"`` reads clips; ``"stills"`` takes the pictures of a shard folder and moves them by code.
        table: which ``TABLE.jsonl`` of a shard folder.
        split: of a shard folder, to train on; its ``val`` is measured.
        share: which part of all draws comes from this set.
        count: how many drawings, or at most how many clips or stills, evenly over the table; None for all (of drawings
            64).
        only: names of clips (or their files) to take; they are measured too, as learning them is the purpose.
        where: keep rows of a shard folder whose field has this value, for example ``{source = "..."}``.
        motions: keys of `motions.MOTIONS` that stills get; all when empty.
        anywhere: share of moved stills whose base frame is not at rest.
        named: share of moved stills that are told by their name alone, without the motion.
        ground: ``"drawn"`` lays the clips over grounds drawn by code, so that they are opaque; ``"none"`` leaves them.
        drift: share of such grounds that move.
        opaque: take clips without alpha as well.
    """

    root: str = DRAWN
    what: Literal["clips", "stills"] = "clips"
    table: str | None = None
    split: str = "train"
    share: float = Field(default=1.0, gt=0)
    count: int | None = Field(default=None, ge=1)
    only: tuple[str, ...] = ()
    where: dict[str, str] = Field(default_factory=dict)
    motions: tuple[str, ...] = ()
    anywhere: float = Field(default=0.0, ge=0, le=1)
    named: float = Field(default=0.0, ge=0, le=1)
    ground: Literal["none", "drawn"] = "none"
    drift: float = Field(default=0.25, ge=0, le=1)
    opaque: bool = False

    @field_validator("motions")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in names if name not in MOTIONS]:
            raise ConfigError(f"motion {unknown[0]!r} is not known", f"use some of {', '.join(MOTIONS)}")
        return names


class DataSection(Section):
    """``[data]``: the sets, and how clips are cut; see `cuts.Cutting` for the cuts.

    Attributes:
        sets: what to train on.
        size: height and width of the frames; the model's side, square, when None.
        variants: cuts of each clip that are cached; more is more augmentation.
        cache: folder for cached latents; None keeps them for the run only.
        held_out: clips of each set that are measured; 0 measures those that are trained on.
        fps, step, loop, speed, reverse, flip, crop, fit: see `cuts.Cutting`.
    """

    sets: list[ClipSet] = Field(default_factory=lambda: [ClipSet()])
    size: tuple[int, int] | None = None
    variants: int = Field(default=1, ge=1)
    cache: str | None = None
    held_out: int = Field(default=4, ge=0)
    fps: float = Field(default=8.0, gt=0)
    step: float | None = Field(default=None, gt=0)
    loop: Literal["whole", "rate"] = "whole"
    speed: tuple[float, float] = (1.0, 1.0)
    reverse: float = Field(default=0.0, ge=0, le=1)
    flip: float = Field(default=0.0, ge=0, le=1)
    crop: tuple[float, float] = (1.0, 1.0)
    fit: Literal["crop", "contain"] = "contain"

    def cutting(self, frames: int) -> Cutting:
        """How clips are cut to F frames."""
        names = ("fps", "step", "loop", "speed", "reverse", "flip", "crop", "fit")
        return Cutting(frames=frames, **{name: getattr(self, name) for name in names})


class SamplingSection(Section):
    """``[sampling]``: how clips are made for the film strip and its figures.

    Attributes:
        clips: how many are made; 0 for none, which saves the time. In stage ``"base"`` pictures: so many of measured
            texts and so many of learned ones.
        steps: of the scheduler.
        guidance: g; 1 without.
        scheduler: a name of `schedules.make_scheduler`.
    """

    clips: int = Field(default=1, ge=0)
    steps: int = Field(default=12, ge=1)
    guidance: float = Field(default=3.0, ge=0)
    scheduler: str = "ddim"


class Recipe(BaseRecipe):
    """The recipe of this room: the shared keys and the tables above.

    Attributes:
        stage: what learns. ``"ifa"``: Inter-Frame Attention alone, frame m clean (the paper). ``"motion"``: the motion
            modules alone, no frame clean, no Inter-Frame Attention: AnimateDiff's training, and the candidate "motion
            module" of Table I. ``"base"``: the UNet without them, and the text encoder, on single frames. ``"all"``:
            UNet, motion modules, Inter-Frame Attention and text encoder at once, frame m clean: for small stacks that
            begin with nothing.
        frames: F.
        base_index: m; the middle (F - 1) // 2 when None. 0 is the candidate "first frame".
        text_dropout: share of clips whose text is dropped, for guidance.
        betas: of AdamW.
        weight_decay: of AdamW.
        checkpointing: recompute activations in the backward pass: less memory, a third more time.
    """

    stage: Stage = "ifa"
    frames: int = Field(default=16, ge=1)
    base_index: int | None = Field(default=None, ge=0)
    text_dropout: float = Field(default=0.1, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.01, ge=0)
    checkpointing: bool = False

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    sampling: SamplingSection = SamplingSection()

    @model_validator(mode="after")
    def _agrees(self) -> Recipe:
        if self.base_index is not None and self.base_index >= self.frames:
            raise ConfigError(f"base_index must lie in 0..{self.frames - 1}, found {self.base_index}")
        if self.stage in ("ifa", "all") and self.frames < 2:
            raise ConfigError(f"stage {self.stage!r} needs at least 2 frames, found {self.frames}")
        if self.stage == "base" and self.checkpointing:
            raise ConfigError(
                'checkpointing cannot be used in stage "base"', "the single frames of that stage are small"
            )
        return self

    @property
    def clean(self) -> int | None:
        """m, the frame that is given clean; None in the stages without."""
        if self.stage not in ("ifa", "all"):
            return None
        return middle(self.frames) if self.base_index is None else self.base_index

    def config(self, transparency: LayerAnimateConfig | None) -> LayerAnimateConfig:
        """The sizes of a model that begins with random weights.

        Args:
            transparency: sizes of the VAE and of the transparency networks to take, with their scale factors.
        """
        sizes = preset(self.model.preset)
        changes: dict[str, Any] = {"fps": max(1, round(self.data.fps))}
        if self.stage != "base":  # single pictures say nothing of clips
            changes["frames"] = self.frames
        if transparency is not None:
            names = ("vae", "latent_channels", "scaling_factor", "offset_scale", "size")
            names += ("encoder_channels", "decoder_widths", "decoder_layers", "decoder_attention")
            changes |= {name: getattr(transparency, name) for name in names}
        if self.model.widths is not None:
            changes["unet"] = _wider(sizes.unet, self.model.widths)
            changes["motion"] = sizes.motion | {"block_out_channels": self.model.widths}
        return replace(sizes, **changes)


def _wider(unet: dict[str, Any], widths: tuple[int, ...]) -> dict[str, Any]:
    """Other widths; as many levels from the top have transformers as before."""
    attention = min(len(widths), sum("CrossAttn" in kind for kind in unet["down_block_types"]))
    plain = len(widths) - attention
    return unet | {
        "block_out_channels": widths,
        "down_block_types": ("CrossAttnDownBlock2D",) * attention + ("DownBlock2D",) * plain,
        "up_block_types": ("UpBlock2D",) * plain + ("CrossAttnUpBlock2D",) * attention,
    }
