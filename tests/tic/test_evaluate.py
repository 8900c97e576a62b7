"""Measuring on captioned pictures: the baselines, the rows, obedience, and what cannot be measured."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import lab2rgb
from torch import Tensor

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.metrics import lpips as lpips_module
from pellucid.metrics.protocols import Protocol
from pellucid.tic import evaluate as module
from pellucid.tic.evaluate import NO_LPIPS, PROTOCOLS, Examples, evaluate, measure, read_sets, shuffled
from pellucid.tic.lab import rgb_to_lab
from pellucid.tic.model import TICConfig, TICGenerator
from pellucid.tic.pipeline import ColorizationPipeline
from pellucid.tic.text import TextEncoder
from pellucid.tic.word_vectors import WordVectors

WORDS = ("red", "green", "blue", "shirt")
SMALL = Protocol("small", "", square=32)
RULE = PROTOCOLS["tic-256"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sets: garments of which two are held out, and a photograph without a split or a label."""
    root = tmp_path / "colorize"
    rows = [
        ("clothing/a.png", "a red shirt", "shirt", "train/a.png"),
        ("clothing/b.png", "a green shirt", "shirt", "validation/b.png"),
        ("clothing/c.png", "a blue shirt", "shirt", "validation/c.png"),
        ("town/d.png", "a red house", "photo", "elsewhere/d.png"),
    ]
    generator = np.random.default_rng(0)
    for file, _, _, _ in rows:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 50), Image.Resampling.BICUBIC).save(root / file)
    lines = [json.dumps({"file": f, "caption": c, "label": n, "source_path": s}) for f, c, n, s in rows]
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    config = TICConfig(width=4, growth=2, ups=(4, 4, 2), text_dim=8, vector_dim=8, rrdb_blocks=1)
    torch.manual_seed(0)
    encoder = TextEncoder(WordVectors(WORDS, torch.eye(8)[:4]))
    return ColorizationPipeline(TICGenerator(config), encoder, device="cpu").save_pretrained(
        tmp_path / "weights", card="# Weights"
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "small", SMALL)


def painted(count: int = 3) -> Examples:
    """Flat red, green and grey pictures at 32x32."""
    colours = torch.tensor([[200, 60, 60], [60, 160, 60], [120, 120, 120]], dtype=torch.uint8)[:count]
    rgb = colours[:, :, None, None].expand(-1, 3, 32, 32).contiguous()
    texts = ("a red shirt", "a green shirt", "a grey shirt")[:count]
    alpha = torch.full((count, 1, 32, 32), 255, dtype=torch.uint8)
    return Examples("painted", rgb, alpha, texts, ("shirt",) * count, tuple("abc")[:count])


def knowing(examples: Examples) -> Callable[[Tensor, list[str]], Tensor]:
    """A network that gives each caption the colour that belongs to it, and grey to what it does not know."""
    ab = dict(zip(examples.captions, examples.lab()[:, 1:], strict=True))
    return lambda L, texts: torch.stack([ab.get(text, torch.zeros(2, 32, 32)) for text in texts])


def test_the_baselines_stand_first_and_true_text_beats_shuffled() -> None:
    examples = painted()
    rows = measure(knowing(examples), examples, SMALL, seeds=(0, 1))
    by_name = {row["system"]: row for row in rows}
    assert list(by_name) == [
        "grey (ab = 0)",
        "mean colour of the picture",
        "true ab through 64x64",
        "ours, true text",
        "ours, shuffled text, seed 0",
        "ours, shuffled text, seed 1",
        "ours, no text",
    ]
    true, without = by_name["ours, true text"], by_name["ours, no text"]
    assert (true["PSNR"], true["equal"], true["ab PSNR"]) == (100.0, 3, pytest.approx(100.0))
    # Flat pictures are their own mean colour; the grey one is its own grey.
    assert by_name["mean colour of the picture"]["equal"] == 3
    assert by_name["grey (ab = 0)"]["equal"] == 1
    figures = ("PSNR", "SSIM", "SSIM gauss", "ab PSNR", "CF")
    assert all(without[key] == by_name["grey (ab = 0)"][key] for key in figures)
    assert without["CF"] < 0.1 < true["CF"]
    shuffled_rows = [row for name, row in by_name.items() if "shuffled" in name]
    assert max(row["ab PSNR"] for row in shuffled_rows) < 40.0
    assert {row["LPIPS vgg"] for row in rows} == {NO_LPIPS}


def test_the_grey_baseline_by_hand() -> None:
    examples = painted(1)
    row = measure(knowing(examples), examples, SMALL, seeds=())[0]
    L, a, b = rgb_to_lab(examples.rgb.float() / 255)[0, :, 0, 0]
    y = float(((L + 16) / 116) ** 3)
    level = round(255 * (1.055 * y ** (1 / 2.4) - 0.055))
    gaps = np.array([200, 60, 60]) - level
    assert row["PSNR"] == pytest.approx(-10 * np.log10(np.mean((gaps / 255) ** 2)), abs=1e-3)
    assert row["ab PSNR"] == pytest.approx(-10 * np.log10(float(a**2 + b**2) / 2 / 220**2), abs=1e-3)


