"""Model cards: what anybody needs to know about weights before using them, in a fixed order, none left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pellucid.errors import ConfigError


@dataclass(frozen=True)
class Figure:
    """One measured number beside what doing nothing scores and what the paper says.

    Attributes:
        data: the named data, with its protocol: ``"kim_test_imgs, disk"``.
        measure: ``"PSNR dB"``.
        ours: mean over the seeds.
        nothing: the same measure of the unchanged input.
        paper: the paper's number, None when it gives none for this data.
        spread: standard deviation over the seeds, None for a single run.
    """

    data: str
    measure: str
    ours: float
    nothing: float
    paper: float | None = None
    spread: float | None = None


def model_card(
    title: str,
    *,
    summary: str,
    data: str,
    credits: str,
    recipe: str,
    hardware: str,
    minutes: float,
    figures: Iterable[Figure],
    seeds: int,
    limits: str,
    licence: str = "MIT",
    citation: str = "",
) -> str:
    """Write the README.md of a folder of weights.

    Args:
        title: for example ``"multistep_sirr/small"``.
        summary: what the weights do, one paragraph.
        data: what they were trained on, with licences.
        credits: credit lines, see `credit_lines`; "none needed" is said in words.
        recipe: name of the recipe and the command that trains them again.
        hardware: what they were trained on.
        minutes: wall-clock minutes of training.
        figures: measured numbers, at least one.
        seeds: number of training runs behind the figures.
        limits: what the weights cannot do.
        licence: licence of the weights.
        citation: the paper.

    Raises:
        ConfigError: a section is empty; the message names all that are.
    """
    rows = list(figures)
    needed = {
        "title": title,
        "summary": summary,
        "data": data,
        "credits": credits,
        "recipe": recipe,
        "hardware": hardware,
        "limits": limits,
        "licence": licence,
    }
    missing = [name for name, text in needed.items() if not text.strip()]
    missing += [
        name for name, given in (("minutes", minutes > 0), ("figures", rows), ("seeds", seeds > 0)) if not given
    ]
    if missing:
        raise ConfigError(f"the model card of {title or 'these weights'} lacks {', '.join(missing)}")
    runs = "one training run, so no spread is known" if seeds == 1 else f"mean and spread over {seeds} training runs"
    sections = [
        f"# {title}",
        summary.strip(),
        f"## Data and licence\n\n{data.strip()}\n\nLicence of these weights: {licence}.",
        f"## Recipe\n\n{recipe.strip()}",
        f"## Hardware and time\n\n{hardware.strip()}; {minutes:.0f} minutes.",
        f"## Figures\n\n{_figures(rows)}\n\nFrom {runs}.",
        f"## What it cannot do\n\n{limits.strip()}",
    ]
    if citation.strip():
        sections.append(f"## Paper\n\n{citation.strip()}")
    sections.append(f"## Credits\n\n{credits.strip()}")
    return "\n\n".join(sections) + "\n"


def credit_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Make credit lines from shard rows: one for each author, licence and source, with how many pictures.

    Works of a single picture are given with their address; a source that many pictures share is named once.
    Rows spell the licence ``licence`` or ``license``.

    Raises:
        ConfigError: a row names no licence; the message names its file.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        licence = row.get("licence") or row.get("license")
        if not licence:
            raise ConfigError(f"row {row.get('file')!r} names no licence", "leave it out or find its licence")
        groups.setdefault((_plain(row.get("source")), _plain(licence), _plain(row.get("author"))), []).append(row)
    lines: list[str] = []
    for (source, licence, author), members in sorted(groups.items(), key=lambda item: item[0]):
        count = "1 picture" if len(members) == 1 else f"{len(members)} pictures"
        by = f" by {author}" if author else ""
        addresses = sorted({_plain(row["url"]) for row in members if row.get("url")})
        where = ", ".join(part for part in (source, *(addresses if len(addresses) <= 3 else ())) if part)
        lines.append(f"- {count}{by}, {licence}{f': {where}' if where else ''}")
    return "\n".join(lines)


def _figures(rows: list[Figure]) -> str:
    lines = ["| data, protocol | measure | input (doing nothing) | these weights | paper |", "|---|---|---|---|---|"]
    for row in rows:
        spread = "" if row.spread is None else f" ± {row.spread:.2f}"
        paper = "" if row.paper is None else f"{row.paper:g}"
        digits = 2 if abs(row.ours) >= 2 else 3
        nothing, ours = f"{row.nothing:.{digits}f}", f"{row.ours:.{digits}f}"
        lines.append(f"| {row.data} | {row.measure} | {nothing} | {ours}{spread} | {paper} |")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return " ".join(str(value).split()) if value else ""
