"""``pellucid models vectors``: captions become a table of words."""

import pytest

from pellucid.tic.word_vectors import WordVectors

RECIPE = 'method = "{}"\ncorpus = ["captions.txt"]\ndimension = 8\nepochs = 1\nkeep = 4\n'


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe beside its captions, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.txt").write_text("a red dress\na blue car\n" * 4)
    path = tmp_path / "vectors.toml"
    path.write_text(RECIPE.format("tic"))
    return path


def test_vectors_are_trained_and_not_overwritten(pellucid, recipe) -> None:
    pytest.importorskip("gensim")
    first = pellucid("models", "vectors", recipe, "-o", "words.npz", "--set", "dimension=6")
    assert (first.code, first.out) == (0, "words.npz\n")
    assert WordVectors.load("words.npz").dimension == 6
    again = pellucid("models", "vectors", recipe, "-o", "words.npz")
    assert again.code == 1
    assert "--overwrite" in again.err
    assert WordVectors.load("words.npz").dimension == 6


@pytest.mark.parametrize(
    ("text", "arguments", "complaint"),
    [
        (RECIPE.format("tic"), ["-o", "words.txt"], ".npz"),
        (RECIPE.format("multistep_sirr"), [], "no text"),
        (RECIPE.format("tick"), [], "'tick'"),
        (RECIPE.format("tic") + "window = 0\n", [], "window"),
    ],
)
def test_wrong_recipes(pellucid, recipe, text: str, arguments: list[str], complaint: str) -> None:
    recipe.write_text(text)
    found = pellucid("models", "vectors", recipe, *arguments)
    assert found.code == 2
    assert complaint in found.err
