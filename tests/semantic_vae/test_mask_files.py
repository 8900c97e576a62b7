"""Masks in and out: every form a user may have, and one clear line for each that is no mask."""

import logging
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.errors import ConfigError, FormatError, InputError, PellucidError
from pellucid.io.image import load_image
from pellucid.layers.stack import Layer, LayerStack
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.masks.mask_files import Mask, as_stack, read_mask, write_mask

from .drawn_face import drawn_face
from .test_label_orders import written_in

FACE = drawn_face()
THREE = ClassSet("three", ("background", "skin", "hair"))


def colored() -> Image.Image:
    palette = np.array(CELEBAMASK_HQ.colors, dtype=np.uint8)
    return Image.fromarray(palette[FACE.numpy()])


def saved(path: Path, picture: Image.Image) -> Path:
    picture.save(path)
    return path


# --- our own files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".npz"])
def test_own_files_need_no_order(suffix: str, tmp_path: Path) -> None:
    path = write_mask(FACE, tmp_path / f"face{suffix}")
    mask = read_mask(path)
    assert torch.equal(mask.labels, FACE)
    assert (mask.size, mask.meta.source, mask.unmatched) == ((64, 64), path.name, 0.0)


def test_own_png_holds_the_ids_and_the_palette(tmp_path: Path) -> None:
    picture = Image.open(write_mask(FACE, tmp_path / "face.png"))
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), FACE.numpy())
    assert np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(colored()))


def test_writing_refuses_what_it_cannot_keep(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"\.jpg"):
        write_mask(FACE, tmp_path / "face.jpg")
    with pytest.raises(InputError, match="19"):
        write_mask(FACE + 10, tmp_path / "face.png")
    write_mask(FACE, tmp_path / "face.png")
    with pytest.raises(InputError, match="exists already"):
        write_mask(FACE, tmp_path / "face.png")


def test_another_order_of_the_palette_is_understood(tmp_path: Path) -> None:
    small = colored().quantize(32)  # indices as Pillow likes them, the same colours
    assert not np.array_equal(np.asarray(small), FACE.numpy())
    assert torch.equal(read_mask(saved(tmp_path / "face.png", small)).labels, FACE)


# --- bare ids and orders ---------------------------------------------------------------------------------------------


def test_bare_ids_need_an_order_and_get_a_hint(tmp_path: Path) -> None:
    path = saved(tmp_path / "face.png", Image.fromarray(written_in("face-parsing", FACE).numpy()))
    with pytest.raises(ConfigError, match="look like 'face-parsing'"):
        read_mask(path)
    assert torch.equal(read_mask(path, order="face-parsing").labels, FACE)


@pytest.mark.parametrize("order", ["celebamask-hq", "own"])
def test_bare_ids_of_our_order(order: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "face.png", Image.fromarray(FACE.numpy()))
    assert torch.equal(read_mask(path, order=order).labels, FACE)


def test_other_class_sets_are_taken_at_their_word(tmp_path: Path) -> None:
    path = saved(tmp_path / "three.png", Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8)))
    assert read_mask(path, THREE).labels.tolist() == [[0, 1], [2, 1]]


def test_grey_as_rgb_and_16_bit_are_ids_too(tmp_path: Path) -> None:
    grey = Image.fromarray(FACE.numpy())
    assert torch.equal(read_mask(saved(tmp_path / "rgb.png", grey.convert("RGB")), order="own").labels, FACE)
    deep = Image.fromarray(FACE.numpy().astype(np.uint16))
    assert torch.equal(read_mask(saved(tmp_path / "deep.png", deep), order="own").labels, FACE)


def test_ignored_pixels_become_background_and_are_told(caplog: pytest.LogCaptureFixture) -> None:
    labels = FACE.clone()
    labels[:8] = 255
    with caplog.at_level(logging.INFO, "pellucid"):
        mask = read_mask(Image.fromarray(labels.numpy()), order="own")
    assert int(mask.labels[:8].max()) == 0
    assert "12.5 % of the pixels have no class" in caplog.text


def test_beard_may_be_ignored() -> None:
    foreign = written_in("face-synthetics", FACE)
    foreign[50:54, 20:40] = 14
    assert set(read_mask(foreign, order="face-synthetics").labels[50:54, 20:40].unique().tolist()) == {1}
    ignored = read_mask(foreign, order="face-synthetics", beard="ignore").labels
    assert set(ignored[50:54, 20:40].unique().tolist()) == {0}


# --- colours ---------------------------------------------------------------------------------------------------------


def test_colors_of_the_palette(tmp_path: Path) -> None:
    mask = read_mask(saved(tmp_path / "face.png", colored()))
    assert torch.equal(mask.labels, FACE)
    assert mask.unmatched == 0


