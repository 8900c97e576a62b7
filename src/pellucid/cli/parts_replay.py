"""What a verb of edits does with one mask: its history replayed, and what comes of it written."""

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.cli.outputs import Output, check_others
from pellucid.cli.parts_masks import Desk, Source, numbered, rendering_of, save_labels, save_rendering
from pellucid.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pellucid.io.batch import Job
    from pellucid.layers import LayerStack

logger = logging.getLogger(__name__)


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
        return number_of(text.removesuffix("sd")) * (direction.std if text.endswith("sd") else 1.0)

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


def number_of(text: str) -> float:
    """Read a finite number.

    Raises:
        ConfigError: it is none.
    """
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"expected a number, found {text!r}") from error
    if not math.isfinite(value):
        raise ConfigError(f"expected a number, found {text!r}")
    return value


def _write_history(path: Path, stack: "LayerStack", overwrite: bool) -> None:
    from pellucid.io.files import atomic_path

    with atomic_path(path, overwrite) as temporary:
        temporary.write_text(json.dumps(stack.meta.parameters["history"], indent=1) + "\n", encoding="utf-8")
