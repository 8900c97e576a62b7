"""What the pages say is run: commands, Python blocks, links, names of functions, and tables that repeat the code.

A ``bash`` line that begins with ``pellucid`` runs in an empty folder, in which small files are made under the names it
uses. Lines that train, serve, fetch or hold a placeholder in CAPITALS are checked without being run.
"""

import ast
import dataclasses
import importlib
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from pellucid import Layer, LayerStack, io
from pellucid.cli.main import _load, app
from pellucid.hub.pretrained import bundled

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "pellucid"
ROOMS = [path.parent for path in sorted(PACKAGE.glob("*/README.md")) if (path.parent / "pipeline.py").exists()]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(room / "README.md" for room in ROOMS),
]
# Whose bundled "small" a page may name.
WEIGHTS = {"reflection-removal": "multistep_sirr", "colorization": "tic", "face-parts": "semantic_vae"}

NOT_RUN = (["models", "pull"], ["models", "vectors"], ["parts", "fit"])

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2,}(?![a-z0-9])")
SHELL = set("|<>;&$`")
FILMS = {".mp4", ".mov", ".webm", ".apng"}


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Line number of the first line and text of each fenced block of a language."""
    text = page.read_text(encoding="utf-8")
    return [
        (text[: found.start(3)].count("\n") + 1, re.sub(f"^{found[1]}", "", found[3], flags=re.MULTILINE))
        for found in FENCE.finditer(text)
        if found[2] == language
    ]


def label(page: Path, number: int) -> str:
    return f"{page.relative_to(ROOT)}:{number}"


def command_lines() -> list[pytest.param]:
    """Every line that calls the command, backslashes joined, without the comment behind it."""
    found = []
    for page in PAGES:
        for start, text in blocks(page, "bash"):
            joined = re.sub(r"\\\n\s*", lambda match: " " * len(match[0]), text)
            for offset, line in enumerate(joined.splitlines()):
                line = re.sub(r"\s+#.*$", "", line).strip()
                if re.search(r"(^|[|;&(]\s*|-m )pellucid\s", line):
                    found.append(pytest.param(line, id=label(page, start + offset)))
    return found


def is_run(line: str) -> bool:
    words = shlex.split(line)
    checked = words[0] != "pellucid" and "|" not in words and "<" not in words
    checked = checked or words[1] in ("train", "serve") or words[1:3] in NOT_RUN
    return not checked and not any(PLACEHOLDER.search(word) for word in words)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, with the recipes, and the log left as it was."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FAKE_SECONDS", raising=False)
    ours = logging.getLogger("pellucid")
    before = ours.level, list(ours.handlers), ours.propagate
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)
    ours.setLevel(before[0])
    ours.handlers[:], ours.propagate = before[1], before[2]


def picture(seed: int = 0, frames: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 6, 8) if frames is None else (frames, 3, 6, 8)
    coarse = torch.rand(shape, generator=generator).reshape(-1, 3, 6, 8)
    smooth = torch.nn.functional.interpolate(coarse, (48, 64), mode="bicubic", antialias=True).clamp(0, 1)
    return smooth[0] if frames is None else smooth


def make(path: Path, seed: int = 0) -> None:
    """Make the file or folder that a page names, small: a photograph, a film, a layered file, or a folder of two."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    if any(sign in path.name for sign in "*?"):
        make(path.with_name(re.sub(r"[*?]", "a", path.name)), seed)
    elif suffix == "":
        make(path / "one.jpg", seed)
        make(path / "below" / "two.png", seed + 1)
    elif suffix == ".npy":
        importlib.import_module("numpy").save(path, picture(seed)[0].numpy())
    elif suffix in FILMS:
        LayerStack((Layer("video", picture(seed, frames=3)),), fps=Fraction(10)).save(path)
    elif suffix in (".ora", ".psd"):
        light = Layer("reflection", picture(seed + 1) * 0.3, blend="add")
        LayerStack((Layer("transmission", picture(seed)), light)).save(path)
    elif path.stem == "depth":
        from PIL import Image

        Image.linear_gradient("L").resize((64, 48)).save(path)
    else:
        LayerStack((Layer("image", picture(seed)),)).save(path)


