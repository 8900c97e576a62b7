"""What the golden files were computed with (weights that follow from the names of their keys), and small pictures."""

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.data.synthetic import draw_pictures

REFERENCE = Path(__file__).parents[1] / "reference" / "reflection"


@pytest.fixture(scope="session")
def reference_shapes() -> Callable[[str], dict[str, list[int]]]:
    """Read ``NAME.manifest.json``: key -> shape, in the order of the published state dict."""
    return lambda name: json.loads((REFERENCE / f"{name}.manifest.json").read_text())["keys"]


@pytest.fixture(scope="session")
def reference_arrays() -> Callable[[str], dict[str, torch.Tensor]]:
    """Read ``NAME.npz`` as tensors."""

    def read(name: str) -> dict[str, torch.Tensor]:
        with np.load(REFERENCE / f"{name}.npz") as file:
            return {key: torch.from_numpy(file[key]) for key in file.files}

    return read


@pytest.fixture(scope="session")
def deterministic_weights() -> Callable[[dict[str, list[int]]], dict[str, torch.Tensor]]:
    """Make the weights of every key from the key alone, so that they need no file."""
    return lambda shapes: {key: _weight(key, tuple(shape)) for key, shape in shapes.items()}


def _weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    if key.endswith("running_mean"):
        values = 0.1 * generator.standard_normal(shape)
    elif key.endswith("running_var"):
        values = 0.5 + generator.random(shape)
    elif len(shape) == 1 and key.endswith("weight"):
        values = 0.75 + 0.5 * generator.random(shape)
    elif len(shape) == 1:
        values = 0.05 * generator.standard_normal(shape)
    else:
        values = generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The networks here are tiny: more threads would only disturb the neighbours."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def save_picture() -> Callable[[Path, torch.Tensor], Path]:
    """Write ``(3, H, W)`` in [0, 1] as an 8-bit file, with the folders above it."""

    def save(path: Path, pixels: torch.Tensor) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()).save(path)
        return path

    return save


@pytest.fixture(scope="session")
def pictures() -> torch.Tensor:
    """Six pictures drawn by code: ``(6, 3, 48, 48)`` in [0, 1], on 8-bit values."""
    return (draw_pictures(6, 48, seed=3) * 255).round() / 255
