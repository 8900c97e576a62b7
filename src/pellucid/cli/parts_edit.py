"""``pellucid parts edit``, ``swap`` and ``interpolate``: parts of masks made anew, changed, and taken from others."""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.common import (
    Debug,
    Device,
    Model,
    Offline,
    Out,
    Overwrite,
    Quiet,
    Seed,
    StripMetadata,
    Verbose,
    Workers,
    run_batch,
    start_logging,
)
from pellucid.cli.outputs import Output, check_others
from pellucid.cli.parts_masks import (
    EDITED,
    MIXED,
    MOST,
    SWAPPED,
    TASK,
    ClassSetFile,
    Desk,
    LabelFormat,
    LabelOrder,
    Masks,
    Parser,
    Photo,
    Render,
    Source,
    Style,
    StyleMask,
    collect_masks,
    label_suffix,
    numbered,
    rendering_of,
    save_labels,
    save_rendering,
)
from pellucid.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pellucid.io.batch import Job
    from pellucid.layers import LayerStack

logger = logging.getLogger(__name__)

_EDITS = "Edits"
_AMOUNT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(sd)?")

Keep = Annotated[
    bool,
    typer.Option(
        "--keep-unedited/--no-keep-unedited", help="What lies far from the edited parts stays as it is in the mask."
    ),
]
Radius = Annotated[float, typer.Option("--radius", min=0.0, help="How far that is, in pixels of a mask of side 256.")]
Guard = Annotated[
    bool, typer.Option("--guard/--no-guard", help="No class comes up that is neither in the mask nor asked for.")
]
Parts = Annotated[
    list[str] | None,
    typer.Option("--parts", metavar="PARTS", help="Names, ids or groups, with commas.", show_default=False),
]


def _parts(name: str, help_: str) -> Any:
    return typer.Option(name, metavar="PARTS", help=help_, rich_help_panel=_EDITS, show_default=False)


