# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import itertools

import matplotlib.pyplot as plt

from autonl_mm.measure.scatter import scatter_networks


def test_names_overlap_nothing():
    points = [(x, 76 + x % 0.3, f'mobilenetv2_{x:.2f}', x > 12)
              for x in (10 + i / 5 for i in range(14))]
    figure, ax = plt.subplots(figsize=(7, 5))
    ax.set_xscale('log')
    scatter_networks(ax, points)
    figure.canvas.draw()
    names = [text for text in ax.texts if text.get_text()]
    assert sorted(text.get_text() for text in names) == sorted(p[2] for p in points)
    boxes = [text.get_window_extent() for text in names]
    boxes += [type(boxes[0]).from_bounds(x - 1, y - 1, 2, 2) for x, y in
              ax.transData.transform([point[:2] for point in points])]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    frame = ax.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    plt.close(figure)


def test_without_points():
    figure, ax = plt.subplots()
    scatter_networks(ax, [])
    assert not ax.texts
    plt.close(figure)
