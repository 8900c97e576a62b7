"""Folders of masks: layouts, merge, split."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.celebamask import IMAGES_FOLDER, PARTS_FOLDER, find_masks, load
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.mask_files import write_mask

from .drawn_face import drawn_face
from .test_label_orders import written_in

FACE = drawn_face()


def grey(path: Path, labels: Tensor = FACE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.numpy()).save(path)


def published(root: Path, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        for part in FACE.unique().tolist()[1:]:
            plane = ((part == FACE) * 255).to(torch.uint8)
            grey(root / PARTS_FOLDER / str(number // 2000) / f"{number:05d}_{CELEBAMASK_HQ.names[part]}.png", plane)


def test_published_layout_is_merged_and_split_by_id(tmp_path: Path) -> None:
    published(tmp_path, (28000, 12, 27999))
    (tmp_path / IMAGES_FOLDER).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / IMAGES_FOLDER / "12.jpg")
    found = find_masks(tmp_path)
    assert [one.path.name for one in found] == ["00012", "27999", "28000"]
    assert [one.split for one in found] == ["train", "train", "test"]
    assert all("28000" in one.rule for one in found)
    assert found[0].image == tmp_path / IMAGES_FOLDER / "12.jpg"
    assert found[1].image is None
    for one in found:
        assert torch.equal(load(one), FACE)
    assert find_masks(tmp_path / PARTS_FOLDER) == found


def test_merge_paints_in_the_order_of_the_ids(tmp_path: Path) -> None:
    folder = tmp_path / PARTS_FOLDER / "0"
    whole, half = torch.full((4, 4), 255, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8)
    half[2:] = 1  # anything but 0 is the part
    for name, plane in (("hair", whole), ("cloth", half), ("eye_g", whole), ("l_eye", half)):
        grey(folder / f"00000_{name}.png", plane)
    assert load(find_masks(tmp_path)[0]).tolist() == [[13] * 4] * 2 + [[18] * 4] * 2
    (folder / "00000_hair.png").unlink()
    (folder / "00000_cloth.png").unlink()
    assert load(find_masks(tmp_path)[0]).tolist() == [[3] * 4] * 2 + [[4] * 4] * 2  # glasses lose to eyes


def test_published_layout_with_other_classes_is_refused(tmp_path: Path) -> None:
    published(tmp_path, (1,))
    with pytest.raises(ConfigError, match="not in the class set 'two'"):
        find_masks(tmp_path, ClassSet("two", ("background", "skin")))


def test_prepared_folders(tmp_path: Path) -> None:
    for split, name in (("train", "10"), ("train", "9"), ("test", "28001")):
        grey(tmp_path / split / "labels" / f"{name}.png")
        (tmp_path / split / "images").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / split / "images" / f"{name}.jpg")
    found = find_masks(tmp_path)
    assert [(one.path.stem, one.split) for one in found] == [("9", "train"), ("10", "train"), ("28001", "test")]
    assert found[0].image == tmp_path / "train" / "images" / "9.jpg"
    assert torch.equal(load(found[0]), FACE)


def test_another_order_is_refused_until_it_is_named(tmp_path: Path) -> None:
    for name in range(3):
        grey(tmp_path / "masks" / f"{name}.png", written_in("face-parsing", FACE))
    with pytest.raises(ConfigError, match="look like 'face-parsing'"):
        find_masks(tmp_path)
    found = find_masks(tmp_path, order="face-parsing")
    assert torch.equal(load(found[0]), FACE)
    assert find_masks(tmp_path, order="celebamask-hq")[0].order == "celebamask-hq"  # a person may know better


def test_plain_folder(tmp_path: Path) -> None:
    write_mask(FACE, tmp_path / "b.png")
    write_mask(FACE, tmp_path / "a.npz")
    (tmp_path / "notes.txt").write_text("no mask")
    found = find_masks(tmp_path)
    assert [(one.path.name, one.split, one.image) for one in found] == [("a.npz", None, None), ("b.png", None, None)]
    assert torch.equal(load(found[0]), FACE)
    grey(tmp_path / "c.png")
    with pytest.raises(ConfigError, match="label order"):
        load(find_masks(tmp_path)[2])
    assert torch.equal(load(find_masks(tmp_path, order="own")[2]), FACE)


def test_plain_folder_of_another_class_set(tmp_path: Path) -> None:
    two = ClassSet("two", ("background", "thing"))
    grey(tmp_path / "labels" / "x.png", torch.eye(4, dtype=torch.uint8))
    assert np.array_equal(load(find_masks(tmp_path, two)[0], two), np.eye(4))


def test_folders_without_masks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_masks(tmp_path / "none")
    with pytest.raises(InputError, match="holds no masks"):
        find_masks(tmp_path)
    file = tmp_path / "file.png"
    grey(file)
    with pytest.raises(InputError, match="is a file"):
        find_masks(file)
