# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Which network is best, by trying them."""
from typing import Callable, Hashable, List, Tuple

import torch

# How many of the best are kept to make new ones from.
SURVIVORS = 16
# Blocks that are drawn anew in a network made from another.
REDRAWN = 2
# Networks in a row that are no new candidates, before it is given up.
TRIES = 2000

Choices = List[Tuple[int, ...]]


def fittest(start: Choices,
            draw: Callable[[], Choices],
            allowed: Callable[[Choices], bool],
            network: Callable[[Choices], Hashable],
            losses: Callable[[Choices, int, int], List[float]],
            batches: int,
            candidates: int,
            generator: torch.Generator) -> Tuple[Choices, float, float]:
    """The network of the least loss, found by evolution.

    Half of the candidates are drawn; then each is one of the best so far with
    some blocks drawn anew. One that is worse than all of the best on a quarter
    of the batches is not tried on the others.

    Args:
        start (list[tuple[int, ...]]): The first candidate, choices by block.
        draw (Callable): Draws choices.
        allowed (Callable): Whether choices may be a candidate.
        network (Callable): The network of choices, to try none twice.
        losses (Callable): Of choices, the losses on the batches from one
            index up to another.
        batches (int): How many there are.
        candidates (int): How many to try besides the first; fewer if there
            are no more.
        generator (Generator): Source of chance.

    Returns:
        tuple[list[tuple[int, ...]], float, float]: The best choices, and the
        mean losses of the first and of the best.
    """
    first = -(-batches // 4)
    best = [(losses(start, 0, batches), start)]
    begin = sum(best[0][0]) / batches
    seen = {network(start)}

    def number(below):
        return torch.randint(below, (), generator=generator).item()

    def another(evolved):
        for _ in range(TRIES):
            choices = drawn = draw()
            if evolved:
                choices = list(best[number(len(best))][1])
                for _ in range(REDRAWN):
                    block = number(len(choices))
                    choices[block] = drawn[block]
            if allowed(choices) and network(choices) not in seen:
                return choices

    evolved = False
    for i in range(candidates):
        evolved = evolved or i >= candidates // 2
        choices = another(evolved)
        if choices is None and evolved:
            break
        if choices is None:
            evolved = True  # small steps may still be allowed
            continue
        seen.add(network(choices))
        found = losses(choices, 0, first)
        if len(best) == SURVIVORS and sum(found) > max(
                sum(other[:first]) for other, _ in best):
            continue
        found += losses(choices, first, batches)
        best.append((found, choices))
        best.sort(key=lambda item: sum(item[0]))
        del best[SURVIVORS:]
    return best[0][1], begin, sum(best[0][0]) / batches
