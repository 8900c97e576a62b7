"""Pictures as stacks of layers.

Names are resolved when first used, so that ``import pellucid`` stays light and does not load torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Layer": "pellucid.layers.stack",
    "LayerStack": "pellucid.layers.stack",
    "Meta": "pellucid.layers.stack",
    "PellucidError": "pellucid.errors",
    "load_image": "pellucid.io",
    "load_video": "pellucid.io",
    "pipeline": "pellucid.registry",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
