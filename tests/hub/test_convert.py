import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from pellucid.errors import WeightsError
from pellucid.hub.convert import load_foreign, rename

STATE = {"a.weight": torch.arange(4.0), "a.bias": torch.ones(1)}


class Evil:
    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def same(found) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"state": {}, "param_groups": []}, "step": 7},
        {"params": {key: value + 1 for key, value in STATE.items()}, "params_ema": STATE},
        {"model": {"state_dict": {f"module.{key}": value for key, value in STATE.items()}}},
        {f"module.{key}": value for key, value in STATE.items()},
    ],
)
def test_usual_wrappings_come_off(tmp_path, wrapped):
    torch.save(wrapped, tmp_path / "w.pth")
    assert same(load_foreign(tmp_path / "w.pth"))


def test_a_prefix_of_some_keys_stays(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pth")
    assert load_foreign(tmp_path / "w.pth").keys() == {"module.a", "b"}


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    assert same(load_foreign(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_does_not_run(tmp_path, legacy):
    file, trace = tmp_path / "evil.pt", tmp_path / "trace"
    torch.save({"state_dict": STATE, "hook": Evil(trace)}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="not run") as caught:
        load_foreign(file)
    assert "\n" not in str(caught.value)
    assert "mkdir" in caught.value.message
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_does_not_run_either(tmp_path):
    file, trace = tmp_path / "evil.bin", tmp_path / "trace"
    file.write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(WeightsError):
        load_foreign(file)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        load_foreign(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert "w.pth" in caught.value.message


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.ones(2), {"model": {"epoch": 1}}])
def test_a_file_without_a_state_dict_says_so(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no state dict"):
        load_foreign(tmp_path / "w.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.pth is not there"):
        load_foreign(tmp_path / "gone.pth")


def test_the_first_rule_that_fits_renames():
    state = {"enc.0.weight": torch.ones(1), "enc.0.bias": torch.ones(1), "head": torch.ones(1)}
    renamed = rename(state, [(r"^enc\.(\d+)\.weight$", r"encoder.\1.kernel"), (r"^enc\.", "encoder.")])
    assert list(renamed) == ["encoder.0.kernel", "encoder.0.bias", "head"]
    assert renamed["head"] is state["head"]


def test_colliding_names_are_reported():
    with pytest.raises(WeightsError, match=r"1 keys collide when renamed: a\.x and b\.x -> c\.x"):
        rename({"a.x": torch.ones(1), "b.x": torch.ones(1)}, [("^[ab]", "c")])
