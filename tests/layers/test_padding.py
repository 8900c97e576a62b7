from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.errors import InputError
from pellucid.layers.padding import fill_invisible, pad_rgb

GOLDEN = Path(__file__).parent / "golden"


def soft_disc(size: int, colour: tuple[float, float, float]) -> torch.Tensor:
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    alpha = ((0.5 - (axis[:, None] ** 2 + axis**2).sqrt()) * size / 4).clamp(0, 1)
    shown = torch.tensor(colour)[:, None, None] * (alpha > 0)
    return torch.cat([shown, alpha[None]])


@pytest.mark.parametrize("name", ["33x57", "64x64", "96x80"])
def test_golden_pairs(name: str) -> None:
    pair = np.load(GOLDEN / f"pad_rgb_{name}.npz")
    rgba = torch.from_numpy(pair["rgba"]).permute(2, 0, 1) / 255.0
    wanted = torch.from_numpy(pair["padded"]).permute(2, 0, 1)
    torch.testing.assert_close(pad_rgb(rgba), wanted, atol=1e-5, rtol=0)


def test_nothing_visible_gives_zeros_as_the_released_code_does() -> None:
    assert not pad_rgb(torch.cat([torch.rand(3, 16, 24), torch.zeros(1, 16, 24)])).any()


def test_one_colour_fills_the_whole_picture() -> None:
    padded = pad_rgb(soft_disc(40, (0.8, 0.3, 0.1)))
    wanted = torch.tensor([0.8, 0.3, 0.1])[:, None, None].expand(3, 40, 40)
    torch.testing.assert_close(padded, wanted, atol=1e-5, rtol=0)


def test_opaque_pixels_keep_their_colour() -> None:
    rgba = torch.rand(4, 21, 34, generator=torch.Generator().manual_seed(0))
    rgba[3] = (rgba[3] > 0.5).float()
    padded, opaque = pad_rgb(rgba), rgba[3:] > 0
    torch.testing.assert_close(padded[opaque.expand(3, -1, -1)], rgba[:3][opaque.expand(3, -1, -1)])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 300), (7, 5)])
def test_any_size(size: tuple[int, int]) -> None:
    rgba = torch.rand(4, *size)
    assert pad_rgb(rgba).shape == (3, *size)


def test_a_batch_is_its_pictures_one_by_one() -> None:
    batch = torch.stack([soft_disc(24, (1, 0, 0)), soft_disc(24, (0, 0, 1)), torch.zeros(4, 24, 24)])
    torch.testing.assert_close(pad_rgb(batch), torch.stack([pad_rgb(one) for one in batch]))


def test_filling_leaves_what_can_be_seen_exactly_as_it_is() -> None:
    rgba = torch.stack([soft_disc(24, (0.9, 0.2, 0.1)), torch.rand(4, 24, 24)])
    filled = fill_invisible(rgba)
    seen = (rgba[:, 3:] > 0).expand(-1, 4, -1, -1)
    assert torch.equal(filled[seen], rgba[seen])
    assert torch.equal(filled[:, 3], rgba[:, 3])
    assert (filled[0, 0] > 0.85).all()  # the corners were black


@pytest.mark.parametrize("wrong", [torch.rand(3, 8, 8), torch.rand(2, 2, 4, 8, 8), torch.zeros(4, 8, 8).byte()])
def test_other_shapes_are_named(wrong: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"\(4, H, W\)"):
        pad_rgb(wrong)
