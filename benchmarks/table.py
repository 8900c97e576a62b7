"""What every measurement hands over: rows of one Markdown table, and the means to measure."""

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile

BUNDLED = Path(__file__).parent.parent / "src/pellucid/weights/multistep_sirr/small"
RANDOM_WEIGHTS = """
import sys, torch
from pellucid.multistep_sirr.model import ReflectionPair, ReflectionPairConfig
from pellucid.multistep_sirr.pipeline import ReflectionRemovalPipeline
pair = ReflectionPair(ReflectionPairConfig(width=16))
ReflectionRemovalPipeline(pair).save_pretrained(sys.argv[1], card="Random weights, for measurements only.")
"""
# To be set before torch is imported: one thread, and no spinning while waiting for work.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


@dataclass
class Row:
    """One measured thing.

    Attributes:
        what: the thing.
        value: median, in ``unit``.
        unit: of value and budget: ``"CPU-s"``, ``"s"``, ``"x"``, ...
        budget: what the value must keep; None when it stands for comparison only.
        at_least: the budget is a lower bound.
        peak: peak resident memory in bytes, of the process that did the work.
        note: what else there is to know.
        failure: why the row fails whatever its value is.
    """

    what: str
    value: float
    unit: str
    budget: float | None = None
    at_least: bool = False
    peak: int | None = None
    note: str = ""
    failure: str = ""

    @property
    def kept(self) -> bool:
        if self.failure or self.budget is None:
            return not self.failure
        return self.value >= self.budget if self.at_least else self.value <= self.budget


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line per row."""
    lines = ["| measured | median | budget | kept | peak memory | note |", "|---|---:|---:|---|---:|---|"]
    for row in rows:
        budget = "" if row.budget is None else f"{'>=' if row.at_least else '<='} {row.budget:g} {row.unit}"
        kept = "" if row.budget is None and not row.failure else "yes" if row.kept else "NO"
        peak = "" if row.peak is None else f"{row.peak / 2**30:.2f} GiB"
        note = "; ".join(part for part in (row.failure, row.note) if part)
        lines.append(f"| {row.what} | {row.value:.3g} {row.unit} | {budget} | {kept} | {peak} | {note} |")
    return "\n".join(lines)


def machine() -> str:
    """The facts that the numbers depend on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return (
        f"{os.cpu_count()} cores of {model}, "
        f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}{load}"
    )


def interleaved(works: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median CPU-seconds of each work, in turns, so that a busy minute meets all of them; once before, unmeasured."""
    for work in works:
        work()
    spent: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, times in zip(works, spent, strict=True):
            begun = time.process_time()
            work()
            times.append(time.process_time() - begun)
    return [statistics.median(times) for times in spent]


def peak() -> int:
    """Largest resident set of this process so far, in bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class Run:
    """A command that has ended: wall seconds, largest resident set in bytes, what it wrote to stdout, CPU-seconds."""

    seconds: float
    peak: int
    output: str
    cpu: float


def command(arguments: Sequence[str]) -> Run:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed.
    """
    with TemporaryFile("w+") as out, TemporaryFile("w+") as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=out, stderr=errors)
        # wait4 tells of this one process and of those it waited for; RUSAGE_CHILDREN would mix in earlier commands.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begun
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}:\n{errors.read()[-2000:]}")
        largest = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Run(seconds, largest, out.read(), usage.ru_utime + usage.ru_stime)


def weights(folder: Path) -> tuple[list[str], str]:
    """Options that name the weights, and what they are: the bundled ones, else random ones written to ``folder``."""
    if (BUNDLED / "model.safetensors").is_file():
        return [], "bundled weights"
    if not folder.is_dir():
        command([sys.executable, "-c", RANDOM_WEIGHTS, str(folder)])
    return ["--model", str(folder)], "random weights, width 16"


def main(measure: Callable[[bool], list[Row]], about: str) -> None:
    """Body of every script: measure, print the table, or the rows as JSON for `run.py`."""
    parser = ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="small and few: shows that it runs, the figures mean less")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args()
    rows = measure(options.quick)
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{machine()}\n\n{table(rows)}")
    sys.exit(not all(row.kept for row in rows))
