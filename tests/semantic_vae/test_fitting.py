"""What is fitted is kept beside the weights, and only used with them."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.hub.pretrained import save_pretrained
from pellucid.semantic_vae.directions import Direction, Directions
from pellucid.semantic_vae.fitting import DOCUMENT, TENSORS, fit, load_editing, save_editing
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.model import SemanticVAE, SemanticVAEConfig

CONFIG = SemanticVAEConfig(
    size=64, encoder_side=32, encoder_widths=(32,), latent=64, lstm_layers=1, lstm_hidden=16, ff_width=32,
    channels=(16, 8, 8, 8), groups=8,
)  # fmt: skip
SLIDERS = Directions({"nose_length": Direction("nose_length", (2,), torch.randn(1, 64), figures={"r2": 0.5})})


def weights(folder: Path, seed: int = 0, classes: ClassSet = CELEBAMASK_HQ) -> Path:
    torch.manual_seed(seed)
    save_pretrained(folder, method="semantic_vae", config=CONFIG, state=SemanticVAE(CONFIG), card="a test")
    classes.save(folder / "classes.json")
    return folder


@pytest.fixture(scope="module")
def faces() -> Tensor:
    """Ellipses of two sizes, enough for priors and components."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(160, 64, 64, dtype=torch.uint8)
    for mask in labels:
        height, width = (torch.rand(2, generator=generator) * 16 + 16).long().tolist()
        mask[32 - height : 32 + height // 2, 32 - width // 2 : 32 + width // 2] = 13
        mask[20:60, 32 - width // 2 : 32 + width // 2] = 1
        mask[34 : 34 + height // 4, 28:36] = 2
        mask[30:34, 40:46] = 4
    return labels


def test_fit_writes_what_load_reads(tmp_path: Path, faces: Tensor) -> None:
    folder = weights(tmp_path / "w")
    assert load_editing(folder).priors is None
    fitted = fit(folder, faces, tested=4, device="cpu")
    assert fitted.priors is not None
    assert fitted.directions is not None
    again = load_editing(folder)
    assert again.directions is not None
    assert again.priors is not None
    assert again.directions.entries.keys() == fitted.directions.entries.keys()
    assert "nose_length" in again.directions.entries
    assert "mouth_width" not in again.directions.entries  # these faces have no mouth
    offset = fitted.directions["skin/pc1"].offset
    assert torch.allclose(again.directions["skin/pc1"].offset, offset, atol=1e-3 * float(offset.abs().max()))
    assert torch.allclose(again.priors.mean, fitted.priors.mean)
    assert json.loads((folder / DOCUMENT).read_text())["directions"]["skin/pc1"]["unit"] == "standard deviations"
    assert sum((folder / name).stat().st_size for name in (TENSORS, DOCUMENT)) < 1_500_000


def test_one_seed_fits_one_thing(tmp_path: Path, faces: Tensor) -> None:
    files = []
    for name in ("a", "b"):
        folder = weights(tmp_path / name)
        fit(folder, faces[:40], tested=4, seed=3, device="cpu")
        files.append((folder / TENSORS).read_bytes())
    assert files[0] == files[1]


def test_of_other_weights_or_damaged_is_refused(tmp_path: Path) -> None:
    folder, other = weights(tmp_path / "a"), weights(tmp_path / "b", seed=1)
    save_editing(folder, None, SLIDERS)
    assert load_editing(folder).directions is not None
    for name in (TENSORS, DOCUMENT):
        (other / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(WeightsError, match="belongs to weights"):
        load_editing(other)
    (other / TENSORS).unlink()
    with pytest.raises(WeightsError, match=f"lacks {TENSORS}"):
        load_editing(other)
    (folder / TENSORS).write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match="damaged"):
        load_editing(folder)
    save_editing(folder, None, SLIDERS)
    document = json.loads((folder / DOCUMENT).read_text())
    (folder / DOCUMENT).write_text(json.dumps(document | {"directions": {"nose_length": {"parts": [2]}}}))
    with pytest.raises(WeightsError, match="nose_length"):
        load_editing(folder)
    (folder / DOCUMENT).write_text(json.dumps(document | {"format": 9}))
    with pytest.raises(WeightsError, match="expected format 1, found 9"):
        load_editing(folder)


def test_masks_must_fit_the_weights(tmp_path: Path) -> None:
    folder = weights(tmp_path / "w")
    with pytest.raises(InputError, match="64, 64"):
        fit(folder, torch.zeros(4, 32, 32, dtype=torch.uint8), device="cpu")
    names = ("background", *(f"part{place}" for place in range(18)))
    other = weights(tmp_path / "other", classes=ClassSet("mine", names))
    with pytest.raises(ConfigError, match="mine"):
        fit(other, device="cpu")
