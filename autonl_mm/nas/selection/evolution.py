# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Evolution: the best subnet of many candidates."""
import math
from typing import Callable, Hashable, List, Optional, Sequence, Tuple

import torch

from autonl_mm.nas.supernet.space import Subnet

#: Computes for each subnet its losses on the batches from a first to a last index
Losses = Callable[[Sequence[Subnet], int, int], List[List[float]]]

# Best candidates that are kept; new candidates are made from them
NUM_PARENTS = 8
# Blocks that are sampled again in a candidate made from a parent
NUM_MUTATIONS = 2
# 1 / share of the batches after which the worse half is dropped
HALVINGS = (16, 8, 4, 2)
# Largest number of samples when looking for a new candidate
TRIES = 2000


def nan_last(value: float) -> Tuple[bool, float]:
    """Key to sort numbers such as losses: nan is greater than all numbers."""
    return math.isnan(value), value


def mean_loss(losses: Sequence[float], images: Sequence[int]) -> float:
    """Mean loss of an image, without batches whose loss is not finite.

    Args:
        losses (Sequence[float]): Losses on the first batches.
        images (Sequence[int]): Images of each batch, also of further batches.

    Returns:
        float: The mean; nan if no loss is finite.
    """
    finite = [(loss, n) for loss, n in zip(losses, images) if math.isfinite(loss)]
    total = sum(n for _, n in finite)
    return sum(loss * n for loss, n in finite) / total if total else math.nan


def loss_order(losses: Sequence[float], images: Sequence[int]) -> Tuple[int, float]:
    """Key to sort subnets that were tried on the same batches, best first.

    A batch that no subnet has a finite loss on does not decide. A subnet with more
    losses that are not finite than another subnet is worse.

    Args:
        losses (Sequence[float]): As for :func:`mean_loss`.
        images (Sequence[int]): As for :func:`mean_loss`.
    """
    bad = sum(not math.isfinite(loss) for loss in losses)
    return bad, mean_loss(losses, images) if bad < len(losses) else 0.0


def evolution_search(start: Subnet,
                     sample: Callable[[], Subnet],
                     allowed: Callable[[Subnet], bool],
                     specs: Callable[[Subnet], Hashable],
                     losses: Losses,
                     images: Sequence[int],
                     candidates: int,
                     generator: torch.Generator) -> Tuple[Subnet, float, float]:
    """The candidate with the lowest loss, found by evolution.

    Half of the candidates are sampled. Two generations of a quarter each are made from
    the best candidates so far, with some blocks sampled again. Losses of subnets with
    the same cost differ by less than one batch can show, and all batches for all
    candidates would take too long. So a generation is tried by successive halving: all
    candidates on a sixteenth of the batches, the better half on an eighth, and so on.
    Only the last few candidates are tried on all batches.

    Args:
        start (Subnet): The first candidate.
        sample (Callable): Samples a subnet.
        allowed (Callable): Whether a subnet may be a candidate.
        specs (Callable): From a subnet to its blocks. Subnets of the same blocks are
            tried once.
        losses (Callable): See :data:`Losses`.
        images (Sequence[int]): Images of each batch.
        candidates (int): Number of candidates to try besides the first; fewer if no
            more are found.
        generator (Generator): Source of random numbers.

    Returns:
        tuple[Subnet, float, float]: The best candidate, the mean loss of the first
        candidate, and the mean loss of the best candidate.
    """
    batches = len(images)
    best = [(losses([start], 0, batches)[0], start)]
    before = mean_loss(best[0][0], images)
    seen = {specs(start)}

    def number(below: int) -> int:
        return torch.randint(below, (), generator=generator).item()

    def another(evolved: bool) -> Optional[Subnet]:
        for _ in range(TRIES):
            subnet = sampled = sample()
            if evolved:
                subnet = list(best[number(len(best))][1])
                for _ in range(NUM_MUTATIONS):
                    block = number(len(subnet))
                    subnet[block] = sampled[block]
            if allowed(subnet) and specs(subnet) not in seen:
                seen.add(specs(subnet))
                return subnet

    def ordered(pool: list) -> list:
        """From best to worst; all were tried on the same batches."""
        return sorted(pool, key=lambda entry: loss_order(entry[0], images))

    def race(pool: list) -> list:
        for stop in sorted({-(-batches // share) for share in (*HALVINGS, 1)}):
            # all candidates of a pool were tried on the same batches so far
            tried = len(pool[0][0]) if pool else 0
            new = losses([subnet for _, subnet in pool], tried, stop)
            pool = [(known + more, subnet)
                    for (known, subnet), more in zip(pool, new)]
            pool = ordered(pool)
            if stop < batches:
                pool = pool[:max(NUM_PARENTS, -(-len(pool) // 2))]
        return pool

    for evolved, count in ((False, candidates - 2 * (candidates // 4)),
                           (True, candidates // 4), (True, candidates // 4)):
        pool = []
        while len(pool) < count:
            subnet = another(evolved)
            if subnet is None:
                break
            pool.append(([], subnet))
        best = ordered(best + race(pool))[:NUM_PARENTS]
    return best[0][1], before, mean_loss(best[0][0], images)

