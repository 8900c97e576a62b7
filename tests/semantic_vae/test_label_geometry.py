"""Nearest rules and squares."""

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.masks.label_geometry import resize_labels, square


def test_half_size_takes_the_odd_rows_and_columns() -> None:
    labels = torch.arange(64, dtype=torch.uint8).view(8, 8)
    assert torch.equal(resize_labels(labels, 4), labels[1::2, 1::2])


@pytest.mark.parametrize("sizes", [(512, 256), (456, 383), (37, 100), (100, 37), (300, 7), (1, 5), (855, 612)])
def test_resizes_as_pillow_does(sizes: tuple[int, int]) -> None:
    old, new = sizes
    array = np.random.default_rng(old).integers(0, 19, (old, old + 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(array).resize((new, new + 1), Image.Resampling.NEAREST))
    found = resize_labels(torch.from_numpy(array).expand(2, -1, -1), (new + 1, new))
    assert np.array_equal(found[0], expected)
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 9), (7, 7)])
def test_padding_is_taken_away_again(shape: tuple[int, int]) -> None:
    labels = torch.randint(1, 19, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    padded, frame = square(labels, "pad")
    side = max(shape)
    assert padded.shape == (side, side)
    assert int((padded == 0).sum()) == side * side - labels.numel()
    assert torch.equal(frame.restore(padded), labels)
    doubled = padded.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(frame.restore(doubled), labels)


def test_padding_without_background_repeats_the_rim() -> None:
    padded, _ = square(torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8), fill=None)
    assert torch.equal(padded, torch.tensor([[1, 2, 3, 4]] * 4, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 9)])
def test_crop_keeps_what_lies_outside(shape: tuple[int, int]) -> None:
    labels = torch.randint(1, 19, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cropped, frame = square(labels, "crop")
    side = min(shape)
    assert cropped.shape == (side, side)
    assert torch.equal(frame.restore(cropped), labels)
    edited = frame.restore(torch.zeros(3, 4, 4, dtype=torch.uint8))
    assert edited.shape == (3, *shape)
    assert int((edited[0] == 0).sum()) == side * side
    assert int((labels == 0).sum()) == 0  # the input itself is not touched


def test_refusals() -> None:
    labels = torch.zeros(4, 4, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="pad or crop"):
        square(labels, "stretch")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\(H, W\)"):
        square(labels[None])
    with pytest.raises(ConfigError, match="0x0"):
        resize_labels(labels, 0)
    with pytest.raises(InputError, match="square"):
        square(labels)[1].restore(torch.zeros(4, 5, dtype=torch.uint8))
