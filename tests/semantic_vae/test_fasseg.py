"""FASSEG's six classes: blurred colours are read, and merging and splitting agree."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.fasseg import FASSEG, from_fasseg, read_fasseg, to_fasseg

ID = {name: index for index, name in enumerate(CELEBAMASK_HQ.names)}


def face() -> torch.Tensor:
    """A face of FASSEG: hair above skin, two eyes, a nose, and a mouth of two rows."""
    labels = torch.zeros(12, 10, dtype=torch.uint8)
    labels[0:3, 1:9] = FASSEG.id_of("hair")
    labels[3:12, 1:9] = FASSEG.id_of("skin")
    labels[4, 2:4] = labels[4, 6:8] = FASSEG.id_of("eyes")
    labels[5:7, 4:6] = FASSEG.id_of("nose")
    labels[8:10, 3:7] = FASSEG.id_of("mouth")
    return labels


def test_anti_aliased_colours_are_the_nearest_class(tmp_path: Path) -> None:
    labels = face()
    colours = np.array(FASSEG.colors)[labels.numpy()]
    noise = np.random.default_rng(0).integers(-50, 51, colours.shape)
    Image.fromarray((colours + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / "face.png")
    assert torch.equal(read_fasseg(tmp_path / "face.png"), labels)
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=r"empty\.png"):
        read_fasseg(tmp_path / "empty.png")


def test_splitting_and_merging_give_the_same_six_back() -> None:
    labels = face()
    assert torch.equal(to_fasseg(from_fasseg(labels)), labels)


def test_eyes_and_lips_get_their_sides() -> None:
    found = from_fasseg(face())
    assert set(found[4, 2:4].tolist()) == {ID["r_eye"]}  # r_* lies on the image's left
    assert set(found[4, 6:8].tolist()) == {ID["l_eye"]}
    assert set(found[8, 3:7].tolist()) == {ID["u_lip"]}
    assert set(found[9, 3:7].tolist()) == {ID["l_lip"]}


def test_every_class_is_merged() -> None:
    merged = to_fasseg(torch.arange(19, dtype=torch.uint8)[None])[0]
    named = {name: FASSEG.names[int(merged[index])] for name, index in ID.items()}
    assert named["neck"] == named["l_brow"] == named["r_ear"] == named["eye_g"] == "skin"
    assert named["mouth"] == named["l_lip"] == "mouth"
    assert named["cloth"] == "background"
    assert named["r_eye"] == "eyes"


def test_other_class_sets_are_refused_and_its_own_left_alone() -> None:
    labels = face()
    assert torch.equal(to_fasseg(labels, FASSEG), labels)
    assert torch.equal(from_fasseg(labels, FASSEG), labels)
    with pytest.raises(ConfigError, match="'two'"):
        to_fasseg(labels, ClassSet("two", ("a", "b")))