def test_colours_outside_srgb_are_clipped_as_in_the_papers_field() -> None:
    examples = painted(1)
    far = torch.tensor([90.0, 90.0])[:, None, None].expand(2, 32, 32)
    row = measure(lambda L, texts: far[None], examples, SMALL, seeds=())[3]
    L = float(examples.lab()[0, 0, 0, 0])
    clipped = lab2rgb(np.array([[[L, 90.0, 90.0]]]))[0, 0]
    gaps = np.array([200, 60, 60]) / 255 - np.round(clipped * 255) / 255
    assert row["PSNR"] == pytest.approx(-10 * np.log10(np.mean(gaps**2)), abs=1e-3)


def test_shuffling_gives_everyone_the_text_of_another() -> None:
    texts = [str(number) for number in range(50)]
    given = shuffled(texts, 0)
    assert sorted(given) == sorted(texts)
    assert all(one != other for one, other in zip(texts, given, strict=True))
    assert shuffled(texts, 0) == given != shuffled(texts, 1)
    assert shuffled(["alone"], 0) == ["alone"]


def test_sets_are_folders_and_what_is_held_out(folder: Path) -> None:
    clothing, town = read_sets(folder, RULE)
    assert (clothing.name, clothing.files) == ("clothing", ("clothing/b.png", "clothing/c.png"))
    assert (town.name, town.files, town.nouns) == ("town", ("town/d.png",), ("",))
    assert clothing.rgb.shape == (2, 3, 256, 256)
    pixels = Image.open(folder / "clothing" / "b.png").resize((256, 256), Image.Resampling.BICUBIC)
    assert torch.equal(clothing.rgb[0].permute(1, 2, 0), torch.from_numpy(np.array(pixels)))
    (only,) = read_sets(folder / "town", RULE)
    assert only.files == town.files


def test_cut_outs_lie_on_white_and_are_their_own_masks(folder: Path) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[16:48, 16:48] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(folder / "town" / "d.png")
    (town,) = read_sets(folder / "town", Protocol("same", "", square=64))
    assert town.rgb[0, :, 32, 32].tolist() == [255, 0, 0]
    assert town.rgb[0, :, 2, 2].tolist() == [255, 255, 255]
    mask = module.object_masks(town)
    assert (float(mask[0, 0, 32, 32]), float(mask[0, 0, 2, 2])) == (1.0, 0.0)


@pytest.mark.usefixtures("small")
def test_rows_of_a_folder(folder: Path, weights: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    rows = evaluate(folder, "small", weights, "cpu", obedience=True, sheet=sheet, seeds=(0,))
    sets = [row["set"] for row in rows]
    assert sets == ["clothing"] * 6 + ["town"] * 6 + ["mean of the sets"] * 6 + ["not named"] * 4 + ["clothing"]
    assert rows[3]["system"].startswith("ours (tic/weights@")
    assert rows[12]["PSNR"] == pytest.approx((rows[0]["PSNR"] + rows[6]["PSNR"]) / 2)
    assert rows[12]["pictures"] == 3
    paper = rows[-2]
    assert (paper["PSNR"], paper["SSIM"], paper["LPIPS sqz"]) == (23.27, 0.917, 0.133)
    assert {"accuracy", "opposite", "chroma", "spread", "pictures"} <= set(rows[-1])
    assert rows[-1]["pictures"] == 2
    assert Image.open(sheet).size == (2 * 8 * 130, 18 + 130)
    with pytest.raises(InputError, match="there already"):
        evaluate(folder, "small", weights, "cpu", sheet=sheet)


@pytest.mark.usefixtures("small")
def test_lpips_with_given_weights(folder: Path, weights: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in lpips_module._squeezenet().state_dict().items()}
    torch.save(state, tmp_path / "squeeze.pth")
    rows = evaluate(folder / "town", "small", weights, "cpu", lpips={"squeeze": tmp_path / "squeeze.pth"}, seeds=())
    assert rows[0]["LPIPS sqz"] > 0.0
    assert rows[0]["LPIPS vgg"] == NO_LPIPS
    with pytest.raises(ConfigError, match="alex"):
        evaluate(folder, "small", weights, "cpu", lpips={"alex": tmp_path / "squeeze.pth"})


def test_what_cannot_be_measured(folder: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="protocol 'disk' is not known"):
        evaluate(folder, "disk", weights, "cpu")
    with pytest.raises(InputError, match="gone"):
        evaluate(tmp_path / "gone", "tic-256", weights, "cpu")
    with pytest.raises(WeightsError):
        evaluate(folder / "town", "tic-256", tmp_path / "no-weights", "cpu")
    with pytest.raises(InputError, match="names no objects"):
        evaluate(folder / "town", "tic-256", weights, "cpu", obedience=True, seeds=())
