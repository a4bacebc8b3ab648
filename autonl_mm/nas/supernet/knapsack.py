# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The most valuable options for a total cost."""
from typing import List, Sequence

import numpy as np

# Number of parts into which the range of total costs is divided
BINS = 4000


def solve_knapsack(values: Sequence[np.ndarray], costs: Sequence[np.ndarray],
                   low: float, high: float) -> List[int]:
    """Choose one option of every group for the greatest total value.

    This is a knapsack problem with one item of every group. Dynamic programming over
    total costs in bins solves it. Each bin keeps the most valuable sum with its exact
    cost.

    Args:
        values (Sequence[ndarray]): Values of the options of every group, ``(n, )``.
        costs (Sequence[ndarray]): Costs of the options of every group, ``(n, )``.
        low (float): Minimum total cost.
        high (float): Maximum total cost.

    Returns:
        list[int]: Index of the option of every group. If no total lies in the interval,
        the total nearest to it is chosen.
    """
    span = sum(c.max() - c.min() for c in costs)
    unit = span / BINS if span else 1.0
    # rounding adds at most half a bin per group
    size = BINS + len(costs) + 1
    value = np.full(size, -np.inf)
    value[0] = 0
    exact = np.zeros(size)
    steps = []
    for group_values, group_costs in zip(values, costs):
        bins = np.rint((group_costs - group_costs.min()) / unit).astype(int)
        best = {}
        for option in np.argsort(group_values, kind='stable'):
            best[bins[option]] = option  # the last is the most valuable
        options = np.array(list(best.values()))
        sums = np.full((len(options), size), -np.inf)
        for row, option in zip(sums, options):
            shift = bins[option]
            row[shift:] = value[:size - shift] + group_values[option]
        chosen = options[sums.argmax(0)]
        value = sums.max(0)
        source = np.arange(size) - bins[chosen]
        exact = exact[source] + group_costs[chosen]
        steps.append((chosen, source))
    distance = np.maximum(np.maximum(low - exact, exact - high), 0)
    distance[np.isinf(value)] = np.inf
    nearest = distance == distance.min()
    end = np.where(nearest, value, -np.inf).argmax()
    result = []
    for chosen, source in reversed(steps):
        result.append(int(chosen[end]))
        end = source[end]
    return result[::-1]
