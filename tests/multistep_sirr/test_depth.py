"""Depth providers: shape, order of near and far, and what a user's own depth file means."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.errors import ConfigError, DependencyError, InputError, WeightsError
from pellucid.multistep_sirr.depth import CueDepth, NoDepth, make_provider


def scene(batch: int = 1, height: int = 96, width: int = 128) -> torch.Tensor:
    """A rich texture below a flat bright sky."""
    generator = torch.Generator().manual_seed(3)
    picture = 0.6 * torch.rand(batch, 3, height, width, generator=generator)
    picture[..., : height // 2, :] = torch.tensor([0.8, 0.85, 0.9])[:, None, None]
    return picture


def test_none_is_zeros() -> None:
    provider = NoDepth()
    assert (provider.name, provider.is_learned) == ("none", False)
    assert torch.equal(provider(scene(2)), torch.zeros(2, 1, 96, 128))


def test_cue_puts_ground_nearer_than_sky() -> None:
    provider = CueDepth()
    assert (provider.name, provider.is_learned) == ("cue", False)
    depth = provider(scene())
    assert depth.shape == (1, 1, 96, 128)
    assert depth[..., 60:, :].mean() > depth[..., :36, :].mean() + 1


def test_cue_uses_contrast_and_haze_not_only_the_row() -> None:
    sideways = scene(height=128, width=128).transpose(-2, -1)  # sky left, ground right, the same rows
    depth = CueDepth()(sideways)
    assert depth[..., 80:].mean() > depth[..., :48].mean() + 0.5


def test_cue_is_the_same_in_a_batch_and_again() -> None:
    pictures = torch.cat([scene(), scene().flip(-1) * 0.5])
    together = CueDepth()(pictures)
    alone = torch.cat([CueDepth()(pictures[:1]), CueDepth()(pictures[1:])])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.equal(together, CueDepth()(pictures))


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 700), (37, 1300), (600, 450)])
def test_cue_takes_any_size(size: tuple[int, int]) -> None:
    depth = CueDepth()(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)))
    assert depth.shape == (1, 1, *size)
    assert depth.isfinite().all()


def test_cue_of_a_large_picture_is_that_of_the_small_one() -> None:
    small = scene(height=256, width=512)
    large = torch.nn.functional.interpolate(small, scale_factor=3, mode="nearest")
    upsampled = torch.nn.functional.interpolate(CueDepth()(small), scale_factor=3, mode="bilinear")
    assert (CueDepth()(large) - upsampled).abs().mean() < 0.05


def test_cue_has_no_gradient_and_stays_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = CueDepth()(scene().requires_grad_())
    assert not inside.requires_grad
    assert torch.equal(inside, CueDepth()(scene()))


@pytest.mark.parametrize("provider", [NoDepth(), CueDepth()])
def test_wrong_shapes_are_refused(provider: object) -> None:
    with pytest.raises(InputError, match=r"\(B, 3, H, W\), found \(1, 4, 8, 8\)"):
        provider(torch.rand(1, 4, 8, 8))  # type: ignore[operator]


@pytest.mark.parametrize("suffix", [".png", ".npy", ".tif"])
def test_file_keeps_sixteen_bits(suffix: str, tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) + 40_000
    file = tmp_path / f"depth{suffix}"
    np.save(file, values) if suffix == ".npy" else Image.fromarray(values).save(file)
    provider = make_provider("file", path=file)
    assert (provider.name, provider.is_learned) == ("file", False)
    depth = provider(torch.rand(2, 3, 3, 4))
    assert depth.shape == (2, 1, 3, 4)
    assert torch.equal(depth[1, 0], torch.from_numpy(values.astype(np.float32)))


def test_metric_file_is_inverted_and_holes_are_far(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "d.npy", np.array([[1.0, 2.0], [0.0, np.nan]]))
    depth = make_provider("file", path=tmp_path / "d.npy", kind="metric")(torch.rand(1, 3, 2, 2))
    assert depth[0, 0].tolist() == [[1.0, 0.5], [0.5, 0.5]]
    assert "2 pixels without depth" in caplog.text


def test_file_is_resized_to_the_picture_but_not_stretched(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.tile(np.arange(8.0), (6, 1)))
    provider = make_provider("file", path=tmp_path / "d.npy")
    depth = provider(torch.rand(1, 3, 13, 17))
    assert depth.shape == (1, 1, 13, 17)
    assert bool((depth.diff(dim=-1) >= 0).all())
    with pytest.raises(InputError, match="8 x 6 pixels do not have the proportions of the picture's 20 x 20"):
        provider(torch.rand(1, 3, 20, 20))


def test_unusable_depth_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.npy").write_text("not an array")
    np.save(tmp_path / "code.npy", np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "nan.npy", np.full((2, 2), np.nan))
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    whole = tmp_path / "whole.npy"
    np.save(whole, np.zeros((50, 50)))
    (tmp_path / "cut.npy").write_bytes(whole.read_bytes()[:200])
    for name, expected in (
        ("gone.png", "is not a file"),
        ("empty.png", "cannot be read"),
        ("text.npy", "cannot be read"),
        ("code.npy", "cannot be read"),
        ("cut.npy", "cannot be read"),
        ("nan.npy", "not a single usable number"),
        ("colour.png", "expected one channel"),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            make_provider("file", path=tmp_path / name)
        assert "\n" not in str(caught.value)


def test_exr_without_opencv_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "d.exr").write_bytes(b"v/1\x01")
    with pytest.raises(DependencyError, match=r"EXR needs OpenCV.*opencv-python-headless"):
        make_provider("file", path=tmp_path / "d.exr")


def test_make_provider_names_what_is_wrong() -> None:
    assert make_provider("none").name == "none"
    assert make_provider("cue").name == "cue"
    with pytest.raises(ConfigError, match=r"'dpt' is not known.*midas_small"):
        make_provider("dpt")
    with pytest.raises(ConfigError, match="needs a depth map"):
        make_provider("file")
    with pytest.raises(ConfigError, match="needs the folder"):
        make_provider("transformers")
    with pytest.raises(ConfigError, match="kind 'far'"):
        make_provider("file", path="x.npy", kind="far")  # type: ignore[arg-type]


class StubNetwork(torch.nn.Module):
    """Answers with the red channel it is given; stands in for a network of the transformers library."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.config = SimpleNamespace(depth_estimation_type=kind)
        self.seen = (0, 0)

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.seen = tuple(pixel_values.shape[-2:])
        return SimpleNamespace(predicted_depth=pixel_values[:, 0] * self.scale)