def edit(
    masks: Masks = None,
    out: Out = None,
    remove: Annotated[list[str] | None, _parts("--remove", "Take parts away.")] = None,
    add: Annotated[list[str] | None, _parts("--add", "Put parts there that the mask has not.")] = None,
    generate: Annotated[list[str] | None, _parts("--generate", "Draw parts anew: hair, nose, eyes, ...")] = None,
    perturb: Annotated[list[str] | None, _parts("--perturb", "Change parts at random by --amount.")] = None,
    reconstruct: Annotated[list[str] | None, _parts("--reconstruct", "Show how the network has parts.")] = None,
    move: Annotated[
        list[str] | None,
        typer.Option(
            "--move",
            metavar="ATTRIBUTE=AMOUNT",
            help="Along an attribute, by so much of its unit, or so many standard deviations: smile=1.5sd.",
            rich_help_panel=_EDITS,
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="ATTRIBUTE=VALUE",
            help="Until the mask measures this value; see pellucid parts attributes.",
            rich_help_panel=_EDITS,
            show_default=False,
        ),
    ] = None,
    amount: Annotated[float, typer.Option("--amount", min=0.0, help="Of --perturb; 1 is the paper's.")] = 1.0,
    prior: Annotated[
        str | None,
        typer.Option(
            "--prior",
            metavar="standard|empirical|conditional",
            help="What --generate and --add draw from: N(0, I); codes of masks, where fitted; those that fit the face.",
            show_default=False,
        ),
    ] = None,
    fit: Annotated[
        float, typer.Option("--fit", min=0.0, max=1.0, help="Between empirical (0) and conditional (1).")
    ] = 0.0,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="How far from the usual --generate and --add draw.")
    ] = 1.0,
    variants: Annotated[
        int, typer.Option("--variants", min=1, max=MOST, help="Make so many different results of each mask.")
    ] = 1,
    history: Annotated[
        Path | None,
        typer.Option("--history", metavar="FILE.json", help="Edits that were saved; they come first."),
    ] = None,
    save_history: Annotated[
        str | None,
        typer.Option(
            "--save-history",
            metavar="FILE.json|DIR",
            help="Write the edits with their seeds; DIR for several masks.",
            show_default=False,
        ),
    ] = None,
    keep: Keep = True,
    radius: Radius = 12.0,
    guard: Guard = True,
    photo: Photo = None,
    parser: Parser = None,
    label_order: LabelOrder = None,
    class_set: ClassSetFile = None,
    render: Render = None,
    style: Style = None,
    style_mask: StyleMask = None,
    format: LabelFormat = None,
    model: Model = None,
    device: Device = "auto",
    workers: Workers = None,
    seed: Seed = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
    strip_metadata: StripMetadata = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Make parts of face masks anew, change them, take them away: --generate hair.

    The result is <stem>.edited.png, a label map of the mask's size: pixel values are the ids. Edits are done in the
    order of the options above, always on the codes of the mask that is given.
    """
    start_logging(quiet, verbose)
    source = _source(model, device, offline, label_order, class_set, bool(photo), parser, render, style, style_mask)
    fit = fit_of(prior, fit)
    drawn = {"temperature": temperature, "prior": None if prior == "conditional" else prior, "fit": fit}
    kinds: tuple[tuple[str, list[str] | None, dict[str, Any]], ...] = (
        ("remove", remove, {}),
        ("add", add, drawn),
        ("generate", generate, drawn),
        ("perturb", perturb, {"amount": amount}),
        ("reconstruct", reconstruct, {}),
    )
    edits = tuple({"kind": kind, "parts": names} | more for kind, names, more in kinds if names)
    moves, targets = (
        tuple(map(_pair, move or ())),
        tuple((name, _number(text)) for name, text in map(_pair, target or ())),
    )
    if not edits and not moves and not targets and history is None:
        raise ConfigError("there is nothing to do", "say what, for example --generate hair")
    if targets and variants > 1:
        raise ConfigError("--target solves for one result, --variants makes several", "leave one of them out")
    text = _history_text(history)
    jobs = collect_masks(masks, photo, out, EDITED, label_suffix(out, format), source)
    _run(
        jobs,
        Edits(
            source,
            _output(jobs, overwrite, strip_metadata, quiet),
            label_suffix(out, format),
            histories=(edits,),
            before=text,
            moves=moves,
            targets=targets,
            variants=variants,
            seed=seed or 0,
            keep=keep,
            radius=radius,
            guard=guard,
            save_history=save_history,
        ),
        inputs=photo or masks or (),
        out=out,
        workers=workers,
    )


def swap(
    masks: Masks = None,
    reference: Annotated[
        str, typer.Option("--with", metavar="MASK", help="The other mask, whose parts are taken.", show_default=False)
    ] = "",
    parts: Parts = None,
    out: Out = None,
    keep: Keep = True,
    radius: Radius = 12.0,
    guard: Guard = True,
    photo: Photo = None,
    parser: Parser = None,
    label_order: LabelOrder = None,
    class_set: ClassSetFile = None,
    render: Render = None,
    style: Style = None,
    style_mask: StyleMask = None,
    format: LabelFormat = None,
    model: Model = None,
    device: Device = "auto",
    workers: Workers = None,
    offline: Offline = False,
    overwrite: Overwrite = False,
    strip_metadata: StripMetadata = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Give masks the parts of another one: --with other.png --parts nose,eyes. Writes <stem>.swapped.png."""
    start_logging(quiet, verbose)
    if not reference or not parts:
        raise ConfigError(f"{'--with MASK' if not reference else '--parts PARTS'} is missing")
    source = _source(model, device, offline, label_order, class_set, bool(photo), parser, render, style, style_mask)
    jobs = collect_masks(masks, photo, out, SWAPPED, label_suffix(out, format), source)
    _run(
        jobs,
        Edits(
            source,
            _output(jobs, overwrite, strip_metadata, quiet),
            label_suffix(out, format),
            histories=(({"kind": "swap", "parts": parts, "reference": reference},),),
            keep=keep,
            radius=radius,
            guard=guard,
        ),
        inputs=photo or masks or (),
        out=out,
        workers=workers,
    )


