"""The weights behind the golden files of face networks: every tensor follows from its published key alone."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def seeded_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Make a state dict: matrices a / sqrt(fan in), scales near 1, biases 0.1 a; spectral vectors of two products."""
    state = {key: torch.as_tensor(_drawn(key, tuple(shape))) for key, shape in shapes.items()}
    for key in [key for key in state if key.endswith(".weight_orig")]:
        stem = key.removesuffix("_orig")
        matrix = state[key].flatten(1).double()
        u = torch.nn.functional.normalize(state[f"{stem}_u"].double(), dim=0)
        v = torch.nn.functional.normalize(matrix.T @ u, dim=0)
        state[f"{stem}_u"] = torch.nn.functional.normalize(matrix @ v, dim=0).float()
        state[f"{stem}_v"] = v.float()
    return state


def seeded_noise(name: str, shape: tuple[int, ...]) -> Tensor:
    """Noise of N(0, 1) that follows from a name."""
    return torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32))


def _drawn(key: str, shape: tuple[int, ...]) -> np.ndarray:
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    a = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, dtype=np.float32)
    if key.endswith("running_var"):
        a = 1 + 0.1 * np.abs(a)
    elif key.endswith("running_mean"):
        a = 0.1 * a
    elif len(shape) > 1:
        a = a / np.sqrt(np.prod(shape[1:]))
    elif key.endswith(".weight"):
        a = 1 + 0.1 * a
    else:
        a = 0.1 * a
    return np.asarray(a, dtype=np.float32)
