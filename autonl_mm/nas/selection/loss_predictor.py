# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What trained networks say about others: a linear fit to their losses."""
from dataclasses import fields
from typing import Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from autonl_mm.arch import BlockSpec

# Blocks of a network, None where one is left out
Network = Sequence[Optional[BlockSpec]]

# Weight of the penalty on squared coefficients, in units of the squared errors
PENALTY = 3.0


class LossPredictor:
    """Predicts how well a network trains from the options of its blocks.

    A ridge regression on which options each block has, as in Neural Predictor (Wen et
    al., 2020) but linear: tens of networks are too few for more. Networks of other
    costs help too, because the mean of each group is taken out.

    Args:
        groups (Sequence[Sequence[tuple[Network, float]]]): Trained networks and their
            losses, in a group those of about the same cost. Losses that are not finite
            are left out.

    Raises:
        ValueError: If no loss is finite.
    """

    def __init__(self, groups: Sequence[Sequence[Tuple[Network, float]]]):
        networks: List[Network] = []
        losses: List[float] = []
        for group in groups:
            group = [(network, loss) for network, loss in group if np.isfinite(loss)]
            if not group:
                continue
            mean = sum(loss for _, loss in group) / len(group)
            networks += [network for network, _ in group]
            losses += [loss - mean for _, loss in group]
        if not networks:
            raise ValueError('none of the trained networks has a finite loss')
        options = sorted(set().union(*map(_options, networks)))
        self.columns: Dict[tuple, int] = {o: i for i, o in enumerate(options)}
        rows = self._rows(networks)
        self.mean = rows.mean(0)
        rows -= self.mean
        gram = rows @ rows.T
        inverse = np.linalg.inv(gram + PENALTY * np.eye(len(rows)))
        residual = inverse @ np.array(losses)
        self.weights = rows.T @ residual
        #: Of each trained network in the order of the groups: its loss, and what the
        #: fit to the other networks predicts of it, both minus the mean of its group
        self.left_out: List[Tuple[float, float]] = [
            (loss, loss - r / i)
            for loss, r, i in zip(losses, residual, np.diag(inverse))]

    def __call__(self, networks: Sequence[Network]) -> List[float]:
        """Predicted losses, minus the mean of the trained networks of their cost.

        Args:
            networks (Sequence[Network]): The networks.
        """
        return ((self._rows(networks) - self.mean) @ self.weights).tolist()

    def _rows(self, networks: Sequence[Network]) -> np.ndarray:
        rows = np.zeros((len(networks), len(self.columns)))
        for row, network in zip(rows, networks):
            # an option that no trained network has is not known to matter
            row[[self.columns[o] for o in _options(network) if o in self.columns]] = 1
        return rows


def _options(network: Network) -> Set[tuple]:
    """``(block, name, option)`` for all blocks."""
    found = set()
    for i, block in enumerate(network):
        if block is None:
            found.add((i, 'left out', 0))
            continue
        found |= {(i, field.name, getattr(block, field.name))
                  for field in fields(block)
                  if block.nl_ratio or field.name != 'nl_stride'}
    return found