def interpolate(
    source_mask: Annotated[str, typer.Argument(metavar="SOURCE", help="The mask at 0.", show_default=False)],
    target_mask: Annotated[str, typer.Argument(metavar="TARGET", help="The mask at 1.", show_default=False)],
    parts: Parts = None,
    alphas: Annotated[
        str, typer.Option("--alphas", metavar="A,B,...", help="How much of the target, from 0 to 1.")
    ] = "0,.25,.5,.75,1",
    spherical: Annotated[bool, typer.Option("--spherical", help="On the sphere of codes, not the chord.")] = False,
    out: Out = None,
    keep: Keep = True,
    radius: Radius = 12.0,
    guard: Guard = True,
    label_order: LabelOrder = None,
    class_set: ClassSetFile = None,
    render: Render = None,
    style: Style = None,
    style_mask: StyleMask = None,
    format: LabelFormat = None,
    model: Model = None,
    device: Device = "auto",
    offline: Offline = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Lead parts of SOURCE over to those of TARGET (Eq. 4): <stem>.mixed-1.png, -2, ..., one for each alpha.

    Without --parts all parts are led over.
    """
    start_logging(quiet, verbose)
    amounts = [_number(text) for text in alphas.split(",") if text.strip()]
    if not 1 <= len(amounts) <= MOST or not all(0.0 <= one <= 1.0 for one in amounts):
        raise ConfigError(f"--alphas must be 1 to {MOST} numbers from 0 to 1, found {alphas}")
    source = _source(model, device, offline, label_order, class_set, False, None, render, style, style_mask)
    jobs = collect_masks([source_mask], None, out, MIXED, label_suffix(out, format), source)
    if len(jobs) != 1 or not jobs[0].explicit:
        raise ConfigError(f"SOURCE must be one mask, found {len(jobs)} in {source_mask}")
    mix = {"kind": "interpolate", "parts": parts or ["all"], "reference": target_mask, "spherical": spherical}
    _run(
        jobs,
        Edits(
            source,
            _output(jobs, overwrite, False, quiet),
            label_suffix(out, format),
            histories=tuple((mix | {"amount": one},) for one in amounts),
            keep=keep,
            radius=radius,
            guard=guard,
        ),
        inputs=[source_mask],
        out=out,
        workers=None,
    )


@dataclass(frozen=True)
class Edits:
    """The options of these verbs, and what makes the work of them in whichever process does it.

    Attributes:
        source: where masks come from.
        output: how results are written.
        suffix: of label maps.
        histories: one result each; edits as plain values.
        before: JSON of edits that come first.
        moves: attribute and amount, as written.
        targets: attribute and value.
        variants, seed, keep, radius, guard: as of `FacePartsPipeline`.
        save_history: a file, or a folder of them.
    """

    source: Source
    output: Output
    suffix: str
    histories: tuple[tuple[dict[str, Any], ...], ...]
    before: str | None = None
    moves: tuple[tuple[str, str], ...] = ()
    targets: tuple[tuple[str, float], ...] = ()
    variants: int = 1
    seed: int = 0
    keep: bool = True
    radius: float = 12.0
    guard: bool = True
    save_history: str | None = None

    @property
    def count(self) -> int:
        """Results of one mask."""
        return max(self.variants, len(self.histories))

    def __call__(self) -> Callable[["Job"], None]:
        worker = _Editor(self)
        return worker.work

    def files(self, job: "Job") -> list[Path]:
        """Label maps of a job, its target last."""
        if job.target is None:
            return []
        if self.count == 1:
            return [job.target]
        first = job.target.with_name(job.target.stem.removesuffix(f"-{self.count}") + job.target.suffix)
        return [numbered(first, number) for number in range(1, self.count + 1)]

    def beside(self, job: "Job") -> list[Path]:
        """All other files of a job."""
        labels = self.files(job)
        found = labels[:-1]
        if self.source.render is not None:
            found += [rendering_of(path) for path in labels]
        return found + ([] if self.save_history is None else self.history_files(job))

    @property
    def histories_in_folder(self) -> bool:
        """Whether ``save_history`` is a folder."""
        from pellucid.io.batch import is_folder

        return self.save_history is not None and (not self.output.lone or is_folder(self.save_history))

    def history_files(self, job: "Job") -> list[Path]:
        """Where the edits of each result are written."""
        assert self.save_history is not None
        first = Path(self.save_history)
        if self.histories_in_folder:
            first = first / job.relative.with_suffix(".history.json")
        if self.count == 1:
            return [first]
        return [numbered(first, number) for number in range(1, self.count + 1)]


class _Editor:
    """The pipeline with the edits of a command: made once in each process, after which only masks can be at fault."""

    def __init__(self, edits: Edits) -> None:
        self.edits = edits
        self.desk = Desk(edits.source)
        self.editing = edits.source.method.module("editing")
        self.histories = [self._history(each) for each in edits.histories]
        for history in self.histories:
            # Names of parts and attributes are looked up here: a slip is one error, not one for each mask.
            self.editing.edited_parts(history, self.desk.classes, self.desk.pipe.directions)
        names = {one.reference for history in self.histories for one in history if one.reference}
        self.references = {name: self._reference(name) for name in sorted(names)}

    def work(self, job: "Job") -> None:
        """Read, edit and write one mask."""
        edits, desk = self.edits, self.desk
        mask, photo = desk.mask_of(job)
        labels = edits.files(job)
        if edits.save_history is not None and edits.histories_in_folder:
            edits.history_files(job)[0].parent.mkdir(parents=True, exist_ok=True)
        again = check_others(edits.beside(job), edits.output) if labels else False
        for number, stack in enumerate(self._stacks(mask, desk.look(job, photo))):
            if not labels:
                save_labels(stack, None, desk, edits.output, edits.suffix, True)
                return
            if edits.save_history is not None:
                _write_history(edits.history_files(job)[number], stack, again)
            if edits.source.render is not None:
                save_rendering(stack, rendering_of(labels[number]), edits.output, again)
            # The last label map comes last: it says that everything is there.
            save_labels(stack, labels[number], desk, edits.output, edits.suffix, again)

    def _stacks(self, mask: Any, look: dict[str, Any]) -> "Iterator[LayerStack]":
        edits, pipe = self.edits, self.desk.pipe
        options = {
            "references": self.references,
            "keep_unedited": edits.keep,
            "radius": edits.radius,
            "stray_guard": edits.guard,
        } | look
        if edits.variants > 1:
            yield from pipe.variants(mask, self.histories[0], edits.variants, edits.seed, **options)
            return
        for history in self.histories:
            yield pipe(mask, self._reaching(mask, history), seed=edits.seed, **options)

    def _history(self, plain: Sequence[dict[str, Any]]) -> Any:
        edits, make = self.edits, self.editing.Operation
        found = [] if edits.before is None else list(self.editing.history_from_json(edits.before))
        found += [make(**(values | {"parts": tuple(values["parts"])})) for values in plain]
        found += [make("move", attribute=name, amount=self._amount(name, text)) for name, text in edits.moves]
        if any(one.prior == "empirical" or one.fit for one in found) and self.desk.pipe.priors is None:
            raise ConfigError("these weights have no empirical prior", "fit one with pellucid parts fit")
        for name, _ in edits.targets:
            self._direction(name)
        return tuple(found)

    def _direction(self, name: str) -> Any:
        directions = self.desk.pipe.directions
        if directions is None:
            raise ConfigError(f"these weights have no attribute {name!r}", "fit attributes with pellucid parts fit")
        return directions[name]

    def _amount(self, name: str, text: str) -> float:
        direction = self._direction(name)
        return _number(text.removesuffix("sd")) * (direction.std if text.endswith("sd") else 1.0)

    def _reference(self, name: str) -> Any:
        try:
            return self.desk.read(Path(name))
        except InputError as error:
            told = error.message.removeprefix(f"{name}: ")
            raise InputError(f"reference mask {name}: {told}", error.hint) from error

    def _reaching(self, mask: Any, history: Any) -> Any:
        """Add moves that reach the values asked for, one after the other."""
        edits, pipe = self.edits, self.desk.pipe
        if not edits.targets:
            return history
        reach = edits.source.method.module("target").reach
        history = self.editing.seeded(history, edits.seed)
        codes = pipe.encode(mask.labels)
        others = {name: one.labels for name, one in self.references.items()}
        for name, value in edits.targets:

            def edited(amount: float, name: str = name, done: Any = history) -> Any:
                step = self.editing.Operation("move", attribute=name, amount=amount)
                return pipe.edit(
                    mask.labels,
                    (*done, step),
                    codes=codes,
                    references=others,
                    seed=edits.seed,
                    keep_unedited=edits.keep,
                    radius=edits.radius,
                    stray_guard=edits.guard,
                )

            direction = self._direction(name)
            found = reach(edited, direction, pipe.classes, value)
            far = abs(found.value - value) > 0.1 * direction.std
            logger.log(
                logging.WARNING if far else logging.INFO,
                "%s: asked for %.4g, reached %.4g from %.4g",
                *(name, value, found.value, found.before),
            )
            history = (*history, self.editing.Operation("move", attribute=name, amount=found.amount))
        return history


def _run(jobs: "Sequence[Job]", edits: Edits, *, inputs: Sequence[str], out: str | None, workers: int | None) -> None:
    several = edits.count > 1 or edits.source.render is not None
    if several and any(job.target is None and job.problem is None for job in jobs):
        raise ConfigError("stdout can hold one result, this makes several", "give -o FILE")
    if edits.save_history is not None and not edits.output.lone and Path(edits.save_history).suffix:
        raise ConfigError(f"--save-history {edits.save_history} is one file for several masks", "give a folder")
    if edits.count > 1:
        jobs = [job if job.target is None else replace(job, target=numbered(job.target, edits.count)) for job in jobs]
    sources = {os.path.realpath(job.source) for job in jobs if job.source is not None}
    for job in jobs:
        for path in edits.beside(job) + edits.files(job):
            if os.path.realpath(path) in sources:
                raise ConfigError(f"output {path} is also an input", "give another -o")
    run_batch(
        jobs,
        edits,
        inputs=inputs,
        out=out,
        workers=workers,
        device=edits.source.device,
        overwrite=edits.output.overwrite,
        quiet=edits.output.quiet,
    )


def _source(
    model: str | None,
    device: str,
    offline: bool,
    order: str | None,
    class_set: Path | None,
    photos: bool,
    parser: Path | None,
    render: str | None,
    style: str | None,
    style_mask: Path | None,
) -> Source:
    from pellucid.registry import find

    return Source(find(TASK), model, device, offline, order, class_set, photos, parser, render, style, style_mask)


def _output(jobs: "Sequence[Job]", overwrite: bool, strip: bool, quiet: bool) -> Output:
    return Output(overwrite=overwrite, strip=strip, quiet=quiet, lone=len(jobs) == 1 and jobs[0].explicit)


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


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = (part.strip() for part in text.partition("="))
    if not separator or not name or not _AMOUNT.fullmatch(value):
        raise ConfigError(f"expected ATTRIBUTE=NUMBER, found {text!r}", "for example smile=0.02")
    return name, value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"expected a number, found {text!r}") from error
    if not math.isfinite(value):
        raise ConfigError(f"expected a number, found {text!r}")
    return value


def _history_text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise InputError(f"history {path}: {reason}", "give a file that --save-history wrote") from error


def _write_history(path: Path, stack: "LayerStack", overwrite: bool) -> None:
    from pellucid.io.files import atomic_path

    with atomic_path(path, overwrite) as temporary:
        temporary.write_text(json.dumps(stack.meta.parameters["history"], indent=1) + "\n", encoding="utf-8")
