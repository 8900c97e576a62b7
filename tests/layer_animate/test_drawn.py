import pytest
import torch

from pellucid.errors import InputError
from pellucid.layer_animate.clips.drawn import COLOURS, KINDS, draw_rgba, make_drawings, render


def test_one_seed_one_result_and_other_seeds_others() -> None:
    assert torch.equal(draw_rgba(3, 32, 5), draw_rgba(3, 32, 5))
    assert not torch.equal(draw_rgba(3, 32, 5), draw_rgba(3, 32, 6))


def test_pictures_have_every_alpha_and_no_colour_under_nothing() -> None:
    pictures = draw_rgba(64, 32, 0)
    colour, alpha = pictures[:, :3], pictures[:, 3:]
    assert pictures.shape == (64, 4, 32, 32)
    assert float(pictures.min()) == 0
    assert float(pictures.max()) <= 1
    assert not colour[(alpha == 0).expand_as(colour)].any()
    assert float(((alpha > 0.05) & (alpha < 0.95)).float().mean()) > 0.03  # soft edges, and bodies one sees through
    assert bool((alpha == 1).any())
    assert bool((alpha.amax(dim=(1, 2, 3)) > 0.2).all())  # none is empty


def test_captions_name_colour_and_shape_of_what_is_there() -> None:
    drawings = make_drawings(200, 0)
    for caption, there in zip(drawings.captions(), drawings.present.sum(dim=1).tolist(), strict=True):
        parts = caption.split(" and ")
        assert len(parts) == there
        assert all(part.split()[1] in COLOURS and part.split()[2] in KINDS for part in parts)
    assert any(caption.startswith("an orange") for caption in drawings.captions())
    assert all(" and " not in caption for caption in make_drawings(20, 0, shapes=1).captions())


def test_a_red_circle_is_red_and_round() -> None:
    drawings = make_drawings(400, 1, shapes=1)
    red, circle = list(COLOURS).index("red"), KINDS.index("circle")
    firm = (drawings.opacity[:, 0] == 1) & (drawings.soft[:, 0] < 0.02)
    chosen = drawings[torch.nonzero((drawings.hue[:, 0] == red) & (drawings.kind[:, 0] == circle) & firm)[:, 0][:1]]
    picture = render(chosen, 64)[0]
    radius = float(chosen.radius[0, 0])
    assert float(picture[3].mean()) == pytest.approx(3.14159 * radius**2 / 4, rel=0.03)  # the side is 2
    inside = picture[:3, picture[3] > 0.99].mean(dim=1)
    assert inside[0] > 2 * inside[1]
    assert inside[0] > 2 * inside[2]


def test_a_place_moves_the_drawing() -> None:
    drawings = make_drawings(4, 2)
    still = render(drawings, 32)
    right = torch.tensor([[1.0, 0.0, -0.5], [0.0, 1.0, 0.0]]).expand(4, 2, 3)  # half a half side: 8 pixels
    torch.testing.assert_close(render(drawings, 32, right)[..., 8:], still[..., :-8], atol=1e-3, rtol=0)


def test_the_same_drawing_at_another_size_is_the_same_picture() -> None:
    drawings = make_drawings(4, 3)
    large = torch.nn.functional.avg_pool2d(render(drawings, 128)[:, 3:], 4)
    assert float((large - render(drawings, 32)[:, 3:]).abs().mean()) < 0.01


@pytest.mark.parametrize(("n", "shapes"), [(0, 1), (1, 0), (1, 4)])
def test_impossible_numbers_are_named(n: int, shapes: int) -> None:
    with pytest.raises(InputError, match=f"found {n} of {shapes}"):
        make_drawings(n, 0, shapes=shapes)
