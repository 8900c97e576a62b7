import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # the toy room is found by name, like any room

import toy_room

from pellucid import registry
from pellucid.train.config import check_recipe


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """The toy room, registered; threads kept low so that the tests are good neighbours."""
    monkeypatch.setitem(registry.METHODS, "toy", toy_room.METHOD)
    toy_room.validated_at.clear()
    toy_room.batches_seen.clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield toy_room
    torch.set_num_threads(threads)


@pytest.fixture
def recipe():
    """Makes a recipe of the toy room: keys of [train] by name, the rest in ``top``."""

    def make(top=None, **train):
        plan = {"steps": 20, "lr": 0.05, "precision": "fp32", "log_every": 5, "validate_every": 10}
        plan |= {"sample_every": 10, "checkpoint_every": 7} | train
        return check_recipe({"method": "toy", "train": plan, **(top or {})}, toy_room.Recipe)

    return make
