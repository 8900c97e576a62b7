"""Measuring: clips made from the base frames and texts of true clips, beside clips that no network makes (Sec. IV).

The paper measures 100 clips of its own; neither they nor its texts are released, and it does not say which CLIP or
which unit of motion its figures are of. So every figure here stands beside that of the true clips, of their way through
the latents alone, of the base picture standing still and of the base picture moved by code. A clip's truth shows one of
many motions that its text allows: errors against it tell candidates apart, and are no fault of any of them alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.device import resolve_device
from pellucid.errors import ConfigError, InputError
from pellucid.hub.convert import load_foreign
from pellucid.io.files import check_output
from pellucid.layer_animate.baselines.candidates import Candidate, find_candidate, make_clip, read_learned
from pellucid.layer_animate.clip_figures import FREE, MOVED, NO_CLIP, SEEN, TRUE, Figures, Meter, mean_figures
from pellucid.layer_animate.clips.cuts import Cutting
from pellucid.layer_animate.clips.drawn_clips import MovedClips
from pellucid.layer_animate.clips.files import find_clips
from pellucid.layer_animate.data import ReadClips, Source
from pellucid.layer_animate.pipeline import TransparentVideoPipeline
from pellucid.layer_animate.sampling.sampler import Sampling
from pellucid.layer_animate.study import Question, key_path, write_study
from pellucid.metrics.clip_score import CLIPScorer
from pellucid.metrics.flow import DISFlow, Flow, RAFTFlow

log = logging.getLogger(__name__)

OPTIONS = ("clip", "raft", "candidate", "limit", "study", "split", "table", "page")  # of `pellucid eval`
DRAWN = "drawn"
# Table I: text score, dynamic degree (of a unit that is not named), first places of the user study in per cent.
PAPER: dict[str, tuple[float, float, float]] = {
    "Motion Module": (27.72, 3.96, 10.34),
    "Still-Moving": (28.96, 0.01, 6.91),
    "Layer-Animate": (30.63, 4.43, 82.75),
}
USUAL = ("ours", "without_ifa")  # the ablation of Fig. 4; the others are asked for
_CODE = ("static", "warp")  # clips that no network makes, always measured
_DRAWN_COUNT = 16
_HELD_OUT = 1 << 16  # seed of drawn clips that no recipe learns
_VISIBLE = 0.05  # alpha below which a base frame shows nothing


@dataclass(frozen=True)
class ClipProtocol:
    """How clips are made and measured.

    Attributes:
        name: goes beside every number.
        summary: one line for tables and cards.
        frames: F.
        fps: frames per second that true clips are cut at.
        size: side of the square frames in pixels; None takes what the networks were made for.
        steps: of the solver.
        guidance: g.
    """

    name: str
    summary: str
    frames: int = 16
    fps: float = 8.0
    size: int | None = None
    steps: int = 25
    guidance: float = 7.5


PROTOCOLS: dict[str, ClipProtocol] = {
    protocol.name: protocol
    for protocol in (
        ClipProtocol("animate-16", "16 frames at 8 fps, the networks' own size, DDIM 25 steps, guidance 7.5"),
        ClipProtocol("animate-128", "16 frames at 8 fps, 128x128, DDIM 25 steps, guidance 7.5", size=128),
        ClipProtocol("animate-512", "16 frames at 8 fps, 512x512, DDIM 25 steps, guidance 7.5", size=512),
        ClipProtocol("animate-draft", "8 frames at 8 fps, six steps, no guidance", frames=8, steps=6, guidance=1.0),
    )
}


@dataclass(frozen=True)
class Example:
    """A true clip to make another one from.

    Attributes:
        name: of its file, for the log.
        caption: its longest one.
        frames: ``(F, 4, S, S)`` float32 in [0, 1], straight alpha.
    """

    name: str
    caption: str
    frames: Tensor


@dataclass(frozen=True)
class System:
    """Something that makes clips.

    Attributes:
        name: as tables have it.
        make: example and seed -> ``(F, 4, S, S)``.
        base_index: which frame of the truth it is given.
        shown: people are asked about its clips too.
    """

    name: str
    make: Callable[[Example, int], Tensor]
    base_index: int
    shown: bool = True


def is_drawn(set_dir: str | Path) -> bool:
    """Whether the name of a set stands for clips drawn by code: ``"drawn"`` or ``"drawn:8"``."""
    return str(set_dir).partition(":")[0] == DRAWN


def evaluate(
    set_dir: str | Path,
    protocol: str = "animate-16",
    weights: str | Path | None = None,
    device: str = "auto",
    *,
    clip: str | Path | None = None,
    raft: str | Path | None = None,
    candidate: Mapping[str, str | Path | None] | None = None,
    limit: int | None = None,
    study: str | Path | None = None,
    split: str | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure weights on a set of clips with alpha.

    Args:
        set_dir: a folder of clips in any layout of `clips.find_clips`; ``"drawn"`` or ``"drawn:N"`` draws N (16).
        protocol: a key of `PROTOCOLS`.
        weights: see `pipeline.TransparentVideoPipeline.from_pretrained`.
        device: where to compute.
        clip: folder of a CLIP, for the text score; without it those columns say so.
        raft: file of RAFT's weights; without it the flow is OpenCV's DIS, which the table says.
        candidate: names of `baselines.candidates.CANDIDATES` -> what they learned, or None for what ``weights`` holds;
            `USUAL` when None.
        limit: measure so many clips at most, spread evenly over the set.
        study: write the user-study page of the made clips there (``.html``).
        split: ``"train"`` or ``"val"`` of a folder that has splits; its held-out clips when None.
        seed: of the noise; clip i of every system starts from seed + i.

    Returns:
        Rows of three tables: transparency without truth (`FREE`), against the true clips (`TRUE`), text and motion
        (`SEEN`, `MOVED`) with the paper's Table I last. Static and warped clips first, then true clips, true clips
        through the latents, the candidates.

    Raises:
        ConfigError: the protocol or a candidate is not known, or a candidate lacks weights.
        InputError: the set holds no clips, or the study page is there already.
        WeightsError: weights cannot be loaded.
        DependencyError: OpenCV or torchmetrics is not installed.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol {protocol!r} is not known", f"use one of {', '.join(PROTOCOLS)}")
    rule = PROTOCOLS[protocol]
    asked = {name: find_candidate(name) for name in (candidate or dict.fromkeys(USUAL))}
    for path in () if study is None else (Path(study), key_path(study)):
        check_output(path, False)
    scorer = None if clip is None else CLIPScorer(clip, resolve_device(device))
    meter = Meter(flow_of(raft, device), scorer)
    pipe = TransparentVideoPipeline.from_pretrained(weights, device=device)
    examples = read_set(set_dir, rule, rule.size or pipe.config.size, split, limit)
    systems = reference_systems(pipe, rule)
    for name, chosen in asked.items():
        learned = (candidate or {}).get(name)
        systems.append(network_system(pipe, chosen, rule, learned))
    name = f"{called(set_dir)}, {len(examples)} clip{'s' if len(examples) > 1 else ''}"
    rows, questions = measure(systems, examples, rule, meter, name, seed)
    if study is not None:
        write_study(questions, study, fps=rule.fps, seed=seed)
    return rows


def measure(
    systems: Sequence[System], examples: Sequence[Example], rule: ClipProtocol, meter: Meter, name: str, seed: int = 0
) -> tuple[list[dict[str, Any]], list[Question]]:
    """Make and measure the clips of systems.

    Args:
        systems: at least one.
        examples: at least one.
        rule: how.
        meter: with what.
        name: of the set.
        seed: of clip 0.

    Returns:
        The rows of `evaluate`, and the made clips as questions of a user study.
    """
    figures: dict[str, Figures] = {}
    shown: list[dict[str, Tensor]] = [{} for _ in examples]
    for system in systems:
        of_system = []
        for index, example in enumerate(examples):
            made = system.make(example, seed + index).float().cpu()
            base = example.frames[system.base_index]
            of_system.append(
                meter.measure(made, base, system.base_index, example.caption, rule.fps, truth=example.frames)
            )
            if system.shown:
                shown[index][system.name] = (made.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
            log.info("%s: clip %d of %d", system.name, index + 1, len(examples))
        figures[system.name] = mean_figures(of_system)
    rows = []
    for columns in (FREE, TRUE, (*SEEN, *MOVED)):
        for system, found in figures.items():
            row: dict[str, Any] = {"system": system, "set": name, "protocol": rule.name}
            if columns[0] == SEEN[0]:
                row |= {"CLIP": NO_CLIP if meter.scorer is None else meter.scorer.label, "flow": meter.flow.label}
            row |= {key: found.get(key) for key in columns if key in found or key == SEEN[0]}
            rows.append(row)
    rows += paper_rows()
    questions = [Question(example.caption, clips) for example, clips in zip(examples, shown, strict=True)]
    return rows, questions


def paper_rows() -> list[dict[str, Any]]:
    """Table I of the paper; its dynamic degree has a column of its own, since its unit is not ours."""
    return [
        {"system": f"{peer}, paper's Table I", "set": "not released, 100 clips", "protocol": "not named"}
        | {"text score": text, "paper's degree": degree, "user study %": first}
        for peer, (text, degree, first) in PAPER.items()
    ]


def reference_systems(pipe: TransparentVideoPipeline, rule: ClipProtocol) -> list[System]:
    """What stands beside every candidate: static and warped clips, the truth, and the truth through the latents."""
    middle = (rule.frames - 1) // 2

    def through_latents(example: Example, seed: int) -> Tensor:
        size = (example.frames.shape[-2], example.frames.shape[-1])
        latents = pipe.model.encode(example.frames.to(pipe.device))
        return pipe.model.decode(latents, size=size)

    code = [network_system(pipe, find_candidate(name), rule, None) for name in _CODE]
    return [
        *code,
        System("true clips", lambda example, seed: example.frames, middle, shown=False),
        System("true clips through the latents", through_latents, middle, shown=False),
    ]


def network_system(
    pipe: TransparentVideoPipeline, candidate: Candidate, rule: ClipProtocol, learned: str | Path | None
) -> System:
    """A candidate of `baselines.candidates`, with what it learned or what the pipeline's weights hold.

    Raises:
        ConfigError: it needs weights of its own, or has none.
        WeightsError: they cannot be read.
    """
    if candidate.required and learned is None:
        hint = f"give --candidate {candidate.name}=WEIGHTS"
        raise ConfigError(f"candidate {candidate.name!r} needs weights of its own", hint)
    state = None if learned is None else read_learned(learned, candidate, pipe.model)
    base_index = candidate.frame_of_base(rule.frames)
    sampling = Sampling(steps=rule.steps, guidance=rule.guidance, betas=pipe.config.betas)

    def make(example: Example, seed: int) -> Tensor:
        return make_clip(
            candidate,
            example.frames[base_index],
            example.caption,
            model=pipe.model,
            words=pipe.conditioner,
            frames=rule.frames,
            sampling=sampling,
            seed=seed,
            learned=state,
        )

    where = "" if not candidate.network else f" ({pipe.weights if learned is None else Path(learned).name})"
    return System(f"{candidate.title}{where}", make, base_index)


def read_set(
    set_dir: str | Path, rule: ClipProtocol, size: int, split: str | None = None, limit: int | None = None
) -> list[Example]:
    """Read or draw the clips of a set, cut to the protocol's frames and rate, in squares of ``size``.

    A clip that cannot be read, or whose base frame shows nothing, is named in the log and left out.

    Raises:
        ConfigError: the folder is not there or holds no clip, or the limit is no number of clips.
        InputError: none of its clips can be used.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, found {limit}")
    source: Source
    if is_drawn(set_dir):
        source = MovedClips(None, _count(str(set_dir)), rule.frames, size, _HELD_OUT)
    else:
        folder = Path(set_dir)
        shards = folder.is_dir() and any(folder.glob("*.jsonl"))
        files = find_clips(folder, split=(split or "val") if shards else None)
        cutting = Cutting(rule.frames, rule.fps, fit="contain")
        source = ReadClips(files, cutting, (size, size), 0, folder.name)
    places = range(len(source))
    if limit is not None and limit < len(places):
        spread = torch.linspace(0, len(places) - 1, limit).round().long().tolist()
        places = [int(place) for place in spread]
    found = []
    for place in places:
        try:
            frames, captions = source.cut(place, 0)
        except InputError as error:
            log.warning("clip left out: %s", error)
            continue
        caption = max(captions, key=len)
        if float(frames[(rule.frames - 1) // 2, 3].max()) < _VISIBLE:
            log.warning("clip left out: the base frame of %r (number %d) shows nothing", caption, place)
            continue
        found.append(Example(str(place), caption, frames.float()))
    if not found:
        raise InputError(f"{set_dir}: none of its {len(places)} clips can be used")
    return found


def flow_of(raft: str | Path | None, device: str) -> Flow:
    """RAFT with the weights of a file, else OpenCV's DIS."""
    if raft is None:
        return DISFlow()
    return RAFTFlow(load_foreign(raft), Path(raft).name, device=resolve_device(device))


def _count(name: str) -> int:
    text = name.partition(":")[2] or str(_DRAWN_COUNT)
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"set {name!r}: expected {DRAWN}:N, found {text!r} clips", f"for example {DRAWN}:8")
    return int(text)


def called(set_dir: str | Path) -> str:
    """What tables call a set."""
    return "drawn by code" if is_drawn(set_dir) else Path(set_dir).name
