"""Styles of classes that a picture does not have: in the promised order, and from files."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.errors import InputError, WeightsError
from pellucid.semantic_vae.faces.style_codes import StyleCodes, complete_codes, load_codes, mean_codes, save_codes
from pellucid.semantic_vae.masks.classes import ClassSet

CLASSES = ClassSet("five", ("background", "skin", "left", "right", "hat"), mirror=((2, 3),))


def style(value: float, *known: int) -> StyleCodes:
    there = torch.zeros(5, dtype=torch.bool)
    there[list(known)] = True
    return StyleCodes((torch.full((5, 2), value) + torch.arange(5)[:, None] / 10) * there[:, None], there)


LABELS = torch.tensor([[0, 1], [3, 4]], dtype=torch.uint8)


def test_mirror_then_reference_then_mean() -> None:
    own, reference, mean = style(1, 0, 1, 2), style(2, 3, 4), style(3, 3, 4)
    done = complete_codes(own, LABELS, CLASSES, reference, mean)
    assert done.codes[3].tolist() == own.codes[2].tolist()  # the mirror class comes before the reference
    assert done.codes[4].tolist() == reference.codes[4].tolist()
    assert done.codes[1].tolist() == own.codes[1].tolist()
    done = complete_codes(style(1, 0, 1), LABELS, CLASSES, style(2, 4), mean)
    assert done.codes[3].tolist() == mean.codes[3].tolist()
    assert done.known.tolist() == [True, True, False, True, True]  # 2 is not in the mask
    assert own.codes[3].tolist() == [0, 0]  # what was given is not changed


def test_a_class_that_nobody_knows_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        done = complete_codes(style(1, 0, 1, 2), LABELS, CLASSES)
    assert done.codes[4].tolist() == [0, 0]
    assert "no style is known for hat" in caplog.text


def test_the_mean_counts_pictures_that_have_the_class() -> None:
    mean = mean_codes([style(1, 0, 1), style(3, 1)])
    assert mean.codes[0].tolist() == pytest.approx([1, 1])
    assert mean.codes[1].tolist() == pytest.approx([2.1, 2.1])
    assert mean.known.tolist() == [True, True, False, False, False]
    with pytest.raises(InputError, match="found 0"):
        mean_codes([])


def test_files(tmp_path: Path) -> None:
    mean = style(1, 0, 3)
    read = load_codes(save_codes(tmp_path / "mean.safetensors", mean), (5, 2))
    assert torch.equal(read.codes, mean.codes)
    assert torch.equal(read.known, mean.known)
    np.save(tmp_path / "mean.npy", mean.codes.numpy())
    assert torch.equal(load_codes(tmp_path / "mean.npy", (5, 2)).known, mean.known)
    for place in (0, 3):  # as published: a folder a class
        (tmp_path / "published" / str(place)).mkdir(parents=True)
        np.save(tmp_path / "published" / str(place) / "ACE.npy", mean.codes[place].numpy())
    assert torch.equal(load_codes(tmp_path / "published", (5, 2)).codes, mean.codes)


def test_files_that_hold_no_style(tmp_path: Path) -> None:
    for name, text in (("a.safetensors", "cannot be read"), ("empty", "ACE.npy"), ("b.npy", "cannot be read")):
        file = tmp_path / name
        if "." in name:
            file.write_bytes(b"no")
        else:
            file.mkdir()
        with pytest.raises(WeightsError, match=text):
            load_codes(file, (5, 2))
    with pytest.raises(WeightsError, match=r"expected \(5, 4\), found \(5, 2\)"):
        load_codes(save_codes(tmp_path / "c.safetensors", style(1, 0)), (5, 4))
