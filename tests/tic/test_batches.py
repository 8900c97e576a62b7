"""Batches of captioned pictures: purity, object masks, cut-outs on grounds, dropped and plain texts, rare colours."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from pellucid.data.bank import PixelBank
from pellucid.errors import ConfigError, InputError
from pellucid.tic import batches
from pellucid.tic.batches import CaptionedBank, CaptionedBatches, drawn_bank, make_bank
from pellucid.tic.data import read_captioned
from pellucid.tic.lab import lab_to_rgb, rgb_to_lab
from pellucid.tic.text import TextEncoder
from pellucid.tic.word_vectors import WordVectors

WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "ball", "box", "dress")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(WordVectors(WORDS, torch.eye(len(WORDS))))


@pytest.fixture(scope="module")
def drawn() -> CaptionedBank:
    return drawn_bank(12, 32, seed=0)


def cut_outs(colour: tuple[int, int, int], count: int = 3, side: int = 32) -> CaptionedBank:
    """Discs of one colour: premultiplied, clear outside."""
    axis = torch.arange(side) - side / 2 + 0.5
    alpha = ((axis[:, None] ** 2 + axis**2) < (side / 3) ** 2).float()[None]
    pixels = torch.cat([torch.tensor(colour)[:, None, None] * alpha, 255 * alpha]).to(torch.uint8)
    bank = PixelBank.from_pictures([pixels] * count, side=side)
    return CaptionedBank(bank, (("a red ball",),) * count, ("ball",) * count, torch.ones(count), True)


def test_a_batch_follows_from_seed_and_index(drawn: CaptionedBank, encoder: TextEncoder) -> None:
    def made(seed: int, index: int, process: tuple[int, int] = (0, 1)) -> batches.Batch:
        banks = [drawn, cut_outs((255, 0, 0))]
        return CaptionedBatches(banks, encoder, 6, 24, seed=seed, process=process, dropout=0.2, plain=0.2, scenic=0.5)(
            index
        )

    first, again = made(0, 3), made(0, 3)
    assert torch.equal(first.lab, again.lab)
    assert first.texts == again.texts
    assert torch.equal(first.vectors, again.vectors)
    for other in (made(1, 3), made(0, 4), made(0, 3, (1, 2))):
        assert not torch.equal(first.lab, other.lab)
    assert torch.equal(made(0, 1, (1, 2)).lab, first.lab)  # the fourth batch, whoever makes it
    assert first.lab.shape == (6, 3, 24, 24)
    assert first.lab[:, 0].min() >= 0


def test_pictures_and_texts_stay_together(encoder: TextEncoder) -> None:
    """Red discs are called red in every place of the batch."""
    red, blue = cut_outs((255, 0, 0)), cut_outs((0, 0, 255))
    blue = CaptionedBank(blue.bank, (("a blue ball",),) * 3, blue.nouns, blue.weights, True)
    batch = CaptionedBatches([red, blue], encoder, 24, 32, seed=1)(0)
    rgb = lab_to_rgb(batch.lab)
    strong = (rgb[:, 0] - rgb[:, 2]).flatten(1)
    most = torch.where(strong.max(1).values > -strong.min(1).values, 1, -1)
    named = torch.tensor([1 if "red" in text else -1 for text in batch.texts])
    assert torch.equal(most, named)
    assert len(set(batch.texts)) == 2
    assert torch.equal(batch.vectors, encoder.encode_all(batch.texts))


def test_shares_say_how_often_a_set_is_drawn(encoder: TextEncoder, drawn: CaptionedBank) -> None:
    many = CaptionedBank(drawn.bank, (("a dress",),) * 12, drawn.nouns, drawn.weights, False, share=9.0)
    batch = CaptionedBatches([drawn, many], encoder, 200, 16)(0)
    assert batch.texts.count("a dress") / 200 == pytest.approx(0.9, abs=0.07)


def test_dropped_texts_are_zero_and_plain_ones_have_no_colour(drawn: CaptionedBank, encoder: TextEncoder) -> None:
    batch = CaptionedBatches([drawn], encoder, 200, 16, dropout=0.3, plain=0.2)(0)
    dropped = [place for place, text in enumerate(batch.texts) if not text]
    assert len(dropped) / 200 == pytest.approx(0.3, abs=0.1)
    assert not batch.vectors[dropped].any()
    plain = [text for text in batch.texts if text in ("ball", "box")]
    assert len(plain) / 200 == pytest.approx(0.2, abs=0.1)


def test_white_black_and_grey_alone_say_no_hue(drawn: CaptionedBank, encoder: TextEncoder) -> None:
    assert [batches.names_no_hue(text) for text in ("a white shirt", "a grey and black dress")] == [True, True]
    assert [batches.names_no_hue(text) for text in ("a white and red shirt", "a shirt", "")] == [False, False, False]
    greys = replace(drawn, texts=tuple(("a white box",) if n % 2 else told for n, told in enumerate(drawn.texts)))
    whole = CaptionedBatches([greys], encoder, 60, 16)(0)
    paler = CaptionedBatches([greys], encoder, 60, 16, achromatic=(0.25, 0.5))(0)
    grey = torch.tensor([text == "a white box" for text in whole.texts])
    assert 0.2 < grey.float().mean() < 0.8
    assert torch.equal(paler.lab[~grey], whole.lab[~grey])
    ratio = paler.lab[grey, 1:].norm(dim=1).mean((1, 2)) / whole.lab[grey, 1:].norm(dim=1).mean((1, 2))
    assert ratio.min() > 0.2499
    assert ratio.max() < 0.5001


def test_scenes_are_paler_and_objects_are_not(drawn: CaptionedBank, encoder: TextEncoder) -> None:
    pixels = drawn.bank.pixels.clone()
    pixels[::2, 3:] = 0
    mixed = replace(drawn, bank=PixelBank(pixels, drawn.bank.sizes, drawn.bank.lying))
    whole = CaptionedBatches([mixed], encoder, 60, 16)(0)
    paler = CaptionedBatches([mixed], encoder, 60, 16, scenes=(0.25, 0.5))(0)
    ratio = paler.lab[:, 1:].norm(dim=1).mean((1, 2)) / whole.lab[:, 1:].norm(dim=1).mean((1, 2))
    scene = ratio < 0.9
    assert 0.2 < scene.float().mean() < 0.8
    assert torch.equal(paler.lab[~scene], whole.lab[~scene])
    assert torch.equal(paler.lab[:, 0], whole.lab[:, 0])
    assert ratio[scene].min() > 0.2499
    assert ratio[scene].max() < 0.5001


def test_where_no_colour_is_said_pictures_are_paler(drawn: CaptionedBank, encoder: TextEncoder) -> None:
    whole = CaptionedBatches([drawn], encoder, 60, 16, dropout=0.3, plain=0.3)(0)
    paler = CaptionedBatches([drawn], encoder, 60, 16, dropout=0.3, plain=0.3, unsaid=(0.25, 0.5))(0)
    assert paler.texts == whole.texts
    assert torch.equal(paler.lab[:, 0], whole.lab[:, 0])
    said = torch.tensor([batches.names_colour(text) for text in whole.texts])
    assert 0.2 < said.float().mean() < 0.6
    assert torch.equal(paler.lab[said], whole.lab[said])
    ratio = paler.lab[~said, 1:].norm(dim=1).mean((1, 2)) / whole.lab[~said, 1:].norm(dim=1).mean((1, 2))
    assert ratio.min() > 0.2499
    assert ratio.max() < 0.5001


def test_only_texts_that_are_left_get_other_colours(drawn: CaptionedBank, encoder: TextEncoder) -> None:
    """A picture whose words were taken away keeps its natural colours."""

    def grey(
        lab: Tensor, objects: Tensor, texts: list[str], nouns: list[str], generator: Generator, progress: float
    ) -> tuple[Tensor, list[str], Tensor]:
        assert objects.shape == (60, 1, 16, 16)
        assert progress == 0.25  # the third of eight batches
        assert set(nouns) == {"ball", "box"}
        return lab * torch.tensor([1.0, 0.0, 0.0])[:, None, None], ["a dress"] * 60, torch.ones(60, dtype=torch.bool)

    options = {"dropout": 0.3, "plain": 0.3}
    batch = CaptionedBatches([drawn], encoder, 60, 16, recolour=grey, length=8, **options)(2)
    changed = torch.tensor([text == "a dress" for text in batch.texts])
    assert 0 < int(changed.sum()) < 60
    coloured = batch.lab[:, 1:].abs().flatten(1).max(1).values > 1
    # Plain and dropped texts read "dress" and "": never "a dress".
    assert torch.equal(coloured, ~changed)
    untouched = CaptionedBatches([drawn], encoder, 60, 16, **options)(2)
    assert torch.equal(batch.lab[~changed], untouched.lab[~changed])


def test_a_cut_out_lies_on_its_ground(encoder: TextEncoder) -> None:
    made = CaptionedBatches([cut_outs((255, 0, 0))], encoder, 16, 32)
    pixels, _, _ = made._draw(batches.generator_of(0, 0))
    alpha, rgb = pixels[:, 3:], pixels[:, :3]
    assert 0.02 < float(alpha.mean()) < 0.5
    red = (rgb * (alpha > 0.99)).sum((2, 3)) / (alpha > 0.99).sum((2, 3))
    assert torch.allclose(red, torch.tensor([1.0, 0.0, 0.0]).expand(16, 3), atol=0.02)
    ground = rgb_to_lab(rgb)[:, 1:] * (alpha < 0.01)
    assert float(ground.norm(dim=1).mean()) < 15  # mostly neutral, whatever lies on it


def test_a_cut_out_can_lie_on_another_picture(drawn: CaptionedBank, encoder: TextEncoder) -> None:
    whole = CaptionedBank(drawn.bank, drawn.texts, drawn.nouns, drawn.weights, False, share=1e-9)
    on_flat, on_scene = (
        CaptionedBatches([cut_outs((255, 0, 0)), whole], encoder, 8, 32, scenic=scenic)._draw(
            batches.generator_of(0, 0)
        )[0]
        for scenic in (0.0, 1.0)
    )
    assert torch.equal(on_flat[:, 3:], on_scene[:, 3:])
    assert not torch.allclose(on_flat[:, :3], on_scene[:, :3], atol=0.05)


def test_rare_colours_are_drawn_more_often() -> None:
    words = [("blue",)] * 16 + [("orange", "blue")] + [()]
    even, balanced = batches.colour_weights(words, 0.0), batches.colour_weights(words, 1.0)
    assert torch.equal(even, torch.ones_like(even))
    assert float(balanced[16] / balanced[0]) == pytest.approx(17)  # the rarest of its colours counts
    assert float(balanced[17] / balanced[16]) == pytest.approx(1)
    assert float(balanced.mean()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a dark red dress", "dress"),
        ("leaves, mostly green and light gray", "leaves"),
        ("a multi-colored hat", "hat"),
        ("a slice of lemon", "slice lemon"),
        ("", ""),
    ],
)
def test_texts_without_their_colours(text: str, left: str) -> None:
    assert batches.without_colours(text) == left


def test_a_bank_of_files(tmp_path: Path) -> None:
    rows = []
    for number, label in enumerate(("dress", "photo")):
        Image.new("RGB", (40, 60), (90, 90, 200)).save(tmp_path / f"{number}.png")
        rows.append({"file": f"{number}.png", "caption": "a blue thing", "label": label})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    garment, scene = (make_bank([item], 32) for item in read_captioned(tmp_path))
    assert garment.bank.picture(0).shape == (4, 32, 32)  # pressed into a square
    assert garment.bank.picture(0)[3].max() > 200
    assert not scene.bank.picture(0)[3].any()  # no one object is known
    assert (garment.nouns, scene.nouns) == (("dress",), ("thing",))
    with pytest.raises(InputError, match="at least one picture"):
        make_bank([], 32)


def test_colours_of_a_cut_out_do_not_leak_from_clear_pixels(tmp_path: Path) -> None:
    pixels = torch.zeros(16, 16, 4, dtype=torch.uint8)
    pixels[..., 1] = 255  # clear pixels are green underneath
    pixels[4:12, 4:12] = torch.tensor([255, 0, 0, 255], dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    (tmp_path / "s.jsonl").write_text(json.dumps({"file": "a.png", "caption": "red box", "name": "box", "soft": 0.1}))
    bank = make_bank(read_captioned(tmp_path), 8)
    assert bank.cut_out
    assert not bank.bank.picture(0)[1].any()


def test_drawn_pictures_have_the_colour_they_are_called(drawn: CaptionedBank) -> None:
    for place, (text,) in enumerate(drawn.texts):
        pixels = drawn.bank.picture(place).float() / 255
        a, b = (rgb_to_lab(pixels[None, :3])[0, 1:] * (pixels[3:] > 0.9)).sum((1, 2)).tolist()
        warm = b > 0
        assert warm == (text.split()[1] in ("red", "orange", "yellow", "green")), text
        assert (a > 0) == (text.split()[1] in ("red", "orange", "blue", "purple")) or "yellow" in text


def test_nothing_to_draw_from(encoder: TextEncoder, drawn: CaptionedBank) -> None:
    with pytest.raises(ConfigError, match="no sets"):
        CaptionedBatches([], encoder, 2, 16)
    with pytest.raises(ConfigError, match="at most 1"):
        CaptionedBatches([drawn], encoder, 2, 16, dropout=0.6, plain=0.6)
