"""Scores of label maps against a case counted by hand."""

import pytest
import torch

from pellucid.errors import ConfigError, InputError
from pellucid.metrics.segmentation import SegmentationScores, iou_of

TRUE = torch.tensor([[0, 0, 1], [0, 2, 1], [0, 2, 2]], dtype=torch.uint8)
FOUND = torch.tensor([[0, 1, 1], [0, 2, 1], [0, 0, 2]], dtype=torch.uint8)
# class 0: hits 3, found 4, true 4 -> 3/5; class 1: 2, 3, 2 -> 2/3; class 2: 2, 2, 3 -> 2/3; class 3 nowhere


def scores(*pairs: tuple[torch.Tensor, torch.Tensor], background: int | None = 0) -> SegmentationScores:
    collected = SegmentationScores(4, background)
    for found, true in pairs:
        collected.update(found, true)
    return collected


def test_a_case_counted_by_hand() -> None:
    collected = scores((FOUND, TRUE))
    figures = collected.figures()
    assert collected.iou()[:3].tolist() == pytest.approx([3 / 5, 2 / 3, 2 / 3])
    assert collected.iou()[3].isnan()
    assert figures["accuracy"] == pytest.approx(7 / 9)
    assert figures["miou"] == figures["miou_image"] == pytest.approx((3 / 5 + 4 / 3) / 3)
    assert figures["miou_parts"] == figures["miou_image_parts"] == pytest.approx(2 / 3)
    assert collected.confusion[0].tolist() == [3, 1, 0, 0]  # what is truly background was found as


def test_the_four_ways_differ_as_they_say() -> None:
    ones = torch.ones(3, 3, dtype=torch.uint8)
    pair = (torch.stack([FOUND, ones]), torch.stack([TRUE, ones]))
    collected = scores(pair)
    figures = collected.figures()
    assert collected.pictures == 2
    assert figures["miou"] == pytest.approx((3 / 5 + 11 / 12 + 2 / 3) / 3)
    assert figures["miou_parts"] == pytest.approx((11 / 12 + 2 / 3) / 2)
    assert figures["miou_image"] == pytest.approx(((3 / 5 + 4 / 3) / 3 + 1) / 2)
    assert figures["miou_image_parts"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores(pair, background=None).figures()["miou_parts"] == figures["miou"]


def test_a_class_that_is_only_found_counts_as_missed() -> None:
    found = TRUE.clone()
    found[0, 0] = 3
    figures = scores((found, TRUE)).figures()
    assert figures["miou"] == pytest.approx((3 / 4 + 1 + 1 + 0) / 4)


def test_a_picture_of_background_alone_has_no_mean_over_the_parts() -> None:
    blank = torch.zeros(3, 3, dtype=torch.uint8)
    assert scores((blank, blank), (FOUND, TRUE)).figures()["miou_image_parts"] == pytest.approx(2 / 3)


def test_intersection_over_union_of_a_matrix() -> None:
    assert iou_of(torch.tensor([[3, 1], [2, 4]])).tolist() == pytest.approx([3 / 6, 4 / 7])


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="one shape"):
        scores((FOUND, TRUE[:2]))
    with pytest.raises(InputError, match=r"ids 0\.\.3, found 0\.\.4"):
        scores((FOUND * 2, TRUE))
    with pytest.raises(ConfigError, match="background"):
        SegmentationScores(4, 4)
