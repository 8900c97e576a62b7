import copy
import gzip
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tests.layer_animate.filled import fill
from torch import Tensor, nn

from pellucid.errors import ConfigError, InputError
from pellucid.layer_animate.clips.drawn import draw_rgba
from pellucid.layer_animate.model import LayerAnimate
from pellucid.layer_animate.transparency import coding as transparency
from pellucid.layer_animate.transparency.coding import (
    check_offset_scale,
    crop_to,
    decode_chunks,
    decode_pixels,
    decode_rgba,
    encode_rgba,
    pad_to_multiple,
    round_trip_error,
)
from pellucid.layer_animate.transparency.networks import TransparencyDecoder, TransparencyEncoder

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f"{name}.npz").items()}


def tensors(of: Any) -> Any:
    return {key: list(value.shape) for key, value in of.state_dict().items()}


class FixedVae(nn.Module):
    """A VAE of factor 8 whose posterior is given; decodes a latent to its first three numbers, enlarged."""

    config: ClassVar = {"block_out_channels": (1, 1, 1, 1)}
    dtype = torch.float32

    def __init__(self, mean: float | Tensor = 0.0, std: float | Tensor = 1.0) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))
        self.mean, self.std = mean, std
        self.seen: list[Tensor] = []
        self.batches: list[int] = []

    def encode(self, grey: Tensor) -> Any:
        self.seen.append(grey)
        shape = (len(grey), 4, grey.shape[2] // 8, grey.shape[3] // 8)
        mean, std = (torch.as_tensor(value).expand(shape) for value in (self.mean, self.std))
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=std))

    def decode(self, latent: Tensor) -> Any:
        self.batches.append(len(latent))
        return SimpleNamespace(sample=nn.functional.interpolate(latent[:, :3], scale_factor=8, mode="nearest"))


def vae(**kwargs: Any) -> Any:
    return FixedVae(**kwargs)


