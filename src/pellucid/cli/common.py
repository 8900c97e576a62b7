"""What all verbs share: the common options, logging on stderr, the progress bar, how a batch is run and reported."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pellucid.io.batch import Job, Maker, Progress, Result

EXIT_SOME_FAILED = 1
EXIT_INTERRUPTED = 130
DEBUG = "pellucid.debug"  # key in the context's meta, where main() looks when an error arrives
_COMMON = "Common options"


def _remember_debug(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[DEBUG] = value
    return value


Inputs = Annotated[
    list[str],
    typer.Argument(metavar="INPUT", help="Files, folders, quoted globs, or - for stdin.", show_default=False),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        metavar="OUT",
        help="A file for one input (- is stdout), else a folder; beside the input by default.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|DIR",
        help="Bundled weights, a folder, or a hub id; the bundled default if not given.",
        rich_help_panel=_COMMON,
        show_default=False,
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda|mps", help="Where to compute.", rich_help_panel=_COMMON)
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of all noise.", rich_help_panel=_COMMON, show_default=False)
]
Offline = Annotated[bool, typer.Option("--offline", help="Never use a network.", rich_help_panel=_COMMON)]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace outputs that exist, do finished files again.", rich_help_panel=_COMMON),
]
StripMetadata = Annotated[
    bool,
    typer.Option(
        "--strip-metadata",
        help="Leave EXIF, XMP and names out of the result; the colour profile stays.",
        rich_help_panel=_COMMON,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.", rich_help_panel=_COMMON)]
Verbose = Annotated[
    int, typer.Option("-v", "--verbose", count=True, help="Say more; twice for everything.", rich_help_panel=_COMMON)
]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_COMMON, callback=_remember_debug),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Processes for a batch; by default one per usable core, and one on a GPU.",
        rich_help_panel=_COMMON,
        show_default=False,
    ),
]


class _Stderr(logging.Handler):
    """Writes through `typer.echo`, which finds the stderr of the moment: a live progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(self.format(record), err=True)


def start_logging(quiet: bool = False, verbose: int = 0) -> None:
    """Send our own log lines to stderr: warnings, with ``-v`` also what is done, with ``-vv`` everything."""
    level = logging.ERROR if quiet else {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    ours = logging.getLogger("pellucid")
    ours.setLevel(level)
    if not ours.handlers:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        ours.addHandler(handler)
        ours.propagate = False


def default_workers(jobs: "Sequence[Job]", wanted: int | None, device: str) -> int:
    """Number of worker processes: none for a single file, one per usable core on a CPU, one on a GPU."""
    from pellucid.device import resolve_device
    from pellucid.io.batch import usable_cores

    # Asked for in every case: a device that is not there is one error, not one per file.
    on_cpu = resolve_device(device).type == "cpu"
    if len(jobs) == 1 and jobs[0].explicit:
        return 0
    return wanted or (usable_cores() if on_cpu else 1)


def run_batch(
    jobs: "Sequence[Job]",
    maker: "Maker",
    *,
    inputs: Sequence[str],
    out: str | None,
    workers: int | None,
    device: str,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Work off the jobs with a bar and ``results.jsonl``, say how it went on stderr.

    Raises:
        typer.Exit: some of several inputs failed; code 1.
        PellucidError: the only input failed.
    """
    from pellucid.io import batch

    count = default_workers(jobs, workers, device)
    begun = time.perf_counter()
    with batch_progress(len(jobs), quiet=quiet or count == 0) as progress:
        results = batch.run(
            jobs,
            maker,
            workers=count,
            overwrite=overwrite,
            results=None if count == 0 else results_file(inputs, out),
            progress=progress,
        )
    if count == 0:
        if not quiet and jobs[0].target is not None:
            typer.echo(f"wrote {jobs[0].target}", err=True)
        return
    failed = [result for result in results if result.status == "failed"]
    skipped = sum(result.status == "skipped" for result in results)
    if not quiet:
        done = len(results) - len(failed) - skipped
        typer.echo(
            f"{done} done, {skipped} skipped, {len(failed)} failed in {time.perf_counter() - begun:.1f} s", err=True
        )
    if failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def results_file(inputs: Sequence[str], out: str | None) -> Path | None:
    """Where the rows of a batch go: OUT, else the one folder that was given, else nowhere."""
    from pellucid.io.batch import RESULTS

    if out is not None:
        return Path(out) / RESULTS
    folders = [Path(text) for text in inputs if Path(text).is_dir()]
    return folders[0] / RESULTS if len(folders) == 1 else None


def _failure(result: "Result") -> str:
    label = result.job.label
    return f"error: {result.error}" if result.error.startswith(label) else f"error: {label}: {result.error}"


@contextmanager
def batch_progress(total: int, *, quiet: bool) -> "Iterator[Progress]":
    """A bar with rate and time left on a terminal, plain lines elsewhere; failures are named in both."""
    if quiet or not sys.stderr.isatty():
        width = len(str(total))

        def line(result: "Result", done: int, total: int) -> None:
            if result.status == "failed":
                typer.echo(_failure(result), err=True)
            elif not quiet:
                spent = f" {result.seconds:.2f} s" if result.status == "done" else ""
                typer.echo(f"[{done:{width}}/{total}] {result.job.label}: {result.status}{spent}", err=True)

        yield line
        return

    with _bar("pictures") as progress:
        # A file that is skipped costs no time: it leaves the total instead of lifting the rate.
        task = progress.add_task("", total=total)
        skipped = 0

        def advance(result: "Result", done: int, total: int) -> None:
            nonlocal skipped
            if result.status == "failed":
                progress.console.print(_failure(result), markup=False, highlight=False, soft_wrap=True)
            if result.status == "skipped":
                skipped += 1
                progress.update(task, total=total - skipped)
            else:
                progress.advance(task)

        yield advance


def frame_progress(total: int | None, *, quiet: bool) -> AbstractContextManager[Callable[[], None]]:
    """A bar over the frames of a film on a terminal, nothing elsewhere."""
    return step_progress(total, "frames", quiet=quiet)


@contextmanager
def step_progress(total: int | None, unit: str, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """A bar over so many things on a terminal, nothing elsewhere; ``unit`` is what they are called."""
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    with _bar(unit) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)


def _bar(unit: str) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.2f} {unit}/s" if speed else f"- {unit}/s")

    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
