"""The recipe of mask-to-face training: which tables and keys a TOML file may hold, and what each does (Sec. 5.3)."""

from __future__ import annotations

from typing import Any

from pydantic import Field, create_model

from pellucid.semantic_vae.faces.spade import FaceNetworkConfig
from pellucid.semantic_vae.masks.classes import ClassSet, class_set
from pellucid.train.config import Recipe as BaseRecipe
from pellucid.train.config import Section, section_of


class DataSection(Section):
    """``[data]``: which masks and pictures.

    Attributes:
        root: ``"procedural"`` draws masks and preview pictures by code, ``"ellipses"`` for any class set; else a folder
            with masks and pictures that `celebamask.find_masks` reads.
        class_set: a file of another class set, see `classes.ClassSet.load`; CelebAMask-HQ's 19 when None.
        count: pairs to draw, 1,024 when None; of a folder the first so many, None for all.
        styles: of drawn pairs, how many colourings take turns; SPADE has no style and learns one well.
        seed: of the drawn pairs; apart from the run's, so that runs of other seeds train on the same pairs.
        mirror: share of pairs that are mirrored, left and right exchanged.
        held_out: pairs that are measured during training and never trained on.
    """

    root: str = "procedural"
    class_set: str | None = None
    count: int | None = Field(default=None, ge=1)
    styles: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    mirror: float = Field(default=0.0, ge=0, le=1)
    held_out: int = Field(default=64, ge=1)


class LossSection(Section):
    """``[loss]``: see `spade_losses.FaceLoss`. The published weights are the defaults.

    Attributes:
        lambda_features: of feature matching.
        lambda_perceptual: of VGG19's features; needs ``vgg_weights``.
        lambda_l1: of the pictures themselves; for runs without VGG.
        vgg_weights: torchvision's ``vgg19-*.pth``, a path.
        d_lr: factor of the discriminator's learning rate.
        d_width: filters of its first convolution.
        d_layers: its convolutions, 4 for SPADE and 3 for SEAN; None chooses by the layout.
        d_last_stride: stride of the last of them, 1 for SPADE and 2 for SEAN; None chooses by the layout.
        d_scales: sizes at which it looks.
    """

    lambda_features: float = Field(default=10.0, ge=0)
    lambda_perceptual: float = Field(default=10.0, ge=0)
    lambda_l1: float = Field(default=0.0, ge=0)
    vgg_weights: str | None = None
    d_lr: float = Field(default=4.0, gt=0)
    d_width: int = Field(default=64, ge=1)
    d_layers: int | None = Field(default=None, ge=1)
    d_last_stride: int | None = Field(default=None, ge=1, le=2)
    d_scales: int = Field(default=2, ge=1)

    def discriminator(self, layout: str) -> dict[str, int]:
        """Sizes of the discriminator for a layout, for `face_discriminator.MultiscaleDiscriminator`."""
        layers, stride = (4, 1) if layout == "spade" else (3, 2)
        return {
            "width": self.d_width,
            "layers": self.d_layers or layers,
            "last_stride": self.d_last_stride or stride,
            "scales": self.d_scales,
        }


def _model_section() -> type[Section]:
    """The table of the network's config, less the number of classes, which follows from the class set."""
    fields: dict[str, Any] = {
        name: (field.annotation, field)
        for name, field in section_of(FaceNetworkConfig).model_fields.items()
        if name != "classes"
    }
    return create_model("FaceNetworkConfig", __base__=Section, **fields)


ModelSection = _model_section()


class Recipe(BaseRecipe):
    """The recipe of mask-to-face training: the shared keys and the tables above.

    Attributes:
        betas: of both Adams; the published ones.
        init_gain: of Xavier's normal distribution; the published one, with which a small network begins slowly.
    """

    betas: tuple[float, float] = (0.0, 0.9)
    init_gain: float = Field(default=0.02, gt=0)

    model: ModelSection = Field(default_factory=ModelSection)  # type: ignore
    data: DataSection = DataSection()
    loss: LossSection = LossSection()

    def open_classes(self) -> ClassSet:
        """Return the class set.

        Raises:
            InputError: its file is not there.
            ConfigError: the file does not describe one.
        """
        return class_set(self.data.class_set)

    def config(self, classes: ClassSet) -> FaceNetworkConfig:
        """Return the network's config for a class set.

        Raises:
            ConfigError: sizes that make no network.
        """
        return FaceNetworkConfig(**self.model.model_dump(), classes=len(classes))