def make_pairs(folder: Path) -> None:
    for name in ("blended", "transmission_layer"):
        make(folder / name / "one.png", seed=len(name))


def make_captioned(root: Path) -> None:
    """A captioned folder: a garment and a photograph, both held out."""
    rows = []
    for seed, (name, text) in enumerate({"clothing/one.png": "a red dress", "kodak/two.png": "a blue house"}.items()):
        make(root / name, seed)
        label = "dress" if seed == 0 else "photo"
        rows.append({"file": name, "caption": text, "label": label, "source_path": f"validation/{name}"})
    table = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "metadata.jsonl").write_text(table, encoding="utf-8")


def make_mask(path: Path, seed: int = 0) -> None:
    """Make the face mask that a page names, or the folder of two."""
    from pellucid.semantic_vae.masks.mask_files import write_mask
    from pellucid.semantic_vae.procedural.masks import procedural_masks

    if path.suffix == "":
        make_mask(path / "one.png", seed)
        make_mask(path / "two.png", seed + 1)
    elif not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(procedural_masks(1, seed, 64)[0][0], path)


def parsed(words: list[str]) -> tuple[list[str], dict]:
    """The verb, with the one below it, and the values of its options and arguments."""
    verb, rest = [words[0]], words[1:]
    command = _load(verb[0])
    if hasattr(command, "commands"):
        verb.append(rest[0])
        command, rest = command.commands[rest[0]], rest[1:]
    # Help is asked for so that nothing is complained about as missing; an option that is not known still is.
    return verb, command.make_context(verb[-1], list(rest), resilient_parsing=True).params


def make_face_parts(values: dict) -> None:
    """Make the masks and photographs of a command of face parts."""
    for key in ("masks", "source_mask", "target_mask", "reference", "style_mask", "folder", "set_dir"):
        given = values.get(key) or []
        for seed, name in enumerate(given if isinstance(given, list | tuple) else [given]):
            if str(name) != "-" and not str(name).startswith("procedural"):
                make_mask(Path(name), seed + len(key))
    for key in ("photo", "photos", "style"):
        given = values.get(key) or []
        for name in given if isinstance(given, list | tuple) else [given]:
            if not str(name).isdecimal():
                make(Path(name))
    if values.get("history"):
        Path(values["history"]).write_text('[{"kind": "generate", "parts": ["hair"], "seed": 1}]', encoding="utf-8")


def make_what_is_named(words: list[str]) -> None:
    _, values = parsed(words)
    for key in ("inputs", "files", "file"):
        given = values.get(key) or []
        for seed, name in enumerate(given if isinstance(given, list | tuple) else [given]):
            if str(name) != "-":
                make(Path(name), seed)
    if values.get("image"):
        make(Path(values["image"]))
    verbs = {"colorize": "colorization", "parts": "face-parts", "animate": "transparent-video"}
    task = values.get("task") or verbs.get(words[0], "reflection-removal")
    if task == "face-parts":
        make_face_parts(values)
    if values.get("set_dir") and task == "colorization":
        folder = Path(values["set_dir"])
        make_captioned(folder if folder.name == "colorize" else folder.parent)
    elif values.get("set_dir") and task != "face-parts":
        make_pairs(Path(values["set_dir"]))
    for where in values.get("region") or []:
        if "." in (name := where.split("\0")[0]) and "," not in name:
            make(Path(name))
    if values.get("captions"):
        Path(values["captions"]).write_text("file,text\none.jpg,a red dress\n", encoding="utf-8")
    if "." in str(values.get("depth", "")):
        make(Path(values["depth"]))
    model = values.get("model")
    if model and "/" in model and task in WEIGHTS and not Path(model).exists():
        Path(model).parent.mkdir(parents=True, exist_ok=True)
        weights = PACKAGE / "weights" / WEIGHTS[task] / "small"
        Path(model).symlink_to(weights, target_is_directory=True)


