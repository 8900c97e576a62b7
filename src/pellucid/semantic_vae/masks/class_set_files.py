"""Class sets in JSON, TOML and YAML: what a file says, checked key by key."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pellucid.errors import ConfigError, DependencyError


def parse(text: str, file: Path) -> Any:
    """Read the text of a ``.json``, ``.toml`` or ``.yaml`` file as plain values.

    Raises:
        ConfigError: the text is damaged.
        DependencyError: it is YAML, and PyYAML is not installed.
    """
    suffix = file.suffix.casefold()
    try:
        if suffix == ".toml":
            return tomllib.loads(text)
        if suffix in (".yaml", ".yml"):
            return _parse_yaml(text)
        return json.loads(text)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"class set {file}: cannot be read: {reason}", "check it with an editor") from error


def _parse_yaml(text: str) -> Any:
    try:
        import yaml  # comes with huggingface-hub
    except ImportError as error:
        raise DependencyError("class sets in YAML need PyYAML", "pip install pyyaml, or write JSON") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def read_table(found: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Check plain values and turn names into ids: the arguments of a `ClassSet`; a band is its three ranges.

    Raises:
        ConfigError: a key is unknown, or a value is of another form; the message names it.
    """
    return _Table(found, source).read()


@dataclass(frozen=True)
class _Table:
    """The keys of a class set, read one at a time, so that a message can name the key."""

    found: Mapping[str, Any]
    source: str

    _KEYS = ("name", "names", "colors", "background", "mirror", "optional", "groups", "bands")

    def read(self) -> dict[str, Any]:
        for key in self.found:
            if key not in self._KEYS:
                near = get_close_matches(str(key), self._KEYS, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self._KEYS)}"
                raise ConfigError(f"{self.source}: unknown key {key!r}", hint)
        names = self.found.get("names")
        if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
            raise ConfigError(f"{self.source}: names must be a list of texts, found {names!r:.60}", "quote the names")
        return {
            "name": str(self.found.get("name", "classes")),
            "names": tuple(names),
            "colors": tuple(self._color(one) for one in self._list("colors")),
            "background": self._background(),
            "mirror": tuple(self._pair(one) for one in self._list("mirror")),
            "optional": tuple(self._id(one, "optional") for one in self._list("optional")),
            "groups": {
                str(name): tuple(self._id(one, f"group {name!r}") for one in ids)
                for name, ids in self._table("groups").items()
            },
            "bands": {self._id(name, "bands"): self._band(name, one) for name, one in self._table("bands").items()},
        }

    def _background(self) -> int | None:
        if "background" not in self.found:
            return self.found["names"].index("background") if "background" in self.found["names"] else None
        given = self.found["background"]
        return None if given is None else self._id(given, "background")

    def _list(self, key: str) -> list[Any]:
        value = self.found.get(key, [])
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{self.source}: {key} must be a list, found {value!r:.60}")
        return list(value)

    def _table(self, key: str) -> dict[str, Any]:
        value = self.found.get(key, {})
        if not isinstance(value, Mapping):
            raise ConfigError(f"{self.source}: {key} must be a table, found {value!r:.60}")
        return dict(value)

    def _id(self, given: Any, where: str) -> int:
        names = list(self.found["names"])
        if isinstance(given, int) and not isinstance(given, bool):
            return given  # the set checks its range
        if given not in names:
            near = get_close_matches(str(given), names, 3)
            hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names)}"
            raise ConfigError(f"{self.source}: {where} names the class {given!r}, which is not in names", hint)
        return names.index(given)

    def _pair(self, given: Any) -> tuple[int, int]:
        if not isinstance(given, list | tuple) or len(given) != 2:
            raise ConfigError(f"{self.source}: mirror must be a list of pairs, found {given!r:.60}")
        return self._id(given[0], "mirror"), self._id(given[1], "mirror")

    def _color(self, given: Any) -> tuple[int, int, int]:
        if isinstance(given, list | tuple) and len(given) == 3 and all(isinstance(one, int) for one in given):
            return int(given[0]), int(given[1]), int(given[2])
        text = given.removeprefix("#") if isinstance(given, str) else ""
        try:
            red, green, blue = bytes.fromhex(text)
        except ValueError as error:  # YAML reads 003300 without quotes as a number
            raise ConfigError(
                f"{self.source}: colour {given!r} is not RGB", 'write it in quotes, "CC0000", or as [204, 0, 0]'
            ) from error
        return red, green, blue

    def _band(self, name: str, given: Any) -> tuple[tuple[float, float], ...]:
        try:
            ranges = [tuple(float(value) for value in given[key]) for key in ("area", "x", "y")]
            return tuple((low, high) for low, high in ranges)
        except (TypeError, KeyError, ValueError) as error:
            raise ConfigError(
                f"{self.source}: band of {name!r} must have area, x and y, two numbers each, found {given!r:.60}"
            ) from error
