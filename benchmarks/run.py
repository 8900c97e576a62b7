"""Measure speed and memory: ``make bench``. Prints one Markdown table; ends with 1 when a budget is not kept."""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path

from table import Row, command, machine, table

SCRIPTS = (
    "startup",
    "network",
    "colorize_network",
    "parts",
    "transparency",
    "animate",
    "large_picture",
    "colorize",
    "folder",
)


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small and few: shows that it runs")
    parser.add_argument("--only", choices=SCRIPTS, action="append", help="measure this one; may be given again")
    options = parser.parse_args()
    print(machine(), end="\n\n", flush=True)
    rows: list[Row] = []
    for name in options.only or SCRIPTS:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        arguments = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), "--json"]
        found = command([*arguments, "--quick"] if options.quick else arguments).output
        rows += [Row(**row) for row in json.loads(found)]
    print(table(rows))
    return int(not all(row.kept for row in rows))


if __name__ == "__main__":
    sys.exit(main())
