import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.hub.pretrained import read_document
from pellucid.layer_animate.transparency import train as transparency_train
from pellucid.layer_animate.transparency.data import (
    RgbaBatches,
    draw_bank,
    draw_grounds,
    move,
    open_banks,
    random_places,
    read_bank,
)
from pellucid.layer_animate.transparency.recipe import Recipe
from pellucid.layer_animate.transparency.weights import load_transparency
from pellucid.train.config import load_recipe
from pellucid.train.loop import make_accelerator
from pellucid.train.state import TrainState

TINY = Path(__file__).parents[2] / "recipes" / "layer_animate" / "transparency-tiny.toml"
SMALL = ("data.count=16", "data.held_out=4", "train.batch=2", "size=16")


def started(*overrides: str) -> TrainState:
    recipe = load_recipe(TINY, Recipe, [*SMALL, *overrides])
    accelerator = make_accelerator(recipe, "cpu")
    torch.manual_seed(0)
    state = transparency_train.build(recipe, accelerator)
    state.accelerator = accelerator
    return state


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [value.detach().clone() for value in module.parameters()]


def moved(before: list[torch.Tensor], module: torch.nn.Module) -> bool:
    return any(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))


def test_the_vae_learns_first_and_is_frozen_then() -> None:
    state = started("vae.steps=1")
    model = state.room.model
    before = [weights(part) for part in (model.vae, model.encoder, model.decoder)]
    terms = transparency_train.step(state, state.batches(0))
    assert set(terms) == {"loss", "vae_l1", "vae_square", "vae_gradient", "vae_kl"}
    assert [moved(old, part) for old, part in zip(before, (model.vae, model.encoder, model.decoder), strict=True)] == [
        *(True, False, False)
    ]
    state.step, before = 1, [weights(part) for part in (model.vae, model.encoder, model.decoder)]
    for index in (1, 2):  # D's way for the latent begins at zero, so E moves by the identity loss or a step later
        terms = transparency_train.step(state, state.batches(index))
    assert "transparency_identity" in terms
    assert all(value.grad is None for value in model.vae.parameters())
    assert [moved(old, part) for old, part in zip(before, (model.vae, model.encoder, model.decoder), strict=True)] == [
        *(False, True, True)
    ]


def test_learning_makes_the_loss_smaller() -> None:
    state = started("vae.steps=1", "train.lr=1e-2")
    batch = state.batches(0)
    state.step = 1
    losses = [float(transparency_train.step(state, batch)["loss"]) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def test_weights_come_back_from_their_folder_with_a_measured_scaling_factor(tmp_path: Path) -> None:
    state = started()
    modules = state.bare()
    figures = transparency_train.validate(state, modules)
    assert set(figures) >= {"alpha_mae", "nothing_mae", "latent_std"}
    transparency_train.export(state, modules, tmp_path / "out", figures)
    assert read_document(tmp_path / "out")["method"] == "transparency"
    loaded = load_transparency(tmp_path / "out")
    assert loaded.config.offset_scale == 10
    assert loaded.config.scaling_factor == pytest.approx(1 / figures["latent_std"])
    rgba = state.room.held_out.take(torch.arange(2))
    latents = loaded.encode(rgba)
    assert 0.3 < float(latents.std()) < 3
    assert loaded.decode(latents).shape == rgba.shape
    again = started(f"start={tmp_path / 'out'}", "vae.steps=0")  # a frozen VAE of ours
    assert not moved([value.detach() for value in loaded.parameters()], again.room.model)
    sheet = transparency_train.samples(again, again.bare())
    assert sheet.shape == (3, 4 * 16, 5 * 16)


def test_a_random_vae_is_not_frozen_in_silence() -> None:
    with pytest.raises(ConfigError, match=r"random weights.*vae\.steps"):
        started("vae.steps=0")


def test_weights_of_another_room_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "method": "tic", "config": {}, "training": {}}))
    with pytest.raises(WeightsError, match="'tic', expected 'transparency'"):
        load_transparency(tmp_path)


def test_batches_follow_from_seed_index_and_process() -> None:
    bank = draw_bank(8, 16, 0)
    one, same, other = (RgbaBatches(bank, 4, 1, process, affine=0.2) for process in ((0, 2), (0, 2), (1, 2)))
    assert torch.equal(one(3)[0], same(3)[0])
    assert not torch.equal(one(3)[0], other(3)[0])
    assert not torch.equal(one(3)[0], one(4)[0])


