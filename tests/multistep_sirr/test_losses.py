"""Equations 1 to 5 with numbers computed by hand or in plain numpy."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.errors import ConfigError
from pellucid.multistep_sirr.losses import (
    MultiStepLoss,
    ReflectionStepLoss,
    feature_loss,
    gradient_loss,
    log_pixel_loss,
    pixel_loss,
    reflection_loss,
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "multi_step_denoiser.py"


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(*(shape or (2, 3, 6, 5)), generator=torch.Generator().manual_seed(seed))


class Scale(nn.Module):
    """The smallest network there is: x -> w x."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


def plain(T_hat: Tensor, T: Tensor, R_hat: Tensor | None, R: Tensor | None, r_weight: Tensor | float) -> dict:
    return {"pixel": pixel_loss(T_hat, T)}


class Rows(nn.Module):
    """Notes which R target each step was given."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[Tensor | None] = []

    def forward(self, T_hat, T, R_hat, R, r_weight):
        self.targets.append(R)
        return {"pixel": pixel_loss(T_hat, T)}


# Equations 1 to 4


def test_pixel_loss_is_the_mean_square() -> None:
    a, b = noise(0), noise(1)
    assert pixel_loss(a, b).item() == pytest.approx(np.mean((a.numpy() - b.numpy()) ** 2))


def test_reflection_loss_weighs_each_sample() -> None:
    a, b = noise(0), noise(1)
    squares = ((a.numpy() - b.numpy()) ** 2).mean(axis=(1, 2, 3))
    assert reflection_loss(a, b).item() == pytest.approx(squares.mean())
    weighed = reflection_loss(a, b, torch.tensor([1.0, 0.25]))
    assert weighed.item() == pytest.approx((squares[0] + 0.25 * squares[1]) / 2)


def test_feature_loss_sums_the_layers_and_means_within() -> None:
    def layers(x: Tensor) -> list[Tensor]:
        return [x, 3 * x[:, :1, ::2]]

    a, b = noise(0), noise(1)
    gap = np.abs(a.numpy() - b.numpy())
    assert feature_loss(a, b, layers).item() == pytest.approx(gap.mean() + 3 * gap[:, :1, ::2].mean(), rel=1e-5)


def test_gradient_loss_of_a_slope_by_hand() -> None:
    T = torch.zeros(1, 3, 4, 5)
    x, y = torch.arange(5.0), torch.arange(4.0)[:, None]
    slope = (0.1 * x + 0.3 * y).expand(1, 3, 4, 5)
    assert gradient_loss(slope, T).item() == pytest.approx(0.1**2 + 0.3**2)
    assert gradient_loss(slope + 0.5, slope).item() == pytest.approx(0.0, abs=1e-12)  # an offset has no gradient


def test_gradient_loss_agrees_with_numpy() -> None:
    a, b = noise(0), noise(1)
    gap = a.numpy() - b.numpy()
    expected = np.mean(np.diff(gap, axis=3) ** 2) + np.mean(np.diff(gap, axis=2) ** 2)
    assert gradient_loss(a, b).item() == pytest.approx(expected, rel=1e-5)


def test_log_pixel_loss_by_hand() -> None:
    T = torch.zeros(2, 3, 4, 4)
    T_hat = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 0.3)])
    expected = (math.log(0.01 + 2e-3) + math.log(0.09 + 2e-3)) / 2 / 20
    assert log_pixel_loss(T_hat, T, floor=2e-3).item() == pytest.approx(expected, rel=1e-5)


def test_step_loss_adds_its_terms() -> None:
    T_hat, T, R_hat, R = (noise(seed) for seed in range(4))
    weight = torch.tensor([1.0, 0.5])

    def features(x: Tensor) -> list[Tensor]:
        return [x**2]

    terms = ReflectionStepLoss(features, 0.25, feature_on_reflection=True)(T_hat, T, R_hat, R, weight)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {
            "pixel": pixel_loss(T_hat, T).item(),
            "reflection": reflection_loss(R_hat, R, weight).item(),
            "feature": 0.25 * (T_hat**2 - T**2).abs().mean().item(),
            "feature_r": 0.25 * (R_hat**2 - R**2).abs().mean().item(),
            "gradient": gradient_loss(T_hat, T).item(),
        }
    )


def test_step_loss_leaves_out_what_is_not_there() -> None:
    T_hat, T = noise(0), noise(1)
    assert set(ReflectionStepLoss(None)(T_hat, T, noise(2), None)) == {"pixel", "gradient"}
    terms = ReflectionStepLoss(None, pixel="log", pixel_floor=0.1)(T_hat, T, None, noise(2))
    assert set(terms) == {"pixel", "gradient"}
    assert terms["pixel"].item() == pytest.approx(log_pixel_loss(T_hat, T, floor=0.1).item())


# Equation 5


def test_one_step_is_the_plain_loss() -> None:
    x, T, R = noise(0), noise(1), noise(2)
    model = nn.Conv2d(3, 3, 3, padding=1)
    total, seen = MultiStepLoss(lambda x: (model(x), 2 * x), ReflectionStepLoss(None), steps=1)(x, T, R=R)
    terms = ReflectionStepLoss(None)(model(x), T, 2 * x, R)
    assert total.item() == pytest.approx(sum(term.item() for term in terms.values()))
    assert seen["loss_1"].item() == pytest.approx(total.item())
    assert seen["reflection_1"].item() == pytest.approx(terms["reflection"].item())
    assert not seen["pixel_1"].requires_grad


def test_three_steps_of_the_identity_are_three_times_one() -> None:
    x, T = noise(0), noise(1)
    R = (x - T).clamp(0, 1)  # then what is left to remove is R at every step

    def identity(x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.zeros_like(x)

    one, _ = MultiStepLoss(identity, ReflectionStepLoss(None), steps=1)(x, T, R=R)
    three, seen = MultiStepLoss(identity, ReflectionStepLoss(None), steps=3)(x, T, R=R)
    assert three.item() == pytest.approx(3 * one.item())
    assert {"loss_1", "loss_2", "loss_3"} <= seen.keys()


def test_factor_three_is_three_times_the_first_step() -> None:
    x, T = noise(0), noise(1)
    one, _ = MultiStepLoss(Scale(0.7), plain, steps=1)(x, T)
    tripled, _ = MultiStepLoss(Scale(0.7), plain, steps=1, factor=3)(x, T)
    assert tripled.item() == pytest.approx(3 * one.item())


@pytest.mark.parametrize(("detach", "slope"), [(False, 1.5), (True, 1.25)])
def test_gradient_reaches_the_first_step_iff_not_detached(detach: bool, slope: float) -> None:
    # x = 1, T = 0, two steps of x -> w x: L = w^2 + w^4, dL/dw = 2 w + 4 w^3; detached 2 w + 2 w^3. At w = 1/2:
    model = Scale(0.5)
    total, _ = MultiStepLoss(model, plain, steps=2, detach=detach)(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
    total.backward()
    assert total.item() == pytest.approx(0.25 + 0.0625)
    assert model.w.grad is not None
    assert model.w.grad.item() == pytest.approx(slope)


def test_backward_of_each_step_gives_the_gradients_of_their_sum() -> None:
    x, T = noise(0, 2, 3, 8, 8), noise(1, 2, 3, 8, 8)
    gradients = []
    for given in (False, True):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 3, 3, padding=1)
        calls: list[float] = []

        def backward(loss: Tensor, calls: list[float] = calls) -> None:
            calls.append(loss.item())
            loss.backward()

        loss = MultiStepLoss(model, ReflectionStepLoss(None), steps=3, detach=True)
        total, seen = loss(x, T, backward=backward if given else None)
        if given:
            assert not total.requires_grad
            assert calls == pytest.approx([seen[f"loss_{t}"].item() for t in (1, 2, 3)])
        else:
            total.backward()
        gradients.append((total.item(), *(parameter.grad.clone() for parameter in model.parameters())))
    for summed, single in zip(*gradients, strict=True):
        assert torch.allclose(torch.as_tensor(summed), torch.as_tensor(single), atol=1e-7)


def test_backward_is_called_once_when_steps_hang_together() -> None:
    model, calls = Scale(0.5), []

    def backward(loss: Tensor) -> None:
        calls.append(loss)
        loss.backward()

    total, _ = MultiStepLoss(model, plain, steps=3)(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), backward=backward)
    assert len(calls) == 1
    assert not total.requires_grad
    assert model.w.grad is not None
    assert model.w.grad.item() == pytest.approx(2 * 0.5 + 4 * 0.5**3 + 6 * 0.5**5)


@pytest.mark.parametrize("mode", ["residual", "same", "first"])
def test_targets_of_the_reflection_in_later_steps(mode: str) -> None:
    x, T, R = noise(0), noise(1), noise(2)
    rows = Rows()
    MultiStepLoss(lambda x: (0.5 * x, x), rows, steps=3, r_multistep=mode)(x, T, R=R)  # type: ignore[arg-type]
    first, *later = rows.targets
    assert first is R
    for t, target in enumerate(later, start=2):
        if mode == "residual":
            expected = np.clip(x.numpy() * 0.5 ** (t - 1) - T.numpy(), 0, 1)
            np.testing.assert_allclose(target.numpy(), expected, atol=1e-7)  # type: ignore[union-attr]
        else:
            assert target is (R if mode == "same" else None)


def test_no_gradient_runs_through_the_reflection_target() -> None:
    model, rows = Scale(0.9), Rows()
    MultiStepLoss(model, rows, steps=2)(noise(0), noise(1), R=noise(2))
    assert not rows.targets[1].requires_grad  # type: ignore[union-attr]


def test_conditions_are_kept_or_computed_anew() -> None:
    seen: list[float] = []

    def model(x: Tensor, condition: Tensor) -> Tensor:
        seen.append(condition.mean().item())
        return x * 0.5

    calls: list[float] = []

    def condition(x: Tensor) -> tuple[Tensor, ...]:
        calls.append(x.mean().item())
        return (x + 1,)

    x, T = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    MultiStepLoss(model, plain, steps=3)(x, T, torch.full((1, 1, 2, 2), 7.0))
    assert seen == [7.0, 7.0, 7.0]
    seen.clear()
    MultiStepLoss(model, plain, steps=3, condition=condition)(x, T, torch.full((1, 1, 2, 2), 7.0))
    assert calls == [0.5, 0.25]  # steps 2 and 3; the first condition is the caller's
    assert seen == [7.0, 1.5, 1.25]


def test_the_weight_of_derived_reflections_counts_in_every_step() -> None:
    x, T, R = noise(0), noise(1), noise(2)
    loss = MultiStepLoss(lambda x: (x, 0.3 * x), ReflectionStepLoss(None), steps=2)
    _, seen = loss(x, T, R=R, r_weight=torch.tensor([1.0, 0.0]))
    for t, target in ((1, R), (2, (x - T).clamp(0, 1))):
        expected = ((0.3 * x - target)[0] ** 2).mean() / 2
        assert seen[f"reflection_{t}"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MultiStepLoss(Scale(1.0), plain, steps=0),
        lambda: MultiStepLoss(Scale(1.0), plain, r_multistep="none"),  # type: ignore[arg-type]
        lambda: ReflectionStepLoss(None, pixel="l1"),  # type: ignore[arg-type]
    ],
)
def test_options_that_make_no_sense_are_refused(make) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_loss_serves_another_task(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLE))
    found = example["main"](seconds=60.0, limit=60, count=8)
    assert set(found) == {"noisy", 1, 2}
    assert found[1] > found["noisy"] + 0.5
    assert found[2] > found["noisy"] + 0.5
    assert found[1] != found[2]
    assert "2-step" in capsys.readouterr().out
