"""Edits of codes: Eq. 4, what noise depends on, histories, and what an edit must not touch."""

import json
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.semantic_vae.editing import (
    Codes,
    Operation,
    allowed_classes,
    apply,
    dilated,
    edited_parts,
    history_from_json,
    history_to_json,
    keep_unedited,
    presence,
    seeded,
    stray_guard,
    undo,
)
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet

HQ = CELEBAMASK_HQ
LATENT = 16


def codes(seed: int, *absent: str, batch: int | None = None) -> Codes:
    generator = torch.Generator().manual_seed(seed)
    shape = (18, LATENT) if batch is None else (batch, 18, LATENT)
    present = torch.ones(shape[:-1], dtype=torch.bool)
    for name in absent:
        present[..., row(name)] = False
    mu = torch.randn(shape, generator=generator)
    return Codes(mu, torch.randn(shape, generator=generator), present)


def row(name: str, classes: ClassSet = HQ) -> int:
    return classes.parts.index(classes.names.index(name))


def changed(before: Tensor, after: Tensor) -> list[str]:
    rows = (before != after).any(dim=-1)
    return [HQ.names[HQ.parts[index]] for index in range(18) if rows[..., index].any()]


class Along:
    """An attribute that moves both eyes along fixed axes."""

    def offsets(self, attribute: str) -> Mapping[int, Tensor]:
        if attribute != "eye_width":
            raise ConfigError(f"attribute {attribute!r} is not known")
        return {4: torch.eye(LATENT)[0], 5: 2 * torch.eye(LATENT)[1]}


# Eq. 4


@pytest.mark.parametrize("spherical", [False, True])
def test_interpolation_runs_from_reconstruction_to_swap(spherical: bool) -> None:
    source, target = codes(1), codes(2)

    def mixed(amount: float) -> Tensor:
        operation = Operation("interpolate", ("hair", "nose"), amount, reference="other", spherical=spherical)
        return apply(source, [operation], HQ, references={"other": target})

    swapped = apply(source, [Operation("swap", ("hair", "nose"), reference="other")], HQ, references={"other": target})
    assert torch.allclose(mixed(0.0), source.mu, atol=1e-6)
    assert torch.allclose(mixed(1.0), swapped, atol=1e-5)
    assert torch.equal(swapped[row("hair")], target.mu[row("hair")])
    assert changed(source.mu, swapped) == ["nose", "hair"]


def test_the_middle_of_eq_4_is_the_mean_of_the_codes() -> None:
    source, target = codes(1), codes(2)
    quarter = Operation("interpolate", ("hair",), 0.25, reference="t")
    z = apply(source, [quarter], HQ, references={"t": target})
    assert torch.allclose(z[row("hair")], 0.25 * target.mu[row("hair")] + 0.75 * source.mu[row("hair")])


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0])
def test_interpolation_of_all_parts_is_symmetric(spherical: bool, amount: float) -> None:
    one, other = codes(1), codes(2)

    def mixed(source: Codes, target: Codes, alpha: float) -> Tensor:
        operation = Operation("interpolate", ("all",), alpha, reference="t", spherical=spherical)
        return apply(source, [operation], HQ, references={"t": target})

    assert torch.allclose(mixed(one, other, amount), mixed(other, one, 1 - amount), atol=1e-5)


def test_spherical_interpolation_keeps_to_the_sphere() -> None:
    unit = torch.nn.functional.normalize(torch.randn(2, 18, LATENT, generator=torch.Generator().manual_seed(0)), dim=-1)
    there = torch.ones(18, dtype=torch.bool)
    source, target = (Codes(mu, torch.zeros_like(mu), there) for mu in unit)
    halves = [
        apply(
            source,
            [Operation("interpolate", ("all",), 0.5, reference="t", spherical=arc)],
            HQ,
            references={"t": target},
        )
        for arc in (True, False)
    ]
    assert torch.allclose(halves[0].norm(dim=-1), torch.ones(18), atol=1e-5)
    assert (halves[1].norm(dim=-1) < 0.95).all()


