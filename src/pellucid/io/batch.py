"""Inputs (file, folder, glob, ``"-"``) become jobs with output names, and jobs are worked off.

Nothing here knows what the work is, and nothing here needs torch: one process hands out names and writes down what
became of each; the work itself happens in that process (a single input) or in worker processes (a batch).
"""

import glob
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from pellucid.errors import ConfigError, InputError, PellucidError

logger = logging.getLogger(__name__)

Status = Literal["done", "failed", "skipped"]
STDIO = "-"
RESULTS = "results.jsonl"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """One input and where its result goes.

    Attributes:
        source: the file to read; None is stdin.
        target: the file to write; None is stdout.
        relative: the path below the folder that was given, or the bare file name.
        explicit: named by the user itself, not found in a folder; its existing output is an error, not a finished job.
        problem: why it cannot be worked on at all (an unreadable folder found on the way); None when it can.
    """

    source: Path | None
    target: Path | None
    relative: Path
    explicit: bool = True
    problem: str | None = None

    @property
    def label(self) -> str:
        """What messages call this job."""
        return STDIO if self.source is None else str(self.source)


@dataclass(frozen=True)
class Result:
    """What became of one job; ``seconds`` is wall time of the work."""

    job: Job
    status: Status
    seconds: float = 0.0
    error: str = ""

    def row(self) -> str:
        """One line of ``results.jsonl``."""
        target = None if self.job.target is None else str(self.job.target)
        row = {"input": self.job.label, "output": target, "status": self.status, "seconds": round(self.seconds, 3)}
        return json.dumps(row | {"error": self.error or None}, ensure_ascii=False)


Work = Callable[[Job], None]
Maker = Callable[[], Work]
Progress = Callable[[Result, int, int], None]


