"""Shared by all tests."""

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a command's start does to the package's logger, so that no test sees the one before it."""
    logger = logging.getLogger("pellucid")
    before = logger.level, logger.propagate, list(logger.handlers), logger.disabled
    yield
    logger.level, logger.propagate, logger.handlers, logger.disabled = before
    logger.manager._clear_cache()  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def weights_of_golden_files() -> Callable[[Mapping[str, tuple[int, ...]]], dict[str, Any]]:
    """Make the weights behind the ``.npz`` files in ``golden/`` folders: published key -> shape to key -> tensor.

    Every tensor follows from its key alone, so none needs a file.
    """
    import numpy as np
    import torch

    def weight(key: str, shape: tuple[int, ...]) -> Any:
        if key.endswith("num_batches_tracked"):
            return torch.tensor(0)
        x = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
        if key.endswith("running_var"):
            x = 1 + 0.1 * np.abs(x)
        elif key.endswith("running_mean"):
            x = 0.1 * x
        elif len(shape) > 1:
            x = 0.5 * x * np.sqrt(2 / np.prod(shape[1:]))
        else:
            x = 1 + 0.1 * x if key.endswith("weight") else 0.05 * x
        return torch.from_numpy(x.astype(np.float32))

    return lambda shapes: {key: weight(key, tuple(shape)) for key, shape in shapes.items()}
