"""Recipes: a training run as a TOML file, checked by frozen pydantic models before anything is built.

A room subclasses `Recipe` with its own sections (subclasses of `Section`). An unknown key is an error that suggests the
nearest key, and names the section where a key of that name belongs.
"""

import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from pellucid.errors import ConfigError, InputError
from pellucid.registry import METHODS, Method, resolve, training


class Section(BaseModel):
    """One table of a recipe: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainSection(Section):
    """``[train]``: how long, how fast, and how often to look.

    Attributes:
        steps: optimiser steps of the whole run.
        batch: examples in one micro-step of one process.
        minutes: time budget over all resumed parts of the run, in minutes; the run ends cleanly when it is used up.
        lr: learning rate that the room gives its optimisers.
        warmup: steps over which the learning rate rises linearly from 0.
        schedule: ``"constant"`` or ``"cosine"`` to 0, over the steps or the time budget, whichever ends earlier.
        ema: decay of the moving average of the weights, 0 for none; reached gradually, see `loop.ema_decay`.
        precision: ``"auto"`` is bf16 where CUDA or the CPU computes it natively, else fp32.
        accumulate: micro-steps in one optimiser step.
        clip_norm: largest gradient norm; None for no limit.
        validate_every, sample_every, checkpoint_every, log_every: steps between two of each.
        keep_checkpoints: how many of the latest checkpoints stay, besides the best.
        select: name of the validation figure that chooses ``model/``; None for the last.
        select_mode: whether a larger or a smaller figure is better.
    """

    steps: int = Field(ge=1)
    batch: int = Field(8, ge=1)
    minutes: float | None = Field(None, gt=0)
    lr: float = Field(1e-4, gt=0)
    warmup: int = Field(0, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    ema: float = Field(0.0, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accumulate: int = Field(1, ge=1)
    clip_norm: float | None = Field(None, gt=0)
    validate_every: int = Field(500, ge=1)
    sample_every: int = Field(500, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    log_every: int = Field(20, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    select: str | None = None
    select_mode: Literal["max", "min"] = "max"


class Recipe(Section):
    """What every room's recipe has; rooms subclass it with their model, data and loss sections.

    Attributes:
        method: name of the room in `registry.METHODS`.
        name: free name of the experiment.
        seed: the one number that all randomness of the run follows from.
        train: the ``[train]`` table.
    """

    method: str
    name: str = ""
    seed: int = Field(0, ge=0, lt=2**31)
    train: TrainSection

    def with_train(self, **changes: Any) -> Self:
        """Return a copy with some keys of ``[train]`` changed, checked again."""
        merged = self.model_dump() | {"train": self.train.model_dump() | changes}
        return type(self).model_validate(merged)


AnyRecipe = TypeVar("AnyRecipe", bound=Section)


def read_toml(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a recipe as plain data and lay ``a.b=value`` overrides over it.

    Raises:
        InputError: the file cannot be read.
        ConfigError: it is not TOML, or an override has no ``=`` or goes through something that is not a table.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"recipe {str(path)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {str(path)!r} is not TOML: {error}") from error
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {override!r} must be KEY=VALUE", "for example --set train.steps=2000")
        *tables, last = key.strip().split(".")
        table: Any = data
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"override {override!r}: {name!r} is a value, not a table")
        table[last] = _toml_value(text.strip())
    return data


def _toml_value(text: str) -> Any:
    """Parse one TOML value; text that is none, such as ``cosine`` or a path, is taken as a bare string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def check_recipe(data: Mapping[str, Any], cls: type[AnyRecipe], where: str = "recipe") -> AnyRecipe:
    """Check plain data against a recipe class.

    Raises:
        ConfigError: a key is unknown, missing or of another type; the message names key, expected and found.
    """
    try:
        # Through JSON, strictly: a list may become a tuple and a string a path, but "8" does not become 8.
        return cls.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        messages, hints = zip(*(_explain(problem, cls) for problem in problems[:3]), strict=True)
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        hint = "; ".join(dict.fromkeys(text for text in hints if text))
        raise ConfigError(f"{where}: {'; '.join(messages)}{more}", hint) from error


def load_recipe(path: str | Path, cls: type[AnyRecipe], overrides: list[str] | tuple[str, ...] = ()) -> AnyRecipe:
    """Read a recipe of a known class; see `read_toml` and `check_recipe` for what can go wrong.

    Args:
        path: the TOML file.
        cls: the room's recipe class.
        overrides: ``"a.b=value"``, the value in TOML; a bare string needs no quotes.
    """
    return check_recipe(read_toml(path, overrides), cls, f"recipe {str(path)!r}")


