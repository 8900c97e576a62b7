"""A folder of photographs through the command line: the default workers against one worker."""

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from large_picture import photograph
from table import Row, command, main, weights


def measure(quick: bool) -> list[Row]:
    count, repeats = (2, 1) if quick else (200, 2)
    seconds: dict[str, list[float]] = {"default": [], "1": []}
    peak = {"default": 0, "1": 0}
    with TemporaryDirectory() as folder:
        here = Path(folder)
        photographs = here / "photographs"
        photographs.mkdir()
        for index in range(count):
            photograph(photographs / f"{index:03}.jpg", 640, 480, seed=index)
        options, which = weights(here / "weights")
        for _ in range(repeats):  # in turns, so that a busy minute meets both
            for name, chosen in (("default", []), ("1", ["--workers", "1"])):
                call = [sys.executable, "-m", "pellucid", "dereflect", str(photographs), "-o", str(here / "out")]
                run = command([*call, "--device", "cpu", "--quiet", *chosen, *options])
                rows = [json.loads(line) for line in (here / "out/results.jsonl").read_text().splitlines()]
                if len(rows) != count or any(row["status"] != "done" for row in rows):
                    raise RuntimeError(f"{count} photographs were to be done, found {len(rows)} rows")
                shutil.rmtree(here / "out")
                seconds[name].append(run.seconds)
                peak[name] = max(peak[name], run.peak)
    best = {name: min(times) for name, times in seconds.items()}  # the rest is what else the machine did
    return [
        Row(
            f"{count} photographs of 640x480, default workers",
            count / best["default"],
            "pictures/s",
            peak=peak["default"],
            note=which,
        ),
        Row(f"{count} photographs of 640x480, `--workers 1`", count / best["1"], "pictures/s", peak=peak["1"]),
        Row(
            "throughput of the default workers against one",
            best["1"] / best["default"],
            "x",
            None if quick else 1.6,
            at_least=True,
            note=f"best of {repeats}, wall time: fair only on an idle machine of two cores or more",
        ),
    ]


if __name__ == "__main__":
    main(measure, __doc__)
