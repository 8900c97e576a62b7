"""The list of Table I: which candidates, whose weights, and which seeds, as a TOML file."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from pellucid.errors import ConfigError
from pellucid.layer_animate.baselines.candidates import find_candidate
from pellucid.train.config import Section, check_recipe, read_toml


class Entry(Section):
    """``[[candidates]]``: one line of the table.

    Attributes:
        name: a key of `baselines.candidates.CANDIDATES`.
        title: what the table calls it; the candidate's own title when empty.
        weights: what it learned: none (the model's own), one for all seeds, or one for each seed.
    """

    name: str
    title: str = ""
    weights: tuple[str, ...] = ()

    @property
    def called(self) -> str:
        """What the table calls it."""
        return self.title or find_candidate(self.name).title


class NearestSection(Section):
    """``[nearest]``: the training pictures beside samples on the page.

    Attributes:
        root: a data folder, or ``"drawn"``.
        tables: which tables of it.
        space: ``"pixels"``, or ``"clip"`` with the CLIP that the command is given.
    """

    root: str
    tables: tuple[str, ...] = ("stills",)
    space: str = Field("pixels", pattern="^(pixels|clip)$")


class TableList(Section):
    """A whole list.

    Attributes:
        candidates: at least one; titles differ.
        seeds: each begins from noise of its own, and has its own weights where an entry lists several.
        model: weights that all candidates share; ``--model`` goes before.
        nearest: training pictures beside samples; none when not given.
    """

    candidates: tuple[Entry, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    model: str | None = None
    nearest: NearestSection | None = None


def read_list(path: str | Path) -> TableList:
    """Read and check a list.

    Raises:
        InputError: the file cannot be read.
        ConfigError: it is no TOML, has an unknown key or candidate, seeds that do not differ, two lines of one title,
            or weights that are neither one for all seeds nor one for each.
    """
    found = check_recipe(read_toml(path), TableList, str(path))
    if len(set(found.seeds)) < len(found.seeds) or min(found.seeds) < 0:
        raise ConfigError(f"{path}: seeds must differ and be 0 or more, found {list(found.seeds)}")
    for entry in found.candidates:
        if not find_candidate(entry.name).network:
            raise ConfigError(f"{path}: {entry.name} needs no line", "clips that no network makes are always measured")
        if len(entry.weights) not in (0, 1, len(found.seeds)):
            raise ConfigError(
                f"{path}: {entry.name} lists {len(entry.weights)} weights for {len(found.seeds)} seeds",
                "list one for all seeds, or one for each",
            )
    titles = [entry.called for entry in found.candidates]
    for entry, title in zip(found.candidates, titles, strict=True):
        if titles.count(title) > 1:
            raise ConfigError(f"{path}: two candidates are called {title!r}", f"give {entry.name} a title of its own")
    return found
