"""``pellucid parts``: edits, samples, mixtures, pictures, sets; bad input, errors and exit codes.

The pipeline is the real one, with weights that nobody trained: what is tested is what a user gets for a command.
"""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.io import batch
from pellucid.layers import LayerStack
from pellucid.semantic_vae.directions import Direction, Directions
from pellucid.semantic_vae.faces.sean import SEANGenerator
from pellucid.semantic_vae.faces.spade import FaceNetworkConfig, SPADEGenerator
from pellucid.semantic_vae.fitting import Editing
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ as HQ
from pellucid.semantic_vae.masks.classes import ClassSet
from pellucid.semantic_vae.masks.mask_files import read_mask, write_mask
from pellucid.semantic_vae.model import SemanticVAE, SemanticVAEConfig
from pellucid.semantic_vae.pipeline import FacePartsPipeline
from pellucid.semantic_vae.priors import fit_priors

SIDE = 48
SIX = ClassSet("six", ("background", "skin", "hair", "nose", "mouth", "eyes"))


def untrained(classes: ClassSet = HQ, fitted: bool = False) -> FacePartsPipeline:
    """Random weights whose masks hold many classes and depend on the codes."""
    torch.manual_seed(0)
    config = SemanticVAEConfig(
        classes=len(classes), background=classes.background, size=32, encoder_side=16, encoder_widths=(32,), latent=16,
        lstm_layers=1, lstm_hidden=8, ff_width=16, channels=(8, 8, 8, 8), groups=4,
    )  # fmt: skip
    model = SemanticVAE(config)
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.xavier_normal_(module.weight, gain=1.5)
    editing = None
    if fitted:
        mu = torch.randn(40, 18, 16)
        priors = fit_priors(mu, torch.zeros_like(mu) - 3, torch.rand(40, 18) > 0.3)
        held = {"r2": 0.8, "slope": 1.0, "monotone": 1.0}
        directions = {
            "face_width": Direction("face_width", (4,), torch.randn(1, 16), "face heights", 0.7, 0.05, True, held),
            "smile": Direction("smile", (12,), torch.randn(1, 16), "face heights", 0.0, 0.01, False, {"r2": 0.1}),
            "hair/pc1": Direction("hair/pc1", (13,), torch.randn(1, 16)),
        }
        editing = Editing(priors, Directions(directions))
    return FacePartsPipeline(model, classes, editing=editing, device="cpu")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Folders of weights: plain ones, and some with priors and attributes."""
    folder = tmp_path_factory.mktemp("parts")
    untrained().save_pretrained(folder / "plain", card="# Not trained\n")
    untrained(fitted=True).save_pretrained(folder / "fitted", card="# Not trained\n")
    return folder


@pytest.fixture
def parts(pellucid, weights, tmp_path, monkeypatch):
    """Run a verb of parts with the small network, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(verb, *arguments, model="plain"):
        return pellucid("parts", verb, *arguments, "--model", weights / model, "--device", "cpu")

    yield run
    torch.set_num_threads(before)


@pytest.fixture
def in_process(monkeypatch):
    """Work off batches here: a process takes seconds to start."""

    def work(todo, maker, count, note):
        do = maker()
        for job in todo:
            note(batch._attempt(do, job))

    monkeypatch.setattr(batch, "_in_processes", work)


