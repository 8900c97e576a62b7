"""A folder of our own weights -> networks and what reads prompts for them."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from pellucid.errors import WeightsError
from pellucid.hub.pretrained import expect_state, load_config, load_state, read_document, read_state
from pellucid.layer_animate.model import METHOD, LayerAnimate, LayerAnimateConfig, build
from pellucid.layer_animate.text import Vocabulary, WordConditioner

log = logging.getLogger(__name__)


def load_model(folder: str | Path) -> tuple[LayerAnimate, WordConditioner]:
    """Read a folder of our own weights: ``config.json``, ``model.safetensors``, ``vocabulary.json``.

    Weights from before Inter-Frame Attention was trained are accepted; nothing is attached then.

    Raises:
        WeightsError: the folder is of another method or damaged, or keys or shapes do not fit; they are named.
    """
    found = read_document(folder)["method"]
    if found != METHOD:
        raise WeightsError(f"{folder} holds weights of {found!r}, expected {METHOD!r}")
    config = load_config(folder, LayerAnimateConfig)
    state = read_state(folder)
    ifa = any("_ifa." in key for key in state)
    with torch.device("meta"):  # so that wrong files are told before anything large is made
        expect_state(build(config, ifa=ifa), state, origin=f" in {folder}")
    model = build(config, ifa=ifa)
    load_state(model, state)
    if not ifa:
        log.warning("%s holds no Inter-Frame Attention: clips follow the base picture less closely", folder)
    return model, WordConditioner(Vocabulary.load(Path(folder)), model.text)
