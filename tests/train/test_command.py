import json
import os
import signal
import subprocess
import sys

import pytest
import toy_room
import typer
from typer.testing import CliRunner

from pellucid.cli.train import default_folder, train
from pellucid.errors import ConfigError, DependencyError
from pellucid.train.config import dump_toml


@pytest.fixture
def pellucid_train(recipe, tmp_path, monkeypatch):
    """Calls the verb in an empty folder that holds ``recipes/toy/tiny.toml``."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipes" / "toy" / "tiny.toml"
    path.parent.mkdir(parents=True)
    path.write_text(dump_toml(recipe()))
    app = typer.Typer()
    app.command()(train)

    def call(*arguments):
        return CliRunner().invoke(app, ["recipes/toy/tiny.toml", "--device", "cpu", *arguments])

    return call


def test_the_verb_trains_into_its_own_folder_and_resumes(pellucid_train, tmp_path):
    first = pellucid_train("--set", "train.steps=4", "--set", "train.schedule=constant")
    assert first.exit_code == 0, first.output
    assert first.stdout == "runs/toy-tiny/model\n"
    assert "step 4/4" in first.stderr
    assert pellucid_train("--set", "train.steps=6", "--set", "train.schedule=constant").exit_code == 0
    assert toy_room.batches_seen == list(range(6))
    assert json.loads((tmp_path / "runs" / "toy-tiny" / "model" / "config.json").read_text()) == {"step": 6}


def test_a_dry_run_tells_everything_and_writes_nothing(pellucid_train, tmp_path):
    told = pellucid_train("--dry-run", "--set", "train.accumulate=3", "--out", "elsewhere")
    assert told.exit_code == 0, told.output
    # 3*8+8 and 8+8 for the first two layers, 8+1 for the last
    for part in (
        'method = "toy"',
        "accumulate = 3",
        "net: 57 parameters",
        "20 steps of 24 examples on cpu",
        "elsewhere",
    ):
        assert part in told.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["recipes"]


def test_an_interrupted_run_exits_130(pellucid_train, monkeypatch):
    real = toy_room.step
    monkeypatch.setattr(toy_room, "step", lambda *args: (os.kill(os.getpid(), signal.SIGINT), real(*args))[1])
    stopped = pellucid_train()
    assert stopped.exit_code == 130
    assert "SIGINT: stopping after this step" in stopped.stderr


def test_a_wrong_override_is_a_config_error(pellucid_train):
    failed = pellucid_train("--set", "train.step=4")
    assert isinstance(failed.exception, ConfigError)
    assert "did you mean 'steps' in [train]?" in str(failed.exception)


def test_the_default_folder_is_named_after_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(default_folder(tmp_path / "recipes" / "toy" / "small.toml")) == "runs/toy-small"


def test_without_accelerate_the_error_says_what_to_install():
    code = """
import sys
sys.modules["accelerate"] = None
import pellucid.train
from pellucid.errors import DependencyError
assert "torch" not in sys.modules, "a recipe is read without torch"
try:
    pellucid.train.run
except DependencyError as error:
    sys.exit(f"{error.exit_code}:{error.hint}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == f"{DependencyError.exit_code}:pip install 'pellucid[train]'"