@pytest.fixture
def network_folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    wanted = {
        "size": {"height": 56, "width": 56},
        "keep_aspect_ratio": True,
        "ensure_multiple_of": 14,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(wanted))
    return tmp_path


def stand_in(monkeypatch: pytest.MonkeyPatch, network: StubNetwork) -> dict[str, object]:
    asked: dict[str, object] = {}

    def from_pretrained(folder: Path, **options: object) -> StubNetwork:
        asked.update(options, folder=folder)
        return network

    loader = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoModelForDepthEstimation=loader))
    return asked


def test_transformers_network_is_local_and_prepared_by_its_own_file(
    network_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = StubNetwork("relative")
    asked = stand_in(monkeypatch, network)
    provider = make_provider("transformers", weights=network_folder)
    assert (provider.name, provider.is_learned) == ("transformers", True)
    assert asked == {"folder": network_folder, "local_files_only": True, "use_safetensors": True}
    picture = torch.full((2, 3, 112, 224), 0.25)
    assert torch.allclose(provider(picture), torch.full((2, 1, 112, 224), 0.25), atol=1e-5)
    assert network.seen == (56, 112)  # the shorter side at 56, both multiples of 14


def test_transformers_metric_network_is_inverted(network_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, StubNetwork("metric"))
    depth = make_provider("transformers", weights=network_folder)(torch.full((1, 3, 56, 56), 0.25))
    assert torch.allclose(depth, torch.full((1, 1, 56, 56), 4.0), atol=1e-4)


def test_transformers_that_are_not_there(network_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"no config\.json"):
        make_provider("transformers", weights=network_folder / "none")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DependencyError, match="pip install transformers"):
        make_provider("transformers", weights=network_folder)
