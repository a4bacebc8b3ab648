# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import random

import numpy as np
import torch

from autonl_mm.runs.random_state import preserve_random_states


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_states_are_kept():
    with preserve_random_states(3):
        expected = draw()
    with preserve_random_states():
        inside = draw()
    with preserve_random_states(3, devices=[]):
        assert draw() == expected
    assert draw() == inside != expected


def test_generators_of_other_gpus_stay(monkeypatch):
    """Those that are not restored are not seeded either."""
    seeded = []
    for name in ('manual_seed', 'manual_seed_all'):
        monkeypatch.setattr(torch.cuda, name, seeded.append)
    with preserve_random_states(0, devices=[]):
        pass
    assert not seeded
