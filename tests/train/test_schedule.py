import pytest

from pellucid.train.schedule import lr_factor


def test_cosine_falls_from_one_to_nothing():
    factors = [lr_factor("cosine", step, 8) for step in range(9)]
    assert factors[0] == 1.0
    assert factors[2] == pytest.approx(0.5 * (1 + 2**-0.5))  # cos(pi/4)
    assert factors[4] == pytest.approx(0.5)
    assert factors[8] == pytest.approx(0.0)
    assert factors == sorted(factors, reverse=True)


def test_the_time_budget_counts_when_it_ends_earlier():
    assert lr_factor("cosine", 1, 100, elapsed=30, budget=60) == pytest.approx(0.5)
    assert lr_factor("cosine", 50, 100, elapsed=3, budget=60) == pytest.approx(0.5)
    assert lr_factor("cosine", 1, 100, elapsed=90, budget=60) == pytest.approx(0.0)


def test_warmup_rises_to_the_constant():
    assert [lr_factor("constant", step, 100, warmup=4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
