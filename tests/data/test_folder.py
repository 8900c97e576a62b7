import pytest
from PIL import Image

from pellucid.data.folder import Folder, PairedFolders
from pellucid.errors import ConfigError, InputError


def write(path, colour=(10, 20, 30), size=(6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(path)


def test_files_pair_by_stem_whatever_their_format(tmp_path):
    for name in ("b.png", "a.bmp"):
        write(tmp_path / "in" / name)
    for name in ("a.png", "b.webp"):
        write(tmp_path / "out" / name)
    (tmp_path / "in" / "notes.txt").touch()
    pairs = PairedFolders(tmp_path / "in", tmp_path / "out")
    assert pairs.names == ("a", "b")
    assert pairs.unmatched == {"input": (), "target": ()}
    pair = pairs[0]
    assert pair.name == "a"
    assert pair.pictures["input"].shape == pair.pictures["target"].shape == (3, 4, 6)
    assert pair.pictures["input"][:, 0, 0].tolist() == pytest.approx([10 / 255, 20 / 255, 30 / 255])
    assert pairs.paths(1) == {"input": tmp_path / "in" / "b.png", "target": tmp_path / "out" / "b.webp"}


def test_one_folder_with_endings(tmp_path):
    for name in ("x-input.png", "x-label1.png", "x-label2.png", "y-input.png", "y-label1.png", "y-label2.png"):
        write(tmp_path / name)
    pairs = PairedFolders(
        Folder(tmp_path, "-input"), Folder(tmp_path, "-label1"), {"reflection": Folder(tmp_path, "-label2")}
    )
    assert pairs.names == ("x", "y")
    assert list(pairs[1].pictures) == ["input", "target", "reflection"]
    assert pairs.paths(1)["reflection"].name == "y-label2.png"


def test_names_without_partner_are_listed_and_logged(tmp_path, caplog):
    for name in ("a.png", "b.png", "c.png"):
        write(tmp_path / "in" / name)
    for name in ("b.png", "d.png"):
        write(tmp_path / "out" / name)
    pairs = PairedFolders(tmp_path / "in", tmp_path / "out")
    assert pairs.names == ("b",)
    assert pairs.unmatched == {"input": ("a", "c"), "target": ("d",)}
    assert "2 of input without a partner: a, c" in caplog.text
    assert "1 of target without a partner: d" in caplog.text


def test_folders_that_do_not_pair_are_refused(tmp_path):
    write(tmp_path / "in" / "a.png")
    write(tmp_path / "out" / "b.png")
    with pytest.raises(ConfigError, match="no names in common: 1 input"):
        PairedFolders(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ConfigError, match="gone is not there"):
        PairedFolders(tmp_path / "in", tmp_path / "gone")
    write(tmp_path / "in" / "a.bmp")
    with pytest.raises(ConfigError, match="one name"):
        PairedFolders(tmp_path / "in", tmp_path / "out")


def test_sizes_of_a_pair_must_agree(tmp_path):
    write(tmp_path / "in" / "a.png")
    write(tmp_path / "out" / "a.png", size=(6, 5))
    with pytest.raises(InputError, match=r"6x4, found 6x5"):
        PairedFolders(tmp_path / "in", tmp_path / "out")[0]


def test_transparency_is_not_dropped(tmp_path):
    write(tmp_path / "in" / "a.png", (1, 2, 3, 100))
    write(tmp_path / "out" / "a.png")
    with pytest.raises(InputError, match="transparency"):
        PairedFolders(tmp_path / "in", tmp_path / "out")[0]
