"""Weights: saved and loaded as a folder, found by name, converted from elsewhere, described by a card."""

from pellucid.hub.cards import Figure, credit_lines, model_card
from pellucid.hub.convert import load_foreign, rename
from pellucid.hub.pretrained import (
    BundledWeights,
    WeightsInfo,
    bundled,
    info,
    load_config,
    load_state,
    read_state,
    resolve_weights,
    save_pretrained,
    weights_id,
)

__all__ = [
    "BundledWeights",
    "Figure",
    "WeightsInfo",
    "bundled",
    "credit_lines",
    "info",
    "load_config",
    "load_foreign",
    "load_state",
    "model_card",
    "read_state",
    "rename",
    "resolve_weights",
    "save_pretrained",
    "weights_id",
]
