"""The page of Table I in small: figures, clips side by side, and beside each the training picture it is most like.

One file that needs no server and no network. Clips are animated WebP without loss; their alpha is the browser's to show
over whatever ground is chosen.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import InputError
from pellucid.io.files import atomic_path
from pellucid.layer_animate.comparison.nearest import PictureBank, nearest_of_clip
from pellucid.layer_animate.comparison.results import LESS, MORE, Claim, Result, figure_columns
from pellucid.metrics.clip_score import Scorer

log = logging.getLogger(__name__)

TITLE = "Table I in small"
MOST = 24  # clips of the set that are shown
_PAGE = "page.html"


@dataclass(frozen=True)
class Near:
    """What is looked through for copies.

    Attributes:
        bank: the training pictures.
        scorer: the CLIP in whose space; pixels when None.
    """

    bank: PictureBank
    scorer: Scorer | None = None


def write_page(
    results: Sequence[Result],
    prompts: Sequence[str],
    page: str | Path,
    *,
    facts: Mapping[str, str],
    claims: Sequence[Claim] = (),
    fps: float = 8.0,
    near: Near | None = None,
    most: int = MOST,
    overwrite: bool = False,
) -> Path:
    """Write the page.

    Args:
        results: of all systems, with the clips of the first seed.
        prompts: of the clips.
        page: the file, ``.html``.
        facts: what was measured and how, in words.
        claims: the order of Table I.
        fps: frames per second.
        near: training pictures to find the nearest ones in; none are shown without.
        most: clips that are shown, spread evenly over the set; the rest is in the figures alone, which the page says.
        overwrite: replace a file that is there.

    Returns:
        The file.

    Raises:
        InputError: there is nothing to show, a result lacks clips, or the file is there already.
    """
    if not results or not prompts or any(len(result.clips) != len(prompts) for result in results):
        raise InputError(f"a page shows a clip of each system for each of {len(prompts)} prompts, and some are missing")
    places = list(range(len(prompts)))
    if len(places) > most:
        places = torch.linspace(0, len(prompts) - 1, most).round().long().tolist()
        log.warning("the page shows %d of %d clips; figures are of all", most, len(prompts))
    shown = "" if len(places) == len(prompts) else f"; {len(places)} of {len(prompts)} are shown here"
    sections = [_facts(facts, shown), _table(results), _claims(claims)]
    for place in places:
        cards = "".join(_card(result, place, prompts[place], fps, near) for result in results)
        sections.append(f'<section><h2>{escape(prompts[place])}</h2><div class="clips">{cards}</div></section>')
    template = files(__package__ or "").joinpath(_PAGE).read_text(encoding="utf-8")
    html = template.replace("__TITLE__", TITLE).replace("__BODY__", "\n".join(sections))
    with atomic_path(Path(page), overwrite) as temporary:
        temporary.write_text(html, encoding="utf-8")
    log.info("%s shows %d clips of %d systems", page, len(places), len(results))
    return Path(page)


def animated_webp(clip: Tensor, fps: float) -> bytes:
    """Encode ``(F, 4, H, W)`` uint8 frames of straight alpha as an animated WebP that goes round, without loss."""
    frames = [Image.fromarray(frame) for frame in clip.permute(0, 2, 3, 1).contiguous().cpu().numpy()]
    data = io.BytesIO()
    frames[0].save(
        data,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 / fps),
        loop=0,
        lossless=True,
        quality=60,
        method=4,
    )
    return data.getvalue()


def _facts(facts: Mapping[str, str], shown: str) -> str:
    lines = [f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()]
    note = f"Mean ± sample standard deviation over seeds; clips are those of the first seed{shown}."
    return f'<dl>{"".join(lines)}</dl><p class="soft">{note}</p>'


def _table(results: Sequence[Result]) -> str:
    """Figures of all systems; the best one of the candidates is bold where a column has a better end."""
    columns = figure_columns(results)
    means = [result.mean() for result in results]
    best: dict[str, float] = {}
    for column in columns:
        known = [
            value for result, mean in zip(results, means, strict=True)
            if result.name and (value := mean.get(column)) is not None
        ]  # fmt: skip
        if known and column in MORE | LESS:
            best[column] = max(known) if column in MORE else min(known)
    head = "".join(f"<th>{escape(column)}{_arrow(column)}</th>" for column in columns)
    lines = []
    for result, mean in zip(results, means, strict=True):
        spread, cells = result.spread(), []
        for column in columns:
            value, apart = mean.get(column), spread.get(column)
            text = "" if value is None else f"{value:.2f}" + ("" if apart is None else f" ± {apart:.2f}")
            leads = bool(result.name) and value is not None and value == best.get(column)
            cells.append(f"<td>{f'<b>{text}</b>' if leads else text}</td>")
        lines.append(f"<tr><th>{escape(result.title)}</th>{''.join(cells)}</tr>")
    body = "".join(lines)
    return f'<div class="wide"><table><thead><tr><th>system</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _arrow(column: str) -> str:
    return " ↑" if column in MORE else " ↓" if column in LESS else ""


def _claims(claims: Sequence[Claim]) -> str:
    lines = "".join(f"<li>{escape(str(claim))}</li>" for claim in claims)
    return f"<h2>The order of Table I</h2><ul>{lines}</ul>" if lines else ""


def _card(result: Result, place: int, prompt: str, fps: float, near: Near | None) -> str:
    clip = result.clips[place]
    words = escape(f"{result.title}: {prompt}", quote=True)
    shown = _image(animated_webp(clip, fps), words, "film")
    beside = "" if near is None else _nearest(clip, result, near)
    return f"<figure>{shown}<figcaption>{escape(result.title)}</figcaption>{beside}</figure>"


def _nearest(clip: Tensor, result: Result, near: Near) -> str:
    given = result.base_index if result.given else None
    found = nearest_of_clip(clip.float() / 255.0, near.bank, base_index=given, scorer=near.scorer)
    if found is None:
        return '<p class="near soft">nothing visible to compare</p>'
    data = io.BytesIO()
    picture = near.bank.pictures[found.picture].permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(picture).save(data, "WEBP", lossless=True)
    image = _image(data.getvalue(), escape(f"nearest training picture: {found.name}", quote=True), "thumb")
    unit = "pixels" if near.scorer is None else near.scorer.label
    told = f"frame {found.sample + 1} is nearest to {found.name}, {found.distance:.3f} in {unit}"
    return f'<p class="near soft">{image}<span>{escape(told)}</span></p>'


def _image(data: bytes, words: str, kind: str) -> str:
    text = base64.b64encode(data).decode("ascii")
    return f'<img class="{kind}" alt="{words}" src="data:image/webp;base64,{text}">'
