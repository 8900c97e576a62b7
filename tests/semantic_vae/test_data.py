"""Banks of masks and batches of them: no mask comes twice in a round, and no batch depends on those before it."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae import data
from pellucid.semantic_vae.data import MaskBank, MaskBatches, count_pixels, ellipses, open_bank, procedural_bank
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet

THREE = ClassSet("three", ("background", "left", "right"), mirror=((1, 2),))


def numbered(count: int) -> MaskBank:
    """Mask k has k in its top left corner."""
    labels = torch.zeros(count, 4, 4, dtype=torch.uint8)
    labels[:, 0, 0] = torch.arange(count)
    return MaskBank(labels, ClassSet("many", tuple(f"c{k}" for k in range(count)), background=0), "numbered")


def seen(batches: MaskBatches, *indices: int) -> list[int]:
    return [int(mask[0, 0]) for index in indices for mask in batches(index)]


# Counting


def test_pixels_are_counted_by_hand() -> None:
    labels = torch.tensor([[[0, 1], [1, 1]], [[2, 2], [0, 0]]], dtype=torch.uint8)
    bank = MaskBank(labels, THREE, "two")
    assert count_pixels(labels, 3).tolist() == [[1, 3, 0], [2, 0, 2]]
    assert bank.fractions().tolist() == [3 / 8, 3 / 8, 2 / 8]
    assert bank.presence().tolist() == [[True, True, False], [True, False, True]]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (torch.full((1, 2, 2), 3, dtype=torch.uint8), "found id 3, the last of 'three' is 2"),
        (torch.zeros(2, 2, dtype=torch.uint8), r"\(2, 2\)"),
        (torch.zeros(1, 2, 2), "float32"),
        (torch.zeros(0, 2, 2, dtype=torch.uint8), r"\(0, 2, 2\)"),
    ],
)
def test_what_is_no_bank_is_refused(labels: torch.Tensor, found: str) -> None:
    with pytest.raises(InputError, match=found):
        MaskBank(labels, THREE, "wrong")


def test_held_out_masks_are_spread_and_not_trained_on() -> None:
    train, held_out = numbered(10).split(3)
    assert held_out.labels[:, 0, 0].tolist() == [0, 3, 6]
    assert train.labels[:, 0, 0].tolist() == [1, 2, 4, 5, 7, 8, 9]
    with pytest.raises(InputError, match="10 masks, of which 10"):
        numbered(10).split(10)


# Batches


def test_every_round_shows_every_mask_once_in_another_order() -> None:
    batches = MaskBatches(numbered(7), 3, seed=5)
    shown = seen(batches, *range(7))  # 21 masks: three rounds
    rounds = [shown[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(each) == list(range(7)) for each in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


def test_a_batch_follows_from_seed_and_index_alone() -> None:
    bank = numbered(9)
    asked = MaskBatches(bank, 4, seed=1)
    late = seen(asked, 17)
    assert seen(asked, 2, 17)[4:] == late == seen(MaskBatches(bank, 4, seed=1), 17)
    assert seen(MaskBatches(bank, 4, seed=2), 17) != late


def test_processes_share_a_round() -> None:
    bank = numbered(12)
    both = [seen(MaskBatches(bank, 3, 0, (number, 2)), 0, 1) for number in (0, 1)]
    assert sorted(both[0] + both[1]) == list(range(12))


def test_mirrored_masks_exchange_left_and_right() -> None:
    labels = torch.tensor([[[1, 0, 0], [1, 0, 2], [0, 0, 0]]], dtype=torch.uint8)
    bank = MaskBank(labels, THREE, "one")
    assert MaskBatches(bank, 1, mirror=1.0)(0)[0].tolist() == [[0, 0, 2], [1, 0, 2], [0, 0, 0]]
    share = [bool((mask != labels[0]).any()) for mask in MaskBatches(bank, 400, mirror=0.25)(3)]
    assert 60 < sum(share) < 140


# Where masks come from


def test_drawn_masks_do_not_depend_on_their_number(tmp_path: Path) -> None:
    many, few = procedural_bank(5, 3, 32), procedural_bank(2, 3, 32)
    assert torch.equal(many.labels[:2], few.labels)
    assert many.parameters is not None
    assert len(many.parameters) == 5
    assert not torch.equal(procedural_bank(2, 3 + data.HELD_OUT_SEED, 32).labels, few.labels)


def test_drawn_masks_are_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = procedural_bank(3, 0, 32, tmp_path)
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr(data, "draw_masks", None)  # nothing is drawn again
    again = procedural_bank(3, 0, 32, tmp_path)
    assert torch.equal(again.labels, first.labels)
    assert again.parameters is not None
    monkeypatch.undo()
    file.write_bytes(b"cut short")
    assert torch.equal(procedural_bank(3, 0, 32, tmp_path).labels, first.labels)
    monkeypatch.setattr(data, "drawing_digest", lambda: "another")
    procedural_bank(3, 0, 32, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # changed code does not meet old masks


def test_the_cache_is_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "own"))
    procedural_bank(1, 0, 32, "auto")
    assert len(list((tmp_path / "own").iterdir())) == 1


def test_procedural_masks_of_another_class_set_are_refused() -> None:
    with pytest.raises(ConfigError, match="found class set 'three'"):
        open_bank("procedural", THREE, 32, count=1)


def test_ellipses_stand_in_for_any_class_set() -> None:
    thirty = ClassSet("thirty", tuple(f"c{k}" for k in range(30)), background=None)
    labels = ellipses(20, 0, 64, thirty)
    assert labels.unique().tolist() == list(range(30))
    assert torch.equal(labels[:3], ellipses(3, 0, 64, thirty))
    assert not torch.equal(labels[:3], ellipses(3, 1, 64, thirty))


def test_a_folder_of_masks_becomes_a_bank(tmp_path: Path) -> None:
    for split, ids in (("train", (1, 2, 3)), ("test", (4,))):
        folder = tmp_path / split / "labels"
        folder.mkdir(parents=True)
        for one in ids:
            pixels = Image.new("L", (8, 8), one)
            pixels.putpixel((1, 1), 13)  # PIL's nearest takes odd pixels, torch's the even ones
            pixels.save(folder / f"{one}.png")
    bank = open_bank(tmp_path, CELEBAMASK_HQ, 4, split="train")
    assert bank.labels[:, 2, 2].tolist() == [1, 2, 3]
    assert (bank.labels[:, 0, 0] == 13).all()
    assert open_bank(tmp_path, CELEBAMASK_HQ, 4, split="test").labels[:, 2, 2].tolist() == [4]
    assert len(open_bank(tmp_path, CELEBAMASK_HQ, 4, split="train", count=2)) == 2
    with pytest.raises(InputError, match="'val'"):
        open_bank(tmp_path, CELEBAMASK_HQ, 4, split="val")
