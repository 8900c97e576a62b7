"""One tiny model with random weights for all tests of the room; what changes it must put it back, or build its own."""

import pytest

from pellucid.layer_animate.model import PRESETS, LayerAnimate, LayerAnimateConfig, build


@pytest.fixture(scope="session")
def tiny_config() -> LayerAnimateConfig:
    return PRESETS["tiny"]


@pytest.fixture(scope="session")
def tiny_model(tiny_config: LayerAnimateConfig) -> LayerAnimate:
    """Random weights of one seed, Inter-Frame Attention attached and at its start; leave it as it is."""
    return build(tiny_config, generator_seed=0)
