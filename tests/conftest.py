"""Shared by all tests."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a command's start does to the package's logger, so that no test sees the one before it."""
    logger = logging.getLogger("pellucid")
    before = logger.level, logger.propagate, list(logger.handlers), logger.disabled
    yield
    logger.level, logger.propagate, logger.handlers, logger.disabled = before
    logger.manager._clear_cache()  # type: ignore[attr-defined]
