"""Clips as cached latents on the device, and batches of them (Sec. 5): nothing frozen is computed twice.

The VAE and the transparency encoder are frozen in every stage that sees clips, so each clip goes through them once, in
as many variants of its augmentation as the recipe asks for. A cache file keeps the latents between runs; its name
follows from everything they depend on, so a stale one is never taken.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pellucid.data.shards import Row
from pellucid.device import generator_of
from pellucid.errors import InputError, PellucidError
from pellucid.io.files import atomic_path
from pellucid.layer_animate.clips.cuts import Cutting, cut
from pellucid.layer_animate.clips.files import Clip, ClipFile, read

log = logging.getLogger(__name__)

_TOGETHER = 64  # frames that are handed over to be encoded

Encode = Callable[[Tensor], Tensor]  # (N, 4, H, W) in [0, 1] -> model latents (N, C, h, w)


class Source(Protocol):
    """Where clips come from: each can be cut in any number of variants, each the same every time."""

    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> Sequence[Row]: ...
    def texts(self) -> list[str]: ...
    def facts(self) -> Any: ...
    def __len__(self) -> int: ...
    def cut(self, index: int, variant: int) -> tuple[Tensor, tuple[str, ...]]:
        """``(F, 4, H, W)`` in [0, 1], straight alpha; and captions."""
        ...


@dataclass
class ReadClips:
    """Clips of a folder, cut; a `Source`.

    Attributes:
        files: see `clips.find_clips`.
        cutting: how they are cut.
        size: height and width of the frames.
        seed: of the cuts.
        where: what to call them.
        opaque: see `clips.read`.
    """

    files: Sequence[ClipFile]
    cutting: Cutting
    size: tuple[int, int]
    seed: int
    where: str = "clips"
    opaque: bool = False
    _last: tuple[int, Clip] | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """Where the clips come from, in words."""
        return f"{len(self.files)} clip{'s' if len(self.files) > 1 else ''} of {self.where}"

    @property
    def rows(self) -> list[Row]:
        """Rows of the clips that have one, for the credits."""
        return [file.facts for file in self.files if file.facts]

    def texts(self) -> list[str]:
        """All captions."""
        return [text for file in self.files for text in file.captions]

    def facts(self) -> list[Any]:
        """Names and dates of all files, for the name of a cache."""
        paths = {path for file in self.files for path in file.paths}
        paths |= {
            file.shards.root / file.facts["shard"] for file in self.files if file.shards and file.facts.get("shard")
        }
        dates = [[str(path), path.stat().st_mtime_ns] for path in sorted(paths) if path.exists()]
        return [[file.name for file in self.files], dates]

    def __len__(self) -> int:
        return len(self.files)

    def cut(self, index: int, variant: int) -> tuple[Tensor, tuple[str, ...]]:
        """One cut ``(F, 4, H, W)`` and the captions of its clip.

        Raises:
            InputError: the clip cannot be read, or is too short.
        """
        if self._last is None or self._last[0] != index:  # variants of one clip follow each other
            # Twice the frame: enough for a crop of half the side, and a film of 4K does not fill the memory.
            self._last = (index, read(self.files[index], side=2 * min(self.size), opaque=self.opaque))
        clip = self._last[1]
        frames = cut(
            clip.frames,
            self.cutting,
            self.size,
            fps=clip.fps,
            seed=(self.seed, index, variant),
            caption=" ".join(clip.captions),
            loops=clip.loops,
            name=clip.name,
        )
        return frames, clip.captions or ("",)


@dataclass(frozen=True)
class LatentBank:
    """Clips as model latents on one device.

    Attributes:
        latents: ``(N, C, F, h, w)``; half precision on a GPU.
        captions: of each, at least one, which may be empty.
        weights: ``(N,)`` how often each is drawn.
        clips: ``(N,)`` int64, which clip each is a variant of, counted over all sources.
    """

    latents: Tensor
    captions: tuple[tuple[str, ...], ...]
    weights: Tensor
    clips: Tensor

    def __len__(self) -> int:
        return self.latents.shape[0]

    def to(self, device: torch.device | str) -> LatentBank:
        """The bank on another device; weights and numbers stay on the CPU, where draws are made."""
        return LatentBank(self.latents.to(device), self.captions, self.weights, self.clips)


@dataclass(frozen=True)
class Batch:
    """What one step sees; all of it follows from the batch's number.

    Attributes:
        latents: z_0 ``(B, C, F, h, w)`` float32.
        noise: eps, the same shape.
        timesteps: t ``(B,)`` int64, one a clip.
        texts: captions; empty where dropped.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    texts: tuple[str, ...]


