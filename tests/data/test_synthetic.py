import pytest
import torch

from pellucid.data.synthetic import draw_pictures


def test_one_seed_one_set_of_pictures():
    first = draw_pictures(3, 48, 7)
    assert first.shape == (3, 3, 48, 48)
    assert first.dtype == torch.float32
    assert torch.equal(first, draw_pictures(3, 48, 7))
    assert not torch.allclose(first, draw_pictures(3, 48, 8))


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    draw_pictures(1, 16, 0)
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize("size", [8, 33])
def test_any_size_and_range(size):
    pictures = draw_pictures(4, size, 0)
    assert pictures.shape[-2:] == (size, size)
    assert bool(pictures.isfinite().all())
    assert float(pictures.min()) >= 0.0
    assert float(pictures.max()) <= 1.0


def test_pictures_have_the_statistics_of_pictures():
    pictures = draw_pictures(16, 64, 0)
    spread = pictures.std(dim=(1, 2, 3))
    assert float(spread.min()) > 0.01  # none is flat
    assert 0.25 < float(pictures.mean()) < 0.65
    neighbours = (pictures[..., 1:] - pictures[..., :-1]).abs()
    assert float(neighbours.median()) < 0.03  # smooth nearly everywhere
    assert float((neighbours > 0.15).float().mean()) > 0.003  # and edges
    colour = pictures - pictures.mean(dim=1, keepdim=True)
    assert float(colour.abs().mean()) > 0.02  # not gray
    means = pictures.mean(dim=(2, 3))
    assert float(torch.pdist(means).min()) > 0.005  # none twice
