"""The drawn preview: any mask of any class set, in any style, and what a user sees of an edit."""

import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.faces.generators import Generator, open_generator
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.preview.renderer import PreviewRenderer
from pellucid.semantic_vae.preview.roles import Role, roles_of
from pellucid.semantic_vae.preview.style import PreviewStyle

HQ = CELEBAMASK_HQ
SIDE = 96
RED = (0.85, 0.05, 0.05)

# class -> (middle x, middle y, half width, half height) of an ellipse, painted in this order
_ELLIPSES = (
    (13, 0.50, 0.44, 0.37, 0.40),
    (18, 0.50, 1.05, 0.50, 0.16),
    (17, 0.50, 0.86, 0.14, 0.18),
    (8, 0.79, 0.53, 0.04, 0.08),
    (9, 0.21, 0.53, 0.04, 0.08),
    (1, 0.50, 0.54, 0.28, 0.35),
    (15, 0.79, 0.64, 0.02, 0.03),
    (6, 0.62, 0.42, 0.07, 0.018),
    (7, 0.38, 0.42, 0.07, 0.018),
    (4, 0.62, 0.49, 0.055, 0.022),
    (5, 0.38, 0.49, 0.055, 0.022),
    (2, 0.50, 0.60, 0.06, 0.10),
    (11, 0.50, 0.745, 0.10, 0.025),
    (12, 0.50, 0.785, 0.09, 0.030),
    (10, 0.50, 0.765, 0.06, 0.012),
)


def face(height: int = SIDE, width: int | None = None, without: tuple[int, ...] = ()) -> Tensor:
    """A face of ellipses, ids of CelebAMask-HQ."""
    width = width or height
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    labels = torch.zeros(height, width, dtype=torch.uint8)
    for part, at_x, at_y, wide, high in _ELLIPSES:
        if part not in without:
            labels[((x - at_x) / wide) ** 2 + ((y - at_y) / high) ** 2 < 1.0] = part
    return labels


def glasses(labels: Tensor, over_eyes: bool) -> Tensor:
    """The face with two round lenses; eyes stay on top, as in label files, or are hidden."""
    side = labels.shape[0]
    y, x = torch.meshgrid(*[(torch.arange(side) + 0.5) / side] * 2, indexing="ij")
    result = labels.clone()
    for at in (0.38, 0.62):
        lens = ((x - at) / 0.105) ** 2 + ((y - 0.49) / 0.075) ** 2 < 1.0
        if not over_eyes:
            lens = lens & (labels != 4) & (labels != 5)
        result[lens] = 3
    return result


def inside(picture: Tensor, labels: Tensor, part: int) -> Tensor:
    """Mean colour of a class: ``(3,)``."""
    return picture[:, labels == part].mean(dim=1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def renderer() -> PreviewRenderer:
    return PreviewRenderer()


def test_is_the_generator_called_preview(renderer):
    assert isinstance(renderer, Generator)
    opened = open_generator("preview", classes=HQ)
    assert torch.equal(opened.render(face(), opened.mean_style()), renderer.render(face()))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (61, 45), (130, 300), (256, 256)])
def test_draws_at_any_size(renderer, height, width):
    labels = face(height, width)
    before = labels.clone()
    picture = renderer.render(labels)
    assert picture.shape == (3, height, width)
    assert picture.dtype == torch.float32
    assert bool(picture.isfinite().all())
    assert 0.0 <= float(picture.min()) <= float(picture.max()) <= 1.0
    assert float(picture.std()) > 0.02
    assert torch.equal(labels, before)


def test_one_seed_one_picture_and_seeds_change_the_strands(renderer):
    first = renderer.render(face(), seed=3)
    torch.manual_seed(5)
    again = PreviewRenderer().render(face(), seed=3)
    assert torch.equal(first, again)
    other = renderer.render(face(), seed=4)
    changed = (first - other).abs().amax(dim=0)
    assert float(changed[face() == 13].mean()) > 0.01
    assert float(changed[face() == 0].max()) < 0.2  # the background only at the hair's soft edge
    assert float(changed[(face() == 1)].median()) == 0.0