def usable_cores() -> int:
    """Number of cores this process may use, which a container or ``taskset`` can make fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def is_folder(out: str) -> bool:
    """Whether ``-o OUT`` names a folder: one that exists, or a name that ends with a slash."""
    return Path(out).is_dir() or out.endswith(("/", os.sep))


def collect(
    inputs: Sequence[str],
    out: str | None = None,
    *,
    suffixes: Collection[str],
    layer: str,
    extension: Callable[[Path], str],
    own: Collection[str] = (),
) -> list[Job]:
    """Turn what was given on a command line into jobs, before any work is done.

    A folder is walked in sorted order: files of other suffixes, hidden ones, our own earlier outputs and everything
    under OUT are left out, and its tree is mirrored under OUT. An output is called ``<stem>.<layer>.<ext>``.

    Args:
        inputs: files, folders, globs, or a single ``"-"`` for stdin.
        out: a file for a single input, ``"-"`` for stdout, else a folder; None puts outputs beside the inputs.
        suffixes: lower-case suffixes with dot that a folder is searched for.
        layer: the layer that the output holds.
        extension: suffix with dot of the output for an input path.
        own: layer names whose ``<stem>.<name>.<ext>`` is an earlier output when a file ``<stem>.*`` lies beside it.

    Raises:
        InputError: an input is not there, or no input is left.
        ConfigError: two inputs have one output, an output is an input, or ``-`` is mixed with others.
    """
    if STDIO in inputs:
        return [_from_stdin(inputs, out, layer, extension)]
    given = [path for text in inputs for path in _expand(text)]
    several = len(given) > 1 or any(path.is_dir() for path in given)
    if several and out == STDIO:
        raise ConfigError("stdout can hold one result, found several inputs", "give -o FOLDER/")
    if several and out is not None and not Path(out).is_dir() and Path(out).exists():
        raise ConfigError(f"{out} must be a folder for several inputs, found a file", "give -o FOLDER/")
    folder = None if out in (None, STDIO) or not (several or is_folder(out)) else Path(out)

    jobs: list[Job] = []
    for path in given:
        if path.is_dir():
            jobs += _walk(path, folder, suffixes, layer, extension, {layer, *own})
        elif several or folder is not None or out is None:
            target = (folder or path.parent) / name_for(path, layer, extension(path))
            jobs.append(Job(path, target, Path(path.name)))
        else:
            jobs.append(Job(path, _lone_file(out), Path(path.name)))
    if not jobs:
        known = " ".join(sorted(suffixes))
        raise InputError(f"no picture found in {', '.join(inputs)}", f"files that are read: {known}")
    _refuse_collisions(jobs)
    return jobs


def name_for(path: Path, layer: str, extension: str) -> str:
    """File name of a layer of ``path``: ``<stem>.<layer>.<ext>``."""
    return f"{path.stem}.{layer}{extension}"


def _from_stdin(inputs: Sequence[str], out: str | None, layer: str, extension: Callable[[Path], str]) -> Job:
    if len(inputs) > 1:
        raise ConfigError("stdin must be the only input, found others beside it", "give '-' alone, or only files")
    if out in (None, STDIO):
        return Job(None, None, Path("stdin"))
    if is_folder(out):
        return Job(None, Path(out) / name_for(Path("stdin"), layer, extension(Path("stdin"))), Path("stdin"))
    return Job(None, _lone_file(out), Path("stdin"))


def _lone_file(out: str) -> Path | None:
    if out == STDIO:
        return None
    path = Path(out)
    if not path.parent.is_dir():
        # For one file, a folder that is not there is more often a slip than a wish for a new folder.
        raise InputError(f"folder {path.parent} for output {out} is not there", f"mkdir -p {path.parent}")
    return path


def _expand(text: str) -> list[Path]:
    path = Path(text)
    if path.exists():
        return [path]
    if glob.has_magic(text):
        found = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
        if not found:
            raise InputError(f"no file matches {text}")
        return found
    raise InputError(f"{text} is not there", "give a file, a folder, a quoted glob, or - for stdin")


def _walk(
    root: Path,
    out: Path | None,
    suffixes: Collection[str],
    layer: str,
    extension: Callable[[Path], str],
    own: Collection[str],
) -> Iterator[Job]:
    blocked: list[OSError] = []
    below_out = None if out is None else out.resolve()
    for folder, folders, files in os.walk(root, onerror=blocked.append):
        here = Path(folder)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (here / f).resolve() != below_out)
        stems = {Path(name).stem for name in files}
        for name in sorted(files):
            path = here / name
            if name.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            stem, _, last = path.stem.rpartition(".")
            if stem in stems and last in own:
                logger.info("%s is an earlier output and is left out", path)
                continue
            target = (out / here.relative_to(root) if out else here) / name_for(path, layer, extension(path))
            yield Job(path, target, path.relative_to(root), explicit=False)
    for error in blocked:
        where = Path(error.filename)
        if where == root:
            raise InputError(f"folder {root} cannot be read: {error.strerror}")
        yield Job(where, None, where.relative_to(root), explicit=False, problem=f"cannot be read: {error.strerror}")


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    sources: set[str] = set()
    for job in jobs:
        place = os.path.realpath(job.source) if job.source is not None else STDIO
        if place in sources:
            raise ConfigError(f"{job.label} is given twice", "give each input once")
        sources.add(place)
    taken: dict[str, Job] = {}
    for job in jobs:
        if job.target is None:
            continue
        place = os.path.realpath(job.target)
        if place in sources:
            raise ConfigError(f"output {job.target} is also an input", "give another -o")
        if place in taken:
            raise ConfigError(
                f"{taken[place].label} and {job.label} would both be written to {job.target}",
                "give another --format or run them one after the other",
            )
        taken[place] = job


def run(
    jobs: Sequence[Job],
    maker: Maker,
    *,
    workers: int = 0,
    overwrite: bool = False,
    results: Path | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Work off jobs; one failure does not stop the rest.

    A job whose output is there and not empty is skipped; ``overwrite`` does it again. Ctrl-C stops the workers, leaves
    no half files as long as the work writes atomically, and raises: what is finished is on disk and in ``results``, so
    the same command does the rest.

    Args:
        jobs: from `collect`.
        maker: called once in each process that works; returns the work, a callable of one job. For worker processes
            it must be picklable.
        workers: number of worker processes, each with one arithmetic thread; 0 works in this process with all
            threads, and there the error of a single job is raised instead of written down.
        overwrite: do finished jobs again.
        results: file to which one JSON line per job is appended as soon as it is finished.
        progress: called with the result, the number finished so far and the number of jobs.

    Returns:
        One result per job, in the order they were finished.

    Raises:
        PellucidError: ``maker`` failed, for example for want of weights.
        InputError: a job named by the user has an output already; nothing has been done then.
        KeyboardInterrupt: Ctrl-C.
    """
    _check_outputs(jobs, overwrite)
    finished: list[Result] = []
    with _journal(results) as write:

        def note(result: Result) -> None:
            finished.append(result)
            write(result.row())
            if progress is not None:
                progress(result, len(finished), len(jobs))

        todo: deque[Job] = deque()
        for job in jobs:
            if job.problem is not None:
                note(Result(job, "failed", error=job.problem))
            elif not overwrite and _is_finished(job):
                note(Result(job, "skipped"))
            else:
                todo.append(job)
        if todo and workers > 0:
            _in_processes(todo, maker, min(workers, len(todo)), note)
        elif todo:
            work = maker()
            for job in todo:
                note(_attempt(work, job, alone=len(jobs) == 1))
    return finished


def _is_finished(job: Job) -> bool:
    try:
        return job.target is not None and job.target.stat().st_size > 0
    except OSError:
        return False