def test_moving_brings_no_dark_fringe() -> None:
    picture = torch.zeros(1, 4, 32, 32)
    picture[:, 3, 8:24, 8:24] = 0.5
    picture[:, 0, 8:24, 8:24] = 0.9  # colour under alpha 0 is black
    found = move(picture, random_places(1, 0.3, torch.Generator().manual_seed(0)))
    seen = found[:, 3] > 0
    assert not torch.equal(found, picture)
    assert float((found[:, 0][seen] - 0.9).abs().max()) < 1e-4


def _shards(folder: Path) -> None:
    sheet = Image.new("RGBA", (24, 16))
    for number in range(6):
        sheet.paste(
            (40 * number, 0, 0, 255), (number % 3 * 8, number // 3 * 8, number % 3 * 8 + 4, number // 3 * 8 + 8)
        )
    wide = Image.new("RGBA", (16, 8), (0, 200, 0, 255))
    rows = []
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name, picture in (("sheet.png", sheet), ("wide.png", wide)):
            data = io.BytesIO()
            picture.save(data, "png")
            member = tarfile.TarInfo(name)
            member.size = data.tell()
            archive.addfile(member, io.BytesIO(data.getvalue()))
            row = {"file": name, "shard": "a.tar", "split": "train"}
            rows.append(row | ({"sheet": [2, 3]} if name == "sheet.png" else {}))
    (folder / "stills.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_shards_give_stills_made_square_and_every_frame_of_a_sheet(tmp_path: Path) -> None:
    _shards(tmp_path)
    bank = read_bank(str(tmp_path), "stills", 8, "train")
    assert bank.pictures.shape == (7, 4, 8, 8)
    assert bank.pictures[:6, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 200]
    rows = bank.pictures[6, 3].float().mean(dim=1)  # the picture was twice as wide as high
    assert rows[[0, 7]].max() == 0
    assert rows[3:5].min() == 255
    assert float(rows.mean()) == pytest.approx(255 / 2, abs=1)
    assert set(bank.pictures[6, 1].flatten().tolist()) == {0, 200}  # green stays green where alpha is not 0
    train, measured = open_banks(str(tmp_path), "stills", 8, count=None, held_out=1, seed=0, only=("sheet.png",))
    assert len(train) == len(measured) == 6
    with pytest.raises(InputError, match=r"named nobody\.png"):
        read_bank(str(tmp_path), "stills", 8, None, only=("nobody.png",))


def test_animations_are_learned_beside_stills(tmp_path: Path) -> None:
    _shards(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "stills.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"licence": "MIT", "author": "somebody"}
    both = [row | {"split": split} for split in ("train", "val") for row in rows]
    stills, sheets = ([row for row in both if ("sheet" in row) == wanted] for wanted in (False, True))
    (tmp_path / "stills.jsonl").write_text("\n".join(map(json.dumps, stills)))
    (tmp_path / "anim.jsonl").write_text("\n".join(map(json.dumps, sheets)))
    found = open_banks(str(tmp_path), "stills", 8, count=None, held_out=4, seed=0, sheets="anim", every=2)
    assert [len(bank) for bank in found] == [1 + 3, 1 + 1]
    assert found[0].pictures[1:, 0, 0, 0].tolist() == [0, 80, 160]
    assert found[0].name == "1 files of stills, 1 files of anim"
    assert [row["file"] for row in found[0].to("cpu").rows] == ["wide.png", "sheet.png"]


def test_some_pictures_are_laid_over_grounds() -> None:
    bank, grounds = draw_bank(8, 16, seed=1), draw_grounds(6, 16, seed=1)
    assert torch.equal(grounds, draw_grounds(6, 16, seed=1))
    plain, backdrop, _ = RgbaBatches(bank, 64, seed=2)(0)
    mixed, same, _ = RgbaBatches(bank, 64, seed=2, opaque=0.3, grounds=grounds)(0)
    assert torch.equal(backdrop, same)
    laid = (mixed[:, 3] == 1).all(dim=2).all(dim=1)
    assert 8 < int(laid.sum()) < 32
    assert torch.equal(mixed[~laid], plain[~laid])
    seen = plain[laid, 3:] > 0.999  # the pictures are what they were, in front
    assert torch.allclose(mixed[laid, :3] * seen, plain[laid, :3] * seen, atol=2e-3)
    around = plain[laid, 3:] < 0.001
    near = (((mixed[laid, None, :3] * 255 - grounds[None].float()).abs() < 1) | ~around[:, None]).flatten(2).all(dim=2)
    assert bool(near.any(dim=1).all())
    assert started("data.opaque=0.5").batches(0)[0].shape == (2, 4, 16, 16)
