"""Copies of training pictures are found, also where they were moved or made smaller, whatever lies below alpha 0."""

import io
import json
import logging
import tarfile

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.clips.drawn import draw_rgba
from pellucid.layer_animate.comparison.nearest import PictureBank, nearest_of_clip, nearest_pictures, open_bank


@pytest.fixture(scope="module")
def bank():
    pictures = draw_rgba(40, 32, 3).mul(255.0).round().to(torch.uint8)
    return PictureBank(pictures, tuple(f"picture {number}" for number in range(len(pictures))))


def moved(pictures, side, left, top):
    """Pictures made smaller and laid elsewhere on a canvas of their size."""
    size = pictures.shape[-1]
    alpha = pictures[:, 3:]
    small = F.interpolate(torch.cat([pictures[:, :3] * alpha, alpha], 1), (side, side), mode="bilinear", antialias=True)
    out = F.pad(small, (left, size - side - left, top, size - side - top))
    alpha = out[:, 3:]
    return torch.cat([torch.where(alpha > 0, out[:, :3] / alpha.clamp_min(1e-6), 0.0), alpha], 1).clamp(0, 1)


def test_a_copy_is_at_no_distance_whatever_its_hidden_colour(bank):
    samples = bank.pictures[:8].float() / 255.0
    samples[:, :3] = torch.where(samples[:, 3:] > 0, samples[:, :3], 0.7)
    found = nearest_pictures(samples, bank)
    assert [each.picture for each in found] == list(range(8))
    assert [each.name for each in found] == [f"picture {number}" for number in range(8)]
    assert max(each.distance for each in found) < 1e-3


def test_a_moved_and_smaller_copy_is_found(bank):
    found = nearest_pictures(moved(bank.pictures.float() / 255.0, 24, 1, 6), bank)
    assert sum(each is not None and each.picture == number for number, each in enumerate(found)) >= 38


def test_what_shows_nothing_has_no_neighbour(bank):
    samples = torch.stack([bank.pictures[0].float() / 255.0, torch.zeros(4, 32, 32)])
    first, second = nearest_pictures(samples, bank)
    assert first is not None
    assert second is None
    # an empty picture of the bank is nobody's neighbour, though it is near to much
    with_empty = PictureBank(torch.cat([torch.zeros(1, 4, 32, 32, dtype=torch.uint8), bank.pictures]), ("",) * 41)
    faint = torch.full((1, 4, 32, 32), 0.06)
    assert nearest_pictures(faint, with_empty)[0].picture != 0


def test_of_a_clip_the_frame_that_was_given_is_not_asked(bank):
    clip = torch.rand(4, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    clip[2], clip[3] = bank.pictures[5].float() / 255.0, moved(bank.pictures[7:8].float() / 255.0, 24, 4, 4)[0]
    assert (nearest_of_clip(clip, bank).sample, nearest_of_clip(clip, bank).picture) == (2, 5)
    assert (nearest_of_clip(clip, bank, base_index=2).sample, nearest_of_clip(clip, bank, base_index=2).picture) == (
        3,
        7,
    )
    assert nearest_of_clip(torch.zeros(3, 4, 32, 32), bank) is None


def test_a_clip_model_may_say_what_is_near(bank):
    class Reddest:
        label = "told"

        def images(self, frames):
            return torch.stack([frames[:, 0].mean((1, 2)) - 0.5, torch.full((len(frames),), 1e-3)], 1)

        def texts(self, prompts):
            raise AssertionError

    red = torch.zeros(1, 4, 32, 32)
    red[:, 0], red[:, 3] = 1.0, 1.0
    found = nearest_pictures(red, bank, scorer=Reddest())[0]
    features, _ = bank.features(Reddest())
    assert features[found.picture, 0] > 0
    assert found.distance == pytest.approx(0.0, abs=1e-3)


def test_banks_are_read_with_their_authors(tmp_path, caplog):
    rows = []
    with tarfile.open(tmp_path / "s-000.tar", "w") as tar:
        for name, split, sheet, size in (("a", "train", None, (8, 8)), ("b", "val", None, (8, 8)),
                                         ("c", "train", [2, 6], (48, 16))):  # fmt: skip
            data = io.BytesIO()
            Image.new("RGBA", size, (200, 10, 10, 255)).save(data, "PNG")
            info = tarfile.TarInfo(f"{name}.png")
            info.size = len(data.getvalue())
            tar.addfile(info, io.BytesIO(data.getvalue()))
            row = {"file": f"{name}.png", "shard": "s-000.tar", "split": split, "name": name, "author": "Ann"}
            rows.append(row | ({"sheet": sheet} if sheet else {}))
    (tmp_path / "s.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with caplog.at_level(logging.INFO):
        found = open_bank(tmp_path, ["s"], 8)
    assert found.names == ("a (Ann)", "c (Ann)", "c (Ann)")  # not what is held out; frames 0 and 6 of twelve
    assert found.pictures.shape == (3, 4, 8, 8)
    assert "3 training pictures" in caplog.text
    assert len(open_bank("drawn", size=16)) == len(open_bank("drawn", size=16).names) > 100


def test_what_makes_no_sense_is_said(bank, tmp_path):
    with pytest.raises(InputError, match=r"\(N, 4, H, W\)"):
        nearest_pictures(torch.rand(3, 32, 32), bank)
    with pytest.raises(InputError, match="names"):
        PictureBank(bank.pictures, ("one",))
    with pytest.raises(InputError, match="uint8"):
        PictureBank(bank.pictures.float(), bank.names)
    with pytest.raises(InputError, match="shows anything"):
        nearest_pictures(torch.rand(1, 4, 8, 8), PictureBank(torch.zeros(1, 4, 8, 8, dtype=torch.uint8), ("",)))
    with pytest.raises(ConfigError, match="no table"):
        open_bank(tmp_path, ())
