import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pellucid.data import PixelBank
from pellucid.errors import InputError


def noise(height: int, width: int, seed: int = 0):
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pictures_come_back_upright_and_whole():
    pictures = [noise(20, 28), noise(28, 20), noise(20, 20)]
    bank = PixelBank.from_pictures(pictures, side=20)
    assert bank.pixels.shape == (3, 3, 20, 28)
    for index, picture in enumerate(pictures):
        assert torch.equal(bank.picture(index), picture)


def test_short_sides_shrink_and_small_pictures_stay(caplog):
    caplog.set_level("INFO")
    bank = PixelBank.from_pictures([noise(60, 40), noise(10, 12), noise(40, 200)], side=20)
    assert [tuple(bank.picture(index).shape[1:]) for index in range(3)] == [(30, 20), (10, 12), (20, 30)]
    assert "1 cut to aspect 1.50, 1 smaller than 20 px" in caplog.text


def test_a_whole_square_at_its_own_size_is_unchanged():
    picture = noise(16, 16)
    crop = PixelBank.from_pictures([picture], side=16).crops(
        torch.tensor([0]), 16, seeded(), scale=(1.0, 1.0), flip=False
    )
    assert torch.allclose(crop[0], picture / 255.0, atol=1e-6)


def test_an_upright_crop_is_not_turned():
    picture = torch.zeros(3, 24, 16, dtype=torch.uint8)
    picture[0] = torch.arange(24).reshape(24, 1) * 10  # grows downwards only
    crop = PixelBank.from_pictures([picture], side=16).crops(torch.tensor([0]), 16, seeded(), scale=(1.0, 1.0))[0, 0]
    assert torch.allclose(crop, crop[:, :1].expand_as(crop), atol=1e-6)
    assert bool((crop[1:, 0] > crop[:-1, 0]).all())


def test_shrinking_is_antialiased_as_pillow_does_it():
    picture = noise(60, 60)
    found = PixelBank.from_pictures([picture], side=60).crops(
        torch.tensor([0]), 20, seeded(), scale=(1.0, 1.0), flip=False
    )
    image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((20, 20), Image.Resampling.BILINEAR)
    wanted = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255.0
    assert (found[0] - wanted).abs().max() < 1.5 / 255  # Pillow rounds twice


def test_enlarging_is_bilinear():
    picture = noise(12, 12)
    found = PixelBank.from_pictures([picture], side=12).crops(
        torch.tensor([0]), 30, seeded(), scale=(1.0, 1.0), flip=False
    )
    wanted = F.interpolate(picture[None] / 255.0, (30, 30), mode="bilinear", align_corners=False)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_crops_hold_nothing_of_the_padding():
    white = [torch.full((3, 20, 30), 255, dtype=torch.uint8), torch.full((3, 14, 14), 255, dtype=torch.uint8)]
    bank = PixelBank.from_pictures(white, side=20)
    crops = bank.crops(bank.sample(64, seeded(1)), 17, seeded(2), scale=(0.2, 1.0))
    assert torch.allclose(crops, torch.ones(64, 3, 17, 17), atol=1e-6)


def test_one_seed_gives_one_batch_and_another_another():
    bank = PixelBank.from_pictures([noise(32, 40, seed) for seed in range(4)], side=32)
    indices = bank.sample(6, seeded(3))
    first = bank.crops(indices, 12, seeded(4))
    assert torch.equal(first, bank.crops(indices, 12, seeded(4)))
    assert not torch.allclose(first, bank.crops(indices, 12, seeded(5)))
    assert first.shape == (6, 3, 12, 12)
    assert first.dtype == torch.float32


def test_a_batch_is_its_crops_one_by_one_in_place_and_mirrored():
    ramp = torch.arange(40, dtype=torch.uint8).expand(3, 40, 40) * 6
    bank = PixelBank.from_pictures([ramp], side=40)
    crops = bank.crops(torch.zeros(200, dtype=torch.int64), 8, seeded(6), scale=(0.25, 1.0))[:, 0, 0] * 255 / 6 + 0.5
    steps = (crops[:, 6] - crops[:, 1]) / 5  # the inner ones: the triangle is cut off at the picture's edge
    sides = steps.abs() * 8
    assert 50 < int((steps < 0).sum()) < 150
    assert 9.9 < float(sides.min()) < 12
    assert 38 < float(sides.max()) < 40.1
    starts = torch.minimum(crops[:, 0], crops[:, 7]) - sides / 16
    room = 40 - sides
    roomy = room > 10
    share = (starts / room)[roomy]
    assert float(share.min()) < 0.1
    assert float(share.max()) > 0.9
    assert float(share.min()) > -0.05
    assert float(share.max()) < 1.05


def test_autocast_does_not_coarsen_the_pixels():
    bank = PixelBank.from_pictures([noise(16, 16)], side=16)
    plain = bank.crops(torch.tensor([0]), 8, seeded())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bank.crops(torch.tensor([0]), 8, seeded()), plain)


def test_bad_pictures_and_scales_are_refused():
    with pytest.raises(InputError, match="found none"):
        PixelBank.from_pictures([], side=8)
    with pytest.raises(InputError, match="uint8"):
        PixelBank.from_pictures([torch.rand(3, 8, 8)], side=8)
    bank = PixelBank.from_pictures([noise(8, 8)], side=8)
    for scale in ((0.0, 1.0), (0.5, 1.5), (0.9, 0.5)):
        with pytest.raises(InputError, match="scale"):
            bank.crops(torch.tensor([0]), 8, seeded(), scale=scale)


@pytest.mark.gpu
def test_a_gpu_cuts_the_same_crops():
    bank = PixelBank.from_pictures([noise(64, 96, seed) for seed in range(8)], side=64)
    indices = bank.sample(16, seeded(1))
    wanted = bank.crops(indices, 32, seeded(2))
    found = bank.to("cuda").crops(indices, 32, seeded(2))
    assert found.device.type == "cuda"
    assert torch.allclose(found.cpu(), wanted, atol=1e-5)