def test_both_colors_of_the_right_brow() -> None:
    array = np.asarray(colored()).copy()
    array[FACE.numpy() == 7] = (0x33, 0xFF, 0xFF)
    assert torch.equal(read_mask(array).labels, FACE)


def test_colors_near_the_palette_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    array = np.asarray(colored()).astype(np.int64)
    array[:16] = (array[:16] + 7).clip(0, 255)
    with caplog.at_level(logging.WARNING, "pellucid"):
        mask = read_mask(array.astype(np.uint8))
    assert torch.equal(mask.labels, FACE)
    assert mask.unmatched == pytest.approx(0.25)
    assert "1024 pixels (25 %)" in caplog.text


def test_a_photograph_is_no_mask() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="--photo"):
        read_mask(photo)


# --- arrays, tensors, stacks -----------------------------------------------------------------------------------------


def planes() -> torch.Tensor:
    return (FACE[None] == torch.arange(19)[:, None, None]).to(torch.float32)


def test_arrays_and_tensors() -> None:
    onehot = planes()
    for form in (
        FACE,
        FACE.long(),
        FACE.numpy(),
        onehot,
        onehot[None],
        onehot[1:],  # without the background's plane, as the network has it
        onehot.bool().numpy(),
        onehot.numpy().transpose(1, 2, 0),
        CELEBAMASK_HQ.colored(FACE),
        BytesIO(_png(colored())),
    ):
        assert torch.equal(read_mask(form).labels, FACE)


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_uncovered_pixels_of_planes_have_no_class() -> None:
    bare = ClassSet("bare", ("skin", "hair"), background=None)
    whole = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert read_mask(whole, bare).labels.tolist() == [[0, 1]]
    whole[1, 0, 1] = 0
    with pytest.raises(InputError, match="no background"):
        read_mask(whole, bare)


def test_npz_of_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "bare.npz", mask=planes().bool().numpy())
    with pytest.raises(ConfigError, match="label order"):
        read_mask(tmp_path / "bare.npz")
    assert torch.equal(read_mask(tmp_path / "bare.npz", order="own").labels, FACE)
    shuffled = list(reversed(CELEBAMASK_HQ.names))
    np.savez(tmp_path / "named.npz", onehot=planes().flip(0).bool().numpy(), names=np.array(shuffled))
    assert torch.equal(read_mask(tmp_path / "named.npz").labels, FACE)
    np.savez(tmp_path / "foreign.npz", onehot=planes()[:2].numpy(), names=np.array(["background", "tail"]))
    with pytest.raises(InputError, match="'tail'"):
        read_mask(tmp_path / "foreign.npz")


