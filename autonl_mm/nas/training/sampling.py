# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The subnets of a training step."""
from typing import Callable, List, Tuple

import torch

from autonl_mm.nas.supernet.cost_table import CostTable
from autonl_mm.nas.supernet.space import Subnet


def extremes(table: CostTable) -> Tuple[Subnet, Subnet]:
    """The largest subnet of a space, which contains all subnets, and the cheapest.

    Args:
        table (CostTable): Costs of the space.
    """
    largest = [tuple(n - 1 for n in block.shape) for block in table.blocks]
    cheapest = [tuple(map(int, torch.unravel_index(block.argmin(), block.shape)))
                for block in table.blocks]
    return largest, cheapest


def sandwich_subnets(table: CostTable, count: int,
                     sample: Callable[[int], List[Subnet]]) -> List[Subnet]:
    """The subnets of a training step by the sandwich rule.

    The largest comes first and the cheapest second (Yu and Huang, ICCV 2019,
    arXiv 1903.05134).

    Args:
        table (CostTable): Costs of the space.
        count (int): Number of subnets, at least 2.
        sample (Callable): Samples a given number of subnets.
    """
    return [*extremes(table), *sample(count - 2)]
