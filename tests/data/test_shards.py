import io
import json
import pickle
import tarfile

import pytest
import torch
from PIL import Image

from pellucid.data import ShardIndex, decode
from pellucid.errors import ConfigError, InputError


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(colour, size=(6, 4)) -> bytes:
    return encoded(Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour))


def shard(path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def table(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def root(tmp_path):
    shard(tmp_path / "p-train-000.tar", {"a/red.png": flat((255, 0, 0)), "a/green.png": flat((0, 255, 0))})
    shard(tmp_path / "p-val-000.tar", {"blue.png": flat((0, 0, 255))})
    (tmp_path / "loose.png").write_bytes(flat((9, 9, 9)))
    rows = [
        {"file": "a/red.png", "shard": "p-train-000.tar", "split": "train", "licence": "MIT"},
        {"file": "a/green.png", "shard": "p-train-000.tar", "split": "train", "licence": "CC0-1.0"},
        {"file": "blue.png", "shard": "p-val-000.tar", "split": "val", "licence": "MIT"},
        {"file": "loose.png", "split": "val", "licence": "MIT"},
    ]
    table(tmp_path / "p.jsonl", rows)
    return tmp_path


def test_members_are_read_in_place_in_any_order(root):
    before = sorted(root.rglob("*"))
    index = ShardIndex.open(root)
    colours = [index.image(row)[:, 0, 0].tolist() for row in reversed(index.rows)]
    assert colours == [[9, 9, 9], [0, 0, 255], [0, 255, 0], [255, 0, 0]]
    assert index.image(index[0]).shape == (3, 4, 6)
    assert index.image(index[0]).dtype == torch.uint8
    assert sorted(root.rglob("*")) == before


def test_rows_are_chosen_by_split_and_predicate(root):
    index = ShardIndex.open(root, "p")
    assert len(index) == 4
    train = index.select(split="train")
    assert [row["file"] for row in train] == ["a/red.png", "a/green.png"]
    assert [row["file"] for row in train.select(where=lambda row: row["licence"] == "MIT")] == ["a/red.png"]
    assert len(index) == 4


def test_an_index_crosses_to_a_worker_process(root):
    index = pickle.loads(pickle.dumps(ShardIndex.open(root)))
    assert index.image(index[1])[:, 0, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("name", ["../out.png", "/etc/passwd", "a/../../out.png", "..\\out.png", "C:/out.png", ""])
@pytest.mark.parametrize("key", ["file", "shard"])
def test_a_row_that_leads_out_is_refused(root, key, name):
    table(root / "p.jsonl", [{"file": "a/red.png", "shard": "p-train-000.tar", key: name}])
    with pytest.raises(InputError, match="line 1") as caught:
        ShardIndex.open(root)
    assert "leads out" in caught.value.message


def test_a_member_that_leads_out_is_refused(root):
    shard(root / "p-val-000.tar", {"blue.png": flat((0, 0, 255)), "../evil.png": b"x"})
    index = ShardIndex.open(root)
    with pytest.raises(InputError, match="leads out"):
        index.read(index[2])


def test_a_link_in_a_shard_is_not_followed(root, tmp_path):
    with tarfile.open(root / "p-val-000.tar", "w") as archive:
        entry = tarfile.TarInfo("blue.png")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    index = ShardIndex.open(root)
    with pytest.raises(InputError, match="no member"):
        index.read(index[2])


def test_a_shard_cut_short_is_named(root):
    index = ShardIndex.open(root)
    index.read(index[0])
    path = root / "p-train-000.tar"
    path.write_bytes(path.read_bytes()[:1600])
    with pytest.raises(InputError, match="cut short"):
        index.read(index[1])
    fresh = ShardIndex.open(root)
    with pytest.raises(InputError):
        fresh.read(fresh[1])


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_what_is_no_tar_is_named(root, content):
    (root / "p-val-000.tar").write_bytes(content)
    index = ShardIndex.open(root)
    with pytest.raises(InputError, match=r"p-val-000\.tar"):
        index.read(index[2])


def test_missing_things_are_named(root, tmp_path):
    with pytest.raises(ConfigError, match="is not there"):
        ShardIndex.open(root / "gone")
    with pytest.raises(ConfigError, match=r"gone\.jsonl"):
        ShardIndex.open(root, "gone")
    (root / "q.jsonl").touch()
    with pytest.raises(ConfigError, match="found 2"):
        ShardIndex.open(root)
    (root / "loose.png").unlink()
    index = ShardIndex.open(root, "p")
    with pytest.raises(InputError, match=r"loose\.png"):
        index.read(index[3])


@pytest.mark.parametrize("line", ["{", "[1]", '{"shard": "a"}', '{"file": 3}'])
def test_a_broken_row_is_named_by_its_line(root, line):
    with open(root / "p.jsonl", "a") as file:
        file.write("\n" + line + "\n")
    with pytest.raises(InputError, match="line 6"):
        ShardIndex.open(root)


def test_decoding_turns_upright_and_keeps_alpha_or_refuses():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif)
    assert decode(turned).shape == (3, 6, 4)
    glass = flat((10, 20, 30, 128))
    assert decode(glass, "RGBA")[:, 0, 0].tolist() == [10, 20, 30, 128]
    with pytest.raises(InputError, match="transparency"):
        decode(glass)
    assert decode(flat((10, 20, 30, 255)))[:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("data", [b"", b"GIF89a", flat((1, 2, 3), (64, 64))[:60]])
def test_a_broken_picture_is_named(data):
    with pytest.raises(InputError, match=r"'x\.png'"):
        decode(data, name="x.png")
