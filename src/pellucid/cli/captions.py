"""A file of texts for a batch: ``--captions FILE.csv`` or ``.jsonl``, one text for each picture."""

import csv
import json
import logging
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pellucid.io.batch import Job

logger = logging.getLogger(__name__)

_FILE, _TEXT = "file", ("text", "caption")
_HINT = 'a CSV needs the columns file,text; a JSONL has {"file": ..., "text": ...} in each line'


def read_captions(path: Path) -> dict[str, str]:
    """Read names of pictures and their texts.

    A CSV has a line of column names, a JSONL one object per line. The text is called ``text`` or ``caption``, other
    columns are left alone; a missing or empty text colours without words.

    Args:
        path: ends in ``.csv`` or ``.jsonl``; UTF-8.

    Returns:
        File name or path below the folder of the batch, with forward slashes -> text.

    Raises:
        ConfigError: the suffix is another.
        InputError: it cannot be read, a line has no ``file``, or one picture has two texts.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"captions {path}: expected .csv or .jsonl, found {suffix or 'no suffix'!r}", _HINT)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"captions {path}: not UTF-8 text at byte {error.start}", "save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"captions {path}: {error.strerror}", "give a .csv or .jsonl file") from error
    found: dict[str, str] = {}
    for line, name, text in _csv(path, content) if suffix == ".csv" else _jsonl(path, content):
        key = Path(name).as_posix()
        if found.setdefault(key, text) != text:
            raise InputError(f"captions {path}, line {line}: {key} has another text before", "keep one of them")
    if not found:
        raise InputError(f"captions {path}: no picture is named", _HINT)
    return found


def _csv(path: Path, content: str) -> Iterator[tuple[int, str, str]]:
    rows = csv.DictReader(StringIO(content, newline=""))
    try:
        columns = list(rows.fieldnames or ())
        texts = [name for name in _TEXT if name in columns]
        if _FILE not in columns or not texts:
            raise InputError(f"captions {path}: columns file and text expected, found {', '.join(columns)}", _HINT)
        for row in rows:
            if not row[_FILE]:
                raise InputError(f"captions {path}, line {rows.line_num}: no file is named", _HINT)
            if None in row:  # where csv puts the cells beyond the last column
                raise InputError(
                    f"captions {path}, line {rows.line_num}: more cells than columns", "put texts with commas in quotes"
                )
            yield rows.line_num, row[_FILE], row[texts[0]] or ""
    except csv.Error as error:
        raise InputError(f"captions {path}, line {rows.line_num}: {error}", _HINT) from error


def _jsonl(path: Path, content: str) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"captions {path}, line {number}: not JSON: {error}", _HINT) from error
        name = row.get(_FILE) if isinstance(row, dict) else None
        if not isinstance(name, str) or not name:
            raise InputError(f"captions {path}, line {number}: no file is named", _HINT)
        text = next((row[key] for key in _TEXT if row.get(key) is not None), "")
        if not isinstance(text, str):
            raise InputError(f"captions {path}, line {number}: a text was expected, found {text!r}", _HINT)
        yield number, name, text


def texts_for(jobs: "Sequence[Job]", captions: dict[str, str], otherwise: str) -> dict[str, str]:
    """Find the text of each job: by its path as given, below its folder, or by its bare file name.

    Args:
        jobs: the pictures of the batch.
        captions: from `read_captions`.
        otherwise: the text of pictures that the file does not name.

    Returns:
        Label of the job -> text.

    Raises:
        InputError: none of the pictures is named.
    """
    found: dict[str, str] = {}
    used: set[str] = set()
    without: list[str] = []
    for job in jobs:
        names = (Path(job.label).as_posix(), job.relative.as_posix(), job.relative.name)
        key = next((name for name in names if name in captions), None)
        if key is None:
            without.append(job.label)
        else:
            used.add(key)
        found[job.label] = otherwise if key is None else captions[key]
    if not used:
        raise InputError(
            f"captions: none of the {len(jobs)} pictures is named", f"the first name is {next(iter(captions))}"
        )
    if without:
        how = f"with {otherwise!r}" if otherwise else "without words"
        logger.warning("captions: %s not named and coloured %s", _some(without), how)
    if unused := sorted(captions.keys() - used):
        logger.warning("captions: %s no picture of this batch", _some(unused))
    return found


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"
