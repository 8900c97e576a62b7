"""Parameters of the golden pairs: numbers that follow from a parameter's name (SplitMix64 of its CRC-32)."""

import zlib

import numpy as np
import torch
from torch import Tensor, nn

_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [0, 1), float64, of that shape."""
    with np.errstate(over="ignore"):
        x = np.uint64(zlib.crc32(key.encode())) * np.uint64(0x9E3779B97F4A7C15)
        x = x + np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
        x = (x ^ (x >> np.uint64(30))) * _FIRST
        x = (x ^ (x >> np.uint64(27))) * _SECOND
        x = x ^ (x >> np.uint64(31))
    return ((x >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)


def parameter(key: str, shape: tuple[int, ...], gain: float = 1.0) -> Tensor:
    """A weight of that name: matrices scaled by their inputs, scales of norms near 1, biases near 0; float32."""
    values = 2.0 * uniform(key, shape) - 1.0
    if len(shape) >= 2:
        values = values * np.sqrt(3.0 / np.prod(shape[1:])) * gain
    else:
        values = 1.0 + 0.1 * values if key.endswith(".weight") else 0.05 * values
    return torch.from_numpy(values.astype(np.float32))


def fill(module: nn.Module, prefix: str = "", gain: float = 1.0) -> None:
    """Fill a module's parameters by their names, with ``prefix`` before them."""
    with torch.no_grad():
        for key, value in module.named_parameters():
            value.copy_(parameter(prefix + key, tuple(value.shape), gain))
