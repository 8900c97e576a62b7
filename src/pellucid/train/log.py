"""What a run writes down: losses averaged between lines, JSONL files that survive a kill, and the machine it ran on."""

import json
import math
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Averages losses between two log lines, and remembers in which step a term stopped being finite.

    Values stay on their device until they are asked for, so a GPU need not wait for every step.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}
        self._steps: dict[str, list[int]] = {}
        self._checked: dict[str, int] = {}

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Take the scalars of one (micro-)step, which belong to optimiser step ``step``."""
        for name, value in losses.items():
            self._values.setdefault(name, []).append(value.detach().float().reshape(()))
            self._steps.setdefault(name, []).append(step)

    def broken(self) -> tuple[int, str] | None:
        """First step and term that is not finite among those added since the last call, or None."""
        found: list[tuple[int, str]] = []
        for name, values in self._values.items():
            start = self._checked.get(name, 0)
            self._checked[name] = len(values)
            if start < len(values):
                finite = torch.isfinite(torch.stack(values[start:])).tolist()
                found += [(self._steps[name][start + at], name) for at, good in enumerate(finite) if not good][:1]
        return min(found, key=lambda entry: entry[0]) if found else None

    def means(self) -> dict[str, Tensor]:
        """Mean of each term since the last call, as scalars on their device; starts anew."""
        means = {name: torch.stack(values).mean() for name, values in self._values.items()}
        self.__init__()
        return means


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that readers see the old one or the new one."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line and hand it to the system; values that JSON cannot hold (NaN, inf) become null."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(_plain(record)) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file; a last line that was cut off by a kill is left out."""
    records: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return records


def rewind(path: Path, step: int) -> int:
    """Drop the lines of steps after ``step``: they were lost with the run that wrote them and will come again.

    Returns:
        How many lines were dropped.
    """
    records = read_lines(path)
    kept = [record for record in records if record["step"] <= step]
    if path.exists():
        write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))
    return len(records) - len(kept)


def environment(device: torch.device, precision: str, processes: int) -> dict[str, Any]:
    """Versions and hardware of this run; nothing that names the host, the user or a path."""
    packages = ("pellucid", "torch", "accelerate", "numpy", "safetensors", "pydantic")
    versions = {name: metadata.version(name) for name in packages}
    return {
        "python": platform.python_version(),
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": precision,
        "processes": processes,
    }


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(names, platform.machine())


def record_environment(path: Path, step: int, facts: Mapping[str, Any]) -> None:
    """Add the machine to ``env.json``, a list with one entry for each part of the run that differs from the last."""
    parts: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if not parts or {key: value for key, value in parts[-1].items() if key != "from_step"} != dict(facts):
        write_whole(path, json.dumps([*parts, {"from_step": step, **facts}], indent=2) + "\n")


def duration(seconds: float) -> str:
    """Write seconds for people: ``"42 s"``, ``"3 min 05 s"``, ``"2 h 07 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
