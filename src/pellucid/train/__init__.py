"""Training: recipes, and the one loop that every room shares.

Names of the loop are loaded when they are used, so that a recipe can be read without torch and accelerate.
"""

from typing import TYPE_CHECKING, Any

from pellucid.train.config import Recipe, Section, TrainSection, load_recipe, open_recipe

if TYPE_CHECKING:
    from pellucid.train.loop import Result, TrainState, clip, run

__all__ = [
    "Recipe",
    "Result",
    "Section",
    "TrainSection",
    "TrainState",
    "clip",
    "load_recipe",
    "open_recipe",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from pellucid.train import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
