# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autonl_mm.nas.supernet.knapsack import BINS, solve_knapsack


@given(seed=st.integers(0, 10**6), groups=st.integers(1, 4),
       width=st.floats(0.05, 0.5), middle=st.floats(0, 1))
def test_against_every_combination(seed, groups, width, middle):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, groups)
    values = [rng.normal(size=n) for n in sizes]
    costs = [rng.uniform(0, 10, size=n) for n in sizes]
    least = sum(c.min() for c in costs)
    span = sum(c.max() for c in costs) - least
    center = least + middle * span
    low, high = center - width * span, center + width * span

    slack = (groups + 1) * span / BINS

    def total(numbers, choice):
        return sum(x[i] for x, i in zip(numbers, choice))

    inside = [total(values, choice)
              for choice in itertools.product(*map(range, sizes))
              if low <= total(costs, choice) <= high]
    found = solve_knapsack(values, costs, low, high)
    cost = total(costs, found)
    if inside:
        assert low <= cost <= high
        # No better, as far as sums do not share a bin.
        apart = [total(values, choice)
                 for choice in itertools.product(*map(range, sizes))
                 if low + slack <= total(costs, choice) <= high - slack]
        assert total(values, found) >= max(apart, default=-np.inf) - 1e-9
    else:
        nearest = min(
            max(low - c, c - high) for c in (
                total(costs, choice)
                for choice in itertools.product(*map(range, sizes))))
        assert max(low - cost, cost - high) == pytest.approx(nearest, abs=span / 1000)


def test_nothing_to_choose():
    one = [np.array([3.0])]
    assert solve_knapsack(one, one, 10, 11) == [0]
