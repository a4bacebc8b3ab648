# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Plots of accuracy against cost, a named point for each network."""
from typing import Any, Iterable, Tuple

OWN, OTHER = '#b33a3a', '#4c78a8'


def scatter_networks(ax: Any, points: Iterable[Tuple[float, float, str, bool]]) -> None:
    """Draw networks as points with their names, which stay inside the plot.

    Args:
        ax (matplotlib.axes.Axes): The axes, which also get a grid.
        points (Iterable[tuple[float, float, str, bool]]): Cost, accuracy, name, and
            whether the network has LightNL and is drawn in red.
    """
    points = sorted(points)
    # Names of the slowest networks are left of their points. Without a published
    # accuracy there are no points.
    right = 0.3 * points[0][0] + 0.7 * points[-1][0] if points else 0
    for i, (x, y, name, own) in enumerate(points):
        colour, above, left = OWN if own else OTHER, i % 2 == 0, x > right
        ax.plot(x, y, 'o', color=colour)
        # labels of neighbours do not overlap
        ax.annotate(name, (x, y), (-4 if left else 4, 4 if above else -4),
                    textcoords='offset points', fontsize=8, color=colour,
                    ha='right' if left else 'left', va='bottom' if above else 'top')
    ax.margins(x=0.15, y=0.15)
    ax.grid(alpha=0.3)