def fill_bank(
    sources: Sequence[tuple[Source, float]],
    encode: Encode,
    *,
    variants: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> LatentBank:
    """Cut and encode all clips. One that cannot be read or is too short is named in the log and left out.

    Args:
        sources: each with its share of the draws.
        encode: frames to latents, for example `LayerAnimate.encode`.
        variants: cuts of each clip.
        dtype: of the stored latents.
        device: where they go.

    Raises:
        InputError: no clip is left.
    """
    latents: list[Tensor] = []
    captions: list[tuple[str, ...]] = []
    weights: list[float] = []
    clips: list[int] = []
    waiting: list[Tensor] = []
    number, left_out = 0, 0

    def encode_waiting() -> None:
        """Encode several clips at once: a GPU would idle between small ones."""
        if waiting:
            encoded = encode(torch.cat(waiting)).to(device, dtype)  # (N * F, C, h, w)
            latents.extend(encoded.unflatten(0, (len(waiting), -1)).transpose(1, 2))  # (C, F, h, w) each
            waiting.clear()

    for source, share in sources:
        begin = len(captions)
        for index in range(len(source)):
            try:
                for variant in range(variants):
                    frames, texts = source.cut(index, variant)
                    waiting.append(frames)
                    captions.append(texts)
                    clips.append(number)
                    if len(waiting) * len(frames) >= _TOGETHER:
                        encode_waiting()
            except PellucidError as error:
                left_out += 1
                log.warning("clip left out: %s", error)
            number += 1
        encode_waiting()
        held = len(captions) - begin
        weights += [share / max(held, 1)] * held
        log.info("%s: %d cuts", source.name, held)
    if not latents:
        raise InputError(f"no clip to train on: {left_out} of {number} left out, see the log")
    if left_out:
        log.warning("%d of %d clips left out", left_out, number)
    return LatentBank(torch.stack(latents), tuple(captions), torch.tensor(weights), torch.tensor(clips))


def open_bank(
    sources: Sequence[tuple[Source, float]],
    encode: Encode,
    *,
    cache: str | Path | None,
    facts: dict[str, Any],
    variants: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> LatentBank:
    """`fill_bank`, or what it made last time.

    Args:
        sources: as there.
        encode: as there.
        cache: folder of cached latents; None keeps none.
        facts: plain values that the latents depend on: weights, options, files. They make the file's name.
        variants: as there.
        dtype: as there.
        device: as there.
    """
    if cache is None:
        return fill_bank(sources, encode, variants=variants, dtype=dtype, device=device)
    document = json.dumps({**facts, "variants": variants, "dtype": str(dtype)}, sort_keys=True, default=str)
    path = Path(cache).expanduser() / f"latents-{hashlib.sha256(document.encode()).hexdigest()[:16]}.safetensors"
    if path.is_file():
        try:
            bank = _read_bank(path)
            log.info("latents of %d cuts from %s", len(bank), path)
            return bank.to(device)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            log.warning("%s cannot be used and is made anew: %s", path, str(error).splitlines()[0])
    bank = fill_bank(sources, encode, variants=variants, dtype=dtype, device=device)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"latents": bank.latents.cpu().contiguous(), "weights": bank.weights, "clips": bank.clips}
    with atomic_path(path, True) as part:
        part.write_bytes(save(tensors, metadata={"captions": json.dumps(bank.captions)}))
    log.info("latents of %d cuts kept in %s", len(bank), path)
    return bank


def _read_bank(path: Path) -> LatentBank:
    with safe_open(path, "pt") as file:
        captions = json.loads(file.metadata()["captions"])
        latents, weights, clips = (file.get_tensor(name) for name in ("latents", "weights", "clips"))
    return LatentBank(latents, tuple(tuple(texts) for texts in captions), weights, clips)


def fingerprint(modules: Iterable[nn.Module]) -> str:
    """A digest of weights, for the name of a cache file."""
    digest = hashlib.sha256()
    for module in modules:
        for key, value in sorted(module.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ClipBatches:
    """Batches as a pure function of seed, index and process; the loop resumes exactly because of that.

    Attributes:
        bank: the clips.
        batch: clips a batch.
        seed: of the run.
        process: number of this process, and of all.
        text_dropout: share of clips whose text is empty, for guidance.
        timesteps: how many there are; t is drawn evenly from all.
        single: one frame of each clip, drawn evenly, instead of all: pictures for stage 1.
    """

    bank: LatentBank
    batch: int
    seed: int
    process: tuple[int, int] = (0, 1)
    text_dropout: float = 0.1
    timesteps: int = 1000
    single: bool = False

    def __call__(self, index: int) -> Batch:
        """The batch of a micro-step."""
        rank, world = self.process
        random = generator_of(self.seed, index * world + rank, 0xC11B)
        chosen = torch.multinomial(self.bank.weights, self.batch, replacement=True, generator=random)
        times = torch.randint(self.timesteps, (self.batch,), generator=random)
        which, dropped, frame = torch.rand(3, self.batch, generator=random)
        latents = self.bank.latents[chosen.to(self.bank.latents.device)].float()
        if self.single:
            place = (frame * latents.shape[2]).long().to(latents.device)  # (B,)
            latents = latents[torch.arange(self.batch, device=latents.device), :, place][:, :, None]  # (B, C, 1, h, w)
        noise = torch.randn(latents.shape, generator=random).to(latents.device)
        texts = tuple(
            "" if float(drop) < self.text_dropout else options[int(float(at) * len(options))]
            for options, at, drop in zip([self.bank.captions[int(i)] for i in chosen], which, dropped, strict=True)
        )
        return Batch(latents, noise, times.to(latents.device), texts)
