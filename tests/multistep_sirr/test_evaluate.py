"""Measuring on a folder of pairs: the rows, and that the numbers are those of the protocol."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.metrics.protocols import PROTOCOLS, evaluate_pair, prepare, psnr
from pellucid.metrics.tables import markdown_table
from pellucid.multistep_sirr.evaluate import blend_statistics, evaluate
from pellucid.multistep_sirr.model import ReflectionPair, ReflectionPairConfig
from pellucid.multistep_sirr.pipeline import ReflectionRemovalPipeline

Save = Callable[[Path, Tensor], Path]


@pytest.fixture
def pairs(tmp_path: Path, save_picture: Save, pictures: Tensor) -> Path:
    """Two pairs of different sizes under a veil, in a folder whose name is that of a set of Table 1."""
    root = tmp_path / "wild"
    for number, size in enumerate([(40, 48), (48, 37)]):
        T = pictures[number, :, : size[0], : size[1]]
        save_picture(root / "blended" / f"{number}.png", 0.7 * T + 0.1 * (number + 1))
        save_picture(root / "transmission_layer" / f"{number}.png", T)
    return root


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Networks that take 0.1 away everywhere."""
    pair = ReflectionPair(ReflectionPairConfig(width=2))
    for network, value in ((pair.t_cnn, 0.1), (pair.r_cnn, 0.0)):
        torch.nn.init.zeros_(network.head2.weight)
        torch.nn.init.constant_(network.head2.bias, value)
    return ReflectionRemovalPipeline(pair, device="cpu").save_pretrained(tmp_path / "weights", card="# Weights")


def read(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rows_hold_the_protocols_numbers(protocol: str, pairs: Path, weights: Path) -> None:
    if PROTOCOLS[protocol].short_side is not None:
        pytest.skip("420 pixels are more than a test needs")
    rows = evaluate(pairs, protocol, weights, device="cpu", depth="none")
    nothing, ours, paper = rows
    assert nothing["system"] == "input (doing nothing)"
    assert ours["system"].startswith("ours (multistep_sirr/weights@")
    rule, expected = PROTOCOLS[protocol], {"nothing": [], "ours": []}
    for number in range(2):
        files = (pairs / folder / f"{number}.png" for folder in ("blended", "transmission_layer"))
        mixture, truth = prepare(rule, *(read(file) for file in files))
        expected["nothing"].append(evaluate_pair(rule, mixture, truth))
        expected["ours"].append(evaluate_pair(rule, (mixture - 0.1).clamp(0, 1), truth))
    for row, wanted in ((nothing, expected["nothing"]), (ours, expected["ours"])):
        assert (row["set"], row["protocol"], row["pictures"]) == ("wild", protocol, 2)
        assert row["PSNR"] == pytest.approx(sum(each["psnr"] for each in wanted) / 2, abs=0.02)
        assert row["SSIM"] == pytest.approx(sum(each["ssim"] for each in wanted) / 2, abs=1e-3)
    assert (paper["PSNR"], paper["SSIM"], paper["protocol"]) == (25.80, 0.941, "not named")


def test_doing_nothing_by_hand(pairs: Path, weights: Path) -> None:
    row = evaluate(pairs, "disk", weights, device="cpu")[0]
    values = []
    for number in range(2):
        gap = read(pairs / "blended" / f"{number}.png") - read(pairs / "transmission_layer" / f"{number}.png")
        values.append(-10 * np.log10(np.mean(gap.double().numpy() ** 2)))
    assert row["PSNR"] == pytest.approx(np.mean(values), abs=1e-4)


def test_options_reach_the_pipeline(pairs: Path, weights: Path) -> None:
    nothing, ours, _ = evaluate(pairs, "disk", weights, device="cpu", strength=0.0)
    assert ours["PSNR"] == pytest.approx(nothing["PSNR"], abs=1e-9)
    with pytest.raises(ConfigError, match="strength"):
        evaluate(pairs, "disk", weights, device="cpu", strength=9.0)


def test_a_set_that_the_paper_does_not_know_has_two_rows(pairs: Path, weights: Path) -> None:
    other = pairs.rename(pairs.with_name("mine"))
    rows = evaluate(other, weights=weights, device="cpu")
    assert len(rows) == 2
    assert "input (doing nothing)" in markdown_table(rows)


def test_what_cannot_be_measured(pairs: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="protocol 'ssim' is not known"):
        evaluate(pairs, "ssim", weights, device="cpu")
    with pytest.raises(InputError, match="gone"):
        evaluate(tmp_path / "gone", "disk", weights, device="cpu")
    with pytest.raises(WeightsError):
        evaluate(pairs, "disk", tmp_path / "no-weights", device="cpu")


def test_blends_beside_real_pairs(pairs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'method = "multistep_sirr"\n[train]\nsteps = 1\nbatch = 2\n[data]\nside = 48\ncrop = 32\n'
        '[[data.photos]]\nroot = "synthetic"\ncount = 3\n[blend]\nclean = 1.0\n'
    )
    rows = blend_statistics(pairs, recipe, batches=2)
    assert rows[0]["mixtures"] == "real pairs of wild"
    assert rows[0]["contrast"] == pytest.approx(0.7, abs=0.01)
    assert rows[1]["mixtures"] == "blends of the recipe"
    assert [row["count"] for row in rows[:2]] == [2, 4]
    assert rows[1]["psnr"] < 60  # clean samples are left out: they have no statistics
    expected = sum(
        psnr(*(read(pairs / folder / f"{number}.png") for folder in ("blended", "transmission_layer")))
        for number in range(2)
    )
    assert rows[0]["psnr"] == pytest.approx(expected / 2, abs=1e-3)
