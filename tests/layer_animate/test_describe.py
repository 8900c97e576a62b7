"""What published files are, told by names and shapes alone, and by the command line."""

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import MotionAdapter
from safetensors.torch import save_file
from tests.layer_animate.published import Published, publish
from typer.testing import CliRunner

from pellucid.cli.models import app
from pellucid.errors import WeightsError
from pellucid.layer_animate.published.describe import describe, describe_tensors

GOLDEN = Path(__file__).parent / "golden"


def manifest(name: str) -> dict[str, tuple[int, ...]]:
    for file in ("base", "attention", "transparency"):
        found = json.loads(gzip.decompress((GOLDEN / f"{file}_manifests.json.gz").read_bytes()))
        if name in found:
            return {key: tuple(shape) for key, shape in found[name].items()}
    raise KeyError(name)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize(
    ("name", "kind", "family", "said"),
    [
        ("sd15_unet_diffusers", "unet", "sd15", "UNet of Stable Diffusion 1.x"),
        ("unet_motion_sd15_v2", "unet", "sd15", "with motion modules in it"),
        ("sd15_vae_diffusers", "vae", "", "4 latent channels"),
        ("clip_vit_l14_text", "text_encoder", "", "CLIP"),
        ("motion_adapter_v1-5-2", "motion_adapter", "sd15", "v2 (v1-5-2): 32 frames, with mid block, diffusers"),
        ("motion_adapter_v1-5-3", "motion_adapter", "sd15", "v3 (v1-5-3): 32 frames, without mid block, diffusers"),
        ("motion_adapter_v1-5_and_v1-4", "motion_adapter", "sd15", "v1 (v1-4 or v1-5): 24 frames, without mid block"),
        ("animatediff_original_v1-5-2", "motion_adapter", "sd15", "v2 (v1-5-2): 32 frames, with mid block, original"),
        ("animatediff_original_v1-5_v1-4", "motion_adapter", "sd15", "v1 (v1-4 or v1-5): 24 frames"),
        ("animatediff_original_v3", "motion_adapter", "sd15", "v3 (v1-5-3): 32 frames, without mid block, original"),
        ("ifa", "inter_frame_attention", "", "16 layers"),
        ("transparent_attn", "transparent_attention", "sd15", "transparent foreground"),
        ("joint", "transparent_attention", "sd15", "foreground, background and blend"),
        ("fg2bg", "transparent_attention", "sd15", "one layer from the other"),
        ("encoder", "transparency_encoder", "", "transparency encoder"),
        ("decoder", "transparency_decoder", "", "transparency decoder"),
    ],
)
def test_published_layouts_are_recognised(name: str, kind: str, family: str, said: str) -> None:
    shapes = manifest(name)
    found = describe_tensors(shapes)
    assert (found.kind, found.family) == (kind, family)
    assert said in found.title
    assert found.values == sum(math.prod(shape) for shape in shapes.values())


@pytest.mark.parametrize("version", ["v1-5-2", "v1-5-3", "v1-5_and_v1-4"])
def test_what_is_told_of_an_adapter_makes_one_with_its_keys(version: str) -> None:
    shapes = manifest(f"motion_adapter_{version}")
    facts = describe_tensors(shapes).facts
    with torch.device("meta"):
        adapter = MotionAdapter(
            block_out_channels=facts["widths"],
            motion_max_seq_length=facts["motion_length"],
            use_motion_mid_block=facts["mid_block"],
        )
    assert {key: tuple(value.shape) for key, value in adapter.state_dict().items()} == shapes


def test_sdxl_and_stable_diffusion_2_are_told_apart() -> None:
    for width, family in ((768, "sd15"), (1024, "sd2"), (2048, "sdxl")):
        shapes = {
            "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
            "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, width),
            "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
        }
        found = describe_tensors(shapes)
        assert (found.kind, found.family) == ("base", family)
        assert "UNet, VAE" in found.title


def test_files_and_folders_are_told(files: Published) -> None:
    for name, kind in (
        ("sd", "base"),
        ("sd.safetensors", "base"),
        ("sd/unet", "unet"),
        ("sd/vae", "vae"),
        ("sd/text_encoder", "text_encoder"),
        ("sd/tokenizer", "tokenizer"),
        ("motion", "motion_adapter"),
        ("mm.ckpt", "motion_adapter"),
        ("attention.safetensors", "transparent_attention"),
        ("encoder.safetensors", "transparency_encoder"),
        ("decoder.safetensors", "transparency_decoder"),
        ("ifa.safetensors", "inter_frame_attention"),
    ):
        assert describe(files.root / name).kind == kind, name
    assert describe(files.components()).kind == "components"
    assert describe(files.root / "ifa.safetensors").facts["frames"] == 16
    assert describe(files.root / "motion").facts["motion_length"] == 32


def test_what_is_not_there_damaged_or_unknown_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not there"):
        describe(tmp_path / "nothing.safetensors")
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        describe(tmp_path)
    (tmp_path / "half.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(WeightsError, match="damaged") as caught:
        describe(tmp_path / "half.safetensors")
    assert "\n" not in str(caught.value)
    save_file({"some.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert describe(tmp_path / "other.safetensors").kind == "unknown"


def test_models_info_says_what_a_file_is(files: Published, tmp_path: Path) -> None:
    run = CliRunner()
    shown = run.invoke(app, ["info", str(files.root / "motion")])
    assert shown.exit_code == 0
    assert "motion adapter of AnimateDiff" in shown.stdout
    assert "motion_length: 32" in shown.stdout
    row = json.loads(run.invoke(app, ["info", "--json", str(files.root / "encoder.safetensors")]).stdout)
    assert row["kind"] == "transparency_encoder"
    save_file({"some.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    failed = run.invoke(app, ["info", str(tmp_path / "other.safetensors")])
    assert isinstance(failed.exception, WeightsError)
    assert "some.weight" in str(failed.exception)
