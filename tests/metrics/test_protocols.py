import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pellucid.errors import ConfigError, DependencyError, InputError
from pellucid.metrics import Protocol, evaluate_pair, find, prepare, protocols, psnr, ssim


def pair(height: int = 41, width: int = 54, noise: float = 0.08, smooth: bool = False):
    """A picture and a worse one, ``(3, H, W)``; the channels differ in how much worse."""
    random = torch.Generator().manual_seed(5)
    if smooth:
        ramp = torch.linspace(0.2, 0.7, width).expand(3, height, width)
        truth = ramp + 0.01 * torch.rand(3, height, width, generator=random)
    else:
        truth = torch.rand(3, height, width, generator=random)
    amount = noise * torch.tensor([0.5, 1.0, 2.0]).reshape(3, 1, 1)
    return (truth + amount * torch.randn(3, height, width, generator=random)).clamp(0, 1), truth


def bytes_of(picture) -> np.ndarray:
    return (picture * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("smooth", [False, True])
def test_disk_is_scikit_image_on_eight_bit_files(smooth):
    output, truth = pair(smooth=smooth)
    found = evaluate_pair(find("disk"), output, truth)
    a, b = bytes_of(output), bytes_of(truth)
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=1e-4)
    assert found["ssim"] == pytest.approx(
        structural_similarity(b / 255, a / 255, channel_axis=-1, data_range=1), abs=1e-7
    )


def test_sirr_rgb_is_the_mean_over_channels():
    output, truth = pair()
    found = evaluate_pair(find("sirr-rgb"), output, truth)
    a, b = bytes_of(output), bytes_of(truth)
    channels = [peak_signal_noise_ratio(b[..., c], a[..., c], data_range=255) for c in range(3)]
    similar = [structural_similarity(b[..., c], a[..., c], data_range=255) for c in range(3)]
    assert found["psnr"] == pytest.approx(np.mean(channels), abs=1e-4)
    assert found["ssim"] == pytest.approx(np.mean(similar), abs=1e-7)
    assert found["psnr"] > evaluate_pair(find("disk"), output, truth)["psnr"] + 0.5


def test_flash_is_joint_psnr_of_floats_and_ssim_on_gray():
    output, truth = pair()
    found = evaluate_pair(find("flash"), output, truth)
    error = (output.double() - truth.double()).square().mean()
    assert found["psnr"] == pytest.approx(-10 * math.log10(error), abs=1e-4)
    weights = np.array([0.2989, 0.5870, 0.1140])
    a, b = (np.round(bytes_of(picture) @ weights).astype(np.uint8) for picture in (output, truth))
    assert found["ssim"] == pytest.approx(structural_similarity(b, a, data_range=255), abs=1e-7)


def test_fixed_numbers():
    dark, light = torch.full((3, 8, 8), 0.2), torch.full((3, 8, 8), 0.6)
    found = evaluate_pair(find("disk"), dark, light)
    assert found["psnr"] == pytest.approx(-10 * math.log10(0.4**2), abs=1e-5)  # 7.9588 dB
    # Without structure only the first factor is left: (2ab + c1) / (a^2 + b^2 + c1).
    assert found["ssim"] == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-6)


def test_joint_and_channel_psnr_by_hand():
    truth = torch.zeros(3, 8, 8)
    output = truth + torch.tensor([0.1, 0.01, 0.01]).reshape(3, 1, 1)
    assert psnr(output, truth) == pytest.approx(-10 * math.log10((0.01 + 2e-4) / 3), abs=1e-4)
    assert psnr(output, truth, joint=False) == pytest.approx((20 + 40 + 40) / 3, abs=1e-4)


@pytest.mark.parametrize("name", sorted(protocols.PROTOCOLS))
def test_equal_pictures_are_infinitely_good(name):
    _, truth = pair()
    assert evaluate_pair(find(name), truth, truth) == {"psnr": math.inf, "ssim": pytest.approx(1.0)}