def test_spherical_interpolation_of_codes_without_an_arc_is_linear() -> None:
    mu = torch.zeros(18, LATENT)
    mu[:, 0] = 1.0
    there = torch.ones(18, dtype=torch.bool)
    for other in (-mu, mu, torch.zeros_like(mu)):
        operation = Operation("interpolate", ("nose",), 0.25, reference="t", spherical=True)
        target = Codes(other, mu, there)
        z = apply(Codes(mu, mu, there), [operation], HQ, references={"t": target})
        assert torch.allclose(z[row("nose")], 0.75 * mu[row("nose")] + 0.25 * other[row("nose")])


def test_interpolation_starts_from_the_original_code_whatever_came_before() -> None:
    source, target = codes(1), codes(2)
    mix = Operation("interpolate", ("nose",), 0.5, reference="t")
    once = apply(source, [mix], HQ, references={"t": target})
    assert torch.equal(apply(source, [Operation("generate", ("nose",)), mix, mix], HQ, references={"t": target}), once)


# Noise


def test_noise_of_a_part_does_not_depend_on_the_other_parts_that_are_edited() -> None:
    source = codes(1)
    for kind in ("generate", "perturb", "add"):
        alone = apply(source, [Operation(kind, ("hair",), seed=3)], HQ)
        more = apply(source, [Operation(kind, ("nose", "hair", "eyes"), seed=3)], HQ)
        assert torch.equal(alone[row("hair")], more[row("hair")])
        assert not torch.equal(more[row("hair")], more[row("nose")])
        assert changed(source.mu, more) == ["nose", "l_eye", "r_eye", "hair"]
        assert not torch.equal(alone, apply(source, [Operation(kind, ("hair",), seed=4)], HQ))


def test_every_mask_of_a_batch_gets_the_same_noise() -> None:
    source = codes(1, batch=3)
    z = apply(source, [Operation("perturb", ("hair",), seed=3)], HQ)
    added = (z - source.mu)[:, row("hair")]
    assert torch.allclose(added, added[:1].expand(3, -1), atol=1e-6)
    assert torch.equal(z[1], apply(source[1], [Operation("perturb", ("hair",), seed=3)], HQ))


def test_amount_and_temperature_scale_the_noise() -> None:
    source = codes(1)
    assert torch.equal(apply(source, [Operation("perturb", ("hair",), 0.0)], HQ), source.mu)
    one, two = (apply(source, [Operation("perturb", ("hair",), by, seed=1)], HQ) - source.mu for by in (1.0, 2.0))
    assert torch.allclose(2 * one, two, atol=1e-5)
    cold = apply(source, [Operation("generate", ("hair",), temperature=0.0)], HQ)
    assert torch.equal(cold[row("hair")], torch.zeros(LATENT))


def test_undoing_the_last_edit_leaves_the_others_as_they_were() -> None:
    source = codes(1)
    history = [Operation("generate", ("hair",)), Operation("perturb", ("hair", "nose"))]
    longer = apply(source, history, HQ)
    assert torch.equal(apply(source, undo(history), HQ), apply(source, history[:1], HQ))
    noses = [apply(source, seeded(history, seed), HQ)[row("nose")] for seed in (0, 0, 1)]
    assert torch.equal(noses[0], noses[1])
    assert torch.equal(noses[0], longer[row("nose")])
    assert not torch.equal(noses[0], noses[2])
    first, second = (one.seed for one in seeded(history))
    assert first != second
    assert seeded(history[:1])[0].seed == first
    assert undo(()) == ()


# What is there


def test_remove_takes_the_code_of_an_absent_part_and_add_draws_one() -> None:
    source, absent = codes(1, "hat"), torch.arange(LATENT).float()
    removed = apply(source, [Operation("remove", ("hair",))], HQ, absent_code=absent)
    assert torch.equal(removed[row("hair")], absent)
    with pytest.raises(ConfigError, match="absent"):
        apply(source, [Operation("remove", ("hair",))], HQ)
    left = apply(source, [Operation("generate", ("hat",)), Operation("perturb", ("hat",))], HQ)
    assert torch.equal(left, source.mu)
    assert changed(source.mu, apply(source, [Operation("add", ("hat",))], HQ)) == ["hat"]


def test_a_part_that_is_not_there_is_said(caplog: pytest.LogCaptureFixture) -> None:
    apply(codes(1, "hat"), [Operation("generate", ("hat",))], HQ)
    assert "no hat in the mask" in caplog.text


