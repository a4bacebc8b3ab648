# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Rank correlations of two scores of the same networks."""
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 2000


class Correlation(NamedTuple):
    """A rank correlation, or a difference of two, with its bootstrap interval.

    Attributes:
        value (float): nan if one of the scores is constant.
        low (float): 2.5% quantile of resampled sets of networks.
        high (float): 97.5% quantile.
    """

    value: float
    low: float
    high: float

    def __str__(self):
        return f'{self.value:+.2f} ({self.low:+.2f} to {self.high:+.2f})'


def rank_correlations(a: Sequence[float], b: Sequence[float]
                      ) -> Tuple[Correlation, Correlation]:
    """Kendall's tau-b and Spearman's rho of two scores of the same networks.

    The bootstrap samples networks with replacement. The samples are the same in each
    call. Sets in which a score is constant are left out.

    Args:
        a (Sequence[float]): Scores by network.
        b (Sequence[float]): Other scores, in the same order.

    Returns:
        tuple[Correlation, Correlation]: tau and rho.

    Raises:
        ValueError: If there are fewer than 3 networks, or different numbers of scores.
    """
    a, b = _samples(a, b)
    return _interval(_kendall(a, b)), _interval(_spearman(a, b))


def tau_difference(a: Sequence[float], other: Sequence[float], b: Sequence[float]
                   ) -> Correlation:
    """Kendall's tau of two scores with a third, the first less the second.

    The difference is taken in each bootstrap sample, so what both taus owe to the
    sampled networks cancels.

    Args:
        a (Sequence[float]): Scores by network.
        other (Sequence[float]): Other scores, in the same order.
        b (Sequence[float]): What both are compared with, in the same order.

    Returns:
        Correlation: The difference.

    Raises:
        ValueError: If there are fewer than 3 networks, or different numbers of scores.
    """
    a, other, b = _samples(a, other, b)
    return _interval(_kendall(a, b) - _kendall(other, b))


def _samples(*scores: Sequence[float]) -> List[np.ndarray]:
    """Bootstrap samples ``(R, n)`` of scores of the same n networks; first the
    networks themselves."""
    scores = [np.asarray(s, float) for s in scores]
    count = len(scores[0])
    if any(len(s) != count for s in scores) or count < 3:
        raise ValueError(f'{" and ".join(str(len(s)) for s in scores)} scores, '
                         'expected at least 3 of the same networks')
    rows = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    rows = np.vstack([np.arange(count), rows])
    return [s[rows] for s in scores]


def _interval(values: np.ndarray) -> Correlation:
    """The first value, with the quantiles of the others that are no nan."""
    value, *resampled = values
    low, high = np.nanquantile(resampled, (0.025, 0.975)) if np.isfinite(
        value) else (np.nan, np.nan)
    return Correlation(float(value), float(low), float(high))


def _kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """tau-b of each row of ``(R, n)``; nan where a score is constant."""
    signs = [np.sign(x[:, :, None] - x[:, None]) for x in (a, b)]
    product = (signs[0] * signs[1]).sum((1, 2))
    pairs = [np.abs(s).sum((1, 2)) for s in signs]
    with np.errstate(invalid='ignore'):
        return product / np.sqrt(pairs[0] * pairs[1])


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """rho of each row of ``(R, n)``; nan where a score is constant."""
    a, b = (rankdata(x, axis=1) for x in (a, b))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    with np.errstate(invalid='ignore'):
        return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def describe_ranks(rows: Sequence[dict]) -> List[str]:
    """Rank correlations of several scores with the accuracies of networks.

    Args:
        rows (Sequence[dict]): For each network its ``value``, the accuracy after
            training; its ``loss`` with a supernet's weights; its ``macs``; and with
            finalists its ``fit``, the prediction by the fit to the finalists.

    Returns:
        list[str]: One line for each score.
    """
    values = [row['value'] for row in rows]
    scores = [("the supernet's losses", 'loss', -1), ('MACs', 'macs', 1)]
    if 'fit' in rows[0]:
        scores.insert(1, ('the fit to the finalists', 'fit', -1))
    lines = []
    for name, key, sign in scores:
        tau, rho = rank_correlations([sign * row[key] for row in rows], values)
        lines.append(f'{name}: tau {tau}, rho {rho}')
    return lines
