"""The user study of Table I: a page that asks people to rank clips side by side, and the tally of their answers.

The page is one file that needs no server: clips as sheets of frames inside it, in an order of each participant's own,
under names that tell nothing. A key file, which participants do not get, tells which clip is whose. The paper asked 10
people about 100 sets of clips and reports how often each method came first.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import InputError
from pellucid.io.files import atomic_path, check_output
from pellucid.layer_animate.clips.files import find_clips, read

log = logging.getLogger(__name__)

PAPER: Mapping[str, float] = {"Motion Module": 10.34, "Still-Moving": 6.91, "Layer-Animate": 82.75}  # Table I, in %
TITLE = "Which clip is best?"
_PAGE = "study_page.html"
_WEBP_LONGEST = 16383  # px, of a side
_COLUMNS = ("study", "participant", "question", "clip", "rank")
_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Question:
    """Clips that are ranked against each other.

    Attributes:
        prompt: what they were made for.
        clips: candidate -> ``(F, 4, H, W)``, straight alpha, sRGB, uint8 or float in [0, 1].
    """

    prompt: str
    clips: Mapping[str, Tensor]


def key_path(page: str | Path) -> Path:
    """Where the key of a page lies: ``study.html`` -> ``study.key.json``."""
    return Path(page).with_suffix(".key.json")


def write_study(
    questions: Sequence[Question],
    page: str | Path,
    *,
    fps: float = 8.0,
    title: str = TITLE,
    seed: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the page, and its key beside it.

    Args:
        questions: at least one, of two or more clips each.
        page: the file to write, ``.html``.
        fps: frames a second that all clips are played at.
        title: of the page.
        seed: names of clips follow from it; None takes other ones every time.
        overwrite: replace files that are there.

    Returns:
        The key file.

    Raises:
        InputError: nothing to ask, a file is there already, or a clip is too large for a sheet.
    """
    out, key_file = Path(page), key_path(page)
    if out.suffix.lower() != ".html":
        raise InputError(f"a study page is written as .html, found {out}")
    for path in (out, key_file):
        check_output(path, overwrite)
    if not questions or any(len(question.clips) < 2 for question in questions):
        raise InputError("a study asks about two or more clips at a time", "give clips of two or more candidates")
    draw: random.Random = random.Random(seed) if seed is not None else random.SystemRandom()
    study, asked, key = _name(draw), [], {}
    for number, question in enumerate(questions, start=1):
        names = {_name(draw): candidate for candidate in question.clips}
        key[f"q{number}"] = {"prompt": question.prompt, "clips": names}
        clips = [{"id": name, **_sheet(question.clips[names[name]], question.prompt)} for name in sorted(names)]
        asked.append({"id": f"q{number}", "prompt": question.prompt, "clips": clips})
    said = json.dumps({"id": study, "title": title, "fps": fps, "questions": asked}, ensure_ascii=False)
    template = files("pellucid.layer_animate").joinpath(_PAGE).read_text(encoding="utf-8")
    html = template.replace("__STUDY__", said.replace("<", "\\u003c"))  # no text can end the script it stands in
    with atomic_path(out, overwrite) as temporary, atomic_path(key_file, overwrite) as key_temporary:
        temporary.write_text(html, encoding="utf-8")
        told = json.dumps({"study": study, "questions": key}, indent=1, ensure_ascii=False)
        key_temporary.write_text(f"{told}\n", encoding="utf-8")
    log.info("%s asks %d questions; %s tells which clip is whose", out, len(asked), key_file)
    return key_file


def read_questions(candidates: Mapping[str, str | Path], *, limit: int | None = None) -> tuple[list[Question], float]:
    """Put clips of the same name in several folders together.

    Args:
        candidates: name of a method -> its folder of clips, in any layout of `clips.find_clips`.
        limit: take no more than so many questions, spread evenly.

    Returns:
        Questions in order of name, and frames per second of the first clip. A prompt is a clip's caption in any of the
        folders, else its name.

    Raises:
        InputError: fewer than two folders, no name that all have, or a clip that cannot be read.
    """
    if len(candidates) < 2:
        raise InputError(f"a study compares two or more folders of clips, found {len(candidates)}")
    found = {who: {clip.name: clip for clip in find_clips(folder)} for who, folder in candidates.items()}
    shared = sorted(set.intersection(*(set(clips) for clips in found.values())))
    alone = sorted(set.union(*(set(clips) for clips in found.values())) - set(shared))
    if not shared:
        raise InputError("the folders share no clip", "call clips of the same prompt by the same name")
    if alone:
        log.warning("%d clips are not in all folders and are left out, first %s", len(alone), alone[0])
    if limit is not None and limit < len(shared):
        shared = [shared[round(place)] for place in torch.linspace(0, len(shared) - 1, max(limit, 1)).tolist()]
    questions, rates = [], []
    for name in shared:
        clips = {who: read(found[who][name], opaque=True) for who in candidates}
        prompt = next((clip.captions[0] for clip in clips.values() if clip.captions), name)
        questions.append(Question(prompt, {who: clip.frames for who, clip in clips.items()}))
        rates += [clip.fps for clip in clips.values()]
    if len(set(rates)) > 1:
        log.warning("clips have %g to %g frames a second; all are played at %g", min(rates), max(rates), rates[0])
    return questions, rates[0]