def test_presence_follows_the_history() -> None:
    source, other = codes(1, "hat"), codes(2, "hair", "hat")
    swap = Operation("swap", ("hair",), reference="o")
    half = Operation("interpolate", ("hair",), 0.5, reference="o")
    for history, hat, hair in (
        ([], False, True),
        ([Operation("generate", ("hat",))], False, True),
        ([Operation("add", ("hat",))], True, True),
        ([Operation("add", ("hat",)), Operation("remove", ("hat", "hair"))], False, False),
        ([swap], False, False),
        ([half], False, True),
        ([Operation("add", ("hat",)), swap, Operation("reconstruct", ("hair", "hat"))], False, True),
    ):
        there = presence(source, history, HQ, references={"o": other})
        assert bool(there[row("hat")]) is hat
        assert bool(there[row("hair")]) is hair


def test_reconstruct_takes_the_own_code_again() -> None:
    source = codes(1)
    history = [Operation("generate", ("hair", "nose")), Operation("reconstruct", ("hair",))]
    assert changed(source.mu, apply(source, history, HQ)) == ["nose"]
    assert edited_parts(history, HQ) == (2, 13)


# Attributes


def test_move_goes_along_the_attribute_of_the_parts_it_has() -> None:
    source = codes(1)
    z = apply(source, [Operation("move", amount=1.5, attribute="eye_width")], HQ, directions=Along())
    assert torch.allclose((z - source.mu)[row("l_eye")], 1.5 * torch.eye(LATENT)[0], atol=1e-6)
    assert torch.allclose((z - source.mu)[row("r_eye")], 3.0 * torch.eye(LATENT)[1], atol=1e-6)
    one_eye = Operation("move", ("l_eye",), attribute="eye_width")
    assert changed(source.mu, apply(source, [one_eye], HQ, directions=Along())) == ["l_eye"]
    assert edited_parts([Operation("move", attribute="eye_width")], HQ, Along()) == (4, 5)
    with pytest.raises(ConfigError, match="l_eye, r_eye"):
        apply(source, [Operation("move", ("hair",), attribute="eye_width")], HQ, directions=Along())
    with pytest.raises(ConfigError, match="no attribute 'eye_width'"):
        apply(source, [Operation("move", attribute="eye_width")], HQ)


# Names


@pytest.mark.parametrize("part", ["background", 0, "0"])
def test_editing_the_background_is_refused(part: str | int) -> None:
    with pytest.raises(ConfigError, match="background"):
        apply(codes(1), [Operation("generate", (part,))], HQ)


def test_an_unknown_part_gives_a_list_of_near_ones() -> None:
    with pytest.raises(ConfigError, match="nosee") as caught:
        apply(codes(1), [Operation("generate", ("nosee",))], HQ)
    assert "nose" in caught.value.hint


def test_a_reference_that_is_not_there_or_does_not_fit_is_named() -> None:
    swap = [Operation("swap", ("hair",), reference="friend")]
    with pytest.raises(ConfigError, match="'friend', there are: aunt"):
        apply(codes(1), swap, HQ, references={"aunt": codes(2)})
    other = Codes(torch.zeros(6, LATENT), torch.zeros(6, LATENT), torch.ones(6, dtype=torch.bool))
    with pytest.raises(InputError, match="6 parts"):
        apply(codes(1), swap, HQ, references={"friend": other})


def test_priors_that_were_not_fitted_are_refused() -> None:
    for operation in (Operation("generate", ("hair",), prior="empirical"), Operation("generate", ("hair",), fit=0.5)):
        with pytest.raises(ConfigError, match="empirical prior"):
            apply(codes(1), [operation], HQ)


# Histories as JSON

HISTORY = (
    Operation("generate", ("hair", 4), temperature=0.7, seed=12, prior="empirical", fit=0.5),
    Operation("interpolate", ("eyes",), 0.25, reference="other.png", spherical=True),
    Operation("move", amount=-1.0, attribute="nose_length"),
    Operation("remove", ("hat",)),
)


