"""From the network's size to the picture's: tiles."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from pellucid.multistep_sirr.full_size import run_tiled, tiles


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("overlap", [0, 16, 32])
@pytest.mark.parametrize("size", [1, 63, 64, 65, 100, 127, 128, 129, 200, 333])
def test_tiles_cover_and_overlap(size: int, overlap: int) -> None:
    starts = tiles(size, 64, overlap)
    assert starts[0] == 0
    assert starts[-1] + 64 >= size
    assert starts[-1] == max(0, size - 64)
    assert all(64 - (later - earlier) >= overlap for earlier, later in pairwise(starts))
    assert all(later > earlier for earlier, later in pairwise(starts))


@pytest.mark.parametrize("overlap", [0, 16, 32])
@pytest.mark.parametrize("size", [(33, 47), (64, 64), (97, 131), (65, 200)])
def test_windows_add_up_to_one(size: tuple[int, int], overlap: int) -> None:
    x, condition = noise(2, 3, *size), noise(2, 1, *size, seed=1)
    reported: list[tuple[int, int, str]] = []

    def network(picture: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        assert picture.shape[-2:] == depth.shape[-2:] == (min(64, size[0]), min(64, size[1]))
        return picture, depth.expand(-1, 3, -1, -1)

    first, second = run_tiled(network, x, condition, 64, overlap, lambda *report: reported.append(report))
    assert torch.allclose(first, x, atol=1e-6)
    assert torch.allclose(second, condition.expand(-1, 3, -1, -1), atol=1e-6)
    count = len(tiles(size[0], 64, overlap)) * len(tiles(size[1], 64, overlap))
    assert reported == [(done, count, "tiles") for done in range(1, count + 1)]


@pytest.mark.parametrize("size", [(97, 131), (150, 64)])
def test_tiled_equals_untiled_away_from_borders(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    blur = nn.Conv2d(4, 6, 9, padding=4).requires_grad_(False)  # sees 4 pixels, well within an overlap of 32

    def network(picture: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(blur(torch.cat([picture, depth], 1)).chunk(2, 1))  # type: ignore[return-value]

    x, condition = noise(1, 3, *size), noise(1, 1, *size, seed=1)
    whole = network(x, condition)
    tiled = run_tiled(network, x, condition, 64, 32)
    for one, other in zip(whole, tiled, strict=True):
        inside = (one - other).abs()[..., 4:-4, 4:-4]
        assert inside.max() < 1 / 255


def test_seams_fade() -> None:
    """Tiles that disagree meet in a ramp, not in a step."""
    number = iter(range(2))

    def network(picture: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.full_like(picture, float(next(number)))
        return value, value

    first, _ = run_tiled(network, torch.zeros(1, 3, 64, 96), torch.zeros(1, 1, 64, 96), 64, 32)
    row = first[0, 0, 32]
    assert row[:32].max() < 1e-4
    assert row[64:].min() > 1 - 1e-4
    assert (row.diff() > -1e-6).all()
    assert row.diff().max() < 0.1
