# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Comparison of runs that share their seeds."""
import statistics
from typing import Sequence, Tuple

from scipy.stats import t


def paired_difference(values: Sequence[float],
                      others: Sequence[float]) -> Tuple[float, float]:
    """Mean difference of two networks, by seed, with its 95% interval.

    Args:
        values (Sequence[float]): Metric by seed, at least two.
        others (Sequence[float]): Of the network to compare with.

    Returns:
        tuple[float, float]: The mean, and half the width of the interval by Student's
        t.
    """
    differences = [a - b for a, b in zip(values, others, strict=True)]
    n = len(differences)
    return (statistics.mean(differences),
            t.ppf(0.975, n - 1) * statistics.stdev(differences) / n**0.5)
