# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Searched networks as further draws beside random networks."""
import math

import numpy as np
import pytest
from scipy import stats

from autonl_mm.experiments.draws import Difference, compare_draws, pool, scatter

OTHERS = [58.2, 57.1, 60.3, 59.4, 58.8, 61.0]


def test_one_more_draw_is_a_t_test_of_two_samples():
    """Of equal variances; the sample of one has none of its own."""
    found = compare_draws([61.5], OTHERS)
    expected = stats.ttest_ind([61.5], OTHERS)
    assert found.t == pytest.approx(expected.statistic)
    assert found.freedom == expected.df == 5
    assert stats.t.sf(found.needed, 5) == pytest.approx(0.05)


def test_needed_for_sixteen():
    assert round(compare_draws([1], range(16)).needed, 2) == 1.75


def test_more_draws():
    """Their own variance is not used."""
    found = compare_draws([61, 63], OTHERS)
    assert found == compare_draws([62, 62], OTHERS)
    deviation = np.std(OTHERS, ddof=1)
    assert found.error == pytest.approx(deviation * math.sqrt(1 / 2 + 1 / 6))


def test_level_if_the_search_draws_at_random():
    """One in twenty searches, and pooled ones, passes."""
    rng = np.random.default_rng(0)
    passed = []
    for _ in range(3000):
        differences = []
        for scale in (1, 2, 4):
            draws = rng.normal(scale=scale, size=17)
            differences.append(compare_draws(draws[:1], draws[1:]))
        pooled = pool(differences)
        passed.append((differences[0].t > differences[0].needed,
                       pooled.t > pooled.needed))
    assert np.mean(passed, 0) == pytest.approx([0.05, 0.05], abs=0.012)


def test_pooled_of_equal_variances():
    one = compare_draws([61.5], OTHERS)
    pooled = pool([one] * 3)
    assert pooled.value == one.value and pooled.freedom == pytest.approx(15)
    assert pooled.t == pytest.approx(one.t * math.sqrt(3))
    assert pool([Difference(1., 0., 5)] * 2).t == math.inf


def test_scatter():
    rng = np.random.default_rng(0)
    networks = rng.normal(scale=2, size=(4000, 1))
    found = scatter((networks + rng.normal(size=(4000, 2))).tolist())
    assert found == pytest.approx((1, 2), rel=0.05)
    assert scatter([[0, 2], [0, 2]]) == (pytest.approx(2**0.5), 0)
