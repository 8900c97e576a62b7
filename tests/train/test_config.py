import tomllib

import pytest
import toy_room

from pellucid.errors import ConfigError, InputError
from pellucid.train.config import dump_toml, load_recipe, open_recipe


@pytest.fixture
def write(tmp_path):
    def to_file(text):
        path = tmp_path / "tiny.toml"
        path.write_text(text)
        return path

    return to_file


def test_a_recipe_is_read_with_defaults_and_overrides(write):
    path = write('method = "toy"\nseed = 3\n[train]\nsteps = 5\nlr = 1\n[model]\nsizes = [3, 4]\n')
    recipe = open_recipe(path, ["train.lr=2e-3", "train.schedule=constant", 'name="a = b"', "model.width=4"])
    assert isinstance(recipe, toy_room.Recipe)
    assert (recipe.seed, recipe.train.steps, recipe.train.lr, recipe.train.schedule) == (3, 5, 2e-3, "constant")
    assert (recipe.name, recipe.model.width, recipe.model.sizes, recipe.train.batch) == ("a = b", 4, (3, 4), 8)


def test_the_resolved_recipe_reads_back_the_same(write):
    path = write('method = "toy"\nname = "quote \\" and ü"\n[train]\nsteps = 5\nminutes = 0.5\nlr = 1e-5\n')
    recipe = open_recipe(path)
    again = write(dump_toml(recipe))
    assert "width = 8" in again.read_text()
    assert open_recipe(again) == recipe


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[train]\nstep = 5", ["'step'", "[train]", "did you mean 'steps' in [train]?"]),
        ("[train]\nsteps = 5\n[modle]\nwidth = 3", ["'modle'", "top of the recipe", "did you mean 'model'"]),
        ("[train]\nsteps = 5\n[model]\nbatch = 3", ["'batch'", "[model]", "did you mean 'batch' in [train]?"]),
        ("[train]\nsteps = 5\n[model]\nzzz = 3", ["'zzz'", "width, activation, sizes"]),
        ("[train]\nlr = 0.1", ["key 'train.steps' is missing"]),
        ('[train]\nsteps = "5"', ["'train.steps'", "integer", "'5'"]),
        ("[train]\nsteps = 0", ["'train.steps'", "greater than or equal to 1", "0"]),
        ('[train]\nsteps = 5\nschedule = "linear"', ["'train.schedule'", "'constant' or 'cosine'", "'linear'"]),
        ("train = 5", ["'train'", "5"]),
    ],
)
def test_a_wrong_key_is_one_line_that_says_what_and_where(write, text, parts):
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(f'method = "toy"\n{text}\n'), toy_room.Recipe)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_ways_to_be_wrong(write, tmp_path):
    with pytest.raises(InputError, match=r"none\.toml"):
        open_recipe(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="not TOML"):
        open_recipe(write("method = "))
    with pytest.raises(ConfigError, match="'method' is missing"):
        open_recipe(write("[train]\nsteps = 1"))
    with pytest.raises(ConfigError, match=r"'toi' is not known.*toy"):
        open_recipe(write('method = "toi"'))
    path = write('method = "toy"\n[train]\nsteps = 1')
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        open_recipe(path, ["train.steps"])
    with pytest.raises(ConfigError, match="'steps' is a value"):
        open_recipe(path, ["train.steps.more=1"])


def test_a_recipe_is_frozen_and_its_dump_is_toml(recipe):
    made = recipe()
    with pytest.raises(ValueError):
        made.train.steps = 7
    assert made.with_train(steps=30).train.steps == 30
    assert "select" not in tomllib.loads(dump_toml(made))["train"]
