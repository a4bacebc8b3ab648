# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import random

import numpy as np
import torch

from autonl_mm.random_state import random_states_kept


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_states_are_kept():
    with random_states_kept(3):
        expected = draw()
    with random_states_kept():
        inside = draw()
    with random_states_kept(3, devices=[]):
        assert draw() == expected
    assert draw() == inside != expected


def test_generators_of_other_gpus_stay(monkeypatch):
    """Those that are not restored are not seeded either."""
    seeded = []
    for name in ('manual_seed', 'manual_seed_all'):
        monkeypatch.setattr(torch.cuda, name, seeded.append)
    with random_states_kept(0, devices=[]):
        pass
    assert not seeded
