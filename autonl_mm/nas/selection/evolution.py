# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The best network of many candidates, by trying them."""
import math
from typing import Callable, Hashable, List, Optional, Tuple

import torch

from autonl_mm.nas.supernet.space import Subnet

# Best networks that are kept, from which new ones are made
NUM_PARENTS = 8
# Blocks that are sampled again in a network made from another
NUM_MUTATIONS = 2
# 1 / share of the batches after which the worse half is dropped
HALVINGS = (16, 8, 4, 2)
# Samples in a row without a new candidate after which the search for one ends
TRIES = 2000


def nan_last(value: float) -> Tuple[bool, float]:
    """Key to sort numbers by, such as losses: nan is greater than all others."""
    return math.isnan(value), value


def evolution_search(start: Subnet,
                     sample: Callable[[], Subnet],
                     allowed: Callable[[Subnet], bool],
                     network: Callable[[Subnet], Hashable],
                     losses: Callable[[List[Subnet], int, int], List[List[float]]],
                     batches: int,
                     candidates: int,
                     generator: torch.Generator) -> Tuple[Subnet, float, float]:
    """The network of the lowest loss, found by evolution.

    Half of the candidates are sampled. Two generations of a quarter each are
    made from the best so far, with some blocks sampled again. Networks of the
    same cost differ in their losses by less than one batch can tell, and all
    batches for all candidates would take too long. So a generation is tried
    by successive halving: all on a sixteenth of the batches, the better half
    on an eighth, and so on; only the last few on all of them.

    Args:
        start (list[tuple[int, ...]]): The first candidate, choices by block.
        sample (Callable): Samples choices.
        allowed (Callable): Whether choices may be a candidate.
        network (Callable): The network of choices, so that none is tried twice.
        losses (Callable): Of networks, the losses of each on the batches from one
            index up to another.
        batches (int): Number of batches.
        candidates (int): Number of networks to try besides the first; fewer if
            there are no more.
        generator (Generator): Source of random numbers.

    Returns:
        tuple[list[tuple[int, ...]], float, float]: The best choices, and the
        mean losses of the first and of the best.
    """
    best = [(losses([start], 0, batches)[0], start)]
    before = sum(best[0][0]) / batches
    seen = {network(start)}

    def number(below: int) -> int:
        return torch.randint(below, (), generator=generator).item()

    def another(evolved: bool) -> Optional[Subnet]:
        for _ in range(TRIES):
            choices = sampled = sample()
            if evolved:
                choices = list(best[number(len(best))][1])
                for _ in range(NUM_MUTATIONS):
                    block = number(len(choices))
                    choices[block] = sampled[block]
            if allowed(choices) and network(choices) not in seen:
                seen.add(network(choices))
                return choices

    def ordered(pool: list) -> list:
        """From the best to the worst of networks that were tried alike; nan is last."""
        return sorted(pool, key=lambda entry: nan_last(sum(entry[0])))

    def race(pool: list) -> list:
        for share in (*HALVINGS, 1):
            stop = -(-batches // share)
            # all of a pool were tried on the same batches so far
            tried = len(pool[0][0]) if pool else 0
            new = losses([choices for _, choices in pool], tried, stop)
            pool = [(known + more, choices)
                    for (known, choices), more in zip(pool, new)]
            pool = ordered(pool)
            if share > 1:
                pool = pool[:max(NUM_PARENTS, -(-len(pool) // 2))]
        return pool

    for evolved, count in ((False, candidates - 2 * (candidates // 4)),
                           (True, candidates // 4), (True, candidates // 4)):
        pool = []
        while len(pool) < count:
            choices = another(evolved)
            if choices is None:
                break
            pool.append(([], choices))
        best = ordered(best + race(pool))[:NUM_PARENTS]
    return best[0][1], before, sum(best[0][0]) / batches

