"""The recipe of latent transparency: which tables and keys a TOML file may hold, and what each does."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from pellucid.errors import ConfigError
from pellucid.layer_animate.model import PRESETS, LayerAnimateConfig, preset
from pellucid.layer_animate.transparency.data import DRAWN
from pellucid.layer_animate.transparency.losses import TransparencyWeights
from pellucid.train.config import Recipe as BaseRecipe
from pellucid.train.config import Section, section_of


class DataSection(Section):
    """``[data]``: which pictures.

    Attributes:
        root: ``"drawn"`` draws pictures by code; else a folder of tar shards, read by `transparency_data.read_bank`.
        table: which ``TABLE.jsonl`` of the folder; rows with ``sheet`` are sprite sheets, of which every frame counts.
        sheets: one more table, of animations, whose frames are learned and measured as well; None for none.
        every: frames of an animation from one that is taken to the next.
        count: pictures to draw, 1,024 when None; of a folder so many files, evenly over the table,
            None for all.
        held_out: pictures (files) that are measured during training and never trained on.
        only: names of the files to learn by heart, such as the one clip of a test; they are measured too then.
        seed: of the drawn pictures; apart from the run's.
        affine: how far pictures are turned, scaled, shifted and mirrored anew each time, see
            `transparency_data.RgbaBatches`; 0 leaves them.
        opaque: share of pictures that are laid over drawn grounds.
    """

    root: str = DRAWN
    table: str = "stills"
    sheets: str | None = None
    every: int = Field(default=1, ge=1)
    count: int | None = Field(default=None, ge=1)
    held_out: int = Field(default=64, ge=1)
    only: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**16)
    affine: float = Field(default=0.0, ge=0, le=1)
    opaque: float = Field(default=0.0, ge=0, le=1)


WeightsSection = section_of(TransparencyWeights)


class VaeSection(Section):
    """``[vae]``: how the VAE learns in the first ``steps``; it is frozen from then on.

    Attributes:
        steps: 0 keeps the VAE of ``start`` as it is; as many as ``train.steps`` trains nothing else.
        square: factor of the mean square.
        gradient: factor of the gradient loss.
        kl: factor of the divergence; see `transparency_losses.vae_loss`.
    """

    steps: int = Field(default=0, ge=0)
    square: float = Field(default=2.0, ge=0)
    gradient: float = Field(default=0.5, ge=0)
    kl: float = Field(default=1e-6, ge=0)


class Recipe(BaseRecipe):
    """The recipe of transparency encoder and decoder, with the VAE before them when asked.

    Attributes:
        preset: a key of `model.PRESETS`: the sizes.
        size: side of the pictures in pixels; the preset's when None.
        latent_channels: of the VAE; the preset's when None.
        offset_scale: factor on the encoder's output, stored with the weights.
        start: folder of `transparency` or whole weights to begin with, sizes included; ``preset`` does not count then.
        betas: of AdamW.
        weight_decay: of AdamW.
        vae: see `VaeSection`.
        data: see `DataSection`.
        loss: factors of the terms of `transparency_losses.transparency_loss`.
    """

    preset: str = "tiny"
    size: int | None = Field(default=None, ge=8)
    latent_channels: int | None = Field(default=None, ge=1)
    offset_scale: float | None = Field(default=None, gt=0)
    start: str | None = None
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(default=0.0, ge=0)

    vae: VaeSection = VaeSection()
    data: DataSection = DataSection()
    loss: WeightsSection = WeightsSection()  # type: ignore[valid-type]

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name not in PRESETS:
            raise ConfigError(f"preset {name!r} is not known", f"use one of {', '.join(PRESETS)}")
        return name

    def config(self) -> LayerAnimateConfig:
        """The sizes of a run that begins with random weights."""
        changes: dict[str, Any] = {
            key: value
            for key in ("size", "latent_channels", "offset_scale")
            if (value := getattr(self, key)) is not None
        }
        return preset(self.preset, **changes)

    def weights(self) -> TransparencyWeights:
        """Factors of the loss."""
        return TransparencyWeights(**self.loss.model_dump())  # type: ignore[attr-defined]
