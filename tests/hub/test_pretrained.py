import json
import os
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pellucid.errors import ConfigError, WeightsError
from pellucid.hub import pretrained
from pellucid.hub.pretrained import (
    bundled,
    info,
    load_config,
    load_state,
    resolve_weights,
    save_pretrained,
    weights_id,
)


@dataclass(frozen=True)
class ToyConfig:
    channels: int
    ranges: tuple[int, ...] = (1, 2)
    gain: float = 0.5
    mode: str | None = None

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ConfigError(f"channels must be at least 1, found {self.channels}")


def network(channels: int = 4) -> nn.Module:
    torch.manual_seed(channels)
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels))


@pytest.fixture
def saved(tmp_path):
    return save_pretrained(
        tmp_path / "small", method="toy", config=ToyConfig(4), state=network(), card="# toy/small\n\nA toy."
    )


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with one folder of weights in it."""
    monkeypatch.setattr(pretrained, "BUNDLED", tmp_path / "weights")
    return save_pretrained(
        tmp_path / "weights" / "toy" / "small", method="toy", config=ToyConfig(4), state=network(), card="x"
    )


def test_round_trip_is_exact(saved):
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert not torch.equal(other[0].weight, network()[0].weight)
    load_state(other, saved)
    assert load_config(saved, ToyConfig) == ToyConfig(4)
    for key, value in network().state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    assert sorted(path.name for path in saved.parent.iterdir()) == ["small"]


def test_half_precision_is_stored_small_and_loaded_in_the_networks_own(tmp_path):
    folder = save_pretrained(tmp_path / "w", method="toy", config={}, state=network(), card="x", dtype="float16")
    other = network()
    load_state(other, folder)
    assert {value.dtype for value in other.parameters()} == {torch.float32}
    assert other[1].num_batches_tracked.dtype == torch.int64
    assert torch.allclose(other[0].weight, network()[0].weight, atol=1e-3)
    assert not torch.equal(other[0].weight, network()[0].weight)


def test_a_value_beyond_half_precision_is_not_made_infinite(tmp_path):
    with pytest.raises(WeightsError, match="scale has values beyond"):
        save_pretrained(
            tmp_path / "w", method="toy", config={}, state={"scale": torch.tensor([1e6])}, card="x", dtype="float16"
        )
    assert list(tmp_path.iterdir()) == []


def test_views_of_one_storage_can_be_saved(tmp_path):
    whole = torch.arange(6.0)
    folder = save_pretrained(
        tmp_path / "w", method="toy", config={}, state={"a": whole[:3], "b": whole.reshape(2, 3).T}, card="x"
    )
    state = pretrained.read_state(folder)
    assert torch.equal(state["a"], whole[:3])
    assert torch.equal(state["b"], whole.reshape(2, 3).T)


def test_nothing_is_replaced_without_being_asked(saved):
    before = weights_id(saved)
    again = {"method": "toy", "config": ToyConfig(5), "state": network(5), "card": "x"}
    with pytest.raises(WeightsError, match="exists"):
        save_pretrained(saved, **again)
    assert weights_id(saved) == before
    save_pretrained(saved, **again, overwrite=True)
    assert load_config(saved, ToyConfig).channels == 5
    assert sorted(path.name for path in saved.parent.iterdir()) == ["small"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"dear")
    with pytest.raises(WeightsError, match="something else"):
        save_pretrained(tmp_path / "photos", method="toy", config={}, state={}, card="x", overwrite=True)
    assert (tmp_path / "photos" / "one.jpg").read_bytes() == b"dear"


def test_a_failing_save_leaves_the_old_weights(saved, monkeypatch):
    before = weights_id(saved)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "save", fail)
    with pytest.raises(OSError):
        save_pretrained(saved, method="toy", config={}, state=network(5), card="x", overwrite=True)
    assert weights_id(saved) == before
    assert sorted(path.name for path in saved.parent.iterdir()) == ["small"]


def test_weights_need_a_card(tmp_path):
    with pytest.raises(ConfigError, match="card"):
        save_pretrained(tmp_path / "w", method="toy", config={}, state={}, card=" \n")


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_others_can_read_what_was_saved(saved):
    mask = os.umask(0)
    os.umask(mask)
    assert [oct(path.stat().st_mode & 0o777) for path in saved.iterdir()] == [oct(0o666 & ~mask)] * 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chanels": 3}, "unknown chanels"),
        ({"channels": None}, "'channels' must be int"),
        ({"channels": "4"}, "'channels' must be int, found '4'"),
        ({"channels": 4.5}, "'channels' must be int"),
        ({"channels": True}, "'channels' must be int"),
        ({"ranges": [1, "x"]}, "'ranges'"),
        ({"channels": 0}, "channels must be at least 1"),
    ],
)
def test_a_config_that_does_not_fit_is_named(saved, change, said):
    document = json.loads((saved / "config.json").read_text())
    document["config"] |= change
    (saved / "config.json").write_text(json.dumps(document))
    with pytest.raises(WeightsError) as caught:
        load_config(saved, ToyConfig)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_config_takes_defaults_but_needs_the_rest(saved):
    document = {"method": "toy", "format": 1, "config": {"channels": 3, "gain": 1, "mode": "a", "ranges": [4, 5]}}
    (saved / "config.json").write_text(json.dumps(document))
    assert load_config(saved, ToyConfig) == ToyConfig(3, (4, 5), 1.0, "a")
    (saved / "config.json").write_text(json.dumps(document | {"config": {"gain": 1.0}}))
    with pytest.raises(WeightsError, match="missing channels"):
        load_config(saved, ToyConfig)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"method": "toy"}', '{"method": "t", "format": 2, "config": {}}'])
def test_a_damaged_config_is_one_line(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(WeightsError) as caught:
        load_config(saved, ToyConfig)
    assert "config.json" in caught.value.message
    assert "\n" not in caught.value.message


def test_keys_that_do_not_fit_are_counted_and_up_to_five_named():
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    state = {f"other.{n}": torch.zeros(3) for n in range(2)} | {"0.weight": torch.zeros(2, 3)}
    before = module[0].weight.clone()
    with pytest.raises(WeightsError) as caught:
        load_state(module, state)
    said = caught.value.message
    assert "7 missing: 0.bias (2), 1.weight (2, 2), 1.bias (2), 2.weight (2, 2), 2.bias (2) and 2 more" in said
    assert "2 extra: other.0 (3), other.1 (3)" in said
    assert "1 wrong-shaped: 0.weight expected (2, 2), found (2, 3)" in said
    assert torch.equal(module[0].weight, before)


def test_not_strict_takes_what_there_is_but_no_wrong_shape(caplog):
    module = nn.Linear(2, 2)
    load_state(module, {"weight": torch.ones(2, 2), "more": torch.zeros(1)}, strict=False)
    assert torch.equal(module.weight, torch.ones(2, 2))
    assert "1 missing: bias" in caplog.text
    assert "1 extra: more" in caplog.text
    with pytest.raises(WeightsError, match="wrong-shaped"):
        load_state(module, {"weight": torch.ones(2, 3)}, strict=False)


@pytest.mark.parametrize("keep", [0, 4, 40, -8])
def test_a_damaged_file_is_one_line(saved, keep):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(WeightsError) as caught:
        load_state(network(), saved)
    assert "model.safetensors is damaged" in caught.value.message
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="damaged"):
        info(saved)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_a_pickle_is_refused_unread(tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    torch.save({}, file)
    for read in (lambda: load_state(network(), file), lambda: resolve_weights(str(file), room="toy", default="small")):
        with pytest.raises(WeightsError, match="pickle") as caught:
            read()
        assert "convert" in caught.value.hint


def test_a_pickle_in_disguise_is_refused(saved):
    torch.save(network().state_dict(), saved / "model.safetensors")
    with pytest.raises(WeightsError, match="not safetensors"):
        load_state(network(), saved)


def test_nothing_named_means_the_bundled_default(package):
    assert resolve_weights(None, room="toy", default="small") == package
    assert resolve_weights("small", room="toy", default="large") == package
    with pytest.raises(WeightsError, match="'large' for toy"):
        resolve_weights(None, room="toy", default="large")


def test_a_bundled_name_stays_in_its_room(package):
    with pytest.raises(WeightsError):
        resolve_weights("small", room="other", default="x")
    with pytest.raises(WeightsError):
        resolve_weights("..", room="toy", default="x")


def test_a_folder_is_taken_and_a_bundled_name_wins(package, tmp_path, monkeypatch):
    mine = save_pretrained(tmp_path / "cwd" / "small", method="toy", config={}, state={}, card="x")
    monkeypatch.chdir(mine.parent)
    assert resolve_weights(mine, room="toy", default="x") == mine
    assert resolve_weights("./small", room="toy", default="x").resolve() == mine
    assert resolve_weights("small", room="toy", default="x") == package


def test_a_folder_without_weights_says_what_is_missing(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(WeightsError, match=r"model\.safetensors missing"):
        resolve_weights(tmp_path, room="toy", default="x")


def test_what_is_not_there_says_where_was_looked(package):
    with pytest.raises(WeightsError) as caught:
        resolve_weights("smal", room="toy", default="small")
    assert caught.value.exit_code == 3
    assert "'smal'" in caught.value.message
    assert "bundled: small" in caught.value.message


@pytest.mark.parametrize("by", ["option", "environment"])
def test_offline_never_asks_the_hub(tmp_path, monkeypatch, by):
    asked = []

    def snapshot_download(name, *, local_files_only, **options):
        asked.append((name, local_files_only))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    if by == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="no folder of weights"):
        resolve_weights("org/name", room="toy", default="x", offline=by == "option")
    assert asked == [("org/name", True)]


def test_offline_without_a_cached_copy_says_so(tmp_path, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot_download(*args, **options):
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(WeightsError, match="not asked when offline") as caught:
        resolve_weights("org/name", room="toy", default="x", offline=True)
    assert "--offline" in caught.value.hint


def test_online_a_hub_id_is_fetched_with_its_revision(saved, monkeypatch):
    asked = {}

    def snapshot_download(name, **options):
        asked.update(options, name=name)
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert resolve_weights("org/name", room="toy", default="x", revision="v1") == saved
    assert (asked["name"], asked["revision"], asked["local_files_only"]) == ("org/name", "v1", False)
    assert not any(fetched.endswith((".bin", ".pt", "*")) for fetched in asked["allow_patterns"])


def test_the_identity_names_method_folder_and_contents(tmp_path):
    save = {"method": "toy", "config": {}, "card": "x"}
    first = save_pretrained(tmp_path / "small", **save, state={"a": torch.zeros(2)})
    same = save_pretrained(tmp_path / "copy" / "small", **save, state={"a": torch.zeros(2)})
    other = save_pretrained(tmp_path / "other" / "small", **save, state={"a": torch.ones(2)})
    assert (first / "model.safetensors").read_bytes() == (same / "model.safetensors").read_bytes()
    assert weights_id(first) == weights_id(same) != weights_id(other)
    name, _, digits = weights_id(first).partition("@")
    assert name == "toy/small"
    assert len(digits) == 8
    assert int(digits, 16) >= 0


def test_info_counts_without_loading(saved):
    found = info(saved)
    assert found.method == "toy"
    assert found.parameters == sum(value.numel() for value in network().state_dict().values())
    assert found.size == (saved / "model.safetensors").stat().st_size
    assert found.config["channels"] == 4
    assert found.card.startswith("# toy/small")


def test_bundled_lists_folders_of_weights_only(package):
    (package.parent / "notes").mkdir()
    save_pretrained(package.parents[1] / "art" / "tiny", method="art", config={}, state={}, card="x")
    assert [(entry.room, entry.name) for entry in bundled()] == [("art", "tiny"), ("toy", "small")]
    assert [entry.folder for entry in bundled("toy")] == [package]


def test_a_single_safetensors_file_can_be_read(tmp_path):
    save_file({"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, tmp_path / "a.safetensors")
    module = nn.Linear(2, 2)
    load_state(module, tmp_path / "a.safetensors")
    assert torch.equal(module.weight, torch.ones(2, 2))
