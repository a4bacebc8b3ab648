# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The best network of a trained supernet for limits of cost."""
from dataclasses import dataclass
from math import isfinite
from typing import Callable, Dict, Hashable, List, Optional, Sequence, Tuple

import torch

from autonl_mm.nas.supernet.cost_table import CostTable
from autonl_mm.nas.supernet.space import Subnet

from .evolution import NUM_MUTATIONS, evolution_search, nan_last
from .loss_cache import LossCache
from .loss_predictor import LossPredictor, Network

# Samples after which a search for networks that meet a goal ends
TRIES = 20000
# Of a limit that is no target: where networks are sampled, as a share of it
BELOW = 0.95
# Blocks in which finalists differ, one more than evolution changes at once
MIN_DIFFERENCE = NUM_MUTATIONS + 1
# Networks of which the predicted best are trained
PREDICTED = 4000


@dataclass(frozen=True)
class Goal:
    """What a network may cost.

    Args:
        name (str): For logs and folders.
        ranges (dict[str, tuple[float, float]]): By the name of a cost its minimum and
            its maximum.
        around (dict[str, float]): By the name of a cost the mean of the networks that
            are sampled.
    """
    name: str
    ranges: Dict[str, Tuple[float, float]]
    around: Dict[str, float]

    def allows(self, tables: Dict[str, CostTable], choices: Subnet) -> bool:
        """Whether a network is in all ranges.

        Args:
            tables (dict[str, CostTable]): The costs.
            choices (list[tuple[int, ...]]): The network.
        """
        return all(low <= tables[name].cost_of(choices) <= high
                   for name, (low, high) in self.ranges.items())