def call(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        app(words, prog_name="pellucid")
    return ended.value.code or 0


def check_without_running(words: list[str]) -> None:
    """Know every option; a recipe that is named is read, with its overrides, or built where it needs no data."""
    assert call([*words, "--help"]) == 0
    if words[0] != "train" or PLACEHOLDER.search(words[1]):
        return
    from pellucid.train import open_recipe

    _, values = parsed(words)
    recipe = open_recipe(values["recipe"], list(values["set_"] or []))
    data = recipe.data
    sets = [*getattr(data, "photos", []), *getattr(data, "pairs", []), *getattr(data, "sets", [])]
    if all(getattr(each, "root", None) in ("synthetic", "drawn") for each in sets):
        assert call([*words, *([] if "--dry-run" in words else ["--dry-run"])]) == 0


def test_there_are_lines_to_run():
    lines = [parameter.values[0] for parameter in command_lines()]
    assert len(lines) > 20
    assert any(is_run(line) for line in lines)


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        ("pellucid dereflect photo.jpg -o clear.png", True),
        ("pellucid layers show a.ora", True),
        ("cat a.jpg | pellucid dereflect - > b.jpg", True),
        ("pellucid train recipes/multistep_sirr/tiny.toml", False),
        ("pellucid models pull ORG/NAME", False),
        ("pellucid dereflect INPUT", False),
        ("accelerate launch -m pellucid train recipes/multistep_sirr/tiny.toml", False),
    ],
)
def test_what_is_run_and_what_is_only_checked(line, runs):
    assert is_run(line) == runs


@pytest.mark.parametrize("line", command_lines())
def test_every_command_of_the_pages_works(line, place, capfd):
    words = shlex.split(line)
    if not is_run(line):
        check_without_running(words[words.index("pellucid") + 1 :])
        return
    if SHELL & set(line):
        for segment in re.split(r"[|;&]+", line):
            for name in re.findall(r"(?:<|^\s*cat)\s*([^\s<>]+)", segment):
                make(Path(name))
            if segment.strip().startswith("pellucid"):
                make_what_is_named(shlex.split(re.sub(r"[<>]+\s*\S+", "", segment))[1:])
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-ec", line], env=os.environ | {"PATH": path}, capture_output=True, timeout=120
        )
        assert done.returncode == 0, done.stderr.decode()
        return
    make_what_is_named(words[1:])
    before = set(Path().rglob("*"))
    code = call(words[1:])
    written = capfd.readouterr()
    assert code == 0, written.err
    _, values = parsed(words[1:])
    assert written.out or set(Path().rglob("*")) - before, "the command neither printed nor wrote anything"
    given = values.get("out") or []  # some verbs write several files
    for out in given if isinstance(given, list | tuple) else [given]:
        assert Path(out).exists()


def python_blocks() -> list[pytest.param]:
    return [pytest.param(text, id=label(page, number)) for page in PAGES for number, text in blocks(page, "python")]


@pytest.mark.parametrize("text", python_blocks())
def test_every_python_block_works(text, place):
    make(Path("photo.jpg"))
    exec(compile(text, "page", "exec"), {"__name__": "page"})


def test_the_readme_has_a_python_example():
    (first, *_) = blocks(ROOT / "README.md", "python")
    compile(first[1], "README.md", "exec")
    assert "pellucid" in first[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in headings(path)):
            missing.append(target)
    assert missing == []


