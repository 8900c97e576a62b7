"""Priors: what was fitted comes back in the draws, alone and given the other parts."""

import pytest
import torch
from torch import Tensor

from pellucid.device import generator_of
from pellucid.errors import ConfigError, InputError, WeightsError
from pellucid.semantic_vae.editing import Codes, Operation, apply
from pellucid.semantic_vae.masks.classes import CELEBAMASK_HQ, ClassSet
from pellucid.semantic_vae.priors import Priors, fit_priors, generate_all

PARTS = (1, 2, 3)
LATENT = 12
NOISE = 0.05  # standard deviation of the posterior


def training_codes(count: int = 3000) -> tuple[Tensor, Tensor, Tensor]:
    """Three parts: the second follows the first, the third is for itself and there in one mask of four."""
    generator = torch.Generator().manual_seed(0)
    factor, second, other = torch.randn(3, count, 1, generator=generator)
    mu = torch.zeros(count, 3, LATENT)
    mu[:, 0, :1], mu[:, 0, 1:2] = 3.0 * factor, 5.0
    mu[:, 1, 2:3] = -2.0 * factor
    mu[:, 0, 4:5], mu[:, 1, 5:6] = second, second
    mu[:, 2, 3:4] = 1.5 * other
    present = torch.ones(count, 3, dtype=torch.bool)
    present[torch.arange(count) % 4 != 0, 2] = False
    mu[~present] = 9.0  # the absent code, which must not count
    return mu, torch.full_like(mu, 2 * torch.tensor(NOISE).log().item()), present


@pytest.fixture(scope="module")
def priors() -> Priors:
    return fit_priors(*training_codes(), rank=4)


def drawn(priors: Priors, row: int, count: int = 800, temperature: float = 1.0) -> Tensor:
    z, known = torch.zeros(3, LATENT), torch.zeros(3, dtype=torch.bool)
    return torch.stack(
        [priors.draw(row, generator_of(seed), temperature, z=z, known=known, fit=0.0) for seed in range(count)]
    )


def test_draws_have_the_mean_and_spread_of_the_codes(priors: Priors) -> None:
    for row, axis, spread, mean in ((0, 0, 3.0, 0.0), (1, 2, 2.0, 0.0), (2, 3, 1.5, 0.0), (0, 1, NOISE, 5.0)):
        values = drawn(priors, row)[:, axis]
        assert values.mean() == pytest.approx(mean, abs=0.15 * max(spread, 1))
        assert values.std() == pytest.approx(spread, rel=0.1)


def test_temperature_shrinks_draws_to_the_mean_of_the_part(priors: Priors) -> None:
    cold = drawn(priors, 0, 3, temperature=0.0)
    assert torch.allclose(cold, priors.mean[0].expand(3, -1), atol=1e-6)
    assert drawn(priors, 0, temperature=0.5)[:, 0].std() == pytest.approx(1.5, rel=0.1)


def test_a_part_that_follows_another_is_drawn_to_fit(priors: Priors) -> None:
    z = priors.mean.clone()
    z[0, 0] = 6.0  # two standard deviations
    z[0, 4] = -2.0
    known = torch.tensor([True, False, False])
    both = torch.stack([priors.draw(1, generator_of(seed), 1.0, z=z, known=known, fit=1.0) for seed in range(200)])
    assert both[:, 5].mean() == pytest.approx(-2.0, abs=0.3)
    fitted = both[:, 2]
    free = torch.stack([priors.draw(1, generator_of(seed), 1.0, z=z, known=known, fit=0.0) for seed in range(200)])[
        :, 2
    ]
    assert fitted.mean() == pytest.approx(-4.0, abs=0.4)
    assert fitted.std() < 1.0
    assert free.mean() == pytest.approx(0.0, abs=0.4)
    half = torch.stack([priors.draw(1, generator_of(seed), 1.0, z=z, known=known, fit=0.5) for seed in range(200)])[
        :, 2
    ]
    assert -3.0 < half.mean() < -1.0
    assert fitted.std() < half.std() < free.std()


def test_without_known_parts_fit_changes_nothing_but_rounding(priors: Priors) -> None:
    z, known = torch.zeros(3, LATENT), torch.zeros(3, dtype=torch.bool)
    one, other = (priors.draw(0, generator_of(1), 1.0, z=z, known=known, fit=fit) for fit in (0.0, 1.0))
    assert torch.allclose(one, other, atol=1e-3)


def test_each_mask_of_a_batch_is_fitted_to_its_own_parts(priors: Priors) -> None:
    z = priors.mean.expand(2, -1, -1).clone()
    z[0, 0, 0], z[1, 0, 0] = 6.0, -6.0
    known = torch.tensor([[True, False, False], [True, False, True]])
    both = priors.draw(1, generator_of(0), 0.0, z=z, known=known, fit=1.0)
    assert both.shape == (2, LATENT)
    assert both[0, 2] < -3
    assert both[1, 2] > 3
    alone = priors.draw(1, generator_of(0), 0.0, z=z[1], known=known[1], fit=1.0)
    assert torch.allclose(both[1], alone, atol=1e-6)