def _check_outputs(jobs: Sequence[Job], overwrite: bool) -> None:
    for job in jobs:
        if job.target is None:
            continue
        if len(jobs) == 1 and job.explicit and not overwrite and job.target.exists():
            raise InputError(f"output {job.target} exists already", "add --overwrite, or give another -o")
        if job.target.is_dir():
            raise InputError(f"output {job.target} is a folder, a file was expected")


@contextmanager
def _journal(path: Path | None) -> Iterator[Callable[[str], None]]:
    if path is None:
        yield lambda line: None
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"output folder {path.parent} cannot be written: {error.strerror}") from error
    with stream:

        def write(line: str) -> None:
            stream.write(line + "\n")
            stream.flush()

        yield write


def _attempt(work: Work, job: Job, *, alone: bool = False) -> Result:
    begun = time.perf_counter()
    try:
        if job.target is not None:
            job.target.parent.mkdir(parents=True, exist_ok=True)
        work(job)
    except Exception as error:
        if alone:
            raise
        logger.debug("%s failed", job.label, exc_info=True)
        return Result(job, "failed", time.perf_counter() - begun, describe(error))
    return Result(job, "done", time.perf_counter() - begun)


def describe(error: BaseException) -> str:
    """One line for any error: our own as they are, others with their type in front."""
    if isinstance(error, PellucidError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(f"{type(error).__name__}: {error}".split())


# Worker processes. A pool of our own rather than concurrent.futures: there, one worker that is killed for want of
# memory breaks the whole pool and nobody knows which file it was.


@dataclass
class _Worker:
    process: BaseProcess
    pipe: "Connection[object, object]"
    job: Job | None = None
    begun: float = 0.0
    ready: bool = False


def _in_processes(todo: deque[Job], maker: Maker, count: int, note: Callable[[Result], None]) -> None:
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            workers.append(_start(maker))
        while todo or any(worker.job is not None for worker in workers):
            for worker in [w for w in workers if w.ready and w.job is None]:
                if not todo:
                    break
                worker.job, worker.begun = todo.popleft(), time.perf_counter()
                worker.pipe.send(worker.job)
            by_handle: dict[object, _Worker] = {worker.pipe: worker for worker in workers}
            for handle in wait([worker.pipe for worker in workers]):
                worker = by_handle[handle]
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    _bury(worker, note)
                    if len(todo) > sum(other.job is None for other in workers):
                        workers.append(_start(maker))
                    continue
                if isinstance(message, BaseException):
                    raise message
                if isinstance(message, Result):
                    # The parent's own job object goes into the result: the worker's is a copy.
                    note(replace(message, job=worker.job or message.job))
                    worker.job = None
                worker.ready = True
    finally:
        _stop(workers)


def _bury(worker: _Worker, note: Callable[[Result], None]) -> None:
    worker.process.join()
    code = worker.process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if worker.job is None:
        raise PellucidError(f"a worker process could not start: it ended with {how}", "try --workers 1, or -vv")
    memory = ", most likely for want of memory" if code == -signal.SIGKILL else ""
    hint = "try --workers 1 or a smaller --tile"
    error = f"the worker process was ended by {how}{memory} ({hint})"
    note(Result(worker.job, "failed", time.perf_counter() - worker.begun, error))


def _start(maker: Maker) -> _Worker:
    context = multiprocessing.get_context("spawn")  # forking a process in which torch has threads can hang
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, maker, logging.getLogger("pellucid").level), daemon=True)
    with _inherited_by_workers():
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextmanager
def _inherited_by_workers() -> Iterator[None]:
    """What a worker must have from its first moment: one thread per library, and no ear for Ctrl-C.

    The terminal sends Ctrl-C to every process of the group; the parent alone decides what it means.
    """
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve(pipe: "Connection[object, object]", maker: Maker, level: int) -> None:
    """Body of a worker process: make the work once, then do one job after the other until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A polite end unwinds the stack, so that half-written temporary files are taken away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("pellucid").setLevel(level)
    try:
        _serve_jobs(pipe, maker)
    finally:
        # Nothing is left to unwind: an end asked for while Python shuts down would only print a traceback.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _serve_jobs(pipe: "Connection[object, object]", maker: Maker) -> None:
    try:
        work = maker()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
    except Exception as error:
        logger.debug("a worker process cannot work", exc_info=True)
        pipe.send(error if isinstance(error, PellucidError) else PellucidError(describe(error), "-vv tells where"))
        return
    pipe.send("ready")
    with suppress(EOFError, BrokenPipeError):  # the parent is gone: nobody is left to tell
        while isinstance(job := pipe.recv(), Job):
            pipe.send(_attempt(work, job))


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        if worker.job is not None or not worker.ready:
            worker.process.terminate()
        worker.pipe.close()  # an idle worker ends when its pipe does
    for worker in workers:
        worker.process.join(timeout=10)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
