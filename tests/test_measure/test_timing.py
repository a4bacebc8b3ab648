# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import time

import pytest
import torch

from autonl_mm.measure import timing


@pytest.mark.parametrize('warmup,want', [(False, 'abababab'), (True, 'aabbaabbaabb')])
def test_runs_in_turns(warmup, want):
    order = []
    times = timing.interleaved(
        dict(a=lambda: order.append('a'),
             b=lambda: order.append('b') or time.sleep(0.002)),
        rounds=3,
        warmup=warmup)
    assert ''.join(order) == want
    assert list(times) == ['a', 'b']
    assert all(len(t) == 3 for t in times.values())
    assert min(times['b']) >= 0.002


def test_spread():
    spread = timing.Spread.of([3., 1., 10.])
    assert spread == (3., 1., 10.) and spread.median == 3.
    assert f'{spread:.1f}' == '3.0 (1.0 to 10.0)'


def test_median_ratio():
    assert timing.median_ratio([2, 3, 40], [1, 2, 10]) == 2


def test_a_change_of_speed_within_a_round():
    """The order of functions that take 1, 2 and 3 s stays, and their ratios."""
    # the machine is twice as slow from the second function of the third round on
    times = dict(a=[1, 1, 1, 2, 2], b=[2, 2, 4, 4, 4], c=[3, 3, 6, 6, 6])
    plain = {key: timing.Spread.of(t).median for key, t in times.items()}
    assert plain['b'] == 4 * plain['a']
    steady = {key: timing.Spread.of(t).median
              for key, t in timing.without_drift(times).items()}
    # of the speed of the median round
    assert steady == pytest.approx(dict(a=11 / 6, b=11 / 3, c=11 / 2))


def test_names_the_cpu():
    torch.set_num_threads(1)
    assert timing.device_name('cpu').endswith('1 thread')


def test_in_turns_by_another_clock():
    ticks = iter(range(100))
    times = timing.interleaved(dict(a=lambda: next(ticks), b=lambda: None), 2,
                               clock=lambda: next(ticks))
    assert times == dict(a=[2, 2], b=[1, 1])
