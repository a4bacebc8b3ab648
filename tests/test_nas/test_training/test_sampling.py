# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The subnets of a step, and the ends of the space."""
import torch
from search_spaces import TINY_SPACE

from autonl_mm.cost import MacsModel
from autonl_mm.nas import SearchSpace
from autonl_mm.nas.supernet.cost_table import CostTable
from autonl_mm.nas.training.sampling import extremes, sandwich_subnets

SPACE = SearchSpace.from_config(TINY_SPACE)
TABLE = CostTable(MacsModel(), SPACE, (32, 32), 10, True)


def test_extremes():
    largest, cheapest = extremes(TABLE)
    assert SPACE.arch(largest) == SPACE.largest
    assert TABLE.range() == (TABLE.cost_of(cheapest), TABLE.cost_of(largest))


def test_subnets_of_a_step():
    def sample(count):
        generator = torch.Generator().manual_seed(0)
        return [TABLE.sample_subnet(TABLE.probabilities(None), generator)
                for _ in range(count)]

    subnets = sandwich_subnets(TABLE, 4, sample)
    assert subnets == [*extremes(TABLE), *sample(2)]
    assert sandwich_subnets(TABLE, 2, sample) == subnets[:2]
