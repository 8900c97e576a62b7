"""Measuring reconstructions: baselines, sizes, padding, and sets of other classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae import data
from pellucid.semantic_vae import evaluate as module
from pellucid.semantic_vae.evaluate import MaskSet, evaluate, is_drawn, measure, read_set, reconstructions
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.fasseg import FASSEG
from pellucid.semantic_vae.model import SemanticVAE, SemanticVAEConfig
from pellucid.semantic_vae.pipeline import FacePartsPipeline

SMALL = SemanticVAEConfig(
    size=32,
    encoder_side=16,
    encoder_widths=(16,),
    latent=64,
    lstm_layers=1,
    lstm_hidden=8,
    ff_width=16,
    channels=(8, 8, 8),
    groups=4,
)
TWO = ClassSet("two", ("background", "part"))


@pytest.fixture(autouse=True)
def few_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TRAINING_LIKE", 4)


@pytest.fixture
def pipe() -> FacePartsPipeline:
    torch.manual_seed(0)
    return FacePartsPipeline(SemanticVAE(SMALL), device="cpu", dtype="float32")


def masks_of(labels: torch.Tensor, counted: torch.Tensor | None = None, classes: ClassSet = TWO) -> MaskSet:
    whole = torch.ones_like(labels, dtype=torch.bool) if counted is None else counted
    return MaskSet("set", labels, labels, whole, classes)


def by_system(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["system"]: row for row in rows if "system" in row}


def write(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint8)).save(path)


# Figures


def test_figures_by_hand() -> None:
    """Three of four pixels are background; a network that is right but for one pixel, beside doing nothing."""
    truth = torch.tensor([[[0, 0], [0, 1]], [[0, 0], [0, 1]]], dtype=torch.uint8)
    wrong = truth.clone()
    wrong[1, 0, 0] = 1
    found = by_system(measure(masks_of(truth), {"": lambda seen: wrong}, "ours", "parts-256", TWO))
    assert list(found) == ["all background", "ours", "paper, Table 1"]
    nothing, ours = found["all background"], found["ours"]
    assert (nothing["accuracy"], nothing["mIoU"]) == pytest.approx((0.75, 0.375))
    assert ours["accuracy"] == pytest.approx(7 / 8)
    assert ours["mIoU"] == pytest.approx((5 / 6 + 2 / 3) / 2)
    assert ours["mIoU parts"] == pytest.approx(2 / 3)
    assert ours["mIoU image"] == pytest.approx((1 + (2 / 3 + 1 / 2) / 2) / 2)
    assert ours["mIoU image parts"] == pytest.approx((1 + 1 / 2) / 2)
    assert found["paper, Table 1"]["mIoU"] == 0.7031


def test_each_class_has_a_row() -> None:
    truth = torch.zeros(2, 2, 2, dtype=torch.uint8)
    truth[0, 0, 0] = 1
    rows = measure(masks_of(truth), {"": lambda seen: seen}, "ours", "parts-256", TWO)
    per_class = {row["class"]: row for row in rows if "class" in row}
    assert [per_class[name]["in masks"] for name in TWO.names] == [2, 1]
    assert per_class["part"]["IoU ours"] == 1
    assert per_class["part"]["IoU all background"] == 0


def test_padding_is_not_counted() -> None:
    truth = torch.tensor([[[1, 0], [1, 0]]], dtype=torch.uint8)
    counted = torch.tensor([[[True, False], [True, False]]])
    found = by_system(measure(masks_of(truth, counted), {"": lambda seen: seen}, "ours", "parts-256", TWO))
    assert found["all background"]["accuracy"] == 0
    assert found["ours"]["accuracy"] == 1


def test_the_baseline_is_the_most_frequent_class_of_each_pixel() -> None:
    labels = data.procedural_bank(4, 0, 32).labels
    found = by_system(measure(masks_of(labels, classes=CELEBAMASK_HQ), {}, "ours", "parts-256", CELEBAMASK_HQ))
    usual = labels.mode(dim=0).values
    expected = float((labels == usual).double().mean())
    assert found["most frequent class of each pixel"]["accuracy"] == pytest.approx(expected)
    assert expected > found["all background"]["accuracy"]


def test_codes_at_their_mean_and_sampled(pipe: FacePartsPipeline) -> None:
    labels = data.procedural_bank(2, 9, 32).labels
    ways = reconstructions(pipe, 3)
    assert torch.equal(ways[""](labels), pipe.decode(pipe.encode(labels).mu))
    again = reconstructions(pipe, 3)
    assert torch.equal(ways[", sampled codes"](labels), again[", sampled codes"](labels))


# Sets


def test_drawn_masks_are_not_those_of_training() -> None:
    masks = read_set("procedural:3", size=32)
    assert len(masks) == 3
    seeds = (0, data.HELD_OUT_SEED)
    assert not any(torch.equal(masks.truth, data.procedural_bank(3, seed, 32).labels) for seed in seeds)
    assert [is_drawn(name) for name in ("procedural", "procedural:9", "data/procedural")] == [True, True, False]
    with pytest.raises(ConfigError, match="'many' masks"):
        read_set("procedural:many")


def test_masks_of_any_size_are_padded_and_shrunk(tmp_path: Path) -> None:
    tall = np.ones((64, 32))
    write(tmp_path / "1.png", tall)
    write(tmp_path / "2.png", np.full((48, 48), 13))
    with pytest.raises(ConfigError, match="name the label order"):
        read_set(tmp_path, size=32)
    masks = read_set(tmp_path, size=32, label_order="own")
    assert masks.truth.shape == (2, 32, 32)
    assert masks.counted[0].sum() == 32 * 16
    assert (masks.truth[0][masks.counted[0]] == 1).all()
    assert (masks.truth[0][~masks.counted[0]] == 0).all()
    assert masks.counted[1].all()


def test_the_test_split_is_measured(tmp_path: Path) -> None:
    write(tmp_path / "train" / "labels" / "1.png", np.full((8, 8), 1))
    write(tmp_path / "test" / "labels" / "2.png", np.full((8, 8), 2))
    assert read_set(tmp_path, size=8).truth.unique().tolist() == [2]
    assert read_set(tmp_path, size=8, split="train").truth.unique().tolist() == [1]


def test_fasseg_is_scored_in_its_six_classes(tmp_path: Path, pipe: FacePartsPipeline) -> None:
    labels = np.zeros((16, 12), dtype=np.uint8)
    labels[4:12, 2:10] = FASSEG.id_of("skin")
    labels[10, 4:8] = FASSEG.id_of("mouth")
    write(tmp_path / "labels" / "a.png", np.array(FASSEG.colors)[labels])
    masks = read_set(tmp_path, "fasseg-6", size=32)
    assert masks.classes == FASSEG
    assert set(masks.seen.unique().tolist()) <= {0, 1, 11, 12}
    found = by_system(measure(masks, {"": lambda seen: seen}, "ours", "fasseg-6", CELEBAMASK_HQ))
    assert found["ours"]["accuracy"] == 1  # what goes in comes back, though in nineteen classes
    rows = evaluate_with(pipe, tmp_path, "fasseg-6")
    assert [row["class"] for row in rows if "class" in row] == list(FASSEG.names)


def evaluate_with(pipe: FacePartsPipeline, folder: Path, protocol: str) -> list[dict[str, Any]]:
    return evaluate(folder, protocol, pipe.save_pretrained(folder / "weights", card="# Card"), "cpu")


def test_weights_are_measured_from_their_folder(tmp_path: Path, pipe: FacePartsPipeline) -> None:
    write(tmp_path / "set" / "1.png", np.full((32, 32), 13))
    weights = pipe.save_pretrained(tmp_path / "weights", card="# Card")
    found = by_system(evaluate(tmp_path / "set", weights=weights, device="cpu", label_order="own"))
    names = [name for name in found if name.startswith("ours")]
    assert len(names) == 2
    assert names[1] == f"{names[0]}, sampled codes"
    assert all(0 <= found[name]["accuracy"] <= 1 for name in names)


@pytest.mark.parametrize(
    ("name", "protocol", "error"),
    [("set", "parts-512", ConfigError), ("procedural:2", "fasseg-6", ConfigError), ("empty", "parts-256", InputError)],
)
def test_what_cannot_be_measured_is_refused(
    name: str, protocol: str, error: type[Exception], tmp_path: Path, pipe: FacePartsPipeline
) -> None:
    (tmp_path / "empty").mkdir()
    place = name if is_drawn(name) else tmp_path / name
    with pytest.raises(error):
        evaluate(place, protocol, pipe.save_pretrained(tmp_path / "weights", card="# Card"), "cpu")
