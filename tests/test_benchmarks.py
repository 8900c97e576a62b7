"""Every measurement of `make bench` runs; its figures are for `make bench` on an idle machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ROWS = {  # what stands first in the rows of each script
    "startup": ["`pellucid --help`", "`import pellucid`"],
    "network": ["network of the", "network of the", "n = 32", "n = 32", "our way against plainly"],
    "colorize_network": ["colour generator, "] * 4,
    "parts": ["encode a mask"] * 3 + ["decode a mask"] * 3 + ["a move of a slider"] + ["training step of"] * 3,
    "transparency": ["latents to RGBA"] * 2 + ["memory that"],
    "animate": ["a clip of preset", "a clip with Inter-Frame", "a clip with the isolated"],
    "colorize": ["`colorize`", "peak memory of", "`colorize` of a film", "peak memory of a film"],
    "large_picture": ["`dereflect --way fast`", "`dereflect --way exact`"],
    "folder": ["2 photographs", "2 photographs", "throughput of the default workers"],
}


def _run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    call = [sys.executable, str(BENCHMARKS / f"{script}.py"), "--quick", *options]
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "script",
    [
        "startup",
        "network",
        "colorize_network",
        "parts",
        "transparency",
        "animate",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("large_picture", "colorize", "folder")),
    ],
)
def test_every_measurement_runs(script: str) -> None:
    done = _run(script, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == len(ROWS[script])
    for row, start in zip(rows, ROWS[script], strict=True):
        assert row["what"].startswith(start)
        assert row["value"] > 0 or row["unit"] == "MiB"  # memory need not grow
        assert not row["failure"]


def test_run_prints_one_table() -> None:
    done = _run("run", "--only", "startup")
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert [line.count("|") for line in lines] == [7] * 4, done.stderr


def test_every_measurement_is_in_the_run() -> None:
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if "def measure(" in path.read_text()}
    assert scripts == set(ROWS)
    source = (BENCHMARKS / "run.py").read_text()
    assert all(f'"{name}"' in source for name in ROWS)
