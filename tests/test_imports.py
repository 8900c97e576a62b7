"""The one rule of the house: imports go down. Read from the source, so that an import inside a function counts."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pellucid
from pellucid.registry import METHODS

SOURCE = Path(pellucid.__file__).parent
FLOORS = {
    **dict.fromkeys(("errors", "device", "registry", "layers", "nn"), 0),
    **dict.fromkeys(("io", "metrics"), 1),
    **dict.fromkeys(("data", "train", "hub"), 2),
    **dict.fromkeys(METHODS, 3),
    **dict.fromkeys(("cli", "web"), 4),
    "__main__": 5,  # the door: python -m pellucid
}
ROOMS = frozenset(METHODS)
# LayerStack.save and load read and write files through the stack, from inside the methods.
EXCEPTIONS = {("pellucid.layers.stack", "pellucid.io", "save"), ("pellucid.layers.stack", "pellucid.io", "load")}


@dataclass(frozen=True)
class Import:
    module: str
    target: str
    line: int
    function: str | None  # None at the top of the module
    runs: bool  # False under TYPE_CHECKING


def _modules(root: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = ("pellucid", *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(root: Path) -> list[Import]:
    modules = _modules(root)
    return [found for name, path in modules.items() for found in _of_module(name, path, modules)]


def _of_module(name: str, path: Path, modules: dict[str, Path]) -> Iterator[Import]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, function: str | None, runs: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "pellucid":
                    yield Import(name, alias.name, node.lineno, function, runs)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            if base.split(".")[0] == "pellucid":
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    if base == "pellucid" and inner not in modules:
                        inner = pellucid._PUBLIC.get(alias.name, base if alias.name == "__version__" else inner)
                    yield Import(
                        name, inner if inner in modules or base == "pellucid" else base, node.lineno, function, runs
                    )
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, function, False)
            for child in node.orelse:
                yield from visit(child, function, runs)
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, runs)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), None, True)


def breaches(root: Path) -> list[str]:
    """One line for each import that goes up or sideways, to or from an unknown place, or round in a circle."""
    modules, found = _modules(root), []
    for name in modules:
        room = name.split(".")[1] if "." in name else None
        if room is not None and room not in FLOORS:
            found.append(f"{name} is on no floor")
    for entry in _imports(root):
        where = f"{entry.module}:{entry.line} imports {entry.target}"
        if entry.module == "pellucid" or (entry.module, entry.target, entry.function) in EXCEPTIONS:
            continue
        if entry.target not in modules:
            found.append(f"{where}, which is not there")
            continue
        if entry.target == "pellucid":
            continue
        own, other = entry.module.split(".")[1], entry.target.split(".")[1]
        if own == other or own not in FLOORS or other not in FLOORS:
            continue
        if FLOORS[other] > FLOORS[own]:
            found.append(f"{where}: up from floor {FLOORS[own]} to {FLOORS[other]}")
        elif FLOORS[other] == FLOORS[own] > 0:
            found.append(f"{where}: sideways on floor {FLOORS[own]}")
        elif other in ROOMS:
            found.append(f"{where}: rooms are reached through the registry")
    return found + [f"circle: {' -> '.join(circle)}" for circle in _circles(_imports(root))]


def _circles(imports: list[Import]) -> list[list[str]]:
    graph: dict[str, set[str]] = {}
    for entry in imports:
        if entry.function is None and entry.runs and entry.target != entry.module:
            graph.setdefault(entry.module, set()).add(entry.target)
    circles: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            circles.append([*path[path.index(name) :], name])
            return
        if name not in done:
            for target in sorted(graph.get(name, ())):
                walk(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        walk(name, [])
    return circles


def test_imports_go_down():
    found = breaches(SOURCE)
    assert not found, "\n".join(found)


def test_the_whole_package_is_seen():
    modules = _modules(SOURCE)
    assert {"pellucid", "pellucid.errors", "pellucid.layers.stack", "pellucid.hub.pretrained"} <= modules.keys()
    seen = {(entry.module, entry.target) for entry in _imports(SOURCE)}
    assert ("pellucid.layers.stack", "pellucid.io") in seen
    assert ("pellucid.hub.convert", "pellucid.hub.pretrained") in seen


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"layers/a.py": "from pellucid.io import load"}, "up from floor 0 to 1"),
        ({"layers/a.py": "def f():\n    from pellucid import io"}, "up from floor 0 to 1"),
        ({"layers/a.py": "import pellucid.io"}, "up from floor 0 to 1"),
        ({"metrics/a.py": "from ..io import load"}, "sideways on floor 1"),
        ({"multistep_sirr/a.py": "from pellucid.cli import main"}, "up from floor 3 to 4"),
        ({"cli/a.py": "def f():\n    from pellucid.multistep_sirr import model"}, "through the registry"),
        ({"stuff/__init__.py": ""}, "on no floor"),
        ({"io/a.py": "from pellucid.layers.gone import x\nimport pellucid.gone"}, "which is not there"),
        ({"io/a.py": "from pellucid.io import b", "io/b.py": "from pellucid.io.a import f"}, "circle"),
        ({"errors.py": "from pellucid.device import f", "device.py": "import pellucid.errors"}, "circle"),
    ],
)
def test_a_breach_is_found(tmp_path, files, complaint):
    for package in ("layers", "io", "metrics", "multistep_sirr", "cli"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "__init__.py").touch()
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert any(complaint in line for line in breaches(tmp_path))


def test_two_rooms_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.setitem(FLOORS, "tic", 3)
    for room in ("tic", "multistep_sirr"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").touch()
    (tmp_path / "tic" / "model.py").write_text("from pellucid.multistep_sirr import Net")
    assert "sideways on floor 3" in breaches(tmp_path)[0]


def test_no_drawer_for_everything():
    names = [path.relative_to(SOURCE) for path in SOURCE.rglob("*.py")]
    assert [name for name in names if {"utils", "helpers", "util", "helper"} & {*name.with_suffix("").parts}] == []


def test_nothing_is_printed_outside_the_command_line():
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[0] not in ("cli", "benchmarks")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert found == []


def test_importing_the_package_is_light():
    code = "import pellucid, sys; print(sorted({'torch', 'numpy', 'PIL', 'av'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_every_public_name_says_where_it_is():
    assert set(pellucid.__all__) == {"__version__", *pellucid._PUBLIC}
    assert pellucid.PellucidError.__module__ == "pellucid.errors"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pellucid.nothing
