"""Sets of new masks: what is planned is made, records tell it, and balancing helps rare classes."""

import json

import pytest
import torch

from pellucid.errors import ConfigError
from pellucid.semantic_vae.augment import Augmented, Plan, augment, class_shares, overlap, pixel_worth
from pellucid.semantic_vae.editing import Operation
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ
from pellucid.semantic_vae.pipeline import FacePartsPipeline

from .test_pipeline import face, make, one_thread  # noqa: F401

HQ = CELEBAMASK_HQ
MASKS = [("one", face(40, 36)), ("two", face(48).flip(1))]


@pytest.fixture(scope="module")
def pipe() -> FacePartsPipeline:
    return make()


def made(pipe: FacePartsPipeline, plan: Plan) -> list[Augmented]:
    return list(augment(pipe, MASKS, plan))


def test_n_variants_of_each_mask_part_and_edit(pipe: FacePartsPipeline) -> None:
    plan = Plan(kinds=("generate", "perturb"), parts=("hair", "eyes", "hat"), count=3)
    found = made(pipe, plan)
    assert len(found) == 2 * 2 * 2 * 3  # no mask has a hat
    assert len({one.name for one in found}) == len(found)
    assert [one.labels.shape for one in found[:12]] == [(40, 36)] * 12
    for one in found:
        assert json.loads(json.dumps(one.record)) == one.record
        assert one.record["operation"]["kind"] in ("generate", "perturb")
        assert one.record["source"] in ("one", "two")
    drawn = {one.record["operation"]["seed"] for one in found}
    assert len(drawn) == len(found)


def test_a_record_makes_its_mask_again(pipe: FacePartsPipeline) -> None:
    for one in made(pipe, Plan(kinds=("generate", "add", "remove"), parts=("hair", "hat"))):
        source = dict(MASKS)[one.record["source"]]
        again = pipe.edit(source, [Operation.of(one.record["operation"])])
        assert torch.equal(again, one.labels)
        assert one.record["iou"] == overlap(source, one.labels, HQ)


def test_one_seed_one_set(pipe: FacePartsPipeline) -> None:
    plans = [Plan(parts=("hair",), seed=seed) for seed in (1, 1, 2)]
    first, same, other = ([one.record["operation"]["seed"] for one in made(pipe, plan)] for plan in plans)
    assert first == same
    assert first != other


def test_swaps_take_parts_from_masks_before(pipe: FacePartsPipeline) -> None:
    found = made(pipe, Plan(kinds=("swap",), parts=("hair",), count=2))
    assert [one.record["operation"]["reference"] for one in found] == ["one", "one"]


def test_every_part_that_is_there_by_default(pipe: FacePartsPipeline) -> None:
    found = made(pipe, Plan(kinds=("generate",)))
    assert {one.record["operation"]["parts"][0] for one in found} == {"skin", "nose", "l_eye", "r_eye", "l_lip", "hair"}


def test_balancing_gives_rare_classes_pixels(pipe: FacePartsPipeline) -> None:
    masks = [(str(index), face(32)) for index in range(3)]
    plan = Plan(kinds=("generate", "perturb", "add"), parts=("nose", "hat", "skin"), count=4, balance=True)
    found = list(augment(pipe, masks, plan))
    assert len(found) == 12
    before = class_shares([labels for _, labels in masks], HQ)
    after = class_shares([one.labels for one in found], HQ)
    assert after["hat"] > before["hat"] == 0
    assert after["hat"] + after["nose"] > before["hat"] + before["nose"]
    picked = [one.record["operation"] for one in found]
    assert all(one["kind"] == "add" for one in picked if one["parts"] == ["hat"])


def test_balancing_picks_rare_parts_more_often(pipe: FacePartsPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = torch.full((19,), 1e4, dtype=torch.float64)
    counts[2] = 1  # the nose: a hundred times the odds of skin
    monkeypatch.setattr("pellucid.semantic_vae.augment.pixel_worth", lambda _: 1 / counts)
    monkeypatch.setattr("pellucid.semantic_vae.augment._TRIES", 1)
    plan = Plan(kinds=("perturb",), parts=("skin", "nose"), count=20, balance=True)
    picked = [one.record["operation"]["parts"] for one in augment(pipe, [("one", face(32))], plan)]
    assert picked.count(["nose"]) >= 18


def test_a_pixel_of_a_rare_class_is_worth_more() -> None:
    worth = pixel_worth(torch.tensor([1e6, 1e4, 0.0]))
    assert worth[1] / worth[0] == pytest.approx(100)
    assert worth[2] > 1e3 * worth[1]
    assert worth.isfinite().all()


def test_of_several_seeds_balancing_keeps_the_one_with_most_rare_pixels(
    pipe: FacePartsPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []
    for tries in (1, 6):
        monkeypatch.setattr("pellucid.semantic_vae.augment._TRIES", tries)
        plan = Plan(kinds=("add",), parts=("hat",), count=5, balance=True)
        shares.append(class_shares((one.labels for one in augment(pipe, MASKS[:1], plan)), HQ)["hat"])
    assert shares[1] > shares[0]


def test_overlap_against_a_count_by_hand() -> None:
    one = torch.tensor([[1, 1, 1], [2, 2, 0]], dtype=torch.uint8)
    other = torch.tensor([[1, 1, 2], [2, 2, 2]], dtype=torch.uint8)
    assert overlap(one, other, HQ) == {"background": 0.0, "skin": round(2 / 3, 4), "nose": 0.5}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kinds": ()}, "none"),
        ({"kinds": ("move",)}, "move"),
        ({"count": 0}, "at least 1"),
        ({"kinds": ("remove",), "balance": True}, "balancing"),
    ],
)
def test_impossible_plans_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Plan(**options)