def tally(key: str | Path, answers: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Count the answers.

    Args:
        key: of `write_study`.
        answers: CSV files that participants downloaded, also when a spreadsheet has saved them with semicolons.

    Returns:
        A row for each candidate: how often it came first in per cent, a 95 % interval of that (Wilson; answers are
        taken as independent), its mean rank, and the answers; then how often each was put before each other one; then
        the paper's. An answer that is not complete is named in the log and left out; of two answers of one
        participant to one question the later one counts.

    Raises:
        InputError: a file cannot be read, is of another study, or no answer is complete.
    """
    known = _read_key(Path(key))
    votes: dict[tuple[str, str], dict[str, int]] = {}
    for path in answers:
        for who, question, ranks in _answers(Path(path), known):
            if (who, question) in votes:
                log.warning("%s: %s answers %s again; the later answer counts", path, who, question)
            votes[who, question] = ranks
    if not votes:
        raise InputError("no complete answer was found", "give the CSV files that participants downloaded")
    names = list(dict.fromkeys(who for ranks in votes.values() for who in sorted(ranks)))
    rows: list[dict[str, Any]] = []
    for name in names:
        ranks = [each[name] for each in votes.values() if name in each]
        first = sum(rank == 1 for rank in ranks)
        low, high = wilson(first, len(ranks))
        people = len({who for (who, _), each in votes.items() if name in each})
        rows.append({"system": name, "first %": 100.0 * first / len(ranks), "from": 100.0 * low, "to": 100.0 * high})
        rows[-1] |= {"mean rank": fmean(ranks), "answers": len(ranks), "participants": people}
    rows.sort(key=lambda row: -row["first %"])
    order = [row["system"] for row in rows]
    rows += [{"system": f"{name}, Table I of the paper", "first %": share} for name, share in PAPER.items()]
    for name in order:
        row: dict[str, Any] = {"system": name}
        for other in order:
            both = [each for each in votes.values() if name in each and other in each and name != other]
            won = fmean(each[name] < each[other] for each in both) if both else None
            row[f"before {other} %"] = None if won is None else 100.0 * won
        rows.append(row)
    return rows


def wilson(hits: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), in [0, 1]."""
    share, spread = hits / total, _Z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    reach = _Z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _name(draw: random.Random) -> str:
    return f"{draw.getrandbits(40):010x}"


def _sheet(clip: Tensor, prompt: str) -> dict[str, Any]:
    """All frames in one lossless WebP, as text."""
    if clip.ndim != 4 or clip.shape[1] != 4 or not len(clip):
        raise InputError(f"a clip of {prompt!r} must be (F, 4, H, W), found {tuple(clip.shape)}")
    pixels = clip if clip.dtype == torch.uint8 else (clip.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    frames, _, height, width = pixels.shape
    columns = math.ceil(math.sqrt(frames))
    rows = -(-frames // columns)
    if max(rows * height, columns * width) > _WEBP_LONGEST:
        raise InputError(f"a clip of {prompt!r} is too large for a page: {frames} frames of {width}x{height}")
    sheet = Image.new("RGBA", (columns * width, rows * height))
    for place, frame in enumerate(pixels.permute(0, 2, 3, 1).cpu().numpy()):
        sheet.paste(Image.fromarray(frame), (place % columns * width, place // columns * height))
    data = io.BytesIO()
    sheet.save(data, "WEBP", lossless=True, quality=60, method=4)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    facts = {"frames": frames, "columns": columns, "width": width, "height": height}
    return facts | {"sheet": f"data:image/webp;base64,{text}"}


def _read_key(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        clips = {question: dict(said["clips"]) for question, said in found["questions"].items()}
        return {"study": str(found["study"]), "questions": clips}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not the key of a study", "give the .key.json beside the page") from error


def _answers(path: Path, known: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Complete answers of a file: participant, question, candidate -> rank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: answers must be text in UTF-8") from error
    head = text.partition("\n")[0]
    lines = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if head.count(";") > head.count(",") else ",")
    lacking = [name for name in _COLUMNS if name not in (lines.fieldnames or ())]
    if lacking:
        raise InputError(f"{path}: column {lacking[0]!r} is missing", "give the CSV files that participants downloaded")
    given: dict[tuple[str, str], dict[str, str]] = {}
    for line in lines:
        if line["study"] != known["study"]:
            raise InputError(f"{path} answers study {line['study']!r}, the key is of {known['study']!r}")
        who = (line["participant"] or "").strip() or path.stem
        given.setdefault((who, line["question"]), {})[line["clip"]] = line["rank"]
    for (who, question), ranks in given.items():
        clips = known["questions"].get(question, {})
        places = sorted(ranks.values(), key=str)
        if set(ranks) != set(clips) or places != sorted(str(place + 1) for place in range(len(clips))):
            log.warning("%s: %s's answer to %s is not complete and is left out", path, who, question)
            continue
        yield who, question, {clips[clip]: int(rank) for clip, rank in ranks.items()}
