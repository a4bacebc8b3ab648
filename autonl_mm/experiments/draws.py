# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Searched networks as further draws beside random networks."""
import math
import statistics
from typing import NamedTuple, Sequence

from scipy.stats import t as student_t

# Probability of a t as large, if searched networks are no better than random networks
LEVEL = 0.05


class Difference(NamedTuple):
    """How far searched networks lie above the mean of random networks.

    Attributes:
        value (float): The difference of the means.
        error (float): Its standard deviation, if searched networks are drawn like
            random networks.
        freedom (float): Degrees of freedom of ``error``.
    """

    value: float
    error: float
    freedom: float

    @property
    def t(self) -> float:
        """The difference in units of its standard deviation."""
        return self.value / self.error if self.error else math.copysign(
            math.inf, self.value)

    @property
    def needed(self) -> float:
        """The t above which the difference is significant, one-sided at 5%."""
        return float(student_t.ppf(1 - LEVEL, self.freedom))

    def __str__(self):
        return f'{self.value:+.2f}, t {self.t:.2f} ({self.needed:.2f} needed)'


def compare_draws(searched: Sequence[float], others: Sequence[float]) -> Difference:
    """Compare searched networks with random networks of the same cost.

    The variance of both is estimated by the random networks. One searched network is
    one more draw.

    Args:
        searched (Sequence[float]): Metric of each searched network.
        others (Sequence[float]): Metric of each random network, at least two, each
            from as many trainings as for a searched network.
    """
    error = statistics.stdev(others) * math.sqrt(1 / len(searched) + 1 / len(others))
    return Difference(statistics.mean(searched) - statistics.mean(others), error,
                      len(others) - 1)


def pool(differences: Sequence[Difference]) -> Difference:
    """The mean of the differences at several targets.

    Variances may differ between targets; the degrees of freedom are Satterthwaite's.

    Args:
        differences (Sequence[Difference]): The differences, of separate networks.
    """
    variances = [d.error**2 for d in differences]
    total = sum(variances)
    freedom = total**2 / sum(
        v**2 / d.freedom for v, d in zip(variances, differences)) if total else math.inf
    return Difference(statistics.mean(d.value for d in differences),
                      math.sqrt(total) / len(differences), freedom)


class Scatter(NamedTuple):
    """Standard deviations of trainings.

    Attributes:
        training (float): Of trainings of one network with several seeds.
        networks (float): Of networks, without the share of the seeds.
    """

    training: float
    networks: float


def scatter(values: Sequence[Sequence[float]]) -> Scatter:
    """How much single trainings scatter, and how much networks differ.

    Args:
        values (Sequence[Sequence[float]]): Metric of each network by seed, at least two
            networks and two seeds, the same number for all.
    """
    within = statistics.mean(statistics.variance(v) for v in values)
    between = statistics.variance([statistics.mean(v) for v in values])
    return Scatter(math.sqrt(within),
                   math.sqrt(max(between - within / len(values[0]), 0)))
