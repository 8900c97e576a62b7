"""Tables of figures as Markdown, aligned so that they also read well in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

_DECIMALS = {"PSNR": 2}  # of figures; three for all others


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as a Markdown table, one line each; a missing cell stays empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = [columns, *([_cell(column, row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    figures = [any(isinstance(row.get(column), int | float) for row in rows) for column in columns]

    def join(cells: Sequence[str]) -> str:
        placed = zip(cells, widths, figures, strict=True)
        return "| " + " | ".join(c.rjust(w) if figure else c.ljust(w) for c, w, figure in placed) + " |"

    rule = ["-" * (width - 1) + ":" if figure else "-" * width for width, figure in zip(widths, figures, strict=True)]
    return "\n".join([join(columns), join(rule), *(join(line) for line in table[1:])])


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.{_DECIMALS.get(column, 3)}f}" if isinstance(value, float) else str(value)
