"""Readers of captioned pictures: tiny copies of each published layout, their phrases, guards and splits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pellucid.errors import ConfigError, InputError
from pellucid.tic import data
from pellucid.tic.vocabulary import COLOURS


def picture(path: Path, colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), colour).save(path)
    return path


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


ATTRIBUTES = ("1 has_bill_shape::cone", "2 has_wing_color::blue", "3 has_wing_color::white")
MORE = ("4 has_breast_pattern::multi-colored", "5 has_head_pattern::crested", "6 has_primary_color::red")


def birds_2011(root: Path, *, inside: bool) -> Path:
    folder = root / "CUB_200_2011"
    names = [f"{number:03}.Bird/b{number}.jpg" for number in range(1, 7)]
    for name in names:
        picture(folder / "images" / name)
    write(folder / "images.txt", *(f"{number} {name}" for number, name in enumerate(names, 1)))
    write((folder if inside else root) / "attributes.txt", *ATTRIBUTES, *MORE)
    write(
        folder / "attributes" / "image_attribute_labels.txt",
        "1 1 1 4 5.0",  # no colour
        "1 2 1 3 5.0",
        "1 3 0 4 5.0",  # not present
        "1 4 1 4 5.0 0 7",  # two fields more, as in the public file
        "1 5 1 4 5.0",  # head pattern
        "2 2 1 2 5.0",  # guessed
        "2 6 1 4 5.0",
        "2 6 1 3 5.0",  # another worker says the same
    )
    return root


def birds_2010(root: Path) -> Path:
    names = [f"001.Bird/b{number}.jpg" for number in range(3)]
    for name in names:
        picture(root / "images" / name)
    write(root / "attributes" / "images-dirs.txt", *(f"{number} {name}" for number, name in enumerate(names, 1)))
    write(root / "attributes" / "attributes.txt", *ATTRIBUTES)
    write(root / "attributes" / "labels.txt", "1 2 1 4 9", "3 3 1 3 9")
    return root


def fruit(root: Path) -> Path:
    for name, count in {"Apple": 5, "lady_finger": 3, "Orange": 1, "Strawberries": 1}.items():
        for number in range(count):
            picture(root / name / f"{number}.jpg")
    return root


def coco(root: Path) -> Path:
    for part, first in (("train2017", 1), ("val2017", 101)):
        images, annotations = [], []
        for number in range(first, first + 8):
            images.append({"id": number, "file_name": f"{number:012}.jpg"})
            picture(root / part / f"{number:012}.jpg")
            for text in (f"A dog number {number}.", "A red  ball.", "Two gray cats on a Blue sofa."):
                annotations.append({"id": len(annotations), "image_id": number, "caption": text})
        images.append({"id": first + 50, "file_name": "plain.jpg"})  # no colour: not even its file is needed
        annotations.append({"id": 900, "image_id": first + 50, "caption": "Peeled orange slices and a cat."})
        write(
            root / "annotations" / f"captions_{part}.json", json.dumps({"images": images, "annotations": annotations})
        )
    return root


def captioned(root: Path) -> Path:
    rows = [
        {"file": "clothing/a.png", "caption": "a red dress", "label": "dress", "source_path": "train/a.jpg"},
        {"file": "clothing/b.png", "caption": "a blue hat", "label": "hat", "source_path": "validation/b.jpg"},
        {"file": "coco/c.png", "caption": "", "label": "photo", "source_path": "train2017/c.jpg"},
    ]
    for row in rows:
        picture(root / row["file"])
    write(root / "metadata.jsonl", *(json.dumps(row) for row in rows))
    return root


# Birds


@pytest.mark.parametrize("inside", [True, False])
def test_birds_say_what_workers_saw(tmp_path: Path, inside: bool) -> None:
    found = {item.name: item for item in data.read_cub(birds_2011(tmp_path, inside=inside))}
    assert len(found) == 6
    assert found["images/001.Bird/b1.jpg"].caption == "wing_color blue, breast_pattern multi-colored"
    assert found["images/002.Bird/b2.jpg"].caption == "primary_color red, primary_color red"
    assert found["images/003.Bird/b3.jpg"].caption == ""
    assert {item.noun for item in found.values()} == {"bird"}
    assert sorted(item.split for item in found.values()) == ["test"] + ["train"] * 5
    assert next(iter(found.values())).image().shape == (3, 4, 6)


def test_the_folder_around_the_birds_and_itself_are_the_same(tmp_path: Path) -> None:
    root = birds_2011(tmp_path, inside=True)
    assert [(item.name, item.split) for item in data.read_cub(root)] == [
        (item.name, item.split) for item in data.read_cub(root / "CUB_200_2011")
    ]


def test_birds_of_2010(tmp_path: Path) -> None:
    found = {item.name: item.caption for item in data.read_cub(birds_2010(tmp_path))}
    assert found["images/001.Bird/b0.jpg"] == "wing_color blue"
    assert found["images/001.Bird/b2.jpg"] == "wing_color white"


def test_a_bird_without_its_file_is_named(tmp_path: Path) -> None:
    root = birds_2011(tmp_path, inside=True)
    (root / "CUB_200_2011" / "images" / "004.Bird" / "b4.jpg").unlink()
    with pytest.raises(InputError, match=r"lacks 1 of 6 pictures, first 'images/004\.Bird/b4\.jpg'"):
        data.read_cub(root)


@pytest.mark.parametrize(("line", "named"), [("1 2 1", "line 9"), ("1 2 yes 4 3.0", "line 9")])
def test_a_broken_line_of_labels_is_named(tmp_path: Path, line: str, named: str) -> None:
    root = birds_2011(tmp_path, inside=True)
    with open(root / "CUB_200_2011" / "attributes" / "image_attribute_labels.txt", "a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=named):
        data.read_cub(root)


def test_birds_without_attributes_say_where_they_were_looked_for(tmp_path: Path) -> None:
    root = birds_2011(tmp_path, inside=False)
    (root / "attributes.txt").unlink()
    with pytest.raises(InputError, match=r"attributes\.txt is not there"):
        data.read_cub(root)


# Fruit


def test_every_class_of_fruit_is_one_colour(tmp_path: Path) -> None:
    found = {item.name: item for item in data.read_ncd(fruit(tmp_path))}
    assert found["Apple/0.jpg"].caption == "red"
    assert found["lady_finger/2.jpg"].caption == "green"
    assert found["Orange/0.jpg"].caption == "orange"
    assert found["Strawberries/0.jpg"].noun == "strawberries"
    assert [item.split for item in found.values()].count("test") == 2  # 130 of 730


def test_an_unknown_fruit_names_the_table_to_edit(tmp_path: Path) -> None:
    picture(fruit(tmp_path) / "Durian" / "0.jpg")
    with pytest.raises(InputError, match="'Durian'") as caught:
        data.read_ncd(tmp_path)
    assert "ncd_colours.json" in str(caught.value.hint)
    table = tmp_path / "mine.json"
    table.write_text(json.dumps({**json.loads(data.NCD_COLOURS.read_text()), "durian": "yellow"}))
    assert any(item.caption == "yellow" for item in data.read_ncd(tmp_path, table))


def test_the_fruits_that_ship_have_colours_of_the_vocabulary() -> None:
    assert set(json.loads(data.NCD_COLOURS.read_text()).values()) <= set(COLOURS)


# COCO


def test_coco_keeps_sentences_with_a_colour(tmp_path: Path) -> None:
    found = data.read_coco(coco(tmp_path), train=8, test=4)
    assert [item.split for item in found] == ["train"] * 8 + ["test"] * 4
    assert {item.caption for item in found} == {"A red ball. Two gray cats on a Blue sofa."}
    assert found[0].more == ("A red ball.", "Two gray cats on a Blue sofa.")
    assert {item.name.split("/")[0] for item in found} == {"train2017", "val2017"}  # pooled
    assert found == data.read_coco(tmp_path, train=8, test=4)


def test_a_smaller_coco_is_cut_in_proportion(tmp_path: Path) -> None:
    splits = [item.split for item in data.read_coco(coco(tmp_path))]
    assert (splits.count("train"), splits.count("test")) == (14, 2)


def test_captions_that_are_none(tmp_path: Path) -> None:
    write(tmp_path / "annotations" / "captions_val2017.json", '{"images": 3}')
    with pytest.raises(InputError, match="not COCO's captions"):
        data.read_coco(tmp_path)


@pytest.mark.parametrize(
    ("caption", "colours"),
    [
        ("A red ball and a blue, gray-green box", ("red", "blue", "grey", "green")),
        ("Orange slices and orange juice", ()),
        ("An orange and a banana in a bowl", ()),
        ("an orange shirt", ("orange",)),
        ("he won a gold medal in a white shirt", ("white",)),
        ("a singer called James Brown", ()),
        ("Brown dogs in brown grass", ("brown",)),
        ("a reddened, colored, bored crowd", ()),
        ("oranges in crates", ()),
    ],
)
def test_words_that_name_a_thing_or_a_person_are_no_colours(caption: str, colours: tuple[str, ...]) -> None:
    assert data.stated_colours(caption) == colours


# Folders of our own, and what is common


def test_a_captioned_folder(tmp_path: Path) -> None:
    first, second, third = data.read_captioned(captioned(tmp_path))
    assert (first.caption, first.noun, first.split) == ("a red dress", "dress", "train")
    assert second.split == "val"
    assert (third.caption, third.noun, third.split) == ("", "", "train")


def test_rows_may_say_their_split_and_other_texts(tmp_path: Path) -> None:
    row = {"file": "a.png", "split": "val", "caption": "a dog", "caption_with_measured_colours": "a dog, mostly brown"}
    write(tmp_path / "photos.jsonl", json.dumps(row))
    (found,) = data.read_captioned(tmp_path)
    assert (found.split, found.more) == ("val", ("a dog, mostly brown",))


@pytest.mark.parametrize(
    ("make", "reader"),
    [
        (lambda root: birds_2011(root, inside=True), data.read_cub),
        (birds_2010, data.read_cub),
        (fruit, data.read_ncd),
        (coco, data.read_coco),
        (captioned, data.read_captioned),
    ],
)
def test_the_layout_is_found(tmp_path: Path, make: Callable[[Path], Path], reader: data.Reader) -> None:
    assert data.find_reader(make(tmp_path)) is reader
    assert data.read_pictures(tmp_path)


def test_folders_that_are_none_of_these(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        data.find_reader(tmp_path / "gone")
    with pytest.raises(InputError, match="holds no captioned pictures"):
        data.find_reader(tmp_path)
    with pytest.raises(ConfigError, match="'coca'"):
        data.read_pictures(fruit(tmp_path), "coca")


def test_splits_are_kept_as_files(tmp_path: Path) -> None:
    pictures = data.read_ncd(fruit(tmp_path / "set"))
    assert data.fixed_splits(pictures, tmp_path / "lists") == pictures
    train = (tmp_path / "lists" / "train.txt").read_text().split()
    assert train == [item.name for item in pictures if item.split == "train"]
    write(tmp_path / "lists" / "train.txt", *train[:3])
    write(tmp_path / "lists" / "test.txt", train[3])
    kept = data.fixed_splits(pictures, tmp_path / "lists")
    assert {item.name: item.split for item in kept} == dict.fromkeys(train[:3], "train") | {train[3]: "test"}
    write(tmp_path / "lists" / "val.txt", "gone.jpg")
    with pytest.raises(InputError, match=r"lists 1 pictures .* first 'gone\.jpg'"):
        data.fixed_splits(pictures, tmp_path / "lists")


def test_a_split_does_not_depend_on_the_order_of_the_files(tmp_path: Path) -> None:
    root = birds_2011(tmp_path, inside=True)
    before = {item.name: item.split for item in data.read_cub(root)}
    table = root / "CUB_200_2011" / "images.txt"
    write(table, *reversed(table.read_text().splitlines()))
    assert {item.name: item.split for item in data.read_cub(root)} == before
