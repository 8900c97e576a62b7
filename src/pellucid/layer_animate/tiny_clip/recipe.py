"""The recipe of the tiny CLIP: which tables and keys a TOML file may hold, and what each does."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from pellucid.errors import ConfigError
from pellucid.layer_animate.model import PRESETS, preset
from pellucid.layer_animate.tiny_clip.data import DRAWN
from pellucid.train.config import Recipe as BaseRecipe
from pellucid.train.config import Section


class DataSection(Section):
    """``[data]``: which pictures and names.

    Attributes:
        root: ``"drawn"`` draws single shapes by code; else a folder of tar shards whose rows have ``name`` and
            ``captions``.
        stills: name of the table of still pictures; None for none.
        clips: name of the table of animations; None for none.
        frames: frames of each animation, evenly spread; those that show little are left out.
        count: pictures to draw, or the first so many rows of each table; None for 1,024 drawn ones, or all rows.
        other_maker: share of the names drawn by several makers of which one maker's pictures are held out.
        held_out: rows of each table's ``val`` split, or drawn pictures, that are measured and never trained on.
        affine: how far pictures are turned (times pi), scaled and shifted (times the half side) anew each time.
        word_drop: share of words that are made unknown, so that one of a user's hurts little.
    """

    root: str = DRAWN
    stills: str | None = "stills"
    clips: str | None = "anim"
    frames: int = Field(default=4, ge=1)
    count: int | None = Field(default=None, ge=1)
    other_maker: float = Field(default=0.1, ge=0, lt=1)
    held_out: int = Field(default=1000, ge=1)
    affine: float = Field(default=0.1, ge=0, le=1)
    word_drop: float = Field(default=0.05, ge=0, lt=1)


class VisionSection(Section):
    """``[vision]``: the transformer that sees pictures.

    Attributes:
        size: side of a picture in pixels.
        patch: side of a patch; must divide ``size``.
        width: numbers a patch becomes; four times as many between the layers.
        layers: of the transformer.
        heads: of each attention; must divide ``width``.
    """

    size: int = Field(default=64, ge=8)
    patch: int = Field(default=8, ge=1)
    width: int = Field(default=128, ge=1)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)

    @model_validator(mode="after")
    def _dividing(self) -> Self:
        if self.size % self.patch or self.width % self.heads:
            raise ConfigError(
                f"patch must divide size and heads width, found {self.patch} of {self.size}, "
                f"{self.heads} of {self.width}"
            )
        return self


class Recipe(BaseRecipe):
    """The recipe of a CLIP with ``transformers``' classes.

    The text side has the sizes of the room's text encoder of a preset, key for key, so that it can take its place.

    Attributes:
        text: a key of `model.PRESETS`: sizes of the text side.
        projection: numbers in a feature, D.
        betas: of AdamW.
        weight_decay: of AdamW, on matrices alone.
        data: see `DataSection`.
        vision: see `VisionSection`.
    """

    text: str = "small"
    projection: int = Field(default=128, ge=1)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(default=0.1, ge=0)

    data: DataSection = DataSection()
    vision: VisionSection = VisionSection()

    @model_validator(mode="after")
    def _known_preset(self) -> Self:
        if self.text not in PRESETS:
            raise ConfigError(f"preset {self.text!r} is not known", f"use one of {', '.join(PRESETS)}")
        return self

    def text_config(self) -> dict[str, Any]:
        """Keyword arguments of ``CLIPTextConfig``; the last token is the one whose vector stands for the text."""
        sizes = preset(self.text).text
        return {**sizes, "projection_dim": self.projection, "eos_token_id": int(sizes["vocab_size"]) - 1}

    def vision_config(self) -> dict[str, Any]:
        """Keyword arguments of ``CLIPVisionConfig``."""
        vision = self.vision
        return {
            "image_size": vision.size,
            "patch_size": vision.patch,
            "hidden_size": vision.width,
            "intermediate_size": 4 * vision.width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "projection_dim": self.projection,
        }
