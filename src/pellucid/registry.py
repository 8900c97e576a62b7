"""Which tasks and methods there are. Names map to ``"module:attribute"`` strings, imported only when they are used.

A fifth paper is one line here.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pellucid.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """One paper's room: its task, its command, and where its pipeline, recipe and steps are.

    ``vectors`` is the function that trains word vectors by a recipe, of a room that reads text. ``describe`` is the
    function that says what a published file or folder is, of a room that can use some as they are.
    """

    name: str
    task: str
    verb: str
    pipeline: str
    train: str
    evaluate: str
    summary: str
    vectors: str = ""
    describe: str = ""

    def module(self, name: str) -> Any:
        """Import a module of the room, for what its verb needs besides the pipeline."""
        return import_module(f"{self.pipeline.partition(':')[0].rpartition('.')[0]}.{name}")


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="multistep_sirr",
            task="reflection-removal",
            verb="dereflect",
            pipeline="pellucid.multistep_sirr.pipeline:ReflectionRemovalPipeline",
            train="pellucid.multistep_sirr.train",
            evaluate="pellucid.multistep_sirr.evaluate",
            summary="a photograph taken through glass comes apart into transmission, reflection and depth ranges",
        ),
        Method(
            name="tic",
            task="colorization",
            verb="colorize",
            pipeline="pellucid.tic.pipeline:ColorizationPipeline",
            train="pellucid.tic.train",
            evaluate="pellucid.tic.evaluate",
            summary="words colour a grey photograph",
            vectors="pellucid.tic.corpus:train_vectors",
        ),
        Method(
            name="semantic_vae",
            task="face-parts",
            verb="parts",
            pipeline="pellucid.semantic_vae.pipeline:FacePartsPipeline",
            train="pellucid.semantic_vae.train",
            evaluate="pellucid.semantic_vae.evaluate",
            summary="the parts of a face mask are made anew, moved and swapped",
        ),
        Method(
            name="layer_animate",
            task="transparent-video",
            verb="animate",
            pipeline="pellucid.layer_animate.pipeline:TransparentVideoPipeline",
            train="pellucid.layer_animate.train",
            evaluate="pellucid.layer_animate.evaluate",
            summary="words and a picture with alpha become a film with alpha",
            describe="pellucid.layer_animate.published.describe:describe",
        ),
    )
}

# What a room trains beside its own method: a recipe's ``method`` -> the module with Recipe, build, step and the rest.
TRAININGS: dict[str, str] = {
    "spade": "pellucid.semantic_vae.faces.spade_train",
    "transparency": "pellucid.layer_animate.transparency.train",
    "still_moving": "pellucid.layer_animate.baselines.still_moving_train",
    "tiny_clip": "pellucid.layer_animate.tiny_clip.train",
}


def tasks() -> tuple[str, ...]:
    """Names of the tasks, in the order of the rooms."""
    return tuple(dict.fromkeys(method.task for method in METHODS.values()))


def find(task: str, method: str | None = None) -> Method:
    """Find the method of a task; the first one when none is named.

    Raises:
        ConfigError: the task or method is not known; the message lists those that are.
    """
    of_task = [entry for entry in METHODS.values() if entry.task == task or entry.verb == task]
    if not of_task:
        raise ConfigError(f"task {task!r} is not known", f"use one of {', '.join(tasks())}")
    if method is None:
        return of_task[0]
    for entry in of_task:
        if entry.name == method:
            return entry
    raise ConfigError(
        f"method {method!r} is not known for {task}", f"use one of {', '.join(entry.name for entry in of_task)}"
    )


def training(name: Any) -> str:
    """Name the module that trains a recipe's ``method``.

    Raises:
        ConfigError: the method is not known; the message lists those that are.
    """
    if isinstance(name, str) and name in METHODS:
        return METHODS[name].train
    if isinstance(name, str) and name in TRAININGS:
        return TRAININGS[name]
    raise ConfigError(f"method {name!r} is not known", f"use one of {', '.join((*METHODS, *TRAININGS))}")


def resolve(reference: str) -> Any:
    """Import ``"module:attribute"`` or ``"module"`` and return what it names."""
    module, _, attribute = reference.partition(":")
    loaded = import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def pipeline(
    task: str,
    method: str | None = None,
    weights: str | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
) -> Any:
    """Make the pipeline of a task with its bundled weights or those of ``weights``.

    Args:
        task: for example ``"reflection-removal"``.
        method: for example ``"multistep_sirr"``; the task's first method by default.
        weights: a bundled name, a folder, or a hub id (only when not ``offline``); the bundled default when None.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``.
        dtype: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        offline: never reach for a network.

    Raises:
        ConfigError: unknown task or method.
        WeightsError: the weights are not there or do not fit.
    """
    cls = resolve(find(task, method).pipeline)
    return cls.from_pretrained(weights, device=device, dtype=dtype, offline=offline)