@pytest.mark.parametrize(
    ("name", "part"),
    [("skin", 1), ("skin", 17), ("skin", 8), ("hair", 13), ("brows", 6), ("cloth", 18), ("lips", 12), ("metal", 15)],
)
def test_a_colour_of_the_style_shows_on_its_part(renderer, name, part):
    labels = face()
    plain = renderer.render(labels)
    painted = renderer.render(labels, PreviewStyle.from_dict({name: RED}))
    red = inside(painted, labels, part)
    assert float(red[0] - red[1:].max()) > float(inside(plain, labels, part)[0] - inside(plain, labels, part)[1:].max())
    assert float(red[0]) > 1.5 * float(red[1:].max())
    assert float((painted - plain).abs()[:, labels == 0].median()) == 0.0


def test_the_iris_has_its_colour_and_a_pupil(renderer):
    labels = face(256)
    blue = renderer.render(labels, PreviewStyle(iris=(0.1, 0.2, 0.9)))
    eye = blue[:, labels == 4]
    assert float((eye[2] - eye[0]).max()) > 0.25
    assert float(eye.mean(dim=0).min()) < 0.12  # pupil
    assert float(eye.mean(dim=0).max()) > 0.85  # white, or the light in it


def test_an_edit_changes_the_picture_near_it_only(renderer):
    labels = face(128)
    edited = labels.clone()
    y, x = torch.meshgrid(*[(torch.arange(128) + 0.5) / 128] * 2, indexing="ij")
    edited[((x - 0.5) / 0.14) ** 2 + ((y - 0.785) / 0.05) ** 2 < 1.0] = 12
    changed = (renderer.render(labels) - renderer.render(edited)).abs().amax(dim=0)
    assert float(changed[edited != labels].mean()) > 0.1
    assert float(changed[:50].max()) < 0.03  # eyes, brow and hair stay


