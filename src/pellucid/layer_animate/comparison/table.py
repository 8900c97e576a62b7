"""Table I in small (Sec. IV): every candidate of a list over several seeds, in one table, on one page.

The paper has one figure for each candidate and does not say how it spreads. Here every candidate makes the clips of a
set once for each seed, from other noise and, where its list names them, with the weights of another training; mean and
sample standard deviation over the seeds are told. A difference within the spread is none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.device import resolve_device
from pellucid.errors import ConfigError
from pellucid.io.files import check_output
from pellucid.layer_animate.baselines.candidates import find_candidate
from pellucid.layer_animate.clip_figures import NO_CLIP, Figures, Meter, mean_figures
from pellucid.layer_animate.comparison.entries import TableList, read_list
from pellucid.layer_animate.comparison.nearest import open_bank
from pellucid.layer_animate.comparison.page import Near, write_page
from pellucid.layer_animate.comparison.results import Result, paper_order, table_rows
from pellucid.layer_animate.evaluate import (
    PROTOCOLS,
    ClipProtocol,
    Example,
    System,
    called,
    flow_of,
    network_system,
    read_set,
    reference_systems,
)
from pellucid.layer_animate.pipeline import TransparentVideoPipeline
from pellucid.layer_animate.study import Question, key_path, write_study
from pellucid.metrics.clip_score import CLIPScorer

log = logging.getLogger(__name__)

_NOISE = 1 << 16  # seeds of clips that lie between two seeds of the table


def compare(
    set_dir: str | Path,
    listed: str | Path | TableList,
    protocol: str = "animate-16",
    weights: str | Path | None = None,
    device: str = "auto",
    *,
    clip: str | Path | None = None,
    raft: str | Path | None = None,
    limit: int | None = None,
    split: str | None = None,
    study: str | Path | None = None,
    page: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Measure all candidates of a list, and write the page of their clips.

    Args:
        set_dir: see `evaluate.evaluate`.
        listed: the list or its TOML file, see `entries.TableList`.
        protocol: a key of `evaluate.PROTOCOLS`.
        weights: what all candidates share; the list's ``model`` when None.
        device: where to compute.
        clip: folder of a CLIP, for the text score.
        raft: file of RAFT's weights; OpenCV's DIS without it.
        limit: measure so many clips at most.
        split: see `evaluate.evaluate`.
        study: write the user-study page of the first seed's clips there.
        page: write the page of side-by-side clips there (``.html``).

    Returns:
        See `table_rows`.

    Raises:
        ConfigError: the list, the protocol or a candidate is not known or does not fit.
        InputError: the set holds no clips, or a page is there already.
        WeightsError: weights cannot be loaded.
        DependencyError: OpenCV or torchmetrics is not installed.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol {protocol!r} is not known", f"use one of {', '.join(PROTOCOLS)}")
    rule = PROTOCOLS[protocol]
    asked = listed if isinstance(listed, TableList) else read_list(listed)
    candidates = [find_candidate(entry.name) for entry in asked.candidates]
    if page is not None and Path(page).suffix.lower() != ".html":
        raise ConfigError(f"a page of clips is written as .html, found {page}")
    for path in (page, study, None if study is None else key_path(study)):
        if path is not None:
            check_output(path, False)
    near = asked.nearest if page is not None else None
    if near is not None and near.space == "clip" and clip is None:
        raise ConfigError('nearest.space = "clip" needs a CLIP', "give --clip FOLDER, or use pixels")
    scorer = None if clip is None else CLIPScorer(clip, resolve_device(device))
    bank = None if near is None else open_bank(near.root, near.tables)  # before the hours, not after them
    meter = Meter(flow_of(raft, device), scorer)
    pipe = TransparentVideoPipeline.from_pretrained(weights or asked.model, device=device)
    examples = read_set(set_dir, rule, rule.size or pipe.config.size, split, limit)
    plans = []
    for entry, candidate in zip(asked.candidates, candidates, strict=True):
        systems = [network_system(pipe, candidate, rule, learned) for learned in (entry.weights or (None,))]
        plans.append((entry, candidate, systems * (len(asked.seeds) // len(systems))))
    results = [
        _result(system.name, [system], examples, rule, meter, asked.seeds[:1], shown=system.shown)
        for system in reference_systems(pipe, rule)
    ]
    for entry, candidate, systems in plans:
        results.append(
            _result(entry.called, systems, examples, rule, meter, asked.seeds, name=entry.name, given=candidate.pinned)
        )
    name = f"{called(set_dir)}, {len(examples)} clip{'s' if len(examples) > 1 else ''}"
    rows = table_rows(results, name, rule.name, meter)
    claims = paper_order(results)
    for claim in claims:
        log.info("%s", claim)
    if page is not None:
        facts = {
            "set": name,
            "protocol": f"{rule.name}: {rule.summary}",
            "model": pipe.weights,
            "seeds": ", ".join(str(seed) for seed in asked.seeds),
            "CLIP": NO_CLIP if scorer is None else scorer.label,
            "flow": meter.flow.label,
        }
        space = scorer if near is not None and near.space == "clip" else None
        beside = None if bank is None else Near(bank, space)
        write_page(
            results, [each.caption for each in examples], page, facts=facts, claims=claims, fps=rule.fps, near=beside
        )
    if study is not None:
        shown = [result for result in results if result.shown]
        questions = [
            Question(example.caption, {result.title: result.clips[place] for result in shown})
            for place, example in enumerate(examples)
        ]
        write_study(questions, study, fps=rule.fps, seed=asked.seeds[0])
    return rows


def _result(
    title: str,
    systems: Sequence[System],
    examples: Sequence[Example],
    rule: ClipProtocol,
    meter: Meter,
    seeds: Sequence[int],
    *,
    name: str = "",
    shown: bool = True,
    given: bool = True,
) -> Result:
    """Make and measure the clips of a system for each seed; system k makes those of seed k."""
    figures: list[Figures] = []
    kept: list[Tensor] = []
    for system, seed in zip(systems, seeds, strict=True):
        of_seed = []
        for place, example in enumerate(examples):
            made = system.make(example, seed * _NOISE + place).float().cpu()
            base = example.frames[system.base_index]
            of_seed.append(
                meter.measure(made, base, system.base_index, example.caption, rule.fps, truth=example.frames)
            )
            if not figures:
                kept.append((made.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8))
            log.info("%s, seed %d: clip %d of %d", title, seed, place + 1, len(examples))
        figures.append(mean_figures(of_seed))
    return Result(title, tuple(figures), tuple(kept), systems[0].base_index, name, shown, given)