def headings(page: Path) -> set[str]:
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a page as rows of cells, without the rule below the head."""

    def cells(line: str) -> list[str]:
        return [cell.strip() for cell in line.strip().strip("|").split("|")]

    found = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    return [[cells(line) for line in table.splitlines() if "---" not in line] for table in found]


def table_with(page: Path, first: str) -> list[list[str]]:
    """The rows of the table whose head begins with ``first``."""
    return next(table for table in tables(page.read_text(encoding="utf-8")) if table[0][0] == first)[1:]


def test_the_table_of_formats_is_that_of_the_code():
    shown = {
        row[0]: (tuple(re.findall(r"`(\.\w+)`", row[1])) or ("",), *(cell == "yes" for cell in row[2:]))
        for row in table_with(ROOT / "docs" / "formats.md", "format")
    }
    real = {
        row.name: (
            *(row.suffixes, bool(row.reader), bool(row.writer), row.still, row.time),
            *(row.alpha, row.layers, row.deep, row.icc, row.exif),
        )
        for row in io.FORMATS
    }
    assert shown == real


def test_the_blend_modes_of_layered_files_are_those_of_the_code():
    from pellucid.io.ora import OPERATIONS

    rows = table_with(ROOT / "docs" / "formats.md", "blend")
    assert {row[0].strip("`"): row[1].strip("`") for row in rows} == OPERATIONS


def test_the_table_of_train_keys_is_that_of_the_code():
    from pellucid.train import TrainSection

    rows = {row[0].strip("`"): row[1].strip("`") for row in table_with(ROOT / "docs" / "training.md", "key")}
    assert list(rows) == list(TrainSection.model_fields)
    for name, field in TrainSection.model_fields.items():
        default = "must be given" if field.is_required() else "none" if field.default is None else field.default
        assert rows[name] == str(default) or float(rows[name]) == default, name


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_the_table_of_room_options_is_that_of_the_code(room):
    from pellucid.train import Recipe

    own = importlib.import_module(f"pellucid.{room.name}.train").Recipe
    real = []
    for name, field in own.model_fields.items():
        if name not in Recipe.model_fields:
            keys = getattr(field.annotation, "model_fields", None)
            real += [name] if keys is None else [f"{name}.{key}" for key in keys]
    assert [row[0].strip("`") for row in table_with(room / "README.md", "key")] == real


def test_the_colour_room_lists_its_layouts_protocols_and_figures():
    from pellucid.tic.data import LAYOUTS
    from pellucid.tic.evaluate import PROTOCOLS

    page = PACKAGE / "tic" / "README.md"
    for head, real in (("layout", LAYOUTS), ("protocol", PROTOCOLS)):
        assert [row[0].strip("`") for row in table_with(page, head)] == list(real)


def test_the_reflection_room_lists_its_models_layouts_and_protocols():
    from pellucid.metrics import PROTOCOLS
    from pellucid.multistep_sirr.blending import MODELS
    from pellucid.multistep_sirr.data import LAYOUTS

    page = PACKAGE / "multistep_sirr" / "README.md"
    for head, real in (("model", MODELS), ("layout", LAYOUTS), ("protocol", PROTOCOLS)):
        assert [row[0].strip("`") for row in table_with(page, head)] == list(real)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_functions_that_a_room_names_are_there(room):
    text = (room / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w./]+\.py):([\w.]+)`", text)
    assert len(named) > 10
    missing = []
    for file, name in named:
        path = (room / file).resolve()
        if not path.is_file() or not _defines(path, name.split(".")):
            missing.append(f"{file}:{name}")
    assert missing == []


def _defines(path: Path, names: list[str]) -> bool:
    """Whether a source file defines a function, class or value, or a class the named attribute."""
    module = importlib.import_module(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))
    found = getattr(module, names[0], None)
    if found is None or len(names) == 1:
        return found is not None
    fields = {field.name for field in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else set()
    assigned = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return names[1] in fields | assigned or hasattr(found, names[1])


def test_every_file_of_the_house_is_on_its_page():
    """Floors 0 to 2 and 4 on the architecture page, the files of a room in the room's README."""
    house = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        room = next((room for room in ROOMS if room in path.parents), None)
        page, name = (house, inside.as_posix()) if room is None else ((room / "README.md").read_text(), path.name)
        if path.name != "__init__.py" and name not in page:
            missing.append(inside.as_posix())
    assert missing == []


def test_the_architecture_page_names_no_file_that_is_gone():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (tree,) = [block for block in FENCE.findall(text) if "__main__.py" in block[2]]
    named = re.findall(r"\b[\w/]+\.py\b", tree[2])
    assert len(named) > 40
    assert [name for name in named if not (PACKAGE / name).is_file()] == []


def test_weights_that_ship_are_named_by_their_readme():
    for entry in bundled():
        assert f"pellucid/weights/{entry.room}/{entry.name}" in (ROOT / "README.md").read_text(encoding="utf-8")
