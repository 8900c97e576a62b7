"""Clips become latents once, and batches follow from their number alone."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.layer_animate.data import ClipBatches, LatentBank, fill_bank, fingerprint, open_bank


class Numbers:
    """A source whose clip ``i``, variant ``v`` is the number ``10 i + v`` everywhere; some clips are broken."""

    def __init__(self, count: int, broken: Sequence[int] = ()) -> None:
        self.count, self.broken, self.name, self.rows = count, broken, "numbers", []

    def texts(self) -> list[str]:
        return []

    def facts(self) -> Any:
        return None

    def __len__(self) -> int:
        return self.count

    def cut(self, index: int, variant: int) -> tuple[Tensor, tuple[str, ...]]:
        if index in self.broken:
            raise InputError(f"clip {index} is broken")
        return torch.full((3, 4, 2, 2), 10.0 * index + variant), (f"clip {index}", f"number {index}")


def encode(rgba: Tensor) -> Tensor:
    return rgba[:, :1, :1, :1] * torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1)  # (N, 2, 1, 1)


def bank(count: int = 3, **options: Any) -> LatentBank:
    return fill_bank([(Numbers(count), 1.0)], encode, **options)


def test_clips_variants_and_their_place() -> None:
    filled = bank(2, variants=2)
    assert tuple(filled.latents.shape) == (4, 2, 3, 1, 1)  # clip, channel, frame
    assert filled.latents[:, 0, 0].flatten().tolist() == [0, 1, 10, 11]
    assert filled.latents[:, 1, 2].flatten().tolist() == [0, -1, -10, -11]
    assert filled.clips.tolist() == [0, 0, 1, 1]
    assert filled.captions[2] == ("clip 1", "number 1")


def test_many_clips_are_encoded_some_at_a_time() -> None:
    calls: list[int] = []

    def counted(rgba: Tensor) -> Tensor:
        calls.append(len(rgba))
        return encode(rgba)

    filled = fill_bank([(Numbers(50), 1.0), (Numbers(1), 1.0)], counted)
    assert sum(calls) == 51 * 3
    assert max(calls) < 70
    assert filled.latents[:, 0, 0].flatten().tolist() == [10 * number for number in (*range(50), 0)]


def test_broken_clips_are_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        filled = fill_bank([(Numbers(3, broken=[1]), 1.0)], encode)
    assert filled.clips.tolist() == [0, 2]
    assert "clip left out: clip 1 is broken" in caplog.text
    with pytest.raises(InputError, match="no clip to train on: 2 of 2 left out"):
        fill_bank([(Numbers(2, broken=[0, 1]), 1.0)], encode)


def test_shares_do_not_depend_on_how_many_clips_a_set_has() -> None:
    filled = fill_bank([(Numbers(1), 3.0), (Numbers(9), 1.0)], encode)
    assert float(filled.weights[0]) == 3.0
    assert float(filled.weights[1:].sum()) == pytest.approx(1.0)


def test_a_cache_is_used_only_for_what_it_was_made_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def counted(rgba: Tensor) -> Tensor:
        calls.append(len(rgba))
        return encode(rgba)

    def opened(**facts: Any) -> LatentBank:
        return open_bank([(Numbers(2), 1.0)], counted, cache=tmp_path / "cache", facts=facts)

    first, again = opened(weights="a"), opened(weights="a")
    assert calls == [6]  # both clips at once, and not again
    assert torch.equal(first.latents, again.latents)
    assert first.captions == again.captions
    assert torch.equal(first.weights, again.weights)
    opened(weights="b")
    assert calls == [6, 6]
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(opened(weights="a").latents, first.latents)
    assert len(calls) == 3
    assert "cannot be used and is made anew" in caplog.text


def test_batches_follow_from_their_number() -> None:
    batches = ClipBatches(bank(), 4, seed=3)
    one, same, other = batches(5), ClipBatches(bank(), 4, seed=3)(5), batches(6)
    assert torch.equal(one.latents, same.latents)
    assert torch.equal(one.noise, same.noise)
    assert torch.equal(one.timesteps, same.timesteps)
    assert one.texts == same.texts
    assert not torch.equal(one.noise, other.noise)
    assert not torch.equal(one.noise, ClipBatches(bank(), 4, seed=4)(5).noise)
    assert not torch.equal(one.noise, ClipBatches(bank(), 4, seed=3, process=(1, 2))(5).noise)


def test_one_timestep_a_clip_and_noise_for_every_frame() -> None:
    batch = ClipBatches(bank(), 64, seed=0)(0)
    assert tuple(batch.timesteps.shape) == (64,)
    assert int(batch.timesteps.min()) < 100
    assert int(batch.timesteps.max()) > 900
    assert batch.noise.shape == batch.latents.shape
    assert float((batch.noise[:, :, 0] - batch.noise[:, :, 1]).abs().mean()) > 0.5
    assert float(batch.noise.std()) == pytest.approx(1.0, abs=0.1)


def test_texts_belong_to_their_clips_and_some_are_dropped() -> None:
    batch = ClipBatches(bank(), 400, seed=0, text_dropout=0.25)(0)
    numbers = (batch.latents[:, 0, 0, 0, 0] / 10).round().int().tolist()
    told = [(text, number) for text, number in zip(batch.texts, numbers, strict=True) if text]
    assert all(text in (f"clip {number}", f"number {number}") for text, number in told)
    assert len({text.split()[0] for text, _ in told}) == 2
    assert 1 - len(told) / 400 == pytest.approx(0.25, abs=0.07)
    assert set(numbers) == {0, 1, 2}
    assert not any(ClipBatches(bank(), 8, seed=0, text_dropout=1.0)(0).texts)


def test_single_frames() -> None:
    frames = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 2, 5, 1, 1)
    filled = LatentBank(frames, (("a",),), torch.ones(1), torch.zeros(1, dtype=torch.long))
    batch = ClipBatches(filled, 40, seed=0, single=True)(0)
    assert tuple(batch.latents.shape) == (40, 2, 1, 1, 1)
    assert set(batch.latents.flatten().tolist()) == {0, 1, 2, 3, 4}


def test_fingerprints_tell_weights_apart() -> None:
    layer = torch.nn.Linear(2, 2)
    before = fingerprint([layer])
    assert before == fingerprint([layer])
    with torch.no_grad():
        layer.bias[0] += 1e-6
    assert before != fingerprint([layer])
