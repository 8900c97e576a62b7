"""Clips with alpha are found, read and told as they lie in a folder."""

import io
import json
import logging
import tarfile
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.io import save
from pellucid.layer_animate.clips.files import find_clips, read, read_all
from pellucid.layers import Layer, LayerStack


def ball(frames: int = 6, height: int = 24, width: int = 32) -> Tensor:
    """A disc with a soft edge that goes right: ``(T, 4, H, W)``, on the grid of 8 bits; its colour is everywhere."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = torch.linspace(8, width - 8, frames)[:, None, None]
    alpha = (6.0 - ((x - centres) ** 2 + (y - height / 2) ** 2).sqrt()).clamp(0, 1)[:, None]
    colour = torch.tensor([200.0, 60.0, 20.0]).reshape(1, 3, 1, 1) / 255
    return torch.cat([colour.expand(frames, 3, height, width), (alpha * 255).round() / 255], dim=1)


def store(clip: Tensor, path: Path, fps: int = 12, **options: object) -> None:
    stack = LayerStack((Layer("clip", clip[:, :3], clip[:, 3:]),), fps=Fraction(fps))
    save(stack, path, **options)


def stills(clip: Tensor, folder: Path, mode: str = "RGBA") -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(clip):
        array = (frame * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(array[..., :3] if mode == "RGB" else array).save(folder / f"{number + 1}.png")


def shards(root: Path, clip: Tensor, **row: object) -> None:
    sheet = torch.cat([torch.cat(list(clip[start : start + 3]), dim=2) for start in (0, 3)], dim=1)
    data = io.BytesIO()
    Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).numpy()).save(data, "WEBP", lossless=True, exact=True)
    with tarfile.open(root / "anim-train-000.tar", "w") as tar:
        member = tarfile.TarInfo("anim/ball.webp")
        member.size = data.tell()
        data.seek(0)
        tar.addfile(member, data)
    row = {"file": "anim/ball.webp", "shard": "anim-train-000.tar", "split": "train", "sheet": [2, 3]} | row
    (root / "anim.jsonl").write_text(json.dumps(row) + "\n")
    (root / "stills.jsonl").write_text(json.dumps({"file": "still.webp", "split": "train"}) + "\n")


def assert_near(found: Tensor, wanted: Tensor, levels: int) -> None:
    """Within so many of 255 levels where something is seen."""
    assert found.dtype == torch.uint8
    difference = (found.float() - wanted * 255).abs()
    assert float(difference[:, 3].max()) <= levels
    assert float((difference[:, :3] * (wanted[:, 3:] > 0.5)).max()) <= levels


@pytest.mark.parametrize(("suffix", "levels"), [(".apng", 0), (".webp", 0), (".mov", 3), (".webm", 12)])
def test_films_with_alpha(tmp_path: Path, suffix: str, levels: int) -> None:
    store(ball(), tmp_path / f"ball{suffix}")
    (tmp_path / "ball.txt").write_text("a ball, sliding right\n\na red ball\n")
    (clip,) = find_clips(tmp_path)
    assert (clip.name, clip.captions) == ("ball", ("a ball, sliding right", "a red ball"))
    found = read(clip)
    assert found.fps == 12
    assert not found.loops
    assert_near(found.frames, ball(), levels)


def test_folders_of_frames_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    clip = ball(11)
    stills(clip, tmp_path / "one")  # 1.png, 2.png, ... 10.png, 11.png
    stills(clip, tmp_path / "two" / "frames")
    (tmp_path / "one.txt").write_text("one")
    (tmp_path / "two" / "caption.txt").write_text("two")
    found = find_clips(tmp_path)
    assert [(clip.name, clip.captions) for clip in found] == [("one", ("one",)), ("two", ("two",))]
    for file in found:
        assert_near(read(file).frames, clip, 0)


def test_a_folder_of_frames_is_itself_a_clip(tmp_path: Path) -> None:
    stills(ball(), tmp_path / "ball")
    (clip,) = find_clips(tmp_path / "ball")
    assert_near(read(clip).frames, ball(), 0)


@pytest.mark.parametrize("layout", ["folders", "within", "names"])
def test_colour_and_matte_as_a_pair(tmp_path: Path, layout: str) -> None:
    clip = ball()
    colour, matte = {
        "folders": (tmp_path / "fgr" / "ball", tmp_path / "pha" / "ball"),
        "within": (tmp_path / "ball" / "fgr", tmp_path / "ball" / "pha"),
        "names": (tmp_path / "ball_fgr.apng", tmp_path / "ball_pha.apng"),
    }[layout]
    grey = torch.cat([clip[:, 3:].expand(-1, 3, -1, -1), torch.ones_like(clip[:, 3:])], dim=1)
    opaque = torch.cat([clip[:, :3], torch.ones_like(clip[:, 3:])], dim=1)
    for part, path in ((opaque, colour), (grey, matte)):
        if path.suffix:
            store(part, path)
        else:
            stills(part, path, "RGB")
    (tmp_path / "ball.txt").write_text("a ball")
    (file,) = find_clips(tmp_path)
    assert (file.kind, file.captions) == ("pair", ("a ball",))
    assert_near(read(file).frames, clip, 1)


def test_shards_are_sheets_that_loop(tmp_path: Path) -> None:
    shards(tmp_path, ball(), captions=["ball", "ball sliding"], frames=6, seconds=0.5, group="b")
    (clip,) = find_clips(tmp_path, split="train")
    found = read(clip)
    assert found.captions == ("ball", "ball sliding")
    assert found.loops
    assert found.fps == pytest.approx(12)
    assert clip.facts["group"] == "b"
    assert_near(found.frames, ball(), 0)
    with pytest.raises(ConfigError, match="holds no clip"):
        find_clips(tmp_path, split="val")


def test_metadata_tells_captions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store(ball(), tmp_path / "ball.webp")
    store(ball(), tmp_path / "other.webp")
    (tmp_path / "metadata.csv").write_text('file_name,text\nclips/ball.webp,"a ball, red"\nball,a disc\ngone.mov,x\n')
    found = {clip.name: clip.captions for clip in find_clips(tmp_path)}
    assert found == {"ball": ("a ball, red", "a disc"), "other": ()}
    assert "1 rows name no clip: gone" in caplog.text
    assert "1 of 2 clips have no caption: other" in caplog.text
    (tmp_path / "metadata.csv").write_text("when,who\n1,2\n")
    with pytest.raises(InputError, match="needs the columns file and caption, found when, who"):
        find_clips(tmp_path)


def test_a_broken_clip_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store(ball(), tmp_path / "good.webp")
    (tmp_path / "bad.webm").write_bytes(b"not a film at all")
    with caplog.at_level(logging.WARNING):
        assert [clip.name for clip in read_all(find_clips(tmp_path))] == ["good"]
    assert "clip left out" in caplog.text
    assert "bad.webm" in caplog.text
    (tmp_path / "good.webp").unlink()
    with pytest.raises(InputError, match="none of 1 clips can be read"):
        list(read_all(find_clips(tmp_path)))


def test_clips_that_show_nothing_transparent_are_refused(tmp_path: Path) -> None:
    store(ball(), tmp_path / "solid.mp4", background=torch.zeros(3))
    (solid,) = find_clips(tmp_path)
    with pytest.raises(InputError, match="solid: has no alpha"):
        read(solid)
    assert bool((read(solid, opaque=True).frames[:, 3] == 255).all())
    empty = ball()
    empty[:, 3] = 0
    store(empty, tmp_path / "empty.webp")
    with pytest.raises(InputError, match="empty: is transparent throughout"):
        read(find_clips(tmp_path / "empty.webp")[0])


def test_large_frames_shrink_in_premultiplied_colour(tmp_path: Path) -> None:
    clip = ball(2, 96, 128)
    clip[:, :3] = torch.where(clip[:, 3:] > 0, clip[:, :3], torch.tensor([0.0, 1.0, 0.0]).reshape(1, 3, 1, 1))
    store(clip, tmp_path / "ball.apng")
    found = read(find_clips(tmp_path)[0], side=24).frames
    assert tuple(found.shape) == (2, 4, 24, 32)
    edge = (found[:, 3] > 20) & (found[:, 3] < 235)
    assert bool(edge.any())
    # The green under alpha 0 does not bleed into the soft edge of the red disc.
    assert int(found[:, 1][edge].max()) < 70


def test_no_folder_and_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not there"):
        find_clips(tmp_path / "gone")
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(ConfigError, match="holds no clip"):
        find_clips(tmp_path)