def face(shift: float = 0.0, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """Skin with hair above, two eyes, a nose and a mouth; no hat."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    columns = columns - shift
    labels = torch.zeros(height, width, dtype=torch.uint8)
    labels[(rows - 0.5) ** 2 + (columns - 0.5) ** 2 < 0.16] = HQ.id_of("skin")
    labels[(labels == 1) & (rows < 0.3)] = HQ.id_of("hair")
    for name, y, x, r in (
        *(("l_eye", 0.45, 0.65, 0.06), ("r_eye", 0.45, 0.35, 0.06)),
        *(("nose", 0.58, 0.5, 0.05), ("l_lip", 0.75, 0.5, 0.06)),
    ):
        labels[(rows - y) ** 2 + (columns - x) ** 2 < r * r] = HQ.id_of(name)
    return labels


def mask(name: str = "a.png", **options: Any) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_mask(face(**options), path, overwrite=True)


def ids(path: Path | str) -> np.ndarray:
    """Pixel values of a label PNG."""
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


def rgb(path: Path | str) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture).astype(int)


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file()}


def one_line(ended) -> str:
    """What went wrong: one line, and perhaps one hint."""
    lines = [line for line in ended.err.splitlines() if not line.startswith("WARNING")]
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: "))
    assert "Traceback" not in ended.err
    return ended.err


def test_a_part_is_made_anew_and_the_rest_stays(parts):
    source = mask()
    ended = parts("edit", source, "--generate", "hair", "--seed", "1")
    assert (ended.code, ended.out, ended.err) == (0, "", "wrote a.edited.png\n")
    assert files() == {"a.png", "a.edited.png"}
    found, before = ids("a.edited.png"), ids(source)
    assert found.shape == (SIDE, SIDE)
    assert not np.array_equal(found, before)
    assert set(np.unique(found)) <= set(np.unique(before))  # no class that was not there
    assert np.array_equal(np.asarray(Image.open("a.edited.png").convert("RGB"))[0, 0], HQ.colors[found[0, 0]])

    again = parts("edit", source, "--generate", "hair", "--seed", "1")
    assert again.code == 1
    assert "a.edited.png exists already" in one_line(again)
    for name, options in {
        "same": ["--generate", "hair", "--seed", "1"],
        "seed": ["--generate", "hair", "--seed", "2"],
        "whole": ["--generate", "hair", "--seed", "1", "--no-keep-unedited"],
        "free": ["--generate", "hair", "--seed", "1", "--no-keep-unedited", "--no-guard"],
        "warm": ["--generate", "hair", "--seed", "1", "--temperature", "3"],
        "hat": ["--add", "hat"],
        "no-eyes": ["--remove", "eyes", "--no-keep-unedited"],
        "weak": ["--perturb", "skin", "--amount", "0"],
        "strong": ["--perturb", "skin", "--amount", "3"],
        "seen": ["--reconstruct", "skin"],
    }.items():
        assert parts("edit", source, *options, "-o", f"{name}.png").code == 0, name
    assert np.array_equal(ids("same.png"), found)
    assert not np.array_equal(ids("seed.png"), found)
    assert (found == before).mean() > (ids("whole.png") == before).mean()  # what is far from the hair is copied
    assert len(np.unique(ids("free.png"))) > len(np.unique(before))
    assert not np.array_equal(ids("warm.png"), found)
    assert HQ.id_of("hat") in ids("hat.png")
    assert not {4, 5} & set(np.unique(ids("no-eyes.png")))
    assert np.array_equal(ids("weak.png"), ids("seen.png"))
    assert not np.array_equal(ids("strong.png"), ids("weak.png"))


def test_formats_and_streams(parts, monkeypatch):
    source = mask(height=40, width=56)
    assert parts("edit", source, "--generate", "hair", "--format", "ora").code == 0
    stack = LayerStack.load("a.edited.ora")
    assert stack.names[0] == "background"
    assert set(stack.names) <= set(HQ.names)
    assert (stack.height, stack.width) == (40, 56)
    assert stack.meta.parameters["history"][0]["kind"] == "generate"
    assert parts("edit", source, "--generate", "hair", "-o", "b.npz").code == 0
    assert parts("edit", source, "--generate", "hair", "-o", "b.png").code == 0
    assert np.array_equal(read_mask("b.npz").labels, ids("b.png"))
    assert np.array_equal(read_mask("a.edited.ora").labels, ids("b.png"))

    written = io.BytesIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(source.read_bytes())))
        patched.setattr(sys, "stdout", SimpleNamespace(buffer=written, write=lambda text: None, flush=lambda: None))
        assert parts("edit", "-", "--generate", "hair", "-o", "-").code == 0
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(written.getvalue()))), ids("b.png"))

    for out, more in (("b.jpg", ()), ("c.png", ("--format", "ora")), ("c/", ("--format", "gif"))):
        ended = parts("edit", source, "--generate", "hair", "-o", out, *more)
        assert ended.code == 2
        one_line(ended)
    ended = parts("edit", source, "--generate", "hair", "--variants", "2", "-o", "-")
    assert (ended.code, "stdout can hold one result" in one_line(ended)) == (2, True)


def test_a_rendering_is_written_beside_the_mask(parts):
    source = mask()
    assert parts("edit", source, "--generate", "hair", "--render", "preview").code == 0
    assert files() == {"a.png", "a.edited.png", "a.rendered.png"}
    plain = rgb("a.rendered.png")
    assert plain.shape == (SIDE, SIDE, 3)
    assert (
        parts("edit", source, "--generate", "hair", "--render", "preview", "--style", "5", "-o", "five.png").code == 0
    )
    assert not np.array_equal(rgb("five.rendered.png"), plain)
    Image.new("RGB", (SIDE, SIDE), (20, 160, 60)).save("green.jpg")
    look = ["--render", "preview", "--style", "green.jpg"]
    assert parts("edit", source, "--generate", "hair", *look, "-o", "green.png").code == 0
    green = rgb("green.rendered.png")[SIDE // 2, SIDE // 2]
    assert green[1] > green[0]
    assert green[1] > green[2]
    mask("other.png", shift=0.1)
    assert parts("edit", source, "--generate", "hair", *look, "--style-mask", "other.png", "-o", "b.png").code == 0
    assert parts("edit", source, "--generate", "hair", "--render", "preview", "--format", "ora", "-o", "f/").code == 0
    assert Path("f/a.rendered.png").is_file()
    assert len(LayerStack.load("f/a.edited.ora").layers) > 2

    for bad in (["--style", "5"], ["--render", "preview", "--style-mask", "other.png"]):
        ended = parts("edit", source, "--generate", "hair", *bad, "-o", "no.png")
        assert ended.code == 2
        one_line(ended)
    ended = parts("edit", source, "--generate", "hair", "--render", "preview", "--style", "none.jpg", "-o", "no.png")
    assert (ended.code, "--style none.jpg is not there" in one_line(ended)) == (1, True)
    ended = parts("edit", source, "--generate", "hair", "--render", "preview", "--overwrite", "-o", "no.rendered.png")
    assert ended.code == 0  # its rendering is no.rendered.rendered.png
    assert Path("no.rendered.rendered.png").is_file()


def test_variants_and_histories_replay(parts):
    source = mask()
    edits = ["--remove", "l_eye", "--generate", "hair,nose", "--perturb", "skin"]
    ended = parts("edit", source, *edits, "--variants", "2", "--seed", "3", "--save-history", "h.json")
    assert ended.code == 0
    assert files() == {"a.png", "a.edited-1.png", "a.edited-2.png", "h-1.json", "h-2.json"}
    first = ids("a.edited-1.png")
    assert not np.array_equal(first, ids("a.edited-2.png"))
    kinds = [edit["kind"] for edit in json.loads(Path("h-1.json").read_text())]
    assert kinds == ["remove", "generate", "perturb"]
    assert parts("edit", source, "--history", "h-1.json", "-o", "again.png").code == 0
    assert np.array_equal(ids("again.png"), first)
    assert parts("edit", source, "--history", "h-1.json", "--add", "hat", "-o", "more.png").code == 0
    assert HQ.id_of("hat") in ids("more.png")
    # Nothing is overwritten unasked, and nothing is begun.
    Path("b.edited-1.png").write_bytes(b"mine")
    mask("b.png")
    ended = parts("edit", "b.png", "--generate", "hair", "--variants", "2")
    assert (ended.code, "b.edited-1.png: exists already" in one_line(ended)) == (1, True)
    assert Path("b.edited-1.png").read_bytes() == b"mine"
    assert not Path("b.edited-2.png").exists()
    for name, text in (("x.json", "not json"), ("y.json", '{"kind": "generate"}'), ("z.json", '[{"kind": "paint"}]')):
        Path(name).write_text(text)
        ended = parts("edit", source, "--history", name, "-o", "no.png")
        assert ended.code == 2
        one_line(ended)
    assert parts("edit", source, "--history", "none.json", "-o", "no.png").code == 1


def test_a_folder_is_mirrored_and_one_bad_mask_stops_nothing(parts):
    mask("set/a.png")
    mask("set/below/b.png", shift=0.05)
    Path("set/empty.png").write_bytes(b"")
    Path("set/photo.jpg").write_bytes(b"left alone")
    ended = parts("edit", "set", "--generate", "hair", "-o", "out", "--workers", "1", "--save-history", "h")
    assert ended.code == 1
    assert "2 done, 0 skipped, 1 failed" in ended.err
    assert "set/empty.png" in ended.err
    outputs = {"out/a.edited.png", "out/below/b.edited.png", "out/results.jsonl"}
    assert files() - {name for name in files() if name.startswith("set/")} == outputs | {
        "h/a.history.json",
        "h/below/b.history.json",
    }
    Path("set/empty.png").unlink()
    ended = parts("edit", "set", "--generate", "hair", "-o", "out", "--workers", "1")
    assert (ended.code, "0 done, 2 skipped" in ended.err) == (0, True)
    rows = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert {row["status"] for row in rows} == {"done", "failed", "skipped"}


@pytest.mark.usefixtures("in_process")
def test_a_slip_is_one_error_not_one_for_each_mask(parts):
    mask("set/a.png")
    mask("set/b.png")
    ended = parts("edit", "set", "--generate", "hair", "-o", "two", "--save-history", "one.json")
    assert (ended.code, "give a folder" in one_line(ended)) == (2, True)
    ended = parts("edit", "set", "--generate", "wig", "-o", "two")
    assert ended.code == 2
    assert "part 'wig' is not in the class set" in one_line(ended)


@pytest.mark.usefixtures("in_process")
def test_each_mask_of_a_batch_has_its_own_style_picture(parts):
    names = [mask("set/a.png"), mask("set/b.png"), mask("set/c.png")]
    for name, color in (("a", (20, 160, 60)), ("b", (170, 30, 60))):
        Path("looks").mkdir(exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), color).save(f"looks/{name}.jpg")
    ended = parts("edit", *names, "--generate", "hair", "-o", "out/", "--render", "preview", "--style", "looks")
    assert ended.code == 1
    assert "2 done, 0 skipped, 1 failed" in ended.err
    assert "no style picture looks/c.* is there" in ended.err
    first, second = (rgb(f"out/{name}.rendered.png").mean((0, 1)) for name in "ab")
    assert first[1] > first[0]
    assert second[0] > second[1]


@pytest.mark.usefixtures("in_process")
def test_part_pictures_are_a_mask(parts):
    labels = face().numpy()
    for number in ("00012", "00013"):
        for part in np.unique(labels)[1:]:
            path = Path("anno/0") / f"{number}_{HQ.names[part]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(((labels == part) * 255).astype(np.uint8)).save(path)
    assert parts("edit", "anno/0/00012", "--generate", "hair", "-o", "one.png").code == 0
    mask()
    assert parts("edit", "a.png", "--generate", "hair", "-o", "same.png").code == 0
    assert np.array_equal(ids("one.png"), ids("same.png"))
    assert parts("edit", "anno/0", "--generate", "hair", "-o", "both/").code == 0
    assert {"both/00012.edited.png", "both/00013.edited.png"} <= files()
    ended = parts("edit", "anno/0/00014", "--generate", "hair")
    assert (ended.code, "is not there" in one_line(ended)) == (1, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--generate", "noes"], "did you mean nose"),
        (["--generate", "background"], "the background has no code"),
        (["--perturb", "0"], "the background has no code"),
        (["--remove", "27"], "ids go from 0 to 18"),
        (["--move", "smile=0.1"], "these weights have no attribute 'smile'"),
        (["--target", "smile=0.1"], "these weights have no attribute 'smile'"),
        (["--move", "smile"], "expected ATTRIBUTE=NUMBER"),
        (["--move", "smile=wide"], "expected ATTRIBUTE=NUMBER"),
        (["--generate", "hair", "--prior", "empirical"], "no empirical prior"),
        (["--generate", "hair", "--prior", "conditional"], "no empirical prior"),
        (["--generate", "hair", "--prior", "mine"], "prior 'mine' is not known"),
        (["--generate", "hair", "--prior", "standard", "--fit", "1"], "--fit is of the empirical prior"),
        (["--target", "smile=1", "--variants", "2"], "--target solves for one result"),
        (["--generate", "hair", "--parser", "folder"], "add --photo"),
        (["--generate", "hair", "--label-order", "bisenet"], "label order 'bisenet' is not known"),
        ([], "there is nothing to do"),
    ],
)
def test_options_that_make_no_sense(parts, options, said):
    ended = parts("edit", mask(), *options)
    assert ended.code == 2
    assert said in one_line(ended)
    assert files() == {"a.png"}


def bad_masks() -> dict[str, tuple[Any, str]]:
    """Name -> what makes the picture, and a word of what is said about it."""
    labels = face().numpy()
    colours = np.asarray(HQ.colors, np.uint8)[labels]
    alpha = np.concatenate([colours, np.full_like(labels, 90)[..., None]], -1)
    noise = np.random.default_rng(0).integers(0, 256, colours.shape).astype(np.uint8)
    return {
        "beyond": (Image.fromarray(np.where(labels == 13, 40, labels).astype(np.uint8)), "40"),
        "no-order": (Image.fromarray(labels), "label order"),
        "photo": (Image.fromarray(noise), "palette"),
        "deep": (Image.fromarray(labels.astype(np.uint16) * 3000), "16"),
        "background": (Image.fromarray(np.zeros_like(colours)), "nothing but background"),
        "alpha": (Image.fromarray(alpha), ""),
    }


@pytest.mark.parametrize("name", [name for name in bad_masks() if name not in ("alpha",)])
def test_masks_that_are_none_are_one_line(parts, name):
    picture, said = bad_masks()[name]
    picture.save("bad.png")
    order = ["--label-order", "celebamask-hq"] if name == "beyond" else []
    ended = parts("edit", "bad.png", "--generate", "hair", *order)
    assert ended.code in (1, 2)
    assert said in one_line(ended)
    assert files() == {"bad.png"}


def test_files_that_are_none_are_one_line(parts):
    Path("empty.png").write_bytes(b"")
    Path("cut.png").write_bytes(mask().read_bytes()[:60])
    Path("words.png").write_text("not a picture")
    for name in ("empty.png", "cut.png", "words.png", "none.png"):
        ended = parts("edit", name, "--generate", "hair")
        assert ended.code == 1
        assert name in one_line(ended)


def test_masks_that_are_odd_are_taken(parts):
    labels = face().numpy()
    colours = np.asarray(HQ.colors)[labels]
    near = np.clip(colours + np.random.default_rng(0).integers(-6, 7, colours.shape), 0, 255).astype(np.uint8)
    Image.fromarray(near).save("near.png")  # as a lossy format leaves a palette
    alpha = np.concatenate([colours.astype(np.uint8), np.full((SIDE, SIDE, 1), 255, np.uint8)], -1)
    Image.fromarray(alpha).save("alpha.png")
    Image.fromarray(labels).save("bare.png")
    mask()
    assert parts("edit", "a.png", "--generate", "hair", "-o", "expected.png").code == 0
    for name, options in {"near": [], "alpha": [], "bare": ["--label-order", "celebamask-hq"]}.items():
        assert parts("edit", f"{name}.png", "--generate", "hair", *options, "-o", f"{name}.out.png").code == 0
        assert np.array_equal(ids(f"{name}.out.png"), ids("expected.png")), name
    mask("wide.png", height=30, width=70)
    assert parts("edit", "wide.png", "--generate", "hair").code == 0
    assert ids("wide.edited.png").shape == (30, 70)
    Image.fromarray(np.full((SIDE, SIDE, 3), HQ.colors[1], np.uint8)).save("one.png")
    ended = parts("edit", "one.png", "--perturb", "skin")
    assert (ended.code, "holds one class only, skin" in ended.err) == (0, True)


def test_masks_of_another_class_set(parts):
    order = list(range(19))[::-1]
    turned = ClassSet("turned", tuple(HQ.names[one] for one in order), background=18)
    turned.save("turned.json")
    table = torch.tensor(np.argsort(order), dtype=torch.uint8)
    write_mask(table[face().long()], "turned.png", turned)
    mask()
    assert parts("edit", "a.png", "--generate", "hair", "-o", "expected.png").code == 0
    ended = parts("edit", "turned.png", "--generate", "hair", "--class-set", "turned.json", "-o", "out.png")
    assert ended.code == 0
    assert np.array_equal(ids("out.png"), ids("expected.png"))
    SIX.save("six.json")
    ended = parts("edit", "a.png", "--generate", "hair", "--class-set", "six.json")
    assert (ended.code, "eyes is not among the classes of the weights" in one_line(ended)) == (2, True)


def test_swap_takes_parts_from_another_mask(parts):
    source, other = mask(), mask("other.png", shift=0.12)
    ended = parts("swap", source, "--with", other, "--parts", "nose,eyes", "--render", "preview")
    assert (ended.code, ended.err) == (0, "wrote a.swapped.png\n")
    assert files() == {"a.png", "other.png", "a.swapped.png", "a.rendered.png"}
    assert parts("swap", source, "--with", source, "--parts", "nose,eyes", "-o", "own.png").code == 0
    assert not np.array_equal(ids("a.swapped.png"), ids("own.png"))
    for options, code, said in (
        (["--with", other], 2, "--parts PARTS is missing"),
        (["--parts", "nose"], 2, "--with MASK is missing"),
        (["--with", "none.png", "--parts", "nose"], 1, "reference mask none.png: no such file"),
        (["--with", other, "--parts", "background"], 2, "the background has no code"),
    ):
        ended = parts("swap", source, *options, "-o", "no.png")
        assert (ended.code, said in one_line(ended)) == (code, True), ended.err


def test_a_reference_of_another_class_set_is_refused(parts):
    write_mask(torch.randint(0, 6, (SIDE, SIDE), dtype=torch.uint8), "six.npz", SIX)
    ended = parts("swap", mask(), "--with", "six.npz", "--parts", "nose")
    assert ended.code in (1, 2)
    assert "reference mask six.npz" in one_line(ended)
    assert "eyes" in ended.err
    assert not Path("a.swapped.png").exists()


def test_interpolate_goes_from_one_mask_to_the_other(parts):
    source, other = mask(), mask("other.png", shift=0.12)
    ended = parts("interpolate", source, other, "--parts", "hair", "--no-keep-unedited")
    assert ended.code == 0
    steps = [ids(f"a.mixed-{number}.png") for number in range(1, 6)]
    assert files() == {"a.png", "other.png", *(f"a.mixed-{number}.png" for number in range(1, 6))}
    assert parts("swap", source, "--with", other, "--parts", "hair", "--no-keep-unedited", "-o", "s.png").code == 0
    assert parts("edit", source, "--reconstruct", "hair", "--no-keep-unedited", "-o", "r.png").code == 0
    assert np.array_equal(steps[0], ids("r.png"))
    assert np.array_equal(steps[-1], ids("s.png"))
    assert parts("interpolate", source, other, "--alphas", "0.5", "-o", "half.png").code == 0
    assert parts("interpolate", source, other, "--alphas", "0.5", "--spherical", "-o", "arc.png").code == 0
    assert Path("half.png").is_file()
    for bad in ("", "0,2", "0,x"):
        ended = parts("interpolate", source, other, "--alphas", bad)
        assert ended.code == 2
        one_line(ended)


def test_sample_draws_masks_that_do_not_depend_on_their_number(parts):
    assert parts("sample", "-n", "3", "-o", "three/", "--seed", "4", "--render", "preview").code == 0
    names = {f"three/sample-00{index}{end}" for index in range(3) for end in (".png", ".rendered.png")}
    assert files() == names
    assert parts("sample", "-o", "first.png", "--seed", "4").code == 0
    assert np.array_equal(ids("first.png"), ids("three/sample-000.png"))
    assert not np.array_equal(ids("three/sample-001.png"), ids("three/sample-000.png"))
    Path("three/sample-000.png").unlink()
    ended = parts("sample", "-n", "2", "-o", "three/", "--seed", "5")
    assert (ended.code, "sample-001.png: exists already" in one_line(ended)) == (1, True)
    assert not Path("three/sample-000.png").exists()  # nothing was begun
    assert parts("sample", "--prior", "empirical", "-o", "e.png").code == 2
    assert parts("sample", "-n", "2", "-o", "two.png").code == 2
    assert parts("sample", "-o", "-").code == 2
    for prior in ("standard", "empirical", "conditional"):
        assert parts("sample", "--prior", prior, "-o", f"{prior}.png", model="fitted").code == 0
    found = [ids(f"{prior}.png").tobytes() for prior in ("standard", "empirical", "conditional")]
    assert len(set(found)) == 3


def test_attributes_move_and_are_reached(parts):
    source = mask()
    for name, text in (("unit", "0.1"), ("deviations", "2sd"), ("back", "-0.1")):
        ended = parts("edit", source, "--move", f"face_width={text}", "-o", f"{name}.png", model="fitted")
        assert ended.code == 0, ended.err
    assert np.array_equal(ids("unit.png"), ids("deviations.png"))  # its standard deviation is 0.05
    assert not np.array_equal(ids("unit.png"), ids("back.png"))
    options = ["--target", "face_width=3", "--save-history", "h.json", "-o", "wide.png"]
    ended = parts("edit", source, "--generate", "hair", *options, model="fitted")
    assert ended.code == 0
    assert "face_width: asked for 3, reached 0." in ended.err  # an eye cannot do that
    assert [edit["kind"] for edit in json.loads(Path("h.json").read_text())] == ["generate", "move"]
    ended = parts("edit", source, "--move", "smile=1", model="fitted")
    assert (ended.code, "R² on held-out masks is 0.10" in one_line(ended)) == (2, True)
    ended = parts("edit", source, "--move", "face_with=1", model="fitted")
    assert (ended.code, "did you mean face_width" in one_line(ended)) == (2, True)


def test_attributes_are_listed_and_measured(parts):
    source = mask(height=96, width=96)
    ended = parts("attributes", source, model="fitted")
    assert ended.code == 0
    head, first, *rest = ended.out.splitlines()
    assert head.split()[:3] == ["attribute", "accepted", "unit"]
    assert first.split()[:2] == ["face_width", "yes"]
    assert any(line.split()[:2] == ["smile", "no"] for line in rest)
    rows = json.loads(parts("attributes", source, "--json", model="fitted").out)
    width = next(row for row in rows if row["attribute"] == "face_width")
    assert 0.3 < width["a.png"] < 2
    assert width["parts"] == ["l_eye"]
    assert len(json.loads(parts("attributes", "--json", model="fitted").out)) == 1
    everything = json.loads(parts("attributes", "--all", "--json", model="fitted").out)
    assert {"face_width", "smile", "hair/pc1"} <= {row["attribute"] for row in everything}
    ended = parts("attributes")
    assert (ended.code, ended.out, "pellucid parts fit" in ended.err) == (0, "", True)


def test_fit_keeps_what_it_found_beside_the_weights(parts, pellucid):
    untrained().save_pretrained("w", card="# Not trained\n")
    for index in range(6):
        mask(f"set/{index}.png", shift=0.03 * index)
    ended = pellucid("parts", "fit", "w", "--masks", "set", "--device", "cpu", "-q")
    assert ended.code == 0, ended.err
    assert {"w/editing.json", "w/editing.safetensors"} <= files()
    again = pellucid("parts", "fit", "w", "--masks", "set")
    assert (again.code, "exists already" in again.err) == (1, True)
    assert pellucid("parts", "sample", "--prior", "empirical", "-o", "e.png", "--model", "w").code == 0
    assert "is not a folder of weights" in one_line(pellucid("parts", "fit", "none"))


def test_augment_writes_masks_and_a_line_for_each(parts):
    for index in range(2):
        mask(f"set/{index}.png", shift=0.05 * index)
    ended = parts("augment", "set", "-o", "out", "--parts", "hair,nose", "--operation", "generate", "--variants", "2")
    assert (ended.code, ended.err) == (0, "8 new masks of 2 in out\n")
    rows = [json.loads(line) for line in Path("out/augmented.jsonl").read_text().splitlines()]
    assert {f"out/{row['name']}.png" for row in rows} == {name for name in files() if name.startswith("out/0-")} | {
        name for name in files() if name.startswith("out/1-")
    }
    assert {row["source"] for row in rows} == {"0", "1"}
    assert {row["operation"]["parts"][0] for row in rows} == {"hair", "nose"}
    assert all(0 <= share <= 1 for row in rows for share in row["iou"].values())
    ended = parts("augment", "set", "-o", "out")
    assert (ended.code, "augmented.jsonl: exists already" in one_line(ended)) == (1, True)
    ended = parts("augment", "set", "-o", "more", "--balance", "--operation", "add,generate", "--variants", "3")
    assert ended.code == 0
    assert "6 new masks of 2" in ended.err
    assert "% of the pixels before" in ended.err
    for bad, said in (
        (["--operation", "paint"], "augmenting takes some of"),
        (["--parts", "wig"], "part 'wig'"),
        (["-o", "set"], "is the folder of the masks"),
    ):
        ended = parts("augment", "set", "-o", "no", *bad)
        assert (ended.code, said in one_line(ended)) == (2, True), ended.err


def test_render_shows_the_face_of_a_mask(parts):
    source = mask(height=40, width=56)
    assert parts("render", source).code == 0
    plain = rgb("a.rendered.png")
    assert plain.shape == (40, 56, 3)
    assert parts("render", source, "--style", "7", "-o", "seven.png").code == 0
    assert not np.array_equal(rgb("seven.png"), plain)
    assert parts("render", source, "--format", "jpg", "-o", "f/").code == 0
    assert Path("f/a.rendered.jpg").is_file()
    ended = parts("render", source)
    assert (ended.code, "exists already" in one_line(ended)) == (1, True)
    ended = parts("render", source, "--with", "latest_net_G.pth", "-o", "no.png")
    assert (ended.code, "latest_net_G.pth' is not there" in one_line(ended)) == (3, True)


def test_a_sean_file_with_a_wrong_key_is_refused(parts):
    with torch.device("meta"):
        network = SEANGenerator(FaceNetworkConfig("sean", classes=19, width=1, hidden=2, style=3))
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in network.state_dict().items()}
    torch.save(state | {"up_4.conv_0.bias": torch.zeros(2)}, "latest_net_G.pth")
    ended = parts("edit", mask(), "--generate", "hair", "--render", "latest_net_G.pth")
    assert (ended.code, "up_4.conv_0.bias" in one_line(ended)) == (3, True)
    with torch.device("meta"):
        spade = SPADEGenerator(FaceNetworkConfig("spade", classes=19, width=1, hidden=2))
    torch.save({key: torch.zeros(value.shape, dtype=value.dtype) for key, value in spade.state_dict().items()}, "g.pth")
    ended = parts("render", "a.png", "--with", "g.pth", "--style", "3")
    assert (ended.code, "--style 3 draws the looks of the preview" in one_line(ended)) == (2, True)


@pytest.fixture
def parser(monkeypatch, tmp_path):
    """A folder of a face parser, whose network reads the palette; and what makes other ones."""

    class ColorReader(torch.nn.Module):
        def forward(self, pixel_values):
            colors = torch.tensor(HQ.colors)[:, :, None, None] / 255
            return SimpleNamespace(logits=-(pixel_values[:, None] - colors).square().sum(2))

    def from_pretrained(folder, **options):
        return ColorReader(), {"missing_keys": []}

    loader = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoModelForSemanticSegmentation=loader))

    def folder(name, names=HQ.names):
        place = tmp_path / name
        place.mkdir()
        (place / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
        preparation = {"size": {"height": SIDE, "width": SIDE}, "do_normalize": False}
        (place / "preprocessor_config.json").write_text(json.dumps(preparation))
        return place

    return folder


def test_photographs_get_masks_from_a_parser(parts, parser):
    Image.fromarray(np.asarray(HQ.colors, np.uint8)[face().numpy()]).save("photo.png")
    good = parser("good")
    assert parts("parse", "photo.png", "--parser", good).code == 0
    assert np.array_equal(ids("photo.mask.png"), face())
    ended = parts("edit", "--photo", "photo.png", "--parser", good, "--generate", "hair", "--render", "preview")
    assert ended.code == 0, ended.err
    assert parts("edit", "photo.mask.png", "--generate", "hair", "-o", "same.png").code == 0
    assert np.array_equal(ids("photo.edited.png"), ids("same.png"))
    # The style is that of the photograph, where clothes, hair and skin have the colours of the palette.
    assert parts("render", "photo.edited.png", "--style", "photo.png", "--style-mask", "photo.mask.png").code == 0
    assert np.abs(rgb("photo.edited.rendered.png") - rgb("photo.rendered.png")).max() <= 1

    for arguments in (["parse", "photo.png", "-o", "no.png"], ["edit", "--photo", "photo.png", "--generate", "hair"]):
        ended = parts(*arguments, "--overwrite")
        assert ended.code == 3
        assert "a photograph needs a face parser" in one_line(ended)
        assert "id2label" in ended.err
        assert "model.safetensors" in ended.err
    ended = parts("parse", "photo.png", "--parser", parser("odd", ["background", "wall", "LABEL_7"]), "-o", "no.png")
    assert (ended.code, "wall, LABEL_7" in one_line(ended)) == (3, True)
    ended = parts("edit", "photo.mask.png", "--photo", "photo.png", "--generate", "hair")
    assert (ended.code, "found both" in one_line(ended)) == (2, True)
    ended = parts("edit", "--generate", "hair")
    assert (ended.code, "found neither" in one_line(ended)) == (2, True)


def test_the_figures_of_the_paper_are_one_command_each(parts):
    names = [str(mask(f"{index}.png", shift=0.05 * index)) for index in range(2)]
    for number, columns in (("3", 2 + 2 * 3), ("5", 7), ("6", 4)):
        chosen = ["--parts", "hair,nose", "--parts", "skin"]
        ended = parts("sheet", *names, "--figure", number, "-o", f"{number}.png", *chosen)
        assert ended.code == 0, ended.err
        made = json.loads(Path(f"{number}.json").read_text())
        assert (made["figure"], made["masks"]) == (int(number), names)
        assert {len(row["cells"]) for row in made["rows"]} == {columns}
        assert rgb(f"{number}.png").shape[1] > columns * SIDE
    kinds = [
        cell["edit"]["kind"] for cell in json.loads(Path("3.json").read_text())["rows"][0]["cells"] if cell["edit"]
    ]
    assert kinds == ["reconstruct", *["generate", "perturb"] * 3]
    again = parts("sheet", *names, "--figure", "5", "-o", "5.png")
    assert (again.code, "5.png: exists already" in one_line(again)) == (1, True)
    for bad, said in (
        (["-o", "s.jpg", "--figure", "3", names[0]], "written as .png"),
        (["-o", "s.png", "--figure", "5", names[0]], "at least 2 masks"),
        (["-o", "s.png", "--figure", "3", names[0], "--photo", "x.jpg"], "--photo is of figure 6"),
        (["-o", "s.png", "--figure", "3", names[0], "--parts", "wig"], "part 'wig'"),
    ):
        ended = parts("sheet", *bad)
        assert (ended.code, said in one_line(ended)) == (2, True), ended.err


def test_figures_draw_their_masks_when_none_are_given(parts):
    assert parts("sheet", "--figure", "5", "-o", "one.png").code == 0
    made = json.loads(Path("one.json").read_text())
    assert made["drawn_seed"]
    assert [row["row"] for row in made["rows"]] == ["hair", "nose", "eyes", "mouth_group", "skin"]
    amounts = [cell["edit"].get("amount", 1.0) for cell in made["rows"][0]["cells"][1:-1]]
    assert amounts == made["alphas"] == [0, 0.25, 0.5, 0.75, 1]
    assert [cell["caption"] for cell in made["rows"][0]["cells"]][1:-1] == [f"alpha {a:g}" for a in made["alphas"]]
