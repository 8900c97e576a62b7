"""The recipe of Still-Moving's two trainings: which keys it has besides those of a training on clips."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pellucid.errors import ConfigError
from pellucid.layer_animate.baselines.adapters import RANK
from pellucid.layer_animate.recipe import ClipSet
from pellucid.layer_animate.recipe import Recipe as ClipRecipe


class Recipe(ClipRecipe):
    """The keys of `layer_animate.recipe.Recipe`, and those of adapters. ``base_index`` means nothing here.

    Attributes:
        stage: always ``"motion"``, for which no frame is clean.
        learns: ``"motion"`` (step A): Motion Adapters learn clips that stand still, on the model without what
            customises it: for Stable Diffusion a components file without LayerDiffuse's attention. ``"spatial"`` (step
            B): Spatial Adapters learn them on the customised model, with the Motion Adapters of step A in place and
            frozen.
        motion_adapters: for step B, the folder that step A exported.
        rank: of the adapters that learn.
        feed_forward: Spatial Adapters sit in the feed-forward layers too.
        prior: sets of clips that move, as many as stand still in each step of step B; they keep the motion that was
            there, with the Motion Adapters out. The sets of ``data`` when empty.
    """

    stage: Literal["motion"] = "motion"
    learns: Literal["motion", "spatial"] = "motion"
    motion_adapters: str | None = None
    rank: int = Field(default=RANK, ge=1)
    feed_forward: bool = True
    prior: list[ClipSet] = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_step_a(self) -> Recipe:
        if self.learns == "spatial" and self.motion_adapters is None:
            raise ConfigError(
                "Spatial Adapters learn beside Motion Adapters, and motion_adapters is not set",
                'train with learns = "motion" first, and name the folder it exported',
            )
        if self.learns == "motion" and (self.motion_adapters is not None or self.prior):
            raise ConfigError('motion_adapters and prior belong to learns = "spatial"')
        return self

    def about_prior(self) -> Recipe:
        """The recipe with the prior's sets in place of those that stand still."""
        return self.model_copy(update={"data": self.data.model_copy(update={"sets": self.prior or self.data.sets})})
