"""What candidates did over several seeds, as rows of a table, and what Table I says of their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

from torch import Tensor

from pellucid.layer_animate.baselines.candidates import find_candidate
from pellucid.layer_animate.clip_figures import FREE, MOVED, NO_CLIP, SEEN, TRUE, Figures, Meter, mean_figures
from pellucid.layer_animate.evaluate import paper_rows

# Which direction is better; what moves is told and not judged.
MORE = frozenset({"text score", "on white", "on black", "like base", "PSNR", "SSIM", "obeyed %"})
LESS = frozenset({"border %", "leak %", "holes %", "flicker %", "base alpha %", "base colour %", "MAE"})


@dataclass(frozen=True)
class Result:
    """What a system did, over all seeds.

    Attributes:
        title: as the table has it.
        figures: means over clips, one for each seed.
        clips: of the first seed, one ``(F, 4, H, W)`` uint8 for each example.
        base_index: which frame it was given.
        name: its key in `CANDIDATES`; empty for what is no candidate.
        shown: it is on the page of the user study too.
        given: the page does not ask whether it was copied in that frame: it was given.
    """

    title: str
    figures: tuple[Figures, ...]
    clips: tuple[Tensor, ...]
    base_index: int
    name: str = ""
    shown: bool = True
    given: bool = True

    def mean(self) -> Figures:
        """Mean over seeds of each column; None where no seed has it."""
        return mean_figures(self.figures)

    def spread(self) -> Figures:
        """Sample standard deviation over seeds of each column; None where fewer than two seeds have it."""
        columns = dict.fromkeys(key for each in self.figures for key in each)
        known = {key: [value for each in self.figures if (value := each.get(key)) is not None] for key in columns}
        return {key: stdev(values) if len(values) > 1 else None for key, values in known.items()}


@dataclass(frozen=True)
class Claim:
    """One statement of the order of Table I, and whether the figures bear it out.

    Attributes:
        words: the statement.
        holds: whether it holds; None when a figure is missing.
        figures: what it rests on, in words.
    """

    words: str
    holds: bool | None
    figures: str

    def __str__(self) -> str:
        answer = "cannot be asked" if self.holds is None else ("holds" if self.holds else "does not hold")
        return f"{self.words}: {answer}{f' ({self.figures})' if self.figures else ''}"


def figure_columns(results: Sequence[Result]) -> list[str]:
    """All columns that any system has, in the order of the tables; what a meter may have besides follows motion."""
    measured = list(dict.fromkeys(key for each in results for found in each.figures for key in found))
    also = [key for key in measured if key not in (*SEEN, *MOVED, *FREE, *TRUE)]
    return [key for key in (*SEEN, *MOVED, *also, *FREE, *TRUE) if key in measured]


def table_rows(results: Sequence[Result], name: str, protocol: str, meter: Meter) -> list[dict[str, Any]]:
    """Rows of two tables: text and motion with the paper's Table I last, then transparency.

    Args:
        results: of all systems.
        name: of the set.
        protocol: its name.
        meter: what they were measured with.

    Returns:
        A row for each system; of those with several seeds a second one, whose name begins with ±, of the spread.
    """
    rows: list[dict[str, Any]] = []
    measured = figure_columns(results)
    transparency = (*FREE, *TRUE)
    for columns in ((*SEEN, *(key for key in measured if key not in (*SEEN, *transparency))), transparency):
        for result in results:
            seeds = len(result.figures)
            label = f"{protocol}, {seeds} seed{'s' if seeds > 1 else ''}"
            for system, found in ((result.title, result.mean()), (f"± {result.title}", result.spread())):
                if system != result.title and not any(value is not None for value in found.values()):
                    continue
                row: dict[str, Any] = {"system": system, "set": name, "protocol": label}
                if columns[0] == SEEN[0]:
                    row |= {"CLIP": NO_CLIP if meter.scorer is None else meter.scorer.label, "flow": meter.flow.label}
                rows.append(row | {key: found.get(key) for key in columns if key in measured or key == SEEN[0]})
        if columns[0] == SEEN[0]:
            rows += paper_rows()
    return rows


def paper_order(results: Sequence[Result]) -> list[Claim]:
    """What Table I says of the order of candidates, asked of these figures.

    Ours is first in text score and in transparency (here: leak, holes and flicker together, which the paper has no
    figure for), and Still-Moving moves least. Only candidates that a network makes are compared.
    """
    peers = {each.name: each.mean() for each in results if each.name and find_candidate(each.name).network}
    titles = {each.name: each.title for each in results if each.name}
    text = {name: found.get("text score") for name, found in peers.items()}
    clean = {name: _sum(found, ("leak %", "holes %", "flicker %")) for name, found in peers.items()}
    moved = {name: found.get("motion px inside") for name, found in peers.items()}
    return [
        _claim("Layer-Animate is first in text score", "ours", text, titles, largest=True),
        _claim("Layer-Animate is first in transparency (leak + holes + flicker)", "ours", clean, titles, largest=False),
        _claim("Still-Moving moves least", "still_moving", moved, titles, largest=False),
    ]


def _claim(
    words: str, who: str, found: Mapping[str, float | None], titles: Mapping[str, str], *, largest: bool
) -> Claim:
    known = {name: value for name, value in found.items() if value is not None}
    if who not in known or len(known) < 2:
        return Claim(words, None, "")
    order = sorted(known, key=lambda name: known[name], reverse=largest)
    told = ", ".join(f"{titles[name]} {known[name]:.2f}" for name in order)
    others = [value for name, value in known.items() if name != who]  # a tie is no first place
    return Claim(words, known[who] > max(others) if largest else known[who] < min(others), told)


def _sum(figures: Mapping[str, float | None], columns: Sequence[str]) -> float | None:
    values = [value for key in columns if (value := figures.get(key)) is not None]
    return sum(values) if len(values) == len(columns) else None
