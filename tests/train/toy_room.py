"""A room small enough to train in a test: fit a straight line, with dropout and batch norm to make resuming hard.

Run as a script it trains a recipe straight and in two parts, for the test that starts several processes.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import nn

from pellucid import registry
from pellucid.train import Recipe as BaseRecipe
from pellucid.train import Section

METHOD = registry.Method("toy", "toy-task", "toy", "toy_room:Pipeline", "toy_room", "toy_room", "a toy")
validated_at: list[int] = []
batches_seen: list[int] = []


class ModelSection(Section):
    width: int = Field(8, ge=1)
    activation: Literal["relu", "tanh"] = "tanh"
    sizes: tuple[int, ...] = (1, 2)


class Recipe(BaseRecipe):
    model: ModelSection = ModelSection()
    break_at: int | None = None  # the loss term "fit" is NaN from this step on
    worse_after: int | None = None  # the figure falls after this step


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.2), nn.Linear(width, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def build(recipe, accelerator):
    from pellucid.train import TrainState

    net = Net(recipe.model.width)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.train.lr)

    def batches(index: int):
        batches_seen.append(index)
        generator = torch.Generator().manual_seed(recipe.seed * 1000003 + index * 64 + accelerator.process_index)
        x = torch.rand(recipe.train.batch, 3, generator=generator)
        return x.to(accelerator.device), x.sum(dim=1, keepdim=True).to(accelerator.device)

    state = TrainState(modules={"net": net}, optimizers={"net": optimizer}, batches=batches)
    state.recipe = recipe
    state.extra["seen"] = 0
    return state


def step(state, batch):
    from pellucid.train import clip

    x, y = batch
    loss = nn.functional.mse_loss(state.modules["net"](x), y)
    if state.recipe.break_at is not None and state.step + 1 >= state.recipe.break_at:
        loss = loss * float("nan")
    state.accelerator.backward(loss)
    clip(state, "net")
    state.optimizers["net"].step()
    state.optimizers["net"].zero_grad()
    state.extra["seen"] += len(x)
    return {"fit": loss, "offset": y.mean()}


def validate(state, modules):
    validated_at.append(state.step)
    x = torch.rand(64, 3)
    error = nn.functional.mse_loss(modules["net"](x), x.sum(dim=1, keepdim=True)).item()
    peak = state.recipe.worse_after
    score = float(state.step if peak is None or state.step <= peak else 2 * peak - state.step)
    return {"error": error, "score": score, "process": float(state.accelerator.process_index)}


def samples(state, modules):
    return torch.rand(3, 4, 5)


def export(state, modules, folder, figures):
    save_file(
        {key: value.contiguous() for key, value in modules["net"].state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps({"step": state.step}))
    (folder / "README.md").write_text(f"toy, {figures}")


if __name__ == "__main__":
    sys.modules["toy_room"] = sys.modules["__main__"]
    registry.METHODS["toy"] = METHOD
    logging.basicConfig(level=logging.INFO)
    from pellucid.errors import PellucidError
    from pellucid.train import open_recipe, run

    recipe, folder = open_recipe(sys.argv[1]), Path(sys.argv[2])
    try:
        run(recipe, folder / "straight", device="cpu")
        run(recipe, folder / "parts", device="cpu", stop_after=9)
        run(recipe, folder / "parts", device="cpu")
    except PellucidError as error:
        sys.exit(str(error))
