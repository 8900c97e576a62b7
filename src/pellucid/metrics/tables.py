"""Tables of figures as Markdown, aligned so that they also read well in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

_DECIMALS = {"PSNR": 2, "ab PSNR": 2, "CF": 1, "chroma": 1, "spread": 1, "bleeding": 1}  # three for all others
_LABELS = {"system", "set", "protocol", "pictures"}  # say what was measured, not how much


def markdown_tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as Markdown tables: a row that has no figure in common with those above begins another one."""
    groups: list[list[Mapping[str, Any]]] = []
    for row in rows:
        if not groups or not {key for above in groups[-1] for key in above} & (set(row) - _LABELS):
            groups.append([])
        groups[-1].append(row)
    return "\n\n".join(markdown_table(group) for group in groups)


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