def test_disk_rounds_as_a_file_does_and_flash_does_not():
    truth = torch.full((3, 8, 8), 100 / 255)
    output = truth + 0.3 / 255
    assert evaluate_pair(find("disk"), output, truth)["psnr"] == math.inf
    assert evaluate_pair(find("flash"), output, truth)["psnr"] == pytest.approx(20 * math.log10(255 / 0.3), abs=1e-2)


def test_what_lies_outside_the_range_is_clamped():
    output, truth = pair()
    white = torch.ones(3, 8, 8)
    assert evaluate_pair(find("flash"), white * 1.5, white)["psnr"] == math.inf
    assert evaluate_pair(find("disk"), output, truth) == evaluate_pair(
        find("disk"), torch.where(output == 0, -1.0, output), truth
    )


def test_prepare_leaves_disk_at_native_size():
    output, truth = pair()
    assert prepare(find("disk"), output, truth) == (output, truth)


def test_prepare_crops_for_flash():
    output, truth = pair(70, 97)
    a, b = prepare(find("flash"), output, truth)
    assert torch.equal(a, output[:, :64, :96])
    assert torch.equal(b, truth[:, :64, :96])


def test_prepare_resizes_as_pillow_does():
    output, truth = pair(70, 97)
    a, b = prepare(find("sirr-rgb"), output, truth)
    for found, picture in ((a, output), (b, truth)):
        wanted = np.asarray(Image.fromarray(bytes_of(picture)).resize((96, 64), Image.Resampling.BICUBIC))
        assert np.array_equal(bytes_of(found), wanted)
        assert found.dtype == torch.float32


def test_prepare_brings_the_short_side_to_420():
    output, truth = pair(64, 100)
    assert prepare(find("sirr-rgb-420"), output, truth)[0].shape == (3, 416, 640)  # 420 x 656, down to multiples of 32


def test_bad_pairs_are_refused():
    output, truth = pair()
    with pytest.raises(InputError, match="one size"):
        evaluate_pair(find("disk"), output[:, :-1], truth)
    with pytest.raises(InputError, match="one size"):
        prepare(find("disk"), output[:1], truth[:1])
    with pytest.raises(InputError, match="not finite"):
        evaluate_pair(find("disk"), output * math.nan, truth)
    with pytest.raises(InputError, match="at least 7"):
        evaluate_pair(find("disk"), output[:, :6], truth[:, :6])
    with pytest.raises(InputError, match="at least 32"):
        prepare(find("flash"), output[:, :31], truth[:, :31])


def test_an_unknown_protocol_lists_the_known():
    with pytest.raises(ConfigError) as caught:
        find("psnr")
    assert all(name in caught.value.hint for name in ("disk", "sirr-rgb", "flash"))


def test_without_torchmetrics_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchmetrics.functional", None)
    for needing in (psnr, lambda *pictures: ssim(*pictures, window="gaussian")):
        with pytest.raises(DependencyError) as caught:
            needing(*pair())
        assert "pellucid[train]" in caught.value.hint


def test_gaussian_ssim_is_scikit_images():
    output, truth = pair()
    wanted = structural_similarity(
        *(each.permute(1, 2, 0).double().numpy() for each in (output, truth)),
        channel_axis=2,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )[1].mean()  # torchmetrics takes in the border
    assert ssim(output, truth, window="gaussian") == pytest.approx(wanted, abs=2e-3)
    with pytest.raises(InputError, match="at least 11"):
        ssim(output[:, :10], truth[:, :10], window="gaussian")


def test_a_square_protocol_squashes_as_pillow_does():
    square = Protocol("square", "", square=40)
    picture, truth = prepare(square, *pair())
    assert picture.shape == truth.shape == (3, 40, 40)
    pixels = (pair()[0] * 255).round().byte().permute(1, 2, 0).numpy()
    wanted = np.array(Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC))
    assert torch.equal((picture * 255).round().byte().permute(1, 2, 0), torch.from_numpy(wanted))
    assert find("square", {"square": square}) is square
    with pytest.raises(ConfigError, match="disk"):
        find("disk", {"square": square})