def test_a_history_survives_json() -> None:
    text = history_to_json(HISTORY)
    assert history_from_json(text) == HISTORY
    assert json.loads(text)[3] == {"kind": "remove", "parts": ["hat"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "must be JSON"),
        ("{}", "JSON list"),
        ('[{"parts": ["hair"]}]', "kind"),
        ('[{"kind": "generate", "parts": ["hair"], "colour": 1}]', "colour"),
        ('[{"kind": "generate", "parts": "hair"}]', "parts .* must be a list"),
        ('[{"kind": "generate", "parts": [1.5]}]', "names or ids"),
        ('[{"kind": "perturb", "parts": ["hair"], "amount": true}]', "amount .* must be a number"),
        ('[{"kind": "perturb", "parts": ["hair"], "seed": 1.5}]', "whole number"),
        ('["generate"]', "object"),
    ],
)
def test_damaged_histories_are_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        history_from_json(text)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "melt", "parts": ("hair",)}, "melt"),
        ({"kind": "generate"}, "at least one part"),
        ({"kind": "interpolate", "parts": ("hair",), "amount": 1.2, "reference": "a"}, "1.2"),
        ({"kind": "perturb", "parts": ("hair",), "amount": -1.0}, "at least 0"),
        ({"kind": "perturb", "parts": ("hair",), "amount": float("nan")}, "nan"),
        ({"kind": "generate", "parts": ("hair",), "temperature": -1.0}, "temperature"),
        ({"kind": "generate", "parts": ("hair",), "fit": 1.5}, "fit"),
        ({"kind": "generate", "parts": ("hair",), "prior": "mine"}, "mine"),
        ({"kind": "swap", "parts": ("hair",)}, "needs a reference"),
        ({"kind": "generate", "parts": ("hair",), "reference": "a"}, "takes no reference"),
        ({"kind": "move"}, "needs an attribute"),
        ({"kind": "generate", "parts": ("hair",), "attribute": "a"}, "takes no attribute"),
        ({"kind": "generate", "parts": ("hair",), "spherical": True}, "never spherical"),
    ],
)
def test_impossible_edits_are_refused(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Operation(**values)


# What an edit must not touch


def test_dilation_is_the_euclidean_one() -> None:
    inside = torch.rand(2, 40, 33, generator=torch.Generator().manual_seed(0)) > 0.995
    inside[0, 0, 0] = inside[1, -1, -1] = True
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(33), indexing="ij")
    for radius in (0, 1, 4.5, 12, 100):
        for index in (0, 1):
            points = inside[index].nonzero()
            squared = (rows[..., None] - points[:, 0]) ** 2 + (columns[..., None] - points[:, 1]) ** 2
            wanted = squared.min(dim=-1).values <= radius**2
            assert torch.equal(dilated(inside, radius)[index], wanted)
    assert not dilated(torch.zeros(5, 5, dtype=torch.bool), 3).any()


def test_keep_unedited_copies_what_is_far_from_old_and_new_region() -> None:
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(0, 19, (1, 60, 60), generator=generator, dtype=torch.uint8)
    edited = torch.randint(0, 19, (1, 60, 60), generator=generator, dtype=torch.uint8)
    source[source == 2], edited[edited == 2] = 1, 1
    source[0, 10, 10] = edited[0, 40, 40] = 2
    kept = keep_unedited(source, edited, (2,), radius=6)
    rows, columns = torch.meshgrid(torch.arange(60), torch.arange(60), indexing="ij")
    near = ((rows - 10) ** 2 + (columns - 10) ** 2 <= 36) | ((rows - 40) ** 2 + (columns - 40) ** 2 <= 36)
    assert torch.equal(kept[0][~near], source[0][~near])
    assert torch.equal(kept[0][near], edited[0][near])
    assert torch.equal(keep_unedited(source, edited, (), radius=6), source)


def test_the_guard_forbids_all_but_what_is_allowed_and_the_background() -> None:
    present = torch.zeros(2, 18, dtype=torch.bool)
    present[0, row("hair")] = present[1, row("nose")] = True
    logits = torch.randn(2, 19, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = stray_guard(logits, allowed_classes(present, HQ)).argmax(dim=1)
    assert labels[0].unique().tolist() == [0, 13]
    assert labels[1].unique().tolist() == [0, 2]


def test_a_set_without_background_keeps_one_class_at_least() -> None:
    plain = ClassSet("plain", ("a", "b"), background=None)
    logits = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    free = stray_guard(logits, allowed_classes(torch.zeros(2, dtype=torch.bool), plain))
    assert torch.equal(free, logits)