def test_all_parts_at_once_go_together_and_come_as_often_as_seen(priors: Priors) -> None:
    absent = torch.full((LATENT,), 9.0)
    for fit, related in ((1.0, True), (0.0, False)):
        z, present = generate_all(600, 3, PARTS, absent, priors, fit=fit)
        together = torch.corrcoef(torch.stack([z[:, 0, 0], z[:, 1, 2]]))[0, 1]
        assert (together < -0.85) if related else (abs(together) < 0.15)
        assert present[:, 2].double().mean() == pytest.approx(0.25, abs=0.06)
        assert present[:, :2].all()
        assert torch.equal(z[~present], absent.expand(int((~present).sum()), -1))


def test_a_mask_of_a_seed_does_not_depend_on_how_many_are_drawn(priors: Priors) -> None:
    absent = torch.zeros(LATENT)
    for prior, fit in (("empirical", 0.7), ("standard", 0.0)):
        many, some = (generate_all(n, 5, PARTS, absent, priors, prior=prior, fit=fit) for n in (6, 3))
        assert torch.equal(many[0][:3], some[0])
        assert torch.equal(many[1][:3], some[1])
        assert not torch.equal(many[0][0], many[0][1])


def test_without_priors_every_part_is_drawn_from_the_papers(priors: Priors) -> None:
    z, present = generate_all(300, 0, PARTS, torch.zeros(LATENT), temperature=2.0)
    assert present.all()
    assert z.std() == pytest.approx(2.0, rel=0.05)
    for options in ({"prior": "empirical"}, {"fit": 0.5}):
        with pytest.raises(ConfigError, match="no empirical prior"):
            generate_all(1, 0, PARTS, torch.zeros(LATENT), **options)
    with pytest.raises(ConfigError, match="fit needs"):
        generate_all(1, 0, PARTS, torch.zeros(LATENT), priors, prior="standard", fit=0.5)
    with pytest.raises(ConfigError, match="count"):
        generate_all(0, 0, PARTS, torch.zeros(LATENT))


def test_edits_draw_from_the_prior_they_name() -> None:
    mu = torch.randn(200, 18, LATENT, generator=torch.Generator().manual_seed(0)) * 0.01 + 4.0
    priors = fit_priors(mu, torch.full_like(mu, -20.0), torch.ones(200, 18, dtype=torch.bool), rank=3)
    codes = Codes(mu[0], mu[0], torch.ones(18, dtype=torch.bool))
    hair = CELEBAMASK_HQ.parts.index(13)

    def z(**options: object) -> Tensor:
        operation = Operation("generate", ("hair",), seed=1, **options)  # type: ignore[arg-type]
        return apply(codes, [operation], CELEBAMASK_HQ, prior=priors)[hair]

    assert (z() - 4.0).abs().max() < 0.2
    assert torch.equal(z(), z(prior="empirical"))
    noise = torch.randn(LATENT, generator=generator_of(1, 13))
    assert torch.equal(z(prior="standard"), noise)
    with pytest.raises(ConfigError, match="fit needs"):
        z(prior="standard", fit=0.5)


def test_parts_that_are_drawn_together_fit_each_other(priors: Priors) -> None:
    classes = ClassSet("four", ("none", "a", "b", "c"))
    codes = Codes(torch.zeros(3, LATENT), torch.zeros(3, LATENT), torch.tensor([True, True, False]))
    for kind, fit, related in (("generate", 1.0, True), ("add", 1.0, True), ("generate", 0.0, False)):
        both = torch.stack(
            [apply(codes, [Operation(kind, ("a", "b"), seed=s, fit=fit)], classes, prior=priors) for s in range(100)]
        )
        together = torch.corrcoef(torch.stack([both[:, 0, 0], both[:, 1, 2]]))[0, 1]
        assert (together < -0.85) if related else (abs(together) < 0.4)


def test_a_part_that_training_never_saw_stays_standard(caplog: pytest.LogCaptureFixture) -> None:
    mu, logvar, present = training_codes(100)
    present[:, 2] = False
    priors = fit_priors(mu, logvar, present, rank=4)
    assert "N(0, I)" in caplog.text
    assert drawn(priors, 2).std() == pytest.approx(1.0, rel=0.05)


def test_more_axes_than_masks_leave_zeros() -> None:
    mu, logvar, present = training_codes(5)
    priors = fit_priors(mu, logvar, present, rank=8)
    assert (priors.scale[0] > 0).sum() == 2
    assert torch.isfinite(drawn(priors, 0, 5)).all()


def test_priors_survive_their_file_and_are_small(priors: Priors) -> None:
    again = Priors.of(priors.tensors(), priors.plain())
    assert torch.equal(again.combinations, priors.combinations)
    z, known = priors.mean.clone(), torch.tensor([True, False, True])
    draws = [one.draw(1, generator_of(2), 1.0, z=z, known=known, fit=1.0) for one in (priors, again)]
    assert torch.allclose(*draws, atol=0.02)
    with pytest.raises(WeightsError, match="joint"):
        Priors.of({name: one for name, one in priors.tensors().items() if name != "joint"}, {})
    mu = torch.randn(400, 18, 256, generator=torch.Generator().manual_seed(0))
    full = fit_priors(mu, mu, torch.rand(400, 18) > 0.1)
    assert sum(one.numel() * one.element_size() for one in full.tensors().values()) < 1.5e6
    torch.linalg.cholesky(Priors.of(full.tensors(), {})._correlation(1.0))  # half precision leaves it positive


def test_codes_of_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="at least two"):
        fit_priors(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool))
