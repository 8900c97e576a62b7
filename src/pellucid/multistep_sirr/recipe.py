"""The recipe of this room: which tables and keys a TOML file may hold, and what each does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pellucid.multistep_sirr.blending import BlendOptions
from pellucid.multistep_sirr.losses import ReflectionTarget
from pellucid.multistep_sirr.model import ReflectionPairConfig
from pellucid.train.config import Recipe as BaseRecipe
from pellucid.train.config import Section, section_of


class Photos(Section):
    """One set of photographs to blend.

    Attributes:
        root: folder with a ``.jsonl`` and tar shards or files; ``"synthetic"`` draws pictures by code instead.
        share: which part of all draws comes from this set.
        only: keep rows whose field has this value, for example ``{license = "CC0-1.0"}``.
        count: how many pictures a synthetic set has.
    """

    root: str
    share: float = Field(default=1.0, gt=0)
    only: dict[str, str] = Field(default_factory=dict)
    count: int = Field(default=64, ge=3)


class DataSection(Section):
    """``[data]``: photographs to blend, or real pairs, and what to validate on.

    Attributes:
        photos: sets to blend on the fly; their ``val`` split gives held-out blends and clean pictures.
        pairs: folders of real training pairs in a published layout, used instead of blends.
        validate_pairs: folders of real pairs that choose the model.
        side: stored short side of the photographs in pixels.
        crop: side of a training crop in pixels.
        scale: side of the square a crop is made from, as a fraction of the stored short side, from and to.
        relit: share of transmissions that are dimmed, see `data.relight`.
    """

    photos: list[Photos] = Field(default_factory=list)
    pairs: list[str] = Field(default_factory=list)
    validate_pairs: list[str] = Field(default_factory=list)
    side: int = Field(default=256, ge=16)
    crop: int = Field(default=128, ge=16)
    scale: tuple[float, float] = (0.5, 1.0)
    relit: float = Field(default=0.3, ge=0, le=1)


class LossSection(Section):
    """``[loss]``: the options of the multi-step loss; the paper's where it says, ours where it is silent.

    Attributes:
        step_schedule: ``"auto"`` goes from 2 to 3 steps when validation has settled, at half time at the latest;
            ``"0:2,5000:3"`` fixes the optimiser steps at which each number of loss steps begins.
        pixel: ``"mse"`` (Eq. 1) or ``"log"``, see `losses.log_pixel_loss`, with ``pixel_floor``.
        floor_steps: optimiser steps over which the floor falls from 0.05, where the logarithm weighs samples much
            as Eq. 1 does, to ``pixel_floor``; 0 keeps it there from the start.
        patience: validations without a gain of 0.05 dB that count as settled.
        features: ``"vgg19"`` (the paper), ``"filter_bank"``, ``"none"``; ``"auto"`` is VGG19 when weights are given.
        vgg_weights: torchvision's ``vgg19-*.pth``, a path.
        feature_weight: weight of Eq. 2; None is 1 with VGG19 and 0.5 with the filter bank.
    """

    step_schedule: str = "auto"
    patience: int = Field(default=5, ge=1)
    detach_steps: bool = False
    r_multistep: ReflectionTarget = "residual"
    factor: float = Field(default=1.0, gt=0)
    pixel: Literal["mse", "log"] = "mse"
    pixel_floor: float = Field(default=5e-3, gt=0)
    floor_steps: int = Field(default=0, ge=0)
    r_weight_derived: float = Field(default=1.0, ge=0)
    features: Literal["auto", "vgg19", "filter_bank", "none"] = "auto"
    vgg_weights: str | None = None
    post_relu: bool = False
    feature_weight: float | None = None
    feature_on_reflection: bool = False


class DepthSection(Section):
    """``[depth]``: which depth the networks see, and how often another, so that quality fades softly without it.

    Attributes:
        provider: name in `depth.make_provider`.
        weights: of a learned provider, a path.
        drop_to_none, drop_to_cue: share of batches that see no depth, or the weightless cue, instead.
        redepth: compute the depth anew from x_t at every step; the paper keeps that of the mixture.
    """

    provider: str = "cue"
    weights: str | None = None
    drop_to_none: float = Field(default=0.25, ge=0, le=1)
    drop_to_cue: float = Field(default=0.35, ge=0, le=1)
    redepth: bool = False


class Recipe(BaseRecipe):
    """The recipe of this room: the shared keys and the tables above.

    Attributes:
        init: ``"default"`` is torch's, ``"he"`` keeps the signal's power from layer to layer (He et al. 2015).
    """

    init: Literal["default", "he"] = "default"

    model: section_of(ReflectionPairConfig) = Field(default_factory=section_of(ReflectionPairConfig))  # type: ignore
    data: DataSection
    blend: section_of(BlendOptions) = Field(default_factory=section_of(BlendOptions))  # type: ignore
    loss: LossSection = LossSection()
    depth: DepthSection = DepthSection()
