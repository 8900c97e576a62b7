"""Class sets: names to ids, mirroring, colours, files."""

import json
from pathlib import Path

import pytest
import torch

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet, class_set, present_ids

from .drawn_face import drawn_face

SIX = ClassSet("six", ("void", "skin", "left", "right", "mouth", "hair"), mirror=((2, 3),), groups={"sides": (2, 3)})


def test_palette_of_the_spec() -> None:
    assert len(CELEBAMASK_HQ) == 19
    assert CELEBAMASK_HQ.colors[7] == (0xFF, 0xCC, 0xCC)
    assert CELEBAMASK_HQ.colors[18] == (0, 0xCC, 0)
    assert CELEBAMASK_HQ.parts == tuple(range(1, 19))


def test_parts_by_name_number_and_group() -> None:
    assert CELEBAMASK_HQ.ids(["hair", "4", 2, "eyes"]) == (2, 4, 5, 13)
    assert CELEBAMASK_HQ.ids("mouth_group,brows") == (6, 7, 10, 11, 12)
    assert CELEBAMASK_HQ.ids("Hair") == (13,)
    assert CELEBAMASK_HQ.ids("all") == CELEBAMASK_HQ.parts
    assert SIX.ids("sides") == (2, 3)


def test_unknown_part_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="hair"):
        CELEBAMASK_HQ.ids(["haor"])
    with pytest.raises(ConfigError, match="0 to 18"):
        CELEBAMASK_HQ.ids(["19"])
    with pytest.raises(ConfigError, match="nothing is named"):
        CELEBAMASK_HQ.ids([])
    with pytest.raises(ConfigError, match="celebamask-hq"):
        CELEBAMASK_HQ.ids("xyzzy")


@pytest.mark.parametrize("word", ["background", 0, "0"])
def test_background_cannot_be_edited(word: str | int) -> None:
    with pytest.raises(ConfigError, match="the background has no code"):
        CELEBAMASK_HQ.ids([word])


def test_set_without_background_edits_everything() -> None:
    bare = ClassSet("bare", ("skin", "hair"), background=None)
    assert bare.parts == (0, 1)
    assert bare.ids("0") == (0,)


def test_mirror_exchanges_sides_and_is_its_own_inverse() -> None:
    labels = drawn_face()
    mirrored = CELEBAMASK_HQ.mirrored(labels)
    assert torch.equal(CELEBAMASK_HQ.mirrored(mirrored), labels)
    assert mirrored.dtype == torch.uint8
    columns = torch.arange(64).float()
    for image_right in (4, 6, 8):  # l_* stays on the image's right
        where = (mirrored == image_right).sum(dim=0).float()
        assert float((where * columns).sum() / where.sum()) > 32
    assert torch.equal((mirrored == 13), (labels == 13).flip(-1))


def test_colors_of_labels() -> None:
    labels = torch.tensor([[0, 1], [18, 200]], dtype=torch.uint8)
    colored = CELEBAMASK_HQ.colored(labels.expand(3, 2, 2))
    assert colored.shape == (3, 3, 2, 2)
    assert colored[0, :, 0, 1].tolist() == pytest.approx([0xCC / 255, 0, 0])
    assert colored[0, :, 1, 1].tolist() == [1, 1, 1]  # no id of the set


@pytest.mark.parametrize("chosen", [CELEBAMASK_HQ, SIX], ids=["celebamask-hq", "six"])
def test_file_round_trip(chosen: ClassSet, tmp_path: Path) -> None:
    assert ClassSet.load(chosen.save(tmp_path / "classes.json")) == chosen
    assert hash(chosen) == hash(ClassSet.load(tmp_path / "classes.json"))


def test_toml_and_yaml_with_names_only(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text('names = ["background", "a", "b"]\nmirror = [["a", "b"]]\n')
    (tmp_path / "small.yaml").write_text(
        'names: [background, a, b]\nmirror: [[a, b]]\ncolors: ["000000", "#FF0000", [1, 2, 3]]\n'
    )
    toml, yaml = class_set(tmp_path / "small.toml"), class_set(tmp_path / "small.yaml")
    assert toml.background == yaml.background == 0
    assert toml.mirror == yaml.mirror == ((1, 2),)
    assert yaml.colors == ((0, 0, 0), (255, 0, 0), (1, 2, 3))
    assert len(set(toml.colors)) == 3
    assert toml.name == "small"


def test_colors_are_made_for_many_classes() -> None:
    many = ClassSet("many", tuple(f"class {index}" for index in range(255)))
    assert len(set(many.colors)) == 255


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"names": ["a", "b"], "colours": []}', "colors"),
        ('{"names": ["a", "a"]}', "two classes are called 'a'"),
        ('{"names": ["a", "b"], "colors": ["000000", "000000"]}', "have one colour"),
        ('{"names": ["a", "b"], "colors": ["000000", 1728]}', "quotes"),
        ('{"names": ["a", "b"], "colors": ["000000"]}', "expected 2 colours"),
        ('{"names": ["a", "b"], "mirror": [["a", "c"]]}', "'c'"),
        ('{"names": ["a", "b"], "mirror": [["a", "a"]]}', "paired with itself"),
        ('{"names": ["a", "b"], "optional": [2]}', "id 2"),
        ('{"names": ["a", "b"], "background": "a", "groups": {"x": ["a"]}}', "background"),
        ('{"names": ["a", "b"], "groups": {"a": ["b"]}}', "cannot be called"),
        ('{"names": ["a", "7"]}', "no name for a class"),
        ('{"names": ["a"]}', "2 to 255"),
        ('["a", "b"]', "expected a table"),
        ('{"names": ', "cannot be read"),
    ],
)
def test_damaged_files_say_what_is_wrong(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        ClassSet.load(file)


def test_missing_file_and_builtin_name(tmp_path: Path) -> None:
    assert class_set(None) is class_set("celebamask-hq") is class_set(CELEBAMASK_HQ)
    with pytest.raises(InputError, match="No such file"):
        class_set(tmp_path / "none.json")


def test_saved_file_is_readable_by_people(tmp_path: Path) -> None:
    found = json.loads(CELEBAMASK_HQ.save(tmp_path / "classes.json").read_text())
    assert found["mirror"][0] == ["l_eye", "r_eye"]
    assert found["colors"][1] == "CC0000"


def test_present_ids() -> None:
    assert present_ids(torch.tensor([[3, 0], [3, 18]], dtype=torch.uint8)) == [0, 3, 18]
