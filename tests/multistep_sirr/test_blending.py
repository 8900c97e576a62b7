"""Mixtures made from plain pictures: what each model promises, and that one seed gives one batch."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from torch import Generator, Tensor

from pellucid.data.synthetic import draw_pictures
from pellucid.errors import ConfigError
from pellucid.multistep_sirr.blending import MODELS, BlendOptions, blend, blur, ghost, pane_reflectance, veil

SIZES = [(33, 47), (16, 16)]


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def three(count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    drawn = draw_pictures(3 * count, max(size), seed=5)[..., : size[0], : size[1]]
    return tuple(drawn.contiguous().chunk(3))  # type: ignore[return-value]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_mixes_within_range_and_keeps_its_target(name: str, size: tuple[int, int]) -> None:
    T, R, _ = three(3, size)
    given = T.clone(), R.clone()
    mixture, target, source = MODELS[name](T, R, seeded(), 1.0)
    assert mixture.shape == target.shape == source.shape == T.shape
    for picture in (mixture, target, source):
        assert picture.isfinite().all()
        assert picture.min() >= -1e-6
        assert picture.max() <= 1 + 1e-6
    assert torch.equal(T, given[0])
    assert torch.equal(R, given[1])
    if name == "rdnet":  # its target has the colour gain
        assert not torch.equal(target, T)
    else:
        assert torch.equal(target, T)
    assert (mixture - target).abs().mean() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_one_seed_gives_one_mixture_whatever_the_global_one(name: str) -> None:
    T, R, _ = three(3, (33, 47))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = MODELS[name](T, R, seeded(7), 0.5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = MODELS[name](T, R, seeded(7), 0.5)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert torch.equal(first[0], MODELS[name](T, R, seeded(8), 0.5)[0]) == (name == "flashrr")  # draws nothing


@pytest.mark.parametrize("name", MODELS)
def test_without_a_reflection_the_picture_stays_up_to_its_gain(name: str) -> None:
    T = three(4, (32, 32))[0] * 0.6 + 0.05
    mixture, target, _ = MODELS[name](T, torch.zeros_like(T), seeded(), 1.0)
    if name in ("ceilnet", "rdnet"):
        assert torch.allclose(mixture, target, atol=1e-6)
        return
    if name in ("flashrr", "physical"):  # their gains are in linear light
        mixture, target = rgb_to_linear_rgb(mixture), rgb_to_linear_rgb(target)
    if name == "physical":  # noise, JPEG, and a gain that follows the angle: no light is added
        gain = mixture.mean((1, 2, 3)) / target.mean((1, 2, 3))
        assert (gain < 1.02).all()
        assert (gain > 0.3).all()
        return
    gain = (mixture * target).sum((1, 2, 3)) / (target * target).sum((1, 2, 3))
    assert torch.allclose(mixture, gain[:, None, None, None] * target, atol=2e-3)
    least, most = {"flashrr": (0.61, 0.61), "bdn": (0.6, 0.8), "zhang": (0.8 ** (1 / 2.2), 1.0)}.get(name, (0.8, 1.0))
    assert (gain >= least - 1e-3).all()
    assert (gain <= most + 1e-3).all()


@pytest.mark.parametrize("name", [name for name in MODELS if name != "flashrr"])
def test_scale_shrinks_the_blur(name: str) -> None:
    R = torch.rand(6, 3, 48, 48, generator=seeded(3))
    T = torch.zeros_like(R)

    def rough(scale: float) -> Tensor:
        light = MODELS[name](T, R, seeded(4), scale)[2]
        return (light[..., 1:] - light[..., :-1]).square().mean((1, 2, 3))

    ratio = rough(0.2) / rough(1.0)
    assert (ratio > 1 - 1e-3).all()  # `physical` leaves a quarter of the samples sharp
    assert ratio.median() > 2


def test_ceilnet_darkens_by_the_mean_overflow() -> None:
    # Flat pictures are not changed by the blur: T + R = 1.2, so R loses 1.3 * 0.2.
    T, R = torch.full((1, 3, 16, 16), 0.7), torch.full((1, 3, 16, 16), 0.5)
    mixture, _, light = MODELS["ceilnet"](T, R, seeded(), 1.0)
    assert torch.allclose(light, torch.full_like(light, 0.5 - 1.3 * 0.2), atol=1e-5)
    assert torch.allclose(mixture, torch.full_like(mixture, 0.94), atol=1e-5)


def test_flashrr_adds_fixed_shares_of_light() -> None:
    T, R, _ = three(1, (16, 16))
    mixture, _, _ = MODELS["flashrr"](T, R, seeded(), 1.0)
    light = 0.61 * rgb_to_linear_rgb(T) + 0.22 * rgb_to_linear_rgb(R)
    assert torch.allclose(mixture, linear_rgb_to_rgb(light), atol=1e-6)


def test_the_pane_reflects_as_fresnel_says() -> None:
    angles = torch.deg2rad(torch.arange(0.0, 86.0))
    shares = pane_reflectance(angles)
    assert shares[0].item() == pytest.approx(2 * 0.04 / 1.04, rel=1e-5)
    assert (shares.diff() > -1e-7).all()
    assert shares[-1] > 0.6
    brewster = pane_reflectance(torch.tensor(math.atan(1.5)))  # there p vanishes and s is ((1 - n^2) / (1 + n^2))^2
    fresnel = ((1 - 2.25) / (1 + 2.25)) ** 2 / 2
    assert brewster.item() == pytest.approx(2 * fresnel / (1 + fresnel), rel=1e-4)


@pytest.mark.parametrize(("scale", "least", "most"), [(1.0, 4, 20), (0.5, 2, 10)])
def test_a_ghost_is_a_weaker_copy_some_pixels_away(scale: float, least: float, most: float) -> None:
    R = torch.zeros(8, 3, 65, 65)
    R[..., 32, 32] = 1
    doubled = ghost(R, seeded(), scale)
    y, x = torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    copy = doubled.clone()
    copy[..., 32, 32] = 0
    share = copy.sum((2, 3))[:, 0]
    centre = torch.stack([(copy[:, 0] * x).sum((1, 2)), (copy[:, 0] * y).sum((1, 2))]) / share
    length = centre.norm(dim=0)
    assert torch.allclose(share + doubled[:, 0, 32, 32], torch.ones(8), atol=1e-5)
    assert ((share > 0.2 - 1e-4) & (share < 0.5 + 1e-4)).all()
    assert ((length > least - 0.01) & (length < most + 0.01)).all()
    assert length.std() > 0.5


def test_a_flat_veil_adds_the_mean_light() -> None:
    I, V = torch.full((2, 3, 16, 16), 0.3), three(2, (32, 32))[0][..., :16, :16]  # noqa: E741
    options = BlendOptions(veil_gain=(0.1, 0.1), veil_flat=1.0, contrast=1.0)
    veiled = rgb_to_linear_rgb(veil(I, V, seeded(), options)) - rgb_to_linear_rgb(I)
    assert torch.allclose(veiled, veiled.mean((2, 3), keepdim=True).expand_as(veiled), atol=1e-6)
    tint = veiled.mean((2, 3)) / (0.1 * rgb_to_linear_rgb(V).mean((2, 3)))
    assert ((tint > 0.8 - 1e-3) & (tint < 1.2 + 1e-3)).all()
    assert tint.std() > 0.01


def test_a_veil_is_smooth_and_takes_contrast() -> None:
    I, _, V = three(4, (48, 48))  # noqa: E741
    options = BlendOptions(veil_gain=(0.2, 0.2), veil_flat=0.0, contrast=0.5)
    linear = rgb_to_linear_rgb(I)
    veiled = rgb_to_linear_rgb(veil(I, V, seeded(), options))
    flat = veil(torch.zeros_like(I), V, seeded(), options)
    assert flat.amax((2, 3)).sub(flat.amin((2, 3))).max() > 0.01  # it has a structure ...
    assert (flat[..., 1:] - flat[..., :-1]).abs().max() < 0.05  # ... without edges
    keep = (veiled - rgb_to_linear_rgb(flat)) / linear.clamp(min=1e-3)
    inside = (linear > 0.05) & (veiled < 0.99)
    assert 0.5 - 0.01 < keep[inside].min() < 0.99
    assert keep[inside].max() < 1.01


# All of them together


def mixed(size: tuple[int, int] = (33, 47), seed: int = 0, **options: object) -> tuple[Tensor, object]:
    T, R, V = three(16, size)
    settings = {"shares": dict.fromkeys(MODELS, 1.0), **options}
    return T, blend(T, R, V, seeded(seed), BlendOptions(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [*SIZES, (48, 48)])
def test_a_batch_of_all_models(size: tuple[int, int]) -> None:
    T, made = mixed(size, ghost=0.5, veil=0.5, faint=0.3, clean=0.1)
    assert made.mixture.shape == T.shape
    for picture in (made.mixture, made.transmission, made.reflection):
        assert picture.isfinite().all()
        assert picture.min() >= 0
        assert picture.max() <= 1
    assert torch.equal(made.reflection, (made.mixture - made.transmission).clamp(0, 1))


def test_a_batch_follows_from_its_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = mixed(seed=3, faint=0.3)[1]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = mixed(seed=3, faint=0.3)[1], mixed(seed=4, faint=0.3)[1]
    for name in ("mixture", "transmission", "reflection", "source"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.mixture, other.mixture)


def test_only_rdnet_changes_the_target() -> None:
    shares = dict.fromkeys([name for name in MODELS if name != "rdnet"], 1.0)
    T, made = mixed(shares=shares, ghost=1.0, veil=1.0, faint=1.0)
    assert torch.equal(made.transmission, T)


def test_clean_samples_are_exactly_clean() -> None:
    T, made = mixed(shares={"rdnet": 1.0}, ghost=1.0, veil=1.0, faint=1.0, clean=1.0)
    assert torch.equal(made.mixture, T)
    assert torch.equal(made.transmission, T)
    assert not made.reflection.any()
    assert not made.source.any()
    T, made = mixed(clean=0.5, shares={"screen": 1.0})
    same = (made.mixture == T).flatten(1).all(1)
    assert 2 <= same.sum() <= 14


def test_faint_samples_keep_a_part_of_the_change() -> None:
    whole = mixed(shares={"ceilnet": 1.0}, ghost=0, veil=0, clean=0, faint=0.0)
    part = mixed(shares={"ceilnet": 1.0}, ghost=0, veil=0, clean=0, faint=1.0)
    ratio = (part[1].mixture - part[0]).mean((1, 2, 3)) / (whole[1].mixture - whole[0]).mean((1, 2, 3))
    assert ((ratio > 0.14) & (ratio < 0.71)).all()
    assert ratio.std() > 0.01


def test_shares_choose_the_models() -> None:
    T, R, V = three(4, (32, 32))
    made = blend(T, R, V, seeded(), BlendOptions(shares={"flashrr": 2.0, "bdn": 0.0}, ghost=0, veil=0, clean=0))
    assert torch.allclose(made.mixture, MODELS["flashrr"](T, R, seeded(), 1.0)[0], atol=1e-6)


def test_ghosts_and_veils_come_as_often_as_asked() -> None:
    base = mixed(shares={"flashrr": 1.0}, ghost=0, veil=0, clean=0)[1].mixture
    for options in ({"ghost": 1.0, "veil": 0}, {"ghost": 0, "veil": 1.0}):
        other = mixed(shares={"flashrr": 1.0}, clean=0, **options)[1].mixture
        assert ((base - other).abs().amax((1, 2, 3)) > 1e-4).all()


def test_blur_keeps_the_mean_of_a_flat_picture_and_takes_one_sigma_a_sample() -> None:
    x = torch.rand(2, 3, 21, 30, generator=seeded())
    sharp, soft = blur(x, torch.tensor([0.01, 3.0]), 21)
    assert torch.allclose(sharp, x[0], atol=1e-6)
    assert soft.var() < 0.2 * x[1].var()
    assert torch.allclose(blur(torch.full((1, 3, 9, 9), 0.4), torch.tensor([2.0]), 21), torch.tensor(0.4), atol=1e-6)
    assert blur(torch.rand(1, 3, 1, 5), torch.tensor([2.0]), 21).shape == (1, 3, 1, 5)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"shares": {"ceilnett": 1.0}}, "'ceilnett'"),
        ({"shares": {"ceilnet": -1.0}}, "shares"),
        ({"shares": {"ceilnet": 0.0}}, "shares"),
        ({"shares": {}}, "shares"),
        ({"ghost": 1.5}, "ghost"),
        ({"clean": -0.1}, "clean"),
        ({"veil_gain": (0.0, 0.5)}, "veil_gain"),
        ({"veil_gain": (0.5, 0.1)}, "veil_gain"),
        ({"contrast": 0.0}, "contrast"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict, named: str) -> None:
    make: Callable[[], BlendOptions] = partial(BlendOptions, **wrong)
    with pytest.raises(ConfigError, match=named) as caught:
        make()
    assert "\n" not in str(caught.value)