class AlphaCodec(nn.Module):
    """Stands for a trained pair: alpha in the fourth latent, at ``scale``; `encoder` and `decoder` fit each other."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.anchor, self.scale = nn.Parameter(torch.zeros(())), scale
        self.latent_level, self.multiple, self.factor = 3, 8, 8

    def forward(self, first: Tensor, latent: Tensor | None = None) -> Tensor:
        if latent is None:
            alpha = nn.functional.avg_pool2d(first[:, :1], 8) / self.scale
            return torch.cat([torch.zeros_like(alpha).expand(-1, 3, -1, -1), alpha], dim=1)
        alpha = nn.functional.interpolate(latent[:, 3:], scale_factor=8, mode="nearest")
        return torch.cat([alpha, first], dim=1)


@pytest.mark.parametrize(("name", "cls"), [("encoder", TransparencyEncoder), ("decoder", TransparencyDecoder)])
def test_layout_is_the_released_one(name: str, cls: type[nn.Module]) -> None:
    wanted = json.loads(gzip.decompress((GOLDEN / "transparency_manifests.json.gz").read_bytes()))[name]
    with torch.device("meta"):
        assert tensors(cls()) == wanted


def test_encoder_and_eq_1_match_the_golden_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, encoder = golden("encoder_64x96"), TransparencyEncoder()
    fill(encoder, gain=1.4)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pair["encoder_feed"]), pair["offset"], rtol=1e-4, atol=1e-5)
    stand_in = vae(mean=pair["mean"], std=pair["std"])
    rgba = pair["rgba"].permute(2, 0, 1)[None] / 255.0
    for scale, wanted in ((1.0, pair["latent_forge"]), (300.0, pair["latent_cli_x300"])):
        found = encode_rgba(rgba, stand_in, encoder, scale)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * scale)
    torch.testing.assert_close(stand_in.seen[0], pair["vae_feed"], atol=1e-5, rtol=0)


def test_decoder_and_its_eight_views_match_the_golden_pair() -> None:
    pair = golden("decoder_64x128")
    with torch.device("meta"):
        decoder = TransparencyDecoder()
    decoder = decoder.to_empty(device="cpu").eval()
    fill(decoder)
    with torch.no_grad():
        raw = decoder(pair["pixel"], pair["latent"])
        # One of the eight is the pass above; of the other seven all that turn exchange height and width.
        median = transparency._views(decoder, pair["pixel"], pair["latent"], 8)
    torch.testing.assert_close(raw, pair["raw"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(median, pair["augmented_median"], atol=1e-4, rtol=0)


def test_transparent_pixels_are_mid_grey_for_the_vae_whatever_colour_they_have() -> None:
    stand_in, encoder = vae(), TransparencyEncoder()
    rgba = torch.rand(2, 4, 16, 16)
    rgba[:, 3] = 0
    encode_rgba(rgba, stand_in, encoder, 1.0)
    assert not stand_in.seen[0].any()


def test_training_begins_at_the_mean_of_the_vae_and_without_the_latent() -> None:
    found = encode_rgba(torch.rand(1, 4, 16, 16), vae(mean=0.3), TransparencyEncoder(), 300.0)
    assert torch.equal(found, torch.full((1, 4, 2, 2), 0.3))
    decoder = TransparencyDecoder((8, 8, 16, 16), 1, 1, latent_level=3)
    pixel = torch.rand(1, 3, 16, 16)
    one, other = (decoder(pixel, torch.randn(1, 4, 2, 2)) for _ in range(2))
    assert torch.equal(one, other)


def test_latent_enters_where_its_resolution_is() -> None:
    decoder = TransparencyDecoder((8, 8, 16, 16), 1, 0, latent_level=2)
    nn.init.normal_(decoder.latent_conv_in.weight)
    pixel, latent = torch.rand(1, 3, 16, 24), torch.randn(1, 4, 4, 6)
    assert decoder(pixel, latent).shape == (1, 4, 16, 24)
    assert not torch.equal(decoder(pixel, latent), decoder(pixel, -latent))
    assert not any("attentions" in key for key in decoder.state_dict())


@pytest.mark.parametrize("level", [0, 4])
def test_a_latent_level_that_is_not_there_is_named(level: int) -> None:
    with pytest.raises(ConfigError, match=r"latent level must lie in 1\.\.3"):
        TransparencyDecoder((8, 8, 16, 16), 1, 1, latent_level=level)


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (32, 64)])
def test_any_size_comes_back(tiny_model: LayerAnimate, size: tuple[int, int]) -> None:
    raw = encode_rgba(torch.rand(2, 4, *size), tiny_model.vae, tiny_model.encoder, 1.0)
    assert raw.shape[2:] == (-(-size[0] // 8), -(-size[1] // 8))
    found = decode_rgba(raw, tiny_model.vae, tiny_model.decoder, size=size)
    assert found.shape == (2, 4, *size)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_margins_are_transparent_and_continue_the_colour() -> None:
    rgba = torch.cat([torch.full((1, 3, 5, 6), 0.7), torch.ones(1, 1, 5, 6)], dim=1)
    padded = pad_to_multiple(rgba, 8)
    assert padded.shape == (1, 4, 8, 8)
    assert float(padded[:, 3].sum()) == 30
    assert torch.equal(padded[:, :3], torch.full((1, 3, 8, 8), 0.7))
    assert torch.equal(crop_to(padded, (5, 6)), rgba)
    with pytest.raises(InputError, match="9x8"):
        crop_to(padded, (9, 8))


def test_decoder_takes_sizes_that_are_no_multiple_of_its_own() -> None:
    decoder = TransparencyDecoder((8, 8, 8, 8, 8, 8, 8), 1, 0, latent_level=3).eval()
    nn.init.normal_(decoder.latent_conv_in.weight)
    pixel, latent = torch.rand(1, 3, 40, 72), torch.randn(1, 4, 5, 9)
    with torch.no_grad():
        found = decode_pixels(decoder, pixel, latent)
        # The same as padding by hand: 40 -> 64 and 72 -> 128, the odd latent pixel at the bottom and right.
        by_hand = decoder(
            nn.functional.pad(pixel, (24, 32, 8, 16), mode="replicate"),
            nn.functional.pad(latent, (3, 4, 1, 2), mode="replicate"),
        )[..., 8:48, 24:96]
    assert torch.equal(found, by_hand)


@pytest.mark.parametrize("tta", [2, 4, 8])
def test_more_views_of_a_decoder_that_does_not_care_change_nothing(tta: int) -> None:
    decoder: Any = AlphaCodec(1.0)
    raw = torch.rand(1, 4, 2, 3) * 0.8 + 0.1
    once, often = (decode_rgba(raw, vae(), decoder, tta=views) for views in (1, tta))
    torch.testing.assert_close(once, often)


def test_views_are_combined_by_their_middle() -> None:
    class Counting(AlphaCodec):
        calls = 0

        def forward(self, first: Tensor, latent: Tensor | None = None) -> Tensor:
            self.calls += 1
            return torch.full((1, 4, *first.shape[-2:]), self.calls / 10)

    for tta, wanted in ((2, 0.15), (4, 0.25), (8, 0.4)):  # of 8 the lower middle value, as the released code has it
        decoder: Any = Counting(1.0)
        found = decode_rgba(torch.zeros(1, 4, 2, 2), vae(), decoder, tta=tta)
        torch.testing.assert_close(found, torch.full_like(found, wanted))


def test_chunks_change_the_memory_and_not_the_pictures(tiny_model: LayerAnimate) -> None:
    raw = torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    whole, parts = (decode_rgba(raw, tiny_model.vae, tiny_model.decoder, chunk=chunk) for chunk in (5, 2))
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)
    stand_in, decoder = vae(), AlphaCodec(1.0)
    sizes = [len(part) for part in decode_chunks(raw, stand_in, decoder, chunk=2)]  # type: ignore[arg-type]
    assert sizes == stand_in.batches == [2, 2, 1]


def test_one_picture_has_one_latent(tiny_model: LayerAnimate) -> None:
    rgba = torch.rand(1, 4, 32, 32)
    one, two = (encode_rgba(rgba, tiny_model.vae, tiny_model.encoder, 1.0) for _ in range(2))
    assert torch.equal(one, two)


def test_half_precision_networks_give_float32_pictures(tiny_model: LayerAnimate) -> None:
    half = copy.deepcopy(tiny_model).bfloat16()
    rgba = draw_rgba(1, 32, 0)
    found = half.decode(half.encode(rgba))
    assert found.dtype == torch.float32
    assert float((found - tiny_model.decode(tiny_model.encode(rgba))).abs().mean()) < 0.02


@pytest.mark.parametrize("true_scale", [1.0, 300.0])
def test_a_wrong_offset_scale_is_found_by_a_round_trip(true_scale: float, caplog: pytest.LogCaptureFixture) -> None:
    codec: Any = AlphaCodec(true_scale)
    rgba, wrong = torch.zeros(1, 4, 32, 32), 301.0 - true_scale
    rgba[:, 3, 8:24, 8:16] = 0.4
    with caplog.at_level(logging.WARNING, logger="pellucid"):
        good = check_offset_scale(rgba, vae(), codec, codec, true_scale)
        assert not good.wrong
        assert not caplog.records
        bad = check_offset_scale(rgba, vae(), codec, codec, wrong)
    assert bad.wrong
    assert bad.best == true_scale
    assert f"offset scale {wrong:g} does not fit" in caplog.text


def test_round_trip_error_is_measured_where_it_counts() -> None:
    codec: Any = AlphaCodec(1.0)
    rgba = torch.zeros(1, 4, 16, 16)
    rgba[:, 3, :, :8] = 1
    rgba[:, 0, :, :8] = 0.75
    error = round_trip_error(rgba, vae(), codec, codec, 1.0)
    assert error.alpha == pytest.approx(0, abs=1e-6)
    # A latent of zeros is mid-grey everywhere: 0.25, 0.5 and 0.5 off where alpha is 1; the rest does not count.
    assert error.colour == pytest.approx(1.25 / 3, abs=1e-6)


def test_impossible_requests_are_named(tiny_model: LayerAnimate) -> None:
    with pytest.raises(ConfigError, match="tta must be one of 1, 2, 4, 8, found 3"):
        decode_rgba(torch.zeros(1, 4, 4, 4), tiny_model.vae, tiny_model.decoder, tta=3)
    with pytest.raises(InputError, match=r"\(N, C, h, w\).*found \(0, 4, 4, 4\)"):
        decode_rgba(torch.zeros(0, 4, 4, 4), tiny_model.vae, tiny_model.decoder)
    with pytest.raises(InputError, match=r"\(N, 4, H, W\)"):
        encode_rgba(torch.rand(1, 3, 8, 8), tiny_model.vae, tiny_model.encoder, 1.0)