def test_light_from_the_left_brightens_the_left(renderer):
    labels = face()
    left = renderer.render(labels, PreviewStyle(light=(-0.6, -0.4, 0.7)))
    right = renderer.render(labels, PreviewStyle(light=(0.6, -0.4, 0.7)))
    skin = labels == 1
    west = skin.clone()
    west[:, SIDE // 2 :] = False
    east = skin & ~west
    assert float(left[:, west].mean()) > float(left[:, east].mean()) + 0.05
    assert float(right[:, east].mean()) > float(right[:, west].mean()) + 0.05


def test_glasses_are_clear_over_eyes_and_dark_without(renderer):
    seen = glasses(face(256), over_eyes=False)
    hidden = glasses(face(256), over_eyes=True)
    clear, dark = (renderer.render(labels) for labels in (seen, hidden))
    y, x = torch.meshgrid(*[(torch.arange(256) + 0.5) / 256] * 2, indexing="ij")
    middle = ((x - 0.38) / 0.08) ** 2 + ((y - 0.49) / 0.05) ** 2 < 1.0
    under = middle & (seen == 3)
    bare = renderer.render(face(256))
    assert float((clear - bare)[:, under].abs().mean()) < 0.15  # the skin is seen through them
    assert float((bare - dark)[:, under].mean()) > 0.2
    rim = (seen == 3) & (((x - 0.38) / 0.100) ** 2 + ((y - 0.49) / 0.070) ** 2 > 1.0)
    assert float(clear[:, rim].mean()) < float(clear[:, under].mean()) - 0.1


def test_slanted_edges_are_soft(renderer):
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    labels = torch.where(3 * x > y + 60, 18, 0).to(torch.uint8)
    style = PreviewStyle(cloth=(0.0, 0.0, 0.0), background=((1.0,) * 3, (1.0,) * 3))
    picture = renderer.render(labels, style)[1]
    between = ((picture > 0.2) & (picture < 0.8)).sum(dim=1).float()
    assert 0.5 < float(between.mean()) < 4.0  # a step has none


@pytest.mark.parametrize("part", range(19))
def test_one_class_alone_is_drawn(renderer, part):
    picture = renderer.render(torch.full((40, 40), part, dtype=torch.uint8))
    assert bool(picture.isfinite().all())


@pytest.mark.parametrize("without", [(4,), (4, 5), (1,), (2,), (10, 11, 12), (13,), (17, 18), tuple(range(1, 19))])
def test_parts_may_be_missing(renderer, without):
    assert bool(renderer.render(face(without=without)).isfinite().all())


def test_other_class_sets_are_drawn_by_name():
    six = ClassSet("six", ("background", "hair", "skin", "nose", "mouth", "eyes"))
    assert roles_of(six) == (Role.BACKGROUND, Role.HAIR, Role.SKIN, Role.NOSE, Role.LIPS, Role.EYE)
    table = torch.zeros(19, dtype=torch.uint8)
    table[torch.tensor([13, 1, 2, 11, 4])] = torch.tensor([1, 2, 3, 4, 5], dtype=torch.uint8)
    table[torch.tensor([17, 10, 12, 5])] = torch.tensor([2, 4, 4, 5], dtype=torch.uint8)
    labels = table[face().long()]
    picture = PreviewRenderer(six).render(labels, PreviewStyle(lips=RED))
    red, rest = inside(picture, labels, 4), inside(picture, labels, 2)
    assert float(red[0] / red[1]) > 1.5 * float(rest[0] / rest[1])


def test_a_beard_has_the_colour_of_the_brows():
    bearded = ClassSet("bearded", (*HQ.names, "beard"), (*HQ.colors, (1, 2, 250)))
    labels = face()
    labels[78:84, 40:56] = 19
    picture = PreviewRenderer(bearded).render(labels, PreviewStyle(brows=RED))
    red, skin = inside(picture, labels, 19), inside(picture, labels, 1)
    assert float(red[0] / red[1]) > 1.5 * float(skin[0] / skin[1])


def test_words_of_other_sets():
    names = (
        "bg",
        "left_eyebrow",
        "Right Eye",
        "l_lip",
        "upper_lip",
        "l_ear",
        "eyebrow_l",
        "neck_l",
        "facial_hair",
        "horn",
    )
    roles = roles_of(ClassSet("words", names, background=0))
    assert roles[1:] == (
        *(Role.BROW, Role.EYE, Role.LOWER_LIP, Role.UPPER_LIP, Role.EAR, Role.BROW, Role.JEWEL, Role.BEARD, Role.OTHER),
    )
    assert Role.OTHER not in roles_of(HQ)


def test_an_unknown_class_has_the_style_s_colour_else_its_own():
    horns = ClassSet("horned", (*HQ.names, "horn"), (*HQ.colors, (1, 2, 250)))
    labels = face()
    labels[:20, 30:60] = 19
    renderer = PreviewRenderer(horns)
    own = inside(renderer.render(labels), labels, 19)
    assert float(own[2]) > float(own[0]) + 0.2
    styled = inside(renderer.render(labels, PreviewStyle(others=(("horn", RED),))), labels, 19)
    assert float(styled[0]) > 3.0 * float(styled[2])


def test_a_set_without_background_is_drawn():
    two = ClassSet("two", ("skin", "hair"), background=None)
    labels = (face() == 13).to(torch.uint8)
    assert float(PreviewRenderer(two).render(labels).std()) > 0.02


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(3, 16, 16, dtype=torch.uint8), "(3, 16, 16)"),
        (torch.zeros(16, 16), "float32"),
        (torch.zeros(4, 16, dtype=torch.uint8), "(4, 16)"),
        (torch.full((16, 16), 19, dtype=torch.uint8), "id 19"),
        (torch.full((16, 16), -1), "id -1"),
    ],
)
def test_what_cannot_be_drawn_is_named(renderer, labels, words):
    with pytest.raises(InputError) as raised:
        renderer.render(labels)
    assert words in raised.value.message
    assert "\n" not in str(raised.value)


def test_supersampling_has_limits():
    with pytest.raises(ConfigError, match="supersampling"):
        PreviewRenderer(supersampling=9)
    assert PreviewRenderer(supersampling=1).render(face(33)).shape == (3, 33, 33)
    assert PreviewRenderer(supersampling=3).render(face(33)).shape == (3, 33, 33)
