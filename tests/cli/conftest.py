"""The command as a user types it, in this process, with a pipeline that needs no weights."""

from dataclasses import dataclass, replace

import pytest

from pellucid import registry
from pellucid.cli.main import app


@dataclass
class Finished:
    code: int
    out: str
    err: str


@pytest.fixture
def pellucid(capsys):
    """Run the command with arguments; returns exit code, stdout and stderr."""

    def run(*arguments) -> Finished:
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments], prog_name="pellucid")
        captured = capsys.readouterr()
        return Finished(ended.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def fake_room(monkeypatch):
    """Put fake pipelines and an evaluation in the place of the rooms', also for worker processes."""
    for name, pipeline in (("multistep_sirr", "FakePipeline"), ("tic", "FakeColors"), ("semantic_vae", "FakeParts")):
        fake = replace(registry.METHODS[name], pipeline=f"fake_pipeline:{pipeline}", evaluate="fake_evaluate")
        monkeypatch.setitem(registry.METHODS, name, fake)
