# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""From a trained supernet to the best subnet for a target or for limits of cost.

Candidates are compared by their losses with the supernet's weights (:func:`choose`),
then finalists by their losses after short trainings from scratch
(:func:`best_finalist`).
"""
from dataclasses import dataclass
from math import isfinite
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import torch

from autonl_mm.nas.supernet.cost_table import CostTable
from autonl_mm.nas.supernet.space import SearchSpace, Subnet

from .evolution import NUM_MUTATIONS, Losses, evolution_search, loss_order
from .loss_cache import LossCache
from .loss_predictor import Blocks, LossPredictor

# Half-width of the range of costs around a target, as a share of the target
TOLERANCE = 0.02
# Largest number of samples when looking for subnets that meet a goal
TRIES = 20000
# With limits only, subnets are sampled around this fraction of each limit
BELOW = 0.95
# Blocks in which finalists differ, one more than evolution changes at once
MIN_DIFFERENCE = NUM_MUTATIONS + 1
# Sampled subnets; the subnets with the best predictions are trained
PREDICTED = 4000


@dataclass(frozen=True)
class Goal:
    """The costs that a subnet may have.

    Args:
        name (str): Name for logs and folders.
        tables (dict[str, CostTable]): The costs by name.
        ranges (dict[str, tuple[float, float]]): Minimum and maximum of some costs.
        around (dict[str, float]): Mean cost of sampled subnets, by the cost's name. If
            there are several, each sample takes one at random.
    """
    name: str
    tables: Dict[str, CostTable]
    ranges: Dict[str, Tuple[float, float]]
    around: Dict[str, float]

    def allows(self, subnet: Subnet) -> bool:
        """Whether all costs of a subnet are in their ranges.

        Args:
            subnet (Subnet): The subnet.
        """
        return all(low <= self.tables[name].cost_of(subnet) <= high
                   for name, (low, high) in self.ranges.items())

    def sampler(self, generator: torch.Generator) -> Callable[[], Subnet]:
        """A function that samples subnets around the goal; samples may not meet it.

        Args:
            generator (Generator): Source of random numbers.
        """
        chances = [(self.tables[name], self.tables[name].probabilities(cost))
                   for name, cost in self.around.items()]

        def sample() -> Subnet:
            turn = torch.randint(len(chances), (), generator=generator)
            table, probabilities = chances[turn]
            return table.sample_subnet(probabilities, generator)

        return sample


def make_goal(tables: Dict[str, CostTable], maxima: Dict[str, float],
              cost: str = '', target: Optional[float] = None) -> Goal:
    """The goal of a target, of limits, or of both.

    Args:
        tables (dict[str, CostTable]): The costs by name.
        maxima (dict[str, float]): Limits by the cost's name.
        cost (str): Name of the target's cost. Defaults to ''.
        target (float, optional): Target cost, met within :data:`TOLERANCE`.
            Defaults to None.

    Raises:
        ValueError: If no subnet of the space can meet the goal.
    """
    ranges, around, words = {}, {}, []
    for name, limit in maxima.items():
        low, high = tables[name].range()
        if limit < low:
            raise ValueError(
                f'--max {name}={limit:g} is below the cheapest subnet of the search '
                f'space, {low:,.6g} {tables[name].unit}')
        ranges[name] = (0.0, limit)
        around[name] = min(max(BELOW * limit, low), high)
        words.append(f'{name}_max_{_short(limit)}')
    if target is not None:
        low, high = tables[cost].range()
        if not low <= target <= high:
            raise ValueError(
                f'a target of {target:,.6g} {tables[cost].unit} is outside of the '
                f'search space, {low:,.6g} to {high:,.6g}')
        most = min(target * (1 + TOLERANCE), ranges.get(cost, (0, float('inf')))[1])
        ranges[cost] = (target * (1 - TOLERANCE), most)
        around = {cost: target}
        words.insert(0, f'{cost}_{_short(target)}')
    return Goal('_'.join(words), tables, ranges, around)


def _short(value: float) -> str:
    """A number such as 6.5M, for the name of a file."""
    for unit, size in (('M', 1e6), ('k', 1e3)):
        if value >= size:
            return f'{value / size:g}{unit}'
    return f'{value:g}'


def choose(goal: Goal, space: SearchSpace, losses: Losses, images: Sequence[int],
           candidates: int, seed: int, start: Optional[Subnet] = None
           ) -> Tuple[Subnet, float, float]:
    """The allowed candidate with the lowest loss, found by evolution.

    Args:
        goal (Goal): The allowed costs.
        space (SearchSpace): The space.
        losses (Callable): Computes or looks up the losses of subnets, see
            :data:`~autonl_mm.nas.selection.evolution.Losses`.
        images (Sequence[int]): Images of each batch.
        candidates (int): Number of candidates to try, without a given ``start``.
        seed (int): Seed of the candidates.
        start (Subnet, optional): A further candidate, tried first; it need not meet the
            goal. Defaults to None, a sampled candidate.

    Returns:
        tuple[Subnet, float, float]: The best subnet, the mean loss of the first
        candidate, and the mean loss of the best subnet.

    Raises:
        ValueError: If there is no ``start`` and no sampled subnet meets the goal, or no
            candidate has a finite loss.
    """
    generator = torch.Generator().manual_seed(seed)
    sample = goal.sampler(generator)
    if start is None:
        start = next(filter(goal.allows, (sample() for _ in range(TRIES))), None)
        candidates -= 1
    if start is None:
        raise ValueError(
            f'none of {TRIES} sampled subnets meets {goal.name}: raise a limit, '
            'or give a target nearer to the middle of the space')
    best, first, loss = evolution_search(
        start, sample, goal.allows, space.specs, losses, images, candidates, generator)
    if not isfinite(loss):
        raise ValueError(f'no candidate of {goal.name} has a finite loss: the weights '
                         'of the supernet or the data have NaN or infinite values')
    return best, first, loss


def best_candidates(goal: Goal, space: SearchSpace, cache: LossCache, count: int
                    ) -> List[Subnet]:
    """The best candidates that a goal allows, which are the first finalists.

    Candidates that were tried on more batches come first, because successive halving
    dropped all other candidates. Evolution makes many near duplicates, which are left
    out.

    Args:
        goal (Goal): The allowed costs.
        space (SearchSpace): The space.
        cache (LossCache): The losses of the candidates.
        count (int): Number of subnets; fewer are returned if no more were tried.
    """
    ranked = sorted(
        ((losses, subnet) for subnet, losses in cache
         if losses and goal.allows(subnet)),
        key=lambda row: (-len(row[0]), loss_order(row[0], cache.images)))
    return drop_near_duplicates([subnet for _, subnet in ranked], [], count, space)


def predicted_candidates(goal: Goal, space: SearchSpace, predictor: LossPredictor,
                         trained: Iterable[Subnet], count: int, seed: int
                         ) -> List[Subnet]:
    """Allowed subnets that are predicted to train best.

    They are the best of :data:`PREDICTED` samples, without near duplicates of each
    other and of trained subnets.

    Args:
        goal (Goal): The allowed costs.
        space (SearchSpace): The space.
        predictor (LossPredictor): Fitted to trained subnets.
        trained (Iterable[Subnet]): Subnets that were trained for this goal.
        count (int): Number of subnets; fewer are returned if no more are found.
        seed (int): Seed of the samples.
    """
    sample = goal.sampler(torch.Generator().manual_seed(seed))
    found: Dict[Blocks, Subnet] = {}
    for _ in range(TRIES):
        subnet = sample()
        if goal.allows(subnet):
            found.setdefault(space.specs(subnet), subnet)
        if len(found) == PREDICTED:
            break
    ranked = sorted(zip(predictor(list(found)), found.values()), key=lambda row: row[0])
    return drop_near_duplicates(
        [subnet for _, subnet in ranked], trained, count, space)


def best_finalist(trained: Sequence[Tuple[Subnet, float]], predictor: LossPredictor,
                  space: SearchSpace) -> Tuple[Subnet, float]:
    """The finalist with the lowest predicted loss.

    The loss of one short training scatters by as much as subnets differ. The fit
    averages over many trainings, including the finalist's own training.

    Args:
        trained (Sequence[tuple[Subnet, float]]): Finalists of a goal and their
            training losses.
        predictor (LossPredictor): Fitted to these and other finalists.
        space (SearchSpace): The space.

    Returns:
        tuple[Subnet, float]: The finalist and its own loss.

    Raises:
        ValueError: If no loss is finite.
    """
    finite = [(subnet, loss) for subnet, loss in trained if isfinite(loss)]
    if not finite:
        raise ValueError(f'none of {len(trained)} finalists has a finite loss')
    fitted = predictor([space.specs(subnet) for subnet, _ in finite])
    return finite[fitted.index(min(fitted))]


def drop_near_duplicates(ranked: Iterable[Subnet], others: Iterable[Subnet],
                         count: int, space: SearchSpace) -> List[Subnet]:
    """The first subnets that differ from all subnets before and from other subnets.

    Short trainings would not tell near duplicates apart.

    Args:
        ranked (Iterable[Subnet]): Subnets from the best to the worst.
        others (Iterable[Subnet]): Further subnets to differ from.
        count (int): Number of subnets; fewer are returned if no more differ in at
            least :data:`MIN_DIFFERENCE` blocks.
        space (SearchSpace): The space.
    """
    kept: List[Subnet] = []
    taken = [space.specs(subnet) for subnet in others]
    for subnet in ranked:
        if len(kept) == count:
            break
        blocks = space.specs(subnet)
        if all(sum(a != b for a, b in zip(blocks, other)) >= MIN_DIFFERENCE
               for other in taken):
            kept.append(subnet)
            taken.append(blocks)
    return kept


def pareto_front(costs: Sequence[float], losses: Sequence[float]) -> List[int]:
    """Indices of the subnets for which no subnet is both cheaper and better.

    Args:
        costs (Sequence[float]): Cost of each subnet.
        losses (Sequence[float]): Loss of each subnet.

    Returns:
        list[int]: Indices by rising cost.
    """
    front, best = [], float('inf')
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], losses[i])):
        if losses[i] < best:
            front.append(i)
            best = losses[i]
    return front
