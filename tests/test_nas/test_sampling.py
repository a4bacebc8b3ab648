# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The networks of a step: the ends of the space, and fair rounds."""
from collections import Counter

import pytest
from search_spaces import TINY_SPACE

from autonl_mm.cost import MacsModel
from autonl_mm.nas import SearchSpace
from autonl_mm.nas.cost_table import CostTable
from autonl_mm.nas.sampling import extremes, fair_networks, networks_of_step

SPACE = SearchSpace.from_config(TINY_SPACE)
TABLE = CostTable(MacsModel(), SPACE, (32, 32), 10, True)


def test_extremes():
    largest, cheapest = extremes(TABLE)
    assert SPACE.arch(largest) == SPACE.largest
    assert TABLE.range() == (TABLE.cost_of(cheapest), TABLE.cost_of(largest))


def counts(networks):
    """How often each option of each decision of each block occurs."""
    result = Counter()
    for choices in networks:
        result.update((i, d, option) for i, choice in enumerate(choices)
                      for d, option in enumerate(choice))
    return result


@pytest.mark.parametrize('rounds', [1, 3])
def test_every_option_equally_often(rounds):
    # 2 and 3 options: rounds of 6
    found = counts(fair_networks(SPACE, 5, 12, 6 * rounds))
    for i, block in enumerate(SPACE.blocks):
        for d, n in enumerate(block.shape):
            for option in range(n):
                assert found[i, d, option] == 6 * rounds // n
    # not so between rounds
    assert len(set(counts(fair_networks(SPACE, 5, 13, 3)).values())) > 2


def test_a_part_is_the_same_wherever_it_starts():
    whole = fair_networks(SPACE, 5, 0, 20)
    assert whole[7:13] == fair_networks(SPACE, 5, 7, 6)
    assert whole != fair_networks(SPACE, 6, 0, 20)
    assert len({SPACE.arch(c) for c in whole}) == 20


def test_networks_of_a_step():
    def sample(count):
        return fair_networks(SPACE, 0, 0, count)

    assert networks_of_step(TABLE, 3, False, sample) == sample(3)
    networks = networks_of_step(TABLE, 4, True, sample)
    assert networks == [*extremes(TABLE), *sample(2)]
