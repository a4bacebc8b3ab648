# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""All candidates of a choice with their costs and losses, and the Pareto front."""
from typing import Dict

from autonl_mm.nas import SearchSpace
from autonl_mm.nas.selection.choosing import pareto_front
from autonl_mm.nas.selection.evolution import mean_loss
from autonl_mm.nas.selection.loss_cache import LossCache
from autonl_mm.nas.supernet.cost_table import CostTable


def pareto_record(cache: LossCache, tables: Dict[str, CostTable],
                  space: SearchSpace, cost: str) -> dict:
    """The candidates, and the front of the candidates that were tried on all batches.

    Args:
        cache (LossCache): The losses of the candidates.
        tables (dict[str, CostTable]): The costs by name.
        space (SearchSpace): The space.
        cost (str): Name of the front's cost.

    Returns:
        dict: ``cost``, its ``unit``, ``batches``, and ``candidates``, a list of dicts
        with the costs by name, ``loss``, ``batches``, ``on_front`` and ``arch``.
    """
    rows = [
        dict({name: table.cost_of(subnet) for name, table in tables.items()},
             loss=mean_loss(losses, cache.images), batches=len(losses), on_front=False,
             arch=space.arch(subnet).to_text().splitlines())
        for subnet, losses in cache if losses]
    batches = len(cache.images)
    whole = [row for row in rows if row['batches'] == batches]
    for i in pareto_front([row[cost] for row in whole], [row['loss'] for row in whole]):
        whole[i]['on_front'] = True
    return dict(cost=cost, unit=tables[cost].unit, batches=batches, candidates=rows)
