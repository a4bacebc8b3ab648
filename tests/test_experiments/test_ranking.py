# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from autonl_mm.experiments.ranking import rank_correlations, tau_difference


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3,
                max_size=12))
def test_values(scores):
    """With ties too; of a score only the order counts."""
    a, b = np.array(scores, float).T
    for got, again, of_scipy in zip(rank_correlations(a, b),
                                    rank_correlations(np.exp(a), b),
                                    (kendalltau, spearmanr)):
        if not np.ptp(a) or not np.ptp(b):
            assert np.isnan(got).all()
            continue
        assert got.value == pytest.approx(of_scipy(a, b)[0])
        assert -1.001 <= got.low <= got.high <= 1.001
        assert again == pytest.approx(got)


def test_interval():
    """It holds the true value in about 95 of 100 cases, and shrinks with more."""
    rng = np.random.default_rng(0)
    inside, widths = 0, {}
    for count in (16, 64):
        for _ in range(20):
            a = rng.normal(size=count)
            tau, _ = rank_correlations(a, a + rng.normal(size=count))
            # of two normal scores with a correlation of 1 / sqrt(2)
            inside += tau.low <= 2 / np.pi * np.arcsin(0.5**0.5) <= tau.high
            widths.setdefault(count, []).append(tau.high - tau.low)
    assert inside >= 34
    assert np.mean(widths[64]) < 0.6 * np.mean(widths[16])
    perfect, _ = rank_correlations(range(9), range(9))
    assert str(perfect) == '+1.00 (+1.00 to +1.00)'


def test_paired_difference():
    """The difference of two good scores is known better than either tau."""
    rng = np.random.default_rng(0)
    b = rng.normal(size=24)
    one = b + 0.4 * rng.normal(size=24)
    other = one + 0.05 * rng.normal(size=24)
    difference = tau_difference(one, other, b)
    taus = [rank_correlations(a, b)[0] for a in (one, other)]
    assert difference.value == pytest.approx(taus[0].value - taus[1].value)
    assert difference.high - difference.low < 0.7 * min(t.high - t.low for t in taus)
    assert tau_difference(one, one, b) == (0, 0, 0)
    assert tau_difference(b, -b, b).low == 2
    assert np.isnan(tau_difference([1, 1, 1], [1, 2, 3], [1, 2, 3])).all()
    with pytest.raises(ValueError, match='3 and 4 and 3 scores'):
        tau_difference([1, 2, 3], [1, 2, 3, 4], [1, 2, 3])


def test_constant_scores():
    tau, rho = rank_correlations([1, 1, 1], [1, 2, 3])
    assert np.isnan(tau).all() and np.isnan(rho).all()


def test_bad_input():
    for a, b in (([1, 2], [1, 2]), ([1, 2, 3], [1, 2])):
        with pytest.raises(ValueError, match='at least 3'):
            rank_correlations(a, b)
