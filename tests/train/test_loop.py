import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toy_room
from PIL import Image
from safetensors.torch import load_file

from pellucid.errors import ConfigError, InputError
from pellucid.train import loop
from pellucid.train.checkpoint import list_checkpoints
from pellucid.train.config import dump_toml

SCRIPT = Path(toy_room.__file__)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(out, average=False):
    return load_file(list_checkpoints(out / "checkpoints")[-1] / f"net{'.ema' if average else ''}.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_leaves_what_it_promises(recipe, tmp_path):
    out = tmp_path / "run"
    result = loop.run(recipe(ema=0.9, clip_norm=0.5, warmup=2), out)
    assert (result.step, result.finished, result.model) == (20, True, out / "model")
    names = {path.name for path in out.iterdir()}
    assert names == {"recipe.toml", "env.json", "log.jsonl", "validate.jsonl", "samples", "checkpoints", "model"}
    log = lines(out / "log.jsonl")
    assert [line["step"] for line in log] == [5, 10, 15, 20]
    assert log[-1]["losses"]["fit"] < 0.5 * log[0]["losses"]["fit"]
    assert log[0]["elapsed"] > 0
    assert log[0]["steps_per_second"] > 0
    assert [line["step"] for line in lines(out / "validate.jsonl")] == [10, 20]
    assert Image.open(out / "samples" / "step_000010.png").size == (5, 4)
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == ["step_00000014", "step_00000020"]
    facts = json.loads((out / "env.json").read_text())[0]
    assert facts["versions"]["torch"] == torch.__version__
    assert (facts["precision"], facts["processes"], facts["from_step"]) == ("fp32", 1, 0)
    assert os.uname().nodename not in (out / "env.json").read_text().replace(facts["cpu"], "")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_is_the_straight_run_bit_for_bit(recipe, tmp_path, accumulate):
    plan = recipe(ema=0.9, clip_norm=1.0, accumulate=accumulate, steps=16)
    loop.run(plan, tmp_path / "straight")
    straight = list(toy_room.batches_seen)
    toy_room.batches_seen.clear()
    assert not loop.run(plan, tmp_path / "parts", stop_after=9).finished
    assert not (tmp_path / "parts" / "model").exists()
    torch.rand(7)  # the state of the generators comes from the checkpoint, not from what happened in between
    assert loop.run(plan, tmp_path / "parts").finished
    assert straight == toy_room.batches_seen == list(range(16 * accumulate))
    for average in (False, True):
        assert same(weights(tmp_path / "straight", average), weights(tmp_path / "parts", average))
    records = [
        json.loads((list_checkpoints(tmp_path / run / "checkpoints")[-1] / "state.json").read_text())
        for run in ("straight", "parts")
    ]
    assert records[0]["extra"] == records[1]["extra"] == {"seen": 16 * 8 * accumulate}


def test_looking_does_not_change_the_training(recipe, tmp_path):
    loop.run(recipe(), tmp_path / "seldom")
    loop.run(recipe(validate_every=1, sample_every=1, checkpoint_every=1, log_every=1), tmp_path / "often")
    assert same(weights(tmp_path / "seldom"), weights(tmp_path / "often"))


def test_a_run_that_is_killed_while_writing_a_checkpoint_goes_on(recipe, tmp_path):
    plan = recipe(ema=0.9)
    loop.run(plan, tmp_path / "straight")
    (tmp_path / "recipe.toml").write_text(dump_toml(plan))
    # The process dies after some files of the second checkpoint are written, without any chance to clean up.
    code = f"""
import os, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import torch, toy_room
from pathlib import Path
from pellucid import registry
from pellucid.train import open_recipe, run
registry.METHODS["toy"] = toy_room.METHOD
torch.set_num_threads(1)
real, calls = torch.save, []
def save(*args, **kwargs):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), 9)
    real(*args, **kwargs)
torch.save = save
run(open_recipe({str(tmp_path / "recipe.toml")!r}), Path({str(tmp_path / "killed")!r}), device="cpu")
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -signal.SIGKILL
    assert [path.name for path in list_checkpoints(tmp_path / "killed" / "checkpoints")] == ["step_00000007"]
    assert lines(tmp_path / "killed" / "log.jsonl")[-1]["step"] == 10
    assert loop.run(plan, tmp_path / "killed").finished
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "killed"))
    assert [line["step"] for line in lines(tmp_path / "killed" / "log.jsonl")] == [5, 10, 15, 20]
    assert not list((tmp_path / "killed" / "checkpoints").glob(".part-*"))


def test_a_damaged_checkpoint_is_passed_over(recipe, tmp_path, caplog):
    loop.run(recipe(), tmp_path / "run", stop_after=10)
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    (newest / "net.safetensors").write_bytes(b"broken")
    assert loop.run(recipe(), tmp_path / "run").finished
    assert "step_00000010 cannot be used" in caplog.text
    loop.run(recipe(), tmp_path / "straight")
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "run"))


def test_sigterm_writes_a_checkpoint_and_the_same_command_finishes(recipe, tmp_path, monkeypatch):
    plan = recipe()
    loop.run(plan, tmp_path / "straight")
    real, calls = toy_room.step, []

    def interrupted(state, batch):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(state, batch)

    monkeypatch.setattr(toy_room, "step", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        loop.run(plan, tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step_00000006"]
    assert loop.run(plan, tmp_path / "run").finished
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "run"))


def test_the_best_by_the_chosen_figure_is_exported_and_kept(recipe, tmp_path):
    plan = recipe({"worse_after": 10}, select="score", validate_every=5, keep_checkpoints=1, checkpoint_every=5)
    result = loop.run(plan, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text()) == {"step": 10}
    assert result.figures["score"] == 10.0
    kept = [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert kept == ["step_00000010", "step_00000020"]
    assert [line["best"] for line in lines(tmp_path / "run" / "validate.jsonl")] == [True, True, False, False]
    least = recipe({"worse_after": 10}, select="score", select_mode="min", validate_every=5)
    assert loop.run(least, tmp_path / "least").figures["score"] == 0.0
    assert loop.run(recipe({"worse_after": 10}, validate_every=5), tmp_path / "last").figures["score"] == 0.0


def test_the_best_is_remembered_across_a_resume(recipe, tmp_path):
    plan = recipe({"worse_after": 5}, select="score", validate_every=5)
    loop.run(plan, tmp_path / "run", stop_after=12)
    loop.run(plan, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text()) == {"step": 5}


def test_an_unknown_figure_is_named_and_no_training_is_lost(recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"'psnr' is not a validation figure \(use one of error, process, score"):
        loop.run(recipe(select="psnr"), tmp_path / "run")
    result = loop.run(recipe(select="score"), tmp_path / "run")
    assert result.finished
    assert toy_room.batches_seen == list(range(20))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(recipe, tmp_path):
    with pytest.raises(loop.DivergedError, match=r"'fit' is not finite at step 9.*of step 7"):
        loop.run(recipe({"break_at": 9}), tmp_path / "run")
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step_00000007"]
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


def test_the_time_budget_ends_the_run_cleanly_over_all_its_parts(recipe, tmp_path, monkeypatch):
    real = toy_room.step
    monkeypatch.setattr(toy_room, "step", lambda state, batch: (time.sleep(0.02), real(state, batch))[1])
    plan = recipe(steps=100_000, minutes=0.5 / 60, log_every=1)
    first = loop.run(plan, tmp_path / "run", stop_after=10)
    second = loop.run(plan, tmp_path / "run")
    assert (first.finished, second.finished) == (False, True)
    log = lines(tmp_path / "run" / "log.jsonl")
    assert 0.5 <= log[-1]["elapsed"] < 1.0
    assert 10 < second.step <= 25  # 0.5 s of 0.02 s steps in both parts together
    assert log[-1]["lr"] < 0.1 * log[0]["lr"]  # the cosine ends with the time, not with the steps
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text()) == {"step": second.step}
    assert loop.run(plan, tmp_path / "run").step == second.step


def test_a_changed_recipe_is_refused_but_a_run_may_grow(recipe, tmp_path):
    out = tmp_path / "run"
    loop.run(recipe(steps=10), out)
    with pytest.raises(ConfigError, match=r"train\.lr was 0\.05, now 0\.1"):
        loop.run(recipe(steps=10, lr=0.1), out)
    with pytest.raises(ConfigError, match=r"train\.steps was 10, now 5"):
        loop.run(recipe(steps=5), out)
    with pytest.raises(ConfigError, match=r"train\.minutes was None, now 1\.0"):
        loop.run(recipe(steps=10, minutes=1.0), out)
    with pytest.raises(ConfigError, match=r"model\.width was 8, now 4"):
        loop.run(recipe({"model": {"width": 4}}, steps=10), out)
    assert loop.run(recipe(steps=12, log_every=1), out).step == 12
    assert "steps = 12" in (out / "recipe.toml").read_text()
    assert toy_room.batches_seen == list(range(12))


def test_a_folder_of_something_else_is_left_alone(recipe, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no run"):
        loop.run(recipe(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_two_runs_in_one_folder_are_refused(recipe, tmp_path, monkeypatch):
    def step(state, batch):
        loop.run(recipe(), tmp_path / "run")

    monkeypatch.setattr(toy_room, "step", step)
    with pytest.raises(ConfigError, match="trained by another process"):
        loop.run(recipe(), tmp_path / "run")


def test_the_average_is_the_one_computed_by_hand(recipe, tmp_path, monkeypatch):
    seen = []
    real = toy_room.step

    def recording(state, batch):
        losses = real(state, batch)
        seen.append(state.modules["net"].layers[0].bias.detach().clone())
        return losses

    monkeypatch.setattr(toy_room, "step", recording)
    loop.run(recipe(steps=4, ema=0.3), tmp_path / "run")
    expected = seen[0]
    for step, bias in enumerate(seen[1:], start=2):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * bias
    assert torch.allclose(weights(tmp_path / "run", average=True)["module.layers.0.bias"], expected, atol=1e-6)
    exported = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert torch.allclose(exported["layers.0.bias"], expected, atol=1e-6)
    assert exported["layers.1.num_batches_tracked"] == 4


def test_gradients_are_accumulated_and_clipped(recipe, tmp_path, monkeypatch):
    norms = []
    real = loop.clip

    def recording(state, name):
        found = real(state, name)
        norms.append(None if found is None else float(found))
        if found is not None:
            parameters = state.modules[name].parameters()
            assert torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in parameters])) <= 0.0101
        return found

    monkeypatch.setattr("pellucid.train.loop.clip", recording)
    loop.run(recipe(steps=3, accumulate=2, clip_norm=0.01), tmp_path / "run")
    assert [norm is None for norm in norms] == [True, False] * 3
    assert max(norm for norm in norms if norm is not None) > 0.02


def test_the_module_is_validated_in_eval_mode_and_frozen_parts_stay_frozen(recipe, tmp_path, monkeypatch):
    modes = []
    real_build, real_step, real_validate = toy_room.build, toy_room.step, toy_room.validate

    def build(recipe, accelerator):
        state = real_build(recipe, accelerator)
        state.modules["net"].layers[3].eval()
        return state

    def step(state, batch):
        modes.append([part.training for part in state.modules["net"].layers[1:4:2]])
        return real_step(state, batch)

    def validate(state, modules):
        assert not any(part.training for part in modules["net"].modules())
        assert not torch.is_grad_enabled()
        return real_validate(state, modules)

    for name, function in {"build": build, "step": step, "validate": validate}.items():
        monkeypatch.setattr(toy_room, name, function)
    loop.run(recipe(steps=4, validate_every=2), tmp_path / "run")
    assert modes == [[True, False]] * 4
    assert toy_room.validated_at == [2, 4]


def test_bf16_computes_in_bf16_and_validates_outputs_in_fp32(recipe, tmp_path, monkeypatch):
    kinds = []
    real_build, real_validate = toy_room.build, toy_room.validate

    def build(recipe, accelerator):
        state = real_build(recipe, accelerator)
        state.modules["net"].layers[4].register_forward_hook(lambda _, __, out: kinds.append(out.dtype))
        return state

    def validate(state, modules):
        kinds.clear()
        assert modules["net"](torch.rand(2, 3)).dtype == torch.float32
        assert kinds == [torch.bfloat16]
        return real_validate(state, modules)

    monkeypatch.setattr(toy_room, "build", build)
    monkeypatch.setattr(toy_room, "validate", validate)
    for ema in (0.0, 0.9):
        assert loop.run(recipe(steps=2, precision="bf16", ema=ema), tmp_path / f"run{ema}").finished
    with pytest.raises(ConfigError, match="fp16"):
        loop.run(recipe(precision="fp16"), tmp_path / "half", device="cpu")


def test_two_processes_share_the_work(recipe, tmp_path):
    plan = recipe(ema=0.9)
    (tmp_path / "recipe.toml").write_text(dump_toml(plan))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--main_process_port", "0", str(SCRIPT), str(tmp_path / "recipe.toml"), str(tmp_path)]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(launch, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "parts" / "env.json").read_text())[0]["processes"] == 2
    last = lines(tmp_path / "parts" / "validate.jsonl")
    assert [line["step"] for line in last] == [10, 20]  # one line for both: only the main process writes
    assert last[-1]["figures"]["process"] == 0.5  # the mean of ranks 0 and 1
    log = lines(tmp_path / "parts" / "log.jsonl")
    assert [line["step"] for line in log] == [5, 10, 15, 20]
    # The mean target of both processes' batches: each has its own, and the log has the mean over both.
    means = []
    for rank in range(2):
        accelerator = type("Rank", (), {"process_index": rank, "device": torch.device("cpu")})()
        batches = toy_room.build(plan, accelerator).batches
        means.append(torch.stack([batches(index)[1].mean() for index in range(5)]).mean().item())
    assert means[0] != means[1]
    assert log[0]["losses"]["offset"] == pytest.approx(sum(means) / 2, rel=1e-5)
    state = json.loads((list_checkpoints(tmp_path / "parts" / "checkpoints")[-1] / "state.json").read_text())
    assert state["processes"] == 2
    assert same(weights(tmp_path / "straight", average=True), weights(tmp_path / "parts", average=True))
