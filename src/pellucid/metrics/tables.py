"""Tables of figures as Markdown. The row of the unchanged input is always there: a number alone says little."""

from collections.abc import Mapping, Sequence

from pellucid.errors import ConfigError

NOTHING = "input (doing nothing)"


def markdown_table(
    rows: Mapping[str, Mapping[str, float | None]],
    columns: Sequence[str],
    *,
    protocol: str,
    digits: Mapping[str, int] | None = None,
) -> str:
    """Write a table, one line for each method.

    Args:
        rows: figures by method and column; one method is `NOTHING`. None or a missing figure is an empty cell.
        columns: which figures, in order.
        protocol: name of the protocol, which heads the first column.
        digits: decimals by column; 3 for columns whose name begins with ssim or lpips, else 2.

    Raises:
        ConfigError: the row of the unchanged input is missing, or a row has a figure that no column shows.
    """
    if NOTHING not in rows:
        raise ConfigError(f"a table of figures needs the row {NOTHING!r}, found {', '.join(rows) or 'none'}")
    for name, figures in rows.items():
        hidden = [key for key in figures if key not in columns]
        if hidden:
            raise ConfigError(f"row {name!r} has figures that no column shows: {', '.join(hidden)}")
    lines = [f"| {protocol} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name in (NOTHING, *(name for name in rows if name != NOTHING)):
        cells = [_cell(rows[name].get(column), _digits(column, digits)) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _digits(column: str, digits: Mapping[str, int] | None) -> int:
    if digits and column in digits:
        return digits[column]
    return 3 if column.lower().startswith(("ssim", "lpips")) else 2


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
