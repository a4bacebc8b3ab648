# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Comparison of runs that share their seeds, or the weights that they start from."""
import statistics
from typing import Dict, List, Optional, Sequence, Tuple

from scipy.stats import t

from autonl_mm.runs.tables import markdown_table

Values = Dict[str, List[float]]


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


def detectable_difference(values: Values, first: str) -> float:
    """The difference from a network that its 95% interval shows in 80% of comparisons.

    The deviation is pooled over all networks.

    Args:
        values (dict[str, list[float]]): Metric of each network by seed, at least two.
        first (str): The network to compare with.
    """
    variances = [statistics.variance(a - b for a, b in zip(own, values[first]))
                 for name, own in values.items() if name != first]
    n = len(values[first])
    return ((t.ppf(0.975, n - 1) + t.ppf(0.8, n - 1))
            * (statistics.mean(variances) / n)**0.5)


def comparison_table(title: str, values: Values, unit: str, references: Sequence[str],
                     columns: Optional[Dict[str, Sequence[str]]] = None,
                     digits: int = 2, margin: float = 0.) -> str:
    """A comparison as Markdown.

    Args:
        title (str): Title of the first column, which names the networks.
        values (dict[str, list[float]]): Metric of each network by unit; empty lists if
            nothing was trained.
        unit (str): What runs share that are paired, such as ``'seed'``.
        references (Sequence[str]): Networks that all networks are compared with.
        columns (dict[str, Sequence[str]], optional): More columns after the first one:
            a cell for each network, by the column's title. Defaults to None.
        digits (int): Decimal places. Defaults to 2.
        margin (float): A difference whose interval is within plus or minus the margin
            is marked as equal. Defaults to 0, no marks.

    Returns:
        str: The lines of the table, without a newline at the end.
    """
    columns = columns or {}
    count = len(next(iter(values.values())))
    head = [title, *columns, *(f'{unit} {i}' for i in range(count))]
    if count:
        head.append('mean')
    if count > 1:
        head += ['standard deviation',
                 *(f'difference from {name}, 95% interval' for name in references)]
    rows = []
    for (name, own), *cells in zip(values.items(), *columns.values()):
        row = [name, *cells, *(f'{v:.{digits}f}' for v in own)]
        if count:
            row.append(f'{statistics.mean(own):.{digits}f}')
        if count > 1:
            row.append(f'{statistics.stdev(own):.{digits}f}')
            for other in references:
                mean, half = paired_difference(own, values[other])
                equal = ' (equal)' if abs(mean) + half < margin else ''
                row.append('' if name == other else
                           f'{mean:+.{digits}f} ± {half:.{digits}f}{equal}')
        rows.append(row)
    return markdown_table(head, rows)
