"""From a photograph to a mask through a parser of the transformers library."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.errors import DependencyError, WeightsError
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.label_orders import ORDERS
from pellucid.semantic_vae.masks.photo import FaceParser, map_classes

from .drawn_face import drawn_face

FACE = drawn_face()
FACER = [
    *("background", "neck", "face", "cloth", "rr", "lr", "rb", "lb", "re", "le"),
    *("nose", "imouth", "llip", "ulip", "hair", "eyeg", "hat", "earr", "neck_l"),
]


def parser_folder(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    preparation = {"size": {"height": 64, "width": 64}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return folder


class ColorReader(nn.Module):
    """Stands in for a network: scores a class by how near the colour is to that of the class."""

    def __init__(self, colors: Tensor) -> None:
        super().__init__()
        self.colors = colors  # (K, 3)
        self.seen: list[Tensor] = []

    def forward(self, pixel_values: Tensor) -> Any:
        self.seen.append(pixel_values)
        rgb = pixel_values * 0.25 + 0.5
        return SimpleNamespace(logits=-(rgb[:, None] - self.colors[None, :, :, None, None]).square().sum(dim=2) * 100)


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand in for the library; ``colors`` and ``missing`` may be set before a parser is opened."""
    found = SimpleNamespace(colors=torch.tensor(CELEBAMASK_HQ.colors) / 255, missing=[], asked=[], model=None)

    def from_pretrained(folder: Path, **options: Any) -> tuple[nn.Module, dict[str, list[str]]]:
        found.asked.append(options)
        found.model = ColorReader(found.colors)
        return found.model, {"missing_keys": found.missing}

    loader = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoModelForSemanticSegmentation=loader))
    return found


def test_parses_a_photograph_at_its_size(tmp_path: Path, transformers: SimpleNamespace) -> None:
    parser = FaceParser(parser_folder(tmp_path / "parser", list(CELEBAMASK_HQ.names)), device="cpu")
    mask = parser.parse(CELEBAMASK_HQ.colored(FACE))
    assert mask.size == (64, 64)
    assert torch.equal(mask.labels, FACE)
    assert transformers.asked[0]["local_files_only"] is True
    assert transformers.asked[0]["use_safetensors"] is True
    seen = transformers.model.seen[0]
    assert seen.shape == (1, 3, 64, 64)
    assert float(seen.amin()) == pytest.approx(-2, abs=0.1)  # (0 - mean) / std
    doubled = CELEBAMASK_HQ.colored(FACE).repeat_interleave(2, -1)  # (3, 64, 128), seen at 64 x 64
    wide = parser.parse(doubled)
    assert wide.size == (64, 128)
    assert float((wide.labels == FACE.repeat_interleave(2, -1)).float().mean()) > 0.9


def test_classes_are_mapped_by_their_names(tmp_path: Path, transformers: SimpleNamespace) -> None:
    table = ORDERS["facer-celebm"].table()[:19]
    assert torch.equal(map_classes(FACER, CELEBAMASK_HQ).long(), table)
    transformers.colors = transformers.colors[table]
    parser = FaceParser(parser_folder(tmp_path / "parser", FACER), device="cpu")
    assert torch.equal(parser.parse(CELEBAMASK_HQ.colored(FACE)).labels, FACE)


def test_names_are_read_kindly() -> None:
    names = ["Background", "Facial skin", "left-eye", "Right Eyebrow", "Upper lip", "eyeglasses", "Beard"]
    expected = ["background", "skin", "l_eye", "r_brow", "u_lip", "eye_g", "skin"]
    assert [CELEBAMASK_HQ.names[one] for one in map_classes(names, CELEBAMASK_HQ)] == expected
    assert map_classes(["skin", "beard"], CELEBAMASK_HQ, beard="ignore").tolist() == [1, 255]
    own = ClassSet("own", ("background", "face", "teeth"))
    assert map_classes(["teeth", "face", "background"], own).tolist() == [2, 1, 0]


def test_unmapped_classes_are_listed(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"2 of its 3 classes .*: wall, LABEL_7"):
        FaceParser(parser_folder(tmp_path / "parser", ["background", "wall", "LABEL_7"]))


def test_order_counts_instead_of_names(tmp_path: Path, transformers: SimpleNamespace) -> None:
    table = ORDERS["face-parsing"].table()[:19]
    transformers.colors = transformers.colors[table]
    folder = parser_folder(tmp_path / "parser", [f"LABEL_{index}" for index in range(19)])
    parser = FaceParser(folder, order="face-parsing", device="cpu")
    assert torch.equal(parser.parse(CELEBAMASK_HQ.colored(FACE)).labels, FACE)
    with pytest.raises(WeightsError, match="has 3 classes, label order 'face-parsing' has 19"):
        map_classes(["a", "b", "c"], CELEBAMASK_HQ, order="face-parsing")


def test_what_is_needed_is_said_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = r"--parser DIR.*config\.json.*id2label.*model\.safetensors.*preprocessor_config\.json"
    with pytest.raises(WeightsError, match=needed):
        FaceParser(None)
    with pytest.raises(WeightsError, match="no such folder"):
        FaceParser(tmp_path / "none")
    with pytest.raises(WeightsError, match=r"no config\.json"):
        FaceParser(tmp_path)
    folder = parser_folder(tmp_path / "parser", list(CELEBAMASK_HQ.names))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DependencyError, match="pip install transformers"):
        FaceParser(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="prepare pictures"):
        FaceParser(folder)


def test_half_a_network_is_refused(tmp_path: Path, transformers: SimpleNamespace) -> None:
    transformers.missing = ["decode_head.classifier.weight"]
    with pytest.raises(WeightsError, match=r"lacks 1 tensors, such as decode_head\.classifier\.weight"):
        FaceParser(parser_folder(tmp_path / "parser", list(CELEBAMASK_HQ.names)))


def test_swapped_sides_are_warned_of(
    tmp_path: Path, transformers: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    parser = FaceParser(parser_folder(tmp_path / "parser", list(CELEBAMASK_HQ.names)), device="cpu")
    parser.parse(CELEBAMASK_HQ.colored(FACE).flip(-1))
    assert "name sides otherwise" in caplog.text


@pytest.mark.slow  # importing it takes seconds
def test_with_the_library_itself(tmp_path: Path) -> None:
    library = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = library.SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8] * 4,
        num_attention_heads=[1] * 4,
        decoder_hidden_size=8,
        id2label=dict(enumerate(CELEBAMASK_HQ.names)),
    )
    folder = tmp_path / "parser"
    network = library.SegformerForSemanticSegmentation(config).eval()
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 64, "width": 64}, "image_mean": [0.0] * 3, "image_std": [1.0] * 3})
    )
    picture = torch.rand(3, 64, 64)
    found = FaceParser(folder, device="cpu").parse(picture).labels
    with torch.no_grad():
        logits = network(pixel_values=picture[None]).logits
    expected = F.interpolate(logits, (64, 64), mode="bilinear")[0].argmax(dim=0)
    assert torch.equal(found.long(), expected)
    assert FaceParser(folder).model.config.num_labels == 19
