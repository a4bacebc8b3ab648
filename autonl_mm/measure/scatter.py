# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Plots of accuracy against cost, a named point for each network."""
from typing import Any, Iterable, Tuple

OWN, OTHER = '#b33a3a', '#4c78a8'
# Where a name may be, in points from its network, the nearest first
OFFSETS = sorted(
    ((x, y) for x in (4, -4, 0) for y in range(-36, 37, 4) if x or abs(y) > 3),
    key=lambda offset: (abs(offset[1]), offset[0] != 4))


def scatter_networks(ax: Any, points: Iterable[Tuple[float, float, str, bool]]) -> None:
    """Draw networks as points with their names, which overlap nothing if there is room.

    Args:
        ax (matplotlib.axes.Axes): The axes, with their scales; they get a grid.
        points (Iterable[tuple[float, float, str, bool]]): Cost, accuracy, name, and
            whether the network has LightNL and is drawn in red.
    """
    from matplotlib.transforms import Bbox
    points = sorted(points)
    for x, y, _, own in points:
        ax.plot(x, y, 'o', color=OWN if own else OTHER)
    ax.margins(x=0.15, y=0.15)
    ax.grid(alpha=0.3)
    ax.figure.tight_layout()
    frame = ax.get_window_extent()
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in ax.transData.transform(
        [point[:2] for point in points])] if points else []
    for x, y, name, own in points:
        label = ax.annotate(
            name, (x, y), (0, 0), textcoords='offset points', va='center', fontsize=8,
            color=OWN if own else OTHER)
        for right, up in OFFSETS:
            label.set_position((right, up))
            label.set_ha('center' if not right else 'left' if right > 0 else 'right')
            box = label.get_window_extent()
            if not box.count_overlaps(taken) and frame.containsx(
                    box.x0) and frame.containsx(box.x1):
                break
        taken.append(box)
        if abs(up) > 8:
            ax.annotate('', (x, y), (right, up), textcoords='offset points',
                        arrowprops=dict(arrowstyle='-', color='0.7', lw=0.5))
