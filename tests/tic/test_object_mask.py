"""Where the object is: by colour, and by place where colours say nothing."""

import torch
from torch import Generator

from pellucid.tic.object_mask import object_mask


def test_the_mask_of_a_garment_on_a_sheet() -> None:
    sheet = torch.full((3, 60, 45), 0.85) + 0.02 * torch.randn(3, 60, 45, generator=Generator().manual_seed(0))
    sheet[:, 15:45, 12:33] = torch.tensor([0.2, 0.3, 0.6])[:, None, None]
    mask = object_mask(sheet.clamp(0, 1))
    assert mask.shape == (1, 60, 45)
    assert float(mask[0, 20:40, 16:29].mean()) > 0.9
    assert float(torch.cat([mask[0, :8].flatten(), mask[0, -8:].flatten()]).mean()) < 0.1


def test_a_white_shirt_on_a_white_sheet_is_in_the_middle() -> None:
    mask = object_mask(torch.full((3, 40, 40), 0.9))
    assert float(mask[0, 18:22, 18:22].mean()) > 0.9
    assert float(mask[0, :3].mean()) < 0.1


def test_the_mask_follows_a_pattern_and_not_the_floor() -> None:
    """Stripes of two colours, one of them as light as the floor, are one object."""
    floor = torch.tensor([0.55, 0.4, 0.25])[:, None, None].expand(3, 64, 64).clone()
    stripes = torch.tensor([[0.9, 0.9, 0.9], [0.1, 0.2, 0.6]])[(torch.arange(32) // 4) % 2]  # (32, 3)
    floor[:, 16:48, 16:48] = stripes.T[:, :, None].expand(3, 32, 32)
    mask = object_mask(floor)[0]
    assert float(mask[20:44, 20:44].min()) > 0.6
    assert float(mask[:, :8].max()) < 0.1
