"""The recipe of this room: which tables and keys a TOML file may hold, and what each does."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

from pydantic import Field, ValidationInfo, create_model, field_validator

from pellucid.errors import ConfigError
from pellucid.semantic_vae.losses import KL_WEIGHT, Weights
from pellucid.semantic_vae.masks.classes import ClassSet, class_set
from pellucid.semantic_vae.model import PRESETS, TABLE_1, SemanticVAEConfig, table_1_config
from pellucid.train.config import Recipe as BaseRecipe
from pellucid.train.config import Section, section_of

_OF_THE_CLASS_SET = ("classes", "background")  # follow from data.class_set


class DataSection(Section):
    """``[data]``: which masks.

    Attributes:
        root: ``"procedural"`` draws face masks by code, ``"ellipses"`` an ellipse a part for any class set; else a
            folder that `celebamask.find_masks` reads: CelebAMask-HQ itself, a prepared ``{train,test}/labels``, or
            label PNGs.
        class_set: a JSON or TOML file of another class set, see `classes.ClassSet.load`; CelebAMask-HQ's 19 when None.
        label_order: whose ids a folder's bare label maps hold, see `label_orders.ORDERS`.
        count: masks to draw; of a folder the first so many, None for all.
        seed: of the drawn masks; apart from the run's, so that runs of other seeds train on the same masks.
        cache: folder where drawn masks are kept between runs, ``"auto"`` for the user's cache folder; None draws anew.
        mirror: share of masks that are mirrored, left and right exchanged. The paper names no augmentation: 0.
        held_out: masks that are measured during training and never trained on.
    """

    root: str = "procedural"
    class_set: str | None = None
    label_order: str | None = None
    count: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    cache: str | None = None
    mirror: float = Field(default=0.0, ge=0, le=1)
    held_out: int = Field(default=256, ge=1)


class LossSection(Section):
    """``[loss]``: Eq. 3.

    Attributes:
        kl_weight: lambda (Sec. 3.1).
        kl_warmup: steps over which lambda rises from 0; the paper names none.
        weights: of the cross-entropy: ``"eq1"`` from the training masks, ``"official"`` the published list,
            ``"inverse"`` or ``"effective"`` number for rare classes, ``"none"``. A row of Table 1 sets it.
    """

    kl_weight: float = Field(default=KL_WEIGHT, ge=0)
    kl_warmup: int = Field(default=0, ge=0)
    weights: Weights = "eq1"


def _model_section() -> type[Section]:
    """The table of the network's config, less what follows from the class set."""
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in section_of(SemanticVAEConfig).model_fields.items()
        if name not in _OF_THE_CLASS_SET
    }
    return create_model("SemanticVAEConfig", __base__=Section, **fields)


ModelSection = _model_section()
_MODEL_KEYS = tuple(ModelSection.model_fields)


class Recipe(BaseRecipe):
    """The recipe of this room: the shared keys and the tables above.

    Attributes:
        preset: a key of `model.PRESETS`; ``[model]`` overrides single values of it.
        row: a row of Table 1, a key of `model.TABLE_1`; it overrides ``[model]`` and sets ``loss.weights``.
        half_steps: steps at the beginning in which the decoder's last block does not enlarge, as with
            ``model.logit_stride = 2``: less work while the coarse shapes are learnt.
        init: torch's ``"default"``, or ``"open"``, which learns several times faster, see `model.open_gates`.
        betas: of Adam. The official options say (0, 0.9); ours are (0.9, 0.99).
    """

    preset: str = "official"
    row: str = ""
    half_steps: int = Field(default=0, ge=0)
    init: Literal["default", "open"] = "default"
    betas: tuple[float, float] = (0.9, 0.99)

    model: ModelSection = Field(default_factory=dict, validate_default=True)  # type: ignore
    data: DataSection = DataSection()
    loss: LossSection = Field(default=LossSection(), validate_default=True)

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ConfigError(f"preset {preset!r} is not known", f"use one of {', '.join(PRESETS)}")
        return preset

    @field_validator("row")
    @classmethod
    def _known_row(cls, row: str) -> str:
        if row and row not in TABLE_1:
            raise ConfigError(f"row {row!r} is not in Table 1", f"use one of {', '.join(TABLE_1)}")
        return row

    @field_validator("model", mode="before")
    @classmethod
    def _lay_over_preset(cls, given: Any, info: ValidationInfo) -> Any:
        # Resolved here, so that the recipe in a run folder says what was trained even when a preset changes later.
        if not isinstance(given, dict) or "preset" not in info.data:
            return given
        preset = {key: value for key, value in asdict(PRESETS[info.data["preset"]]).items() if key in _MODEL_KEYS}
        # Strict: TOML's arrays are lists by now, and tuples are expected.
        return preset | {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}

    @field_validator("model")
    @classmethod
    def _lay_row_over(cls, model: Section, info: ValidationInfo) -> Section:
        if not info.data.get("row"):
            return model
        config, _ = table_1_config(SemanticVAEConfig(**model.model_dump()), info.data["row"])
        return ModelSection(**{key: value for key, value in asdict(config).items() if key in _MODEL_KEYS})

    @field_validator("loss")
    @classmethod
    def _resolve_loss(cls, loss: LossSection, info: ValidationInfo) -> LossSection:
        if not info.data.get("row"):
            return loss
        _, weighted = table_1_config(SemanticVAEConfig(), info.data["row"])
        return loss.model_copy(update={"weights": "eq1" if weighted else "none"})

    def open_classes(self) -> ClassSet:
        """The classes of this run.

        Raises:
            ConfigError: the file of another class set is wrong.
        """
        return class_set(self.data.class_set)

    def config(self, classes: ClassSet) -> SemanticVAEConfig:
        """The network of this run for a class set."""
        chosen = SemanticVAEConfig(**self.model.model_dump())  # type: ignore[attr-defined]
        return replace(chosen, classes=len(classes.names), background=classes.background)
