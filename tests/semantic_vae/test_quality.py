"""Figures of edits on masks small enough to count by hand."""

import pytest
import torch
from skimage.measure import label as pieces_of
from torch import Tensor

from pellucid.errors import InputError
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ
from pellucid.semantic_vae.masks.label_statistics import pieces, shapes, touching, wasserstein
from pellucid.semantic_vae.model import SemanticVAE, SemanticVAEConfig
from pellucid.semantic_vae.pipeline import FacePartsPipeline
from pellucid.semantic_vae.procedural.masks import procedural_masks
from pellucid.semantic_vae.quality import (
    adjacency_violations,
    diversity,
    edit_quality,
    locality,
    outside_neighbours,
    shape_distance,
    strays,
)
from pellucid.semantic_vae.realism import real_or_edited


def test_touching_counts_pairs_of_neighbours() -> None:
    found = touching(torch.tensor([[[0, 0, 1], [2, 0, 1]]], dtype=torch.uint8), 3)[0]
    assert found.tolist() == [[0, 2, 2], [2, 0, 0], [2, 0, 0]]


def test_pieces_agree_with_another_counter() -> None:
    labels = torch.randint(0, 3, (6, 40, 33), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels[0] = 2
    labels[1, :, ::2] = 1
    labels[2, ::3] = 0
    spiral = torch.zeros(40, 33, dtype=torch.uint8)
    for start in range(0, 16, 4):  # one long winding piece
        spiral[start : 40 - start, start] = spiral[39 - start, start : 33 - start] = 1
        spiral[start : 40 - start, 32 - start] = spiral[start, start + 4 : 33 - start] = 1
    labels[3] = spiral
    found = pieces(labels, 3)
    for mask, counts in zip(labels, found, strict=True):
        for one in range(3):
            assert int(counts[one]) == pieces_of((mask == one).numpy(), connectivity=1).max()
    assert pieces(labels[:1], 3, least=40 * 33 + 1).sum() == 0


def test_classes_that_never_touch_are_told() -> None:
    usual = touching(torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1]] * 4], dtype=torch.uint8), 3).sum(0)
    fine = torch.tensor([[0, 0, 1, 1]] * 8, dtype=torch.uint8)
    odd = torch.tensor([[0, 2, 2, 1]] * 8, dtype=torch.uint8)
    corner = fine.clone()
    corner[0, 0] = 2
    assert adjacency_violations(torch.stack([fine, odd, corner]), usual).tolist() == [0, 2, 0]


def test_strays_are_classes_that_nobody_asked_for() -> None:
    source = torch.tensor([[[0, 1], [1, 1]]] * 3, dtype=torch.uint8)
    edited = torch.tensor([[[0, 1], [1, 1]], [[0, 2], [1, 1]], [[3, 2], [1, 1]]], dtype=torch.uint8)
    assert strays(source, edited, [2], 4).tolist() == [0, 0, 1]


def test_changes_far_from_the_part_are_not_local() -> None:
    before = torch.zeros(1, 40, 40, dtype=torch.uint8)
    before[0, :, 20:] = 1
    before[0, 4:8, 4:8] = 2
    near, far = before.clone(), before.clone()
    near[0, 4:9, 4:8] = 2
    far[0, 30:32, 30:35] = 3
    assert float(locality(before, near, [2], 6)) == 0
    assert float(locality(before, far, [2], 6)) == pytest.approx(10 / 1600)
    # The part touches 0 only: a change from 1 to 3 is elsewhere, one from 0 is at a neighbour.
    assert float(outside_neighbours(before, far, [2], 4)) == 1.0
    assert float(outside_neighbours(before, near, [2], 4)) == 0.0
    assert float(outside_neighbours(before, before, [2], 4)) == 0.0


def test_diversity_is_what_results_do_not_share() -> None:
    samples = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    samples[:, 0, 0, :2] = samples[:, 1, 0, 1:3] = samples[:, 2, 0, 2:] = 5
    samples[1] = samples[1, :1]
    expected = 1 - (1 / 3 + 1 / 3 + 0) / 3
    assert diversity(samples, [5]).tolist() == pytest.approx([expected, 0.0])
    assert diversity(samples, [7]).tolist() == [0.0, 0.0]


def test_wasserstein_of_known_samples() -> None:
    assert wasserstein(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])) == pytest.approx(1.0)
    assert wasserstein(torch.tensor([3.0]), torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(1.0)
    assert wasserstein(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([2.0, 1.0, 0.0])) == 0
    assert torch.tensor(wasserstein(torch.empty(0), torch.ones(2))).isnan()


def test_a_shifted_part_is_as_far_as_it_was_shifted() -> None:
    masks = torch.zeros(3, 40, 40, dtype=torch.uint8)
    masks[:, 10:20, 10:20] = 2
    found = shapes(masks, 19)
    assert float(found["area"][0, 2]) == pytest.approx(1 / 16)
    assert float(found["x"][0, 2]) == pytest.approx(15 / 40)
    distance = shape_distance(masks.roll(4, 2), masks, CELEBAMASK_HQ)["nose"]
    assert distance == pytest.approx({"area": 0.0, "x": 0.1, "y": 0.0}, abs=1e-6)


def test_the_judge_tells_sets_that_differ_and_only_those() -> None:
    masks, _ = procedural_masks(40, 7, 32)
    torn = masks[:20].clone()
    torn[:, 8:16] = 2
    assert real_or_edited(masks[20:], torn, 19, steps=25) > 0.9
    assert real_or_edited(masks, torn, 19, steps=2) == real_or_edited(masks, torn, 19, steps=2)
    assert real_or_edited(masks[:20], masks[20:], 19, steps=25) < 0.9
    with pytest.raises(InputError, match="needs 8"):
        real_or_edited(masks[:4], torn, 19)


@pytest.fixture(scope="module")
def pipe() -> FacePartsPipeline:
    torch.manual_seed(0)
    config = SemanticVAEConfig(
        size=64, encoder_side=32, encoder_widths=(32,), latent=64, lstm_layers=1, lstm_hidden=16, ff_width=32,
        channels=(16, 8, 8, 8), groups=8,
    )  # fmt: skip
    return FacePartsPipeline(SemanticVAE(config), device="cpu")


def rows_of(pipe: FacePartsPipeline, masks: Tensor, **options) -> list[dict]:
    return edit_quality(pipe, masks[:3], masks[3:], parts=["nose", "brows"], samples=2, **options)


def test_edits_are_valid_and_have_no_strays_with_the_guard(pipe: FacePartsPipeline) -> None:
    masks, _ = procedural_masks(10, 3, 64)
    masks[masks == 3] = 1
    rows = rows_of(pipe, masks)
    assert [(row["edit"], row["part"]) for row in rows[:3]] == [
        (kind, "nose") for kind in ("generate", "perturb", "swap")
    ]
    assert (rows[-1]["edit"], len(rows)) == ("all", 7)
    assert all(row["valid"] == 1.0 and row["strays"] == 0.0 for row in rows)
    assert rows[0]["diversity"] is not None
    assert rows[2]["diversity"] is None
    assert rows[-1]["edits"] == sum(row["edits"] for row in rows[:-1]) == 30
    assert rows[-1]["real_or_edited"] is None  # too few masks
    # An untrained network paints whatever it likes: without the guard classes appear.
    assert rows_of(pipe, masks, stray_guard=False, kinds=["generate"])[-1]["strays"] > 0