def open_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe whose ``method`` key says which room's class it is checked against.

    Raises:
        ConfigError: the method is missing or not known, or the recipe does not fit its class.
    """
    data = read_toml(path, overrides)
    if "method" not in data:
        raise ConfigError(f"recipe {str(path)!r}: key 'method' is missing", f"use one of {', '.join(METHODS)}")
    return check_recipe(data, resolve(training(data["method"])).Recipe, f"recipe {str(path)!r}")


def find_method(name: Any) -> Method:
    """Find a room by the recipe's ``method``; a ConfigError lists the rooms there are."""
    if not isinstance(name, str) or name not in METHODS:
        raise ConfigError(f"method {name!r} is not known", f"use one of {', '.join(METHODS)}")
    return METHODS[name]


def section_of(cls: type) -> type[Section]:
    """Make the recipe table of a config dataclass, so that its fields are written down once.

    ``cls(**table.model_dump())`` is the config again.
    """
    hints = get_type_hints(cls)
    wanted: dict[str, Any] = {}
    for entry in fields(cls):
        if entry.default_factory is not MISSING:
            wanted[entry.name] = (hints[entry.name], Field(default_factory=entry.default_factory))
        else:
            wanted[entry.name] = (hints[entry.name], ... if entry.default is MISSING else entry.default)
    return create_model(cls.__name__, __base__=Section, **wanted)


def dump_toml(recipe: Recipe) -> str:
    """Write the resolved recipe, defaults included; keys that are None are left out, as TOML has no null."""
    return "\n".join(_tables(json.loads(recipe.model_dump_json()), "")).lstrip("\n") + "\n"


def _tables(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    values = {key: value for key, value in table.items() if value is not None}
    if prefix:
        yield f"\n[{prefix}]"
    for key, value in values.items():
        if not isinstance(value, Mapping):
            yield f"{_toml_key(key)} = {_toml_text(value)}"
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _tables(value, f"{prefix}.{_toml_key(key)}" if prefix else _toml_key(key))


def _toml_key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else json.dumps(key, ensure_ascii=False)


def _toml_text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml_text(item) for item in value if item is not None)}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_toml_key(key)} = {_toml_text(item)}" for key, item in value.items() if item is not None)
        return f"{{ {inner} }}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are written alike in both


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name every value of nested tables by its dotted key."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differences(before: Recipe, after: Recipe) -> dict[str, tuple[Any, Any]]:
    """List what differs between two recipes as ``{"train.lr": (before, after)}``."""
    old, new = flatten(before.model_dump(mode="json")), flatten(after.model_dump(mode="json"))
    keys = list(dict.fromkeys([*new, *old]))
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _sections(cls: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Walk the tables of a recipe class: ``("", Recipe), ("train", TrainSection), ...``."""
    yield prefix, cls
    for key, field in cls.model_fields.items():
        for candidate in _alternatives(field.annotation):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield from _sections(candidate, f"{prefix}.{key}" if prefix else key)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _explain(problem: Any, cls: type[BaseModel]) -> tuple[str, str]:
    """Turn one pydantic problem into a message that names key, expected and found, and a hint."""
    location = [str(part) for part in problem["loc"]]
    key, table = ".".join(location), ".".join(location[:-1])
    if problem["type"] == "missing":
        return f"key {key!r} is missing", ""
    if problem["type"] != "extra_forbidden":
        expected = problem["msg"].removeprefix("Input should be ").removeprefix("a valid ")
        return f"key {key!r} must be {expected}, found {problem['input']!r}", ""
    place = f"[{table}]" if table else "the top of the recipe"
    sections = dict(_sections(cls))
    here = list(sections[table].model_fields) if table in sections else []
    message = f"key {location[-1]!r} is not known in {place}"
    if near := get_close_matches(location[-1], here, n=1):
        return message, f"did you mean {near[0]!r} in {place}?"
    elsewhere = {
        name: section for section, model in sections.items() for name in model.model_fields if section != table
    }
    if near := get_close_matches(location[-1], list(elsewhere), n=1):
        owner = next(
            section for section, model in sections.items() if section != table and near[0] in model.model_fields
        )
        return message, f"did you mean {near[0]!r} in {f'[{owner}]' if owner else 'the top of the recipe'}?"
    return message, f"keys of {place} are {', '.join(here)}" if here else ""
