# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Which networks of a space a training step has."""
import math
from typing import Callable, List, Tuple

import torch

from .cost_table import CostTable
from .space import Choices, SearchSpace


def extremes(table: CostTable) -> Tuple[Choices, Choices]:
    """The largest network of a space, which contains all others, and the cheapest.

    Args:
        table (CostTable): Costs of the space.
    """
    largest = [tuple(n - 1 for n in block.shape) for block in table.blocks]
    cheapest = [tuple(map(int, torch.unravel_index(block.argmin(), block.shape)))
                for block in table.blocks]
    return largest, cheapest


def fair_networks(space: SearchSpace, seed: int, start: int, count: int
                  ) -> List[Choices]:
    """Part of a sequence of networks in which no option is trained more than others.

    Strict fairness of FairNAS (Chu et al., ICCV 2021, arXiv 1907.01845): the sequence
    has rounds, and in a round each option of each decision occurs equally often, in an
    order that is shuffled for each decision. A round has as many networks as the least
    common multiple of the numbers of options.

    Args:
        space (SearchSpace): The space.
        seed (int): Of the sequence.
        start (int): Index of the first network in the sequence.
        count (int): Number of networks.

    Returns:
        list[list[tuple[int, ...]]]: Choices of each network.
    """
    length = math.lcm(*(n for block in space.blocks for n in block.shape))
    rounds = {}

    def network(index: int) -> Choices:
        number, place = divmod(index, length)
        if number not in rounds:
            # of the numbers alone, so that a resumed run has the same
            generator = torch.Generator().manual_seed(
                (seed * 1_000_003 + number) % 2**63)
            rounds[number] = [
                [torch.arange(n).repeat(length // n)[
                    torch.randperm(length, generator=generator)].tolist()
                 for n in block.shape] for block in space.blocks]
        return [tuple(options[place] for options in block) for block in rounds[number]]

    return [network(i) for i in range(start, start + count)]


def networks_of_step(table: CostTable, count: int, sandwich: bool,
                     sample: Callable[[int], List[Choices]]) -> List[Choices]:
    """The networks of a training step.

    With the sandwich rule (Yu and Huang, ICCV 2019, arXiv 1903.05134) the largest one
    comes first and the cheapest second.

    Args:
        table (CostTable): Costs of the space.
        count (int): Number of networks.
        sandwich (bool): Whether the largest and the cheapest are among them.
        sample (Callable): From a number to so many sampled networks.
    """
    ends = list(extremes(table)) if sandwich else []
    return ends + sample(count - len(ends))
