"""The recipe of this room: which tables and keys a TOML file may hold, and what each does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pellucid.tic.batches import Objects
from pellucid.tic.losses import Colours, Layer, Reduce, Units
from pellucid.tic.model import TICConfig
from pellucid.tic.recolour import RecolourOptions
from pellucid.train.config import Recipe as BaseRecipe
from pellucid.train.config import Section, section_of


class PictureSet(Section):
    """One set of captioned pictures.

    Attributes:
        root: its folder, in a layout of `data.LAYOUTS`; ``"synthetic"`` draws pictures by code instead.
        layout: a key of `data.LAYOUTS`, or ``"auto"``.
        name: which ``NAME.jsonl`` of a captioned folder that holds several.
        share: which part of all draws comes from this set.
        only: keep rows whose field has this value, for example ``{license = "CC0-1.0"}``.
        without: leave out rows whose field has this value.
        objects: where the object of a picture is, see `batches.make_bank`.
        splits: folder with the lists ``train.txt``, ``val.txt``, ``test.txt``; written there on the first run.
        count: how many pictures a synthetic set has.
    """

    root: str
    layout: str = "auto"
    name: str | None = None
    share: float = Field(default=1.0, gt=0)
    only: dict[str, str] = Field(default_factory=dict)
    without: dict[str, str] = Field(default_factory=dict)
    objects: Objects = "auto"
    splits: str | None = None
    count: int = Field(default=64, ge=2)


class DataSection(Section):
    """``[data]``: the sets, and how pictures are cut.

    Attributes:
        sets: what to train on; the held-out pictures of the first choose the model.
        stored: side in pixels of the squares that pictures are pressed into.
        side: of a picture in a batch; the paper's 256.
        scale: side of a crop as a fraction of the stored square, from and to.
        balance: how much more often rare colours are drawn, see `batches.colour_weights`.
        scenic: share of cut-outs that are laid on another picture instead of a flat ground.
        scenes: factor on the chroma of pictures in which no object is known, drawn evenly between the two. A text says
            little about where in a scene its colours are; below 1 the network guesses them paler there.
        held_out: how many held-out pictures are measured; evenly spread over the set.
    """

    sets: list[PictureSet] = Field(default_factory=list)
    stored: int = Field(default=288, ge=16)
    side: int = Field(default=256, ge=16)
    scale: tuple[float, float] = (0.8, 1.0)
    balance: float = Field(default=0.5, ge=0, le=1)
    scenic: float = Field(default=0.0, ge=0, le=1)
    scenes: tuple[float, float] = (1.0, 1.0)
    held_out: int = Field(default=96, ge=2)


class TextSection(Section):
    """``[text]``: what becomes of the captions.

    Attributes:
        vectors: word vectors, a path; the bundled ones when None. Others are copied beside the exported model.
        clip: folder of a CLIP model, whose text tower then reads the captions; ``model.vector_dim`` must be its size.
        dropout: share of pictures that the network sees with the zero vector in place of their text.
        plain: share whose text keeps its words but no colour.
        unsaid: factor on the chroma of pictures whose text names no colour, drawn evenly between the two. Below 1 the
            network guesses paler colours where it is told none, and is less often far off.
        achromatic: the same for texts whose only colours are white, black and grey: they say nothing of the colours
            around what is white.
    """

    vectors: str | None = None
    clip: str | None = None
    dropout: float = Field(default=0.0, ge=0, le=1)
    plain: float = Field(default=0.0, ge=0, le=1)
    unsaid: tuple[float, float] = (1.0, 1.0)
    achromatic: tuple[float, float] = (1.0, 1.0)


class LossSection(Section):
    """``[loss]``: Eq. 1-4.

    Attributes:
        lambda_gan: lambda_1 of Eq. 4; 0 builds no discriminator.
        lambda_perceptual: lambda_2; needs ``vgg_weights``.
        lambda_l1: lambda_3.
        l1_units: ``"normalised"`` (ab / 110) or ``"lab"``.
        gan_from: optimiser step at which the discriminator comes in.
        gan_ramp: steps over which its weight then rises for the generator; D itself trains in full at once.
        d_reduce: how D's patches become one answer, see `losses.generator_gan_loss`.
        d_width: filters of D's first block.
        d_first_norm: batch norm there too, as the paper's "each".
        d_lr: factor of D's learning rate.
        vgg_weights: torchvision's ``vgg19-*.pth``, a path.
        vgg_layer: the paper's undefined layer 4.
        vgg_input: what VGG is shown, see `losses.perceptual_loss`.
    """

    lambda_gan: float = Field(default=1.0, ge=0)
    lambda_perceptual: float = Field(default=0.0, ge=0)
    lambda_l1: float = Field(default=1.0, ge=0)
    l1_units: Units = "normalised"
    gan_from: int = Field(default=0, ge=0)
    gan_ramp: int = Field(default=0, ge=0)
    d_reduce: Reduce = "patch"
    d_width: int = Field(default=64, ge=1)
    d_first_norm: bool = True
    d_lr: float = Field(default=1.0, gt=0)
    vgg_weights: str | None = None
    vgg_layer: Layer = "relu4_1"
    vgg_input: Colours = "rgb"


Recolour = section_of(RecolourOptions)


class Recipe(BaseRecipe):
    """The recipe of this room: the shared keys and the tables above.

    Attributes:
        recolour: ``[recolour]``, see `recolour.RecolourOptions`; without the table no object is recoloured.
        init: ``"pix2pix"`` draws convolutions from N(0, 0.02) and norms from N(1, 0.02); ``"default"`` is torch's.
        betas: of both Adams (Sec. 4).
    """

    init: Literal["default", "pix2pix"] = "pix2pix"
    betas: tuple[float, float] = (0.5, 0.999)

    model: section_of(TICConfig) = Field(default_factory=section_of(TICConfig))  # type: ignore
    data: DataSection
    recolour: Recolour = Field(default_factory=lambda: Recolour(share=0.0))  # type: ignore
    text: TextSection = TextSection()
    loss: LossSection = LossSection()
