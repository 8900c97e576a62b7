"""Pictures as stacks of layers."""

from pellucid.layers.composite import composite, luminosity, over
from pellucid.layers.stack import BLEND_MODES, Layer, LayerStack, Meta

__all__ = ["BLEND_MODES", "Layer", "LayerStack", "Meta", "composite", "luminosity", "over"]