def test_npz_is_never_executed(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", mask=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="pickle"):
        read_mask(tmp_path / "objects.npz")


def test_stacks_and_layered_files(tmp_path: Path) -> None:
    stack = as_stack(FACE, CELEBAMASK_HQ)
    assert torch.equal(read_mask(stack).labels, FACE)
    stack.save(tmp_path / "face.ora")
    assert torch.equal(read_mask(tmp_path / "face.ora").labels, FACE)
    assert torch.equal(read_mask(load_image(saved(tmp_path / "face.png", colored()))).labels, FACE)


def test_a_mask_of_other_classes_is_refused() -> None:
    mask = read_mask(FACE)
    assert read_mask(mask) is mask
    with pytest.raises(InputError, match="expected 'three'"):
        read_mask(mask, THREE)
    with pytest.raises(InputError, match="expected 'celebamask-hq'"):
        read_mask(Mask(torch.ones(2, 2, dtype=torch.uint8), THREE))


# --- part pictures ---------------------------------------------------------------------------------------------------


def write_parts(folder: Path, prefix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in FACE.unique().tolist()[1:]:
        plane = (part == FACE).to(torch.uint8) * 255
        Image.fromarray(plane.numpy()).convert("RGB").save(folder / f"{prefix}{CELEBAMASK_HQ.names[part]}.png")


def test_folder_of_part_pictures(tmp_path: Path) -> None:
    write_parts(tmp_path / "face")
    assert torch.equal(read_mask(tmp_path / "face").labels, FACE)
    write_parts(tmp_path / "0", "00012_")
    assert torch.equal(read_mask(tmp_path / "0").labels, FACE)
    write_parts(tmp_path / "0", "00013_")
    with pytest.raises(InputError, match="several faces"):
        read_mask(tmp_path / "0")
    assert torch.equal(read_mask(tmp_path / "0" / "00013").labels, FACE)
    with pytest.raises(InputError, match="holds no pictures of parts"):
        read_mask(tmp_path / "0" / "00099")


def test_later_ids_lie_on_top(tmp_path: Path) -> None:
    for name in ("hair", "neck", "l_eye", "eye_g"):
        Image.new("L", (4, 4), 255 if name in ("hair", "neck") else 0).save(tmp_path / f"{name}.png")
    assert set(read_mask(tmp_path).labels.unique().tolist()) == {17}
    Image.new("L", (4, 4), 255).save(tmp_path / "cloth.png")
    assert set(read_mask(tmp_path).labels.unique().tolist()) == {18}
    Image.new("L", (5, 4), 255).save(tmp_path / "skin.png")
    with pytest.raises(InputError, match="5x4"):
        read_mask(tmp_path)


def test_misspelt_part_picture(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 255).save(tmp_path / "00001_lefteye.png")
    with pytest.raises(InputError, match="ends with no part"):
        read_mask(tmp_path)


# --- bad input (section 7.13) ----------------------------------------------------------------------------------------


def _bad(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.png"
    grey = FACE.numpy()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut short":
        path.write_bytes(_png(colored())[:200])
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "16 bit":
        saved(path, Image.fromarray(grey.astype(np.uint16) * 257))
    elif kind == "ids beyond":
        saved(path, Image.fromarray(np.where(grey == 18, 200, grey).astype(np.uint8)))
    elif kind == "one part":
        saved(path, Image.fromarray(np.where(grey == 13, 255, 0).astype(np.uint8)))
    elif kind == "background only":
        saved(path, Image.new("L", (8, 8)))
    elif kind == "one bit":
        saved(path, Image.fromarray(grey > 0))
    elif kind == "jpeg":
        path = saved(folder / "ids.jpg", Image.fromarray(grey))
    elif kind == "cmyk":
        path = saved(folder / "print.tif", colored().convert("CMYK"))
    elif kind == "animation":
        path = folder / "moving.gif"
        colored().save(path, save_all=True, append_images=[Image.new("RGB", (64, 64))])
    elif kind == "npz":
        path = folder / "mask.npz"
        path.write_bytes(b"PK nothing")
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "no such file"),
        ("empty", "is empty"),
        ("cut short", "damaged"),
        ("text", "not a picture of a known format"),
        ("16 bit", "16 bits per channel and values up to 4626"),
        ("ids beyond", "ids beyond every known label order .*: 200, on"),
        ("one part", "mask of one part"),
        ("background only", "nothing but background"),
        ("one bit", "one bit per pixel"),
        ("jpeg", "JPEG"),
        ("cmyk", "mode CMYK"),
        ("animation", "2 frames"),
        ("npz", "no NPZ"),
    ],
)
def test_bad_files_are_refused_in_one_line(kind: str, said: str, tmp_path: Path) -> None:
    path = _bad(kind, tmp_path)
    with pytest.raises(PellucidError, match=said) as caught:
        read_mask(path)
    assert caught.value.exit_code in (1, 2)
    assert "\n" not in str(caught.value)
    assert path.name in caught.value.message


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((0, 4), np.uint8), "found"),
        (np.zeros((5, 6, 7), np.float32), "19 or 18 planes"),
        (np.zeros((4, 4), np.float32), "must be integers"),
        (np.full((19, 4, 4), np.nan, np.float32), "NaN"),
        (np.full((4, 4), 19), "ids beyond"),
        (np.full((4, 4), -1), "ids beyond"),
        (np.full((4, 4), 300), "ids beyond"),
        (np.full((4, 4, 3), 7.0, np.float32), r"\[0, 1\]"),
        (np.full((4, 4, 3), 7, np.int32), "found"),
        (np.zeros(4, np.uint8), "expected ids"),
    ],
)
def test_bad_arrays(array: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_mask(array)


def test_other_things_are_no_masks() -> None:
    with pytest.raises(InputError, match="found int"):
        read_mask(3)  # type: ignore[arg-type]


def test_transparent_pixels_have_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[:16] = 0
    picture = colored()
    picture.putalpha(Image.fromarray(alpha))
    mask = read_mask(saved(tmp_path / "face.png", picture))
    assert int(mask.labels[:16].max()) == 0
    assert torch.equal(mask.labels[16:], FACE[16:])
    assert "25 % of the pixels are transparent" in caplog.text


def test_one_class_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert read_mask(torch.ones(4, 6, dtype=torch.uint8)).size == (4, 6)
    assert "one class only, skin" in caplog.text


def test_empty_masks_may_be_asked_for() -> None:
    assert int(read_mask(torch.zeros(4, 4, dtype=torch.uint8), allow_empty=True).labels.max()) == 0


def test_mirrored_masks_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    read_mask(FACE)
    assert "wrong way round" not in caplog.text
    read_mask(FACE.flip(1))
    assert "wrong way round" in caplog.text


def test_stack_of_foreign_layers_is_refused() -> None:
    stack = LayerStack((Layer("skin", torch.zeros(3, 4, 4)), Layer("tail", torch.zeros(3, 4, 4))))
    with pytest.raises(InputError, match="tail"):
        read_mask(stack)
