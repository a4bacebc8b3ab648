# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
import torch

from autonl_mm.measure import memory


def allocate(mib, fail=False):
    if fail:
        raise ValueError('a mistake')
    # Held, so that the allocator does not reuse the memory in the next step.
    held = torch.empty(mib, 2**18)
    return lambda: held.fill_(1.)


def test_peak_memory():
    small = memory.peak_memory(allocate, (1, ))
    large = memory.peak_memory(allocate, (200, ))
    assert 0 <= small < 100
    assert 190 < large - small < 220


def test_peak_memory_that_fails():
    with pytest.raises(MemoryError, match='allocate memory'):
        memory.peak_memory(allocate, (2000, ), limit=500)
    with pytest.raises(RuntimeError, match='ValueError: a mistake'):
        memory.peak_memory(allocate, (1, True))


def two_at_a_time(mib):
    held = torch.empty(mib, 2**18)

    def step():
        for _ in range(3):  # each freed before the next
            torch.empty(2 * mib, 2**18)
        return held

    return step


def test_peak_of_tensors():
    assert memory.peak_of_tensors(two_at_a_time, (1, )) == 3
    assert memory.peak_of_tensors(two_at_a_time, (50, )) == 150
    assert memory.peak_of_tensors(lambda: list, ()) == 0
