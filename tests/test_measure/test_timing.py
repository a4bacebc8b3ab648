# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import time

import pytest
import torch
import torch.nn as nn

from autonl_mm.measure import timing


@pytest.mark.parametrize('warmup,want', [(False, 'abababab'),
                                         (True, 'aabbaabbaabb')])
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


def allocate(mib, fail=False):
    if fail:
        raise ValueError('a mistake')
    # Held, so that the allocator does not reuse the memory in the next step.
    held = torch.empty(mib, 2**18)
    return lambda: held.fill_(1.)


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


def test_peak_memory():
    small = timing.peak_memory(allocate, (1, ))
    large = timing.peak_memory(allocate, (200, ))
    assert 0 <= small < 100
    assert 190 < large - small < 220


def test_peak_memory_that_fails():
    with pytest.raises(MemoryError, match='allocate memory'):
        timing.peak_memory(allocate, (2000, ), limit=500)
    with pytest.raises(RuntimeError, match='ValueError: a mistake'):
        timing.peak_memory(allocate, (1, True))


def two_at_a_time(mib):
    held = torch.empty(mib, 2**18)

    def step():
        for _ in range(3):  # each freed before the next
            torch.empty(2 * mib, 2**18)
        return held

    return step


def test_peak_of_tensors():
    assert timing.peak_of_tensors(two_at_a_time, (1, )) == 3
    assert timing.peak_of_tensors(two_at_a_time, (50, )) == 150
    assert timing.peak_of_tensors(lambda: list, ()) == 0


class Product(nn.Module):
    """An affinity, and a product with it."""

    def forward(self, x):
        x = x.flatten(2)
        return x @ (x.transpose(1, 2) @ x)


@pytest.mark.parametrize('model,macs', [
    (nn.Conv2d(3, 8, 3, padding=1), 27 * 8 * 48),
    (nn.Conv2d(3, 3, 3, padding=1, groups=3), 9 * 3 * 48),
    (nn.Sequential(nn.Flatten(), nn.Linear(144, 5)), 144 * 5),
    (nn.AdaptiveAvgPool2d(1), 144),
    (Product(), 2 * 48 * 48 * 3),
    (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), 0),
])
def test_counts_macs(model, macs):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert timing.built_macs(model, 3, 6, 8) == macs
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_counts_what_would_not_fit():
    assert timing.built_macs(Product(), 1, 4096, 4096) == 2 * 4096**4


def test_counts_parameters():
    assert timing.count_parameters(nn.Linear(3, 4)) == 16


def test_names_the_cpu():
    torch.set_num_threads(1)
    assert timing.device_name('cpu').endswith('1 thread')


def test_in_turns_by_another_clock():
    ticks = iter(range(100))
    times = timing.interleaved(dict(a=lambda: next(ticks), b=lambda: None), 2,
                             clock=lambda: next(ticks))
    assert times == dict(a=[2, 2], b=[1, 1])
