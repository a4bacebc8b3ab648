# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The networks of a step, and the ends of the space."""
import torch
from search_spaces import TINY_SPACE

from autonl_mm.cost import MacsModel
from autonl_mm.nas import SearchSpace
from autonl_mm.nas.supernet.cost_table import CostTable
from autonl_mm.nas.training.sampling import extremes, networks_of_step

SPACE = SearchSpace.from_config(TINY_SPACE)
TABLE = CostTable(MacsModel(), SPACE, (32, 32), 10, True)


def test_extremes():
    largest, cheapest = extremes(TABLE)
    assert SPACE.arch(largest) == SPACE.largest
    assert TABLE.range() == (TABLE.cost_of(cheapest), TABLE.cost_of(largest))


def test_networks_of_a_step():
    def sample(count):
        generator = torch.Generator().manual_seed(0)
        return [TABLE.sample(TABLE.probabilities(None), generator)
                for _ in range(count)]

    networks = networks_of_step(TABLE, 4, sample)
    assert networks == [*extremes(TABLE), *sample(2)]
    assert networks_of_step(TABLE, 2, sample) == networks[:2]