def make_goal(tables: Dict[str, CostTable], maxima: Dict[str, float],
              cost: str = '', target: Optional[float] = None,
              tolerance: float = 0.0) -> Goal:
    """The goal of a target, of limits, or of both.

    Args:
        tables (dict[str, CostTable]): The costs by name.
        maxima (dict[str, float]): By the name of a cost its limit.
        cost (str): Name of the target's cost. Defaults to ''.
        target (float, optional): A cost to be met. Defaults to None.
        tolerance (float): By how much it may be missed, as a share. Defaults to 0.

    Raises:
        ValueError: If no network of the space can meet it.
    """
    ranges, around, words = {}, {}, []
    for name, limit in maxima.items():
        low, high = tables[name].range()
        if limit < low:
            raise ValueError(
                f'--max {name}={limit:g} is below the cheapest network of the search '
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
        most = min(target * (1 + tolerance), ranges.get(cost, (0, float('inf')))[1])
        ranges[cost] = (target * (1 - tolerance), most)
        around = {cost: target}
        words.insert(0, f'{cost}_{_short(target)}')
    return Goal('_'.join(words), ranges, around)


def _short(value: float) -> str:
    """Such as 6.5M; fit for a file's name."""
    for unit, size in (('M', 1e6), ('k', 1e3)):
        if value >= size:
            return f'{value / size:g}{unit}'
    return f'{value:g}'


def choose(goal: Goal, tables: Dict[str, CostTable], tried: LossCache, batches: int,
           candidates: int, seed: int, network: Callable[[Subnet], Hashable]
           ) -> Tuple[Subnet, float]:
    """The network of the lowest loss that a goal allows.

    Args:
        goal (Goal): What it may cost.
        tables (dict[str, CostTable]): The costs.
        tried (LossCache): The losses.
        batches (int): Number of batches that they are of.
        candidates (int): Networks to try.
        seed (int): Of the candidates.
        network (Callable): The network of choices, so that none is tried twice.

    Returns:
        tuple[list[tuple[int, ...]], float]: The network and its mean loss.

    Raises:
        ValueError: If no sampled network meets the goal.
    """
    generator = torch.Generator().manual_seed(seed)
    sample = _sampler(goal, tables, generator)

    def allowed(choices: Subnet) -> bool:
        return goal.allows(tables, choices)

    start = next((choices for choices in (sample() for _ in range(TRIES))
                  if allowed(choices)), None)
    if start is None:
        raise ValueError(
            f'none of {TRIES} sampled networks meets {goal.name}: raise a limit, '
            'or give a target nearer to the middle of the space')
    best, _, loss = evolution_search(
        start, sample, allowed, network, tried.losses, batches, candidates - 1,
        generator)
    return best, loss


def _sampler(goal: Goal, tables: Dict[str, CostTable],
             generator: torch.Generator) -> Callable[[], Subnet]:
    """Samples networks around a goal, of which not all meet it."""
    chances: List[Sequence] = [
        (tables[name], tables[name].probabilities(cost))
        for name, cost in goal.around.items()]

    def sample() -> Subnet:
        turn = torch.randint(len(chances), (), generator=generator)
        table, probabilities = chances[turn]
        return table.sample(probabilities, generator)

    return sample


def finalists(goal: Goal, tables: Dict[str, CostTable], tried: LossCache,
              count: int, network: Callable[[Subnet], Sequence]) -> List[Subnet]:
    """The best networks that a goal allows, of those that were tried.

    Those that successive halving dropped last come first. Evolution makes near twins of
    the best, which training would not tell apart, so each finalist differs from all
    before it in at least :data:`MIN_DIFFERENCE` blocks.

    Args:
        goal (Goal): What they may cost.
        tables (dict[str, CostTable]): The costs.
        tried (LossCache): The losses.
        count (int): How many; fewer if no more were tried.
        network (Callable): From choices to the network's blocks.
    """
    ranked = sorted(
        ((losses, choices) for choices, losses in tried
         if losses and goal.allows(tables, choices)),
        key=lambda row: (-len(row[0]), nan_last(sum(row[0]))))
    return _apart([choices for _, choices in ranked], [], count, network)


def more_finalists(goal: Goal, tables: Dict[str, CostTable], predictor: LossPredictor,
                   trained: Sequence[Subnet], count: int, seed: int,
                   network: Callable[[Subnet], Network]) -> List[Subnet]:
    """Networks that a goal allows and that are predicted to train best.

    The best of :data:`PREDICTED` sampled ones. They differ from each other and from
    those that were trained as :func:`finalists` do.

    Args:
        goal (Goal): What they may cost.
        tables (dict[str, CostTable]): The costs.
        predictor (LossPredictor): Fitted to what was trained.
        trained (Sequence[list[tuple[int, ...]]]): Networks for this goal that were
            trained.
        count (int): How many; fewer if no more are found.
        seed (int): Of the samples.
        network (Callable): From choices to the network's blocks.
    """
    sample = _sampler(goal, tables, torch.Generator().manual_seed(seed))
    found: Dict[Hashable, Subnet] = {}
    for _ in range(TRIES):
        choices = sample()
        if goal.allows(tables, choices):
            found.setdefault(network(choices), choices)
        if len(found) == PREDICTED:
            break
    ranked = sorted(zip(predictor(list(found)), found.values()), key=lambda row: row[0])
    return _apart([choices for _, choices in ranked], trained, count, network)


def best_finalist(trained: Sequence[Tuple[Subnet, float]], predictor: LossPredictor,
                  network: Callable[[Subnet], Network]) -> Tuple[Subnet, float]:
    """The trained network that the fit to all of them says is best.

    The loss of one short training scatters by as much as the networks differ. The fit,
    to which each of them contributes its own loss, averages over many.

    Args:
        trained (Sequence[tuple[list[tuple[int, ...]], float]]): Networks for a goal and
            their training losses.
        predictor (LossPredictor): Fitted to these and others.
        network (Callable): From choices to the network's blocks.

    Returns:
        tuple[list[tuple[int, ...]], float]: The network and its own loss.

    Raises:
        ValueError: If no loss is finite.
    """
    finite = [(choices, loss) for choices, loss in trained if isfinite(loss)]
    if not finite:
        raise ValueError(f'none of {len(trained)} finalists has a finite loss')
    fitted = predictor([network(choices) for choices, _ in finite])
    return finite[fitted.index(min(fitted))]


def _apart(ranked: Sequence[Subnet], others: Sequence[Subnet], count: int,
           network: Callable[[Subnet], Network]) -> List[Subnet]:
    """The first of ranked networks that differ from all before and from others."""
    best: List[Subnet] = []
    taken = [network(choices) for choices in others]
    for choices in ranked:
        blocks = network(choices)
        if all(sum(a != b for a, b in zip(blocks, other)) >= MIN_DIFFERENCE
               for other in taken):
            best.append(choices)
            taken.append(blocks)
        if len(best) == count:
            break
    return best


def pareto_front(costs: Sequence[float], losses: Sequence[float]) -> List[int]:
    """Indices of the networks than which none is both cheaper and better.

    Args:
        costs (Sequence[float]): By network.
        losses (Sequence[float]): By network.

    Returns:
        list[int]: By rising cost.
    """
    front, best = [], float('inf')
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], losses[i])):
        if losses[i] < best:
            front.append(i)
            best = losses[i]
    return front
