"""How long the door takes to open: ``pellucid --help``, and ``import pellucid``, which must not import torch."""

import statistics
import sys

from table import Row, command, main

IMPORT = "import sys, pellucid; print('torch' in sys.modules)"
MODULE = [sys.executable, "-m", "pellucid"]


def measure(quick: bool) -> list[Row]:
    repeats = 3 if quick else 10
    commands = {"`pellucid --help`": [*MODULE, "--help"], "`import pellucid`": [sys.executable, "-c", IMPORT]}
    runs = {what: [command(arguments) for _ in range(repeats)] for what, arguments in commands.items()}
    torch_came = any(run.output.strip() != "False" for run in runs["`import pellucid`"])
    failures = {"`import pellucid`": "torch was imported" if torch_came else ""}
    budgets = {"`pellucid --help`": 0.4}
    return [
        Row(
            what,
            statistics.median(run.seconds for run in found),
            "s",
            budgets.get(what),
            peak=max(run.peak for run in found),
            note=f"median of {repeats} processes",
            failure=failures.get(what, ""),
        )
        for what, found in runs.items()
    ]


if __name__ == "__main__":
    main(measure, __doc__)
