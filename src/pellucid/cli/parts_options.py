"""Options that several verbs of ``pellucid parts`` have."""

from pathlib import Path
from typing import Annotated

import typer

from pellucid.errors import ConfigError

EDITS = "Edits"
_MASKS, _LOOK, _DRAWN = "Masks", "Rendering", "Drawing"

Masks = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MASK...",
        help="Label maps: files, folders, quoted globs, folders of part pictures, or - for stdin.",
        show_default=False,
    ),
]
Photo = Annotated[
    list[str] | None,
    typer.Option(
        "--photo",
        metavar="PICTURE",
        help="A photograph instead of a mask, file, folder or glob; needs --parser.",
        rich_help_panel=_MASKS,
        show_default=False,
    ),
]
Parser = Annotated[
    Path | None,
    typer.Option(
        "--parser",
        metavar="FOLDER",
        help="A face parser of transformers, which finds the mask of a photograph.",
        rich_help_panel=_MASKS,
        show_default=False,
    ),
]
LabelOrder = Annotated[
    str | None,
    typer.Option(
        "--label-order",
        metavar="NAME",
        help="Whose numbers bare label maps (or the parser) hold; celebamask-hq, face-parsing, ...",
        rich_help_panel=_MASKS,
        show_default=False,
    ),
]
ClassSetFile = Annotated[
    Path | None,
    typer.Option(
        "--class-set",
        metavar="FILE",
        help="Classes of the masks where ids or colours differ from the weights'; matched by name.",
        rich_help_panel=_MASKS,
        show_default=False,
    ),
]
LabelFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="png|npz|ora|psd",
        help="png: pixel values are the ids; npz: one plane a class; ora and psd: one layer a class.",
        show_default=False,
    ),
]
Render = Annotated[
    str | None,
    typer.Option(
        "--render",
        metavar="preview|PATH",
        help="Also write <stem>.rendered.png: a drawing, or by a SPADE or SEAN generator's file.",
        rich_help_panel=_LOOK,
        show_default=False,
    ),
]
Style = Annotated[
    str | None,
    typer.Option(
        "--style",
        metavar="PICTURE|SEED",
        help="The picture of the face whose looks are taken (for a batch a folder), or a number for drawn looks.",
        rich_help_panel=_LOOK,
        show_default=False,
    ),
]
StyleMask = Annotated[
    Path | None,
    typer.Option(
        "--style-mask",
        metavar="MASK",
        help="Mask of the --style picture, when it is not the mask that is given.",
        rich_help_panel=_LOOK,
        show_default=False,
    ),
]
Keep = Annotated[
    bool,
    typer.Option(
        "--keep-unedited/--no-keep-unedited",
        help="What lies far from the edited parts stays as it is in the mask.",
        rich_help_panel=EDITS,
    ),
]
Radius = Annotated[
    float,
    typer.Option("--radius", min=0.0, help="How far that is, in pixels of a mask of side 256.", rich_help_panel=EDITS),
]
Guard = Annotated[
    bool,
    typer.Option(
        "--guard/--no-guard",
        help="No class comes up that is neither in the mask nor asked for.",
        rich_help_panel=EDITS,
    ),
]
Parts = Annotated[
    list[str] | None,
    typer.Option("--parts", metavar="PARTS", help="Names, ids or groups, with commas.", show_default=False),
]
Prior = Annotated[
    str | None,
    typer.Option(
        "--prior",
        metavar="standard|empirical|conditional",
        help="What is drawn from: N(0, I); codes of masks, where fitted; codes that fit the other parts.",
        rich_help_panel=_DRAWN,
        show_default=False,
    ),
]
Fit = Annotated[
    float,
    typer.Option("--fit", min=0.0, max=1.0, help="Between empirical (0) and conditional (1).", rich_help_panel=_DRAWN),
]
Temperature = Annotated[
    float,
    typer.Option(
        "--temperature", min=0.0, help="How far from the usual is drawn; 1 is the paper's.", rich_help_panel=_DRAWN
    ),
]


def fit_of(prior: str | None, fit: float) -> float:
    """The fit that ``--prior`` and ``--fit`` ask for together.

    Raises:
        ConfigError: the prior is not known, or has no fit.
    """
    if prior == "conditional":
        return fit or 1.0
    if prior == "standard" and fit:
        raise ConfigError("--fit is of the empirical prior, found --prior standard")
    if prior not in (None, "standard", "empirical"):
        raise ConfigError(f"prior {prior!r} is not known", "use one of standard, empirical, conditional")
    return fit


def words(given: list[str] | None) -> list[str]:
    """Take repeated options, each of which may hold several words with commas, apart."""
    return [word.strip() for text in given or () for word in text.split(",") if word.strip()]
