"""Weights: saved and loaded as a folder, found by name, converted from elsewhere, described by a card."""

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
    "WeightsInfo",
    "bundled",
    "info",
    "load_config",
    "load_state",
    "read_state",
    "resolve_weights",
    "save_pretrained",
    "weights_id",
]
