# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A linear fit to the losses of trained subnets, which predicts further losses."""
from dataclasses import fields
from typing import Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from autonl_mm.arch import BlockSpec

# Blocks of a subnet, None for a block that is left out
Blocks = Sequence[Optional[BlockSpec]]

# Weight of the penalty on squared coefficients, in units of the squared errors
PENALTY = 3.0


class LossPredictor:
    """Predicts the training loss of a subnet from the options of its blocks.

    It is a ridge regression on the options of each block, as in Neural Predictor (Wen
    et al., 2020) but linear: tens of subnets are too few for more. Subnets of other
    costs help too, because the mean of each group is subtracted.

    Args:
        groups (Sequence[Sequence[tuple[Blocks, float]]]): Trained subnets and their
            losses, in groups of about the same cost. Losses that are not finite are
            left out.

    Raises:
        ValueError: If no loss is finite.
    """

    def __init__(self, groups: Sequence[Sequence[Tuple[Blocks, float]]]):
        subnets: List[Blocks] = []
        losses: List[float] = []
        for group in groups:
            group = [(blocks, loss) for blocks, loss in group if np.isfinite(loss)]
            if not group:
                continue
            mean = sum(loss for _, loss in group) / len(group)
            subnets += [blocks for blocks, _ in group]
            losses += [loss - mean for _, loss in group]
        if not subnets:
            raise ValueError('none of the trained subnets has a finite loss')
        options = sorted(set().union(*map(_options, subnets)))
        self.columns: Dict[tuple, int] = {o: i for i, o in enumerate(options)}
        rows = self._rows(subnets)
        self.mean = rows.mean(0)
        rows -= self.mean
        gram = rows @ rows.T
        inverse = np.linalg.inv(gram + PENALTY * np.eye(len(rows)))
        residual = inverse @ np.array(losses)
        self.weights = rows.T @ residual
        #: Loss of each trained subnet in the order of the groups, and its prediction
        #: by a fit to all other subnets, both minus the mean of its group
        self.left_out: List[Tuple[float, float]] = [
            (loss, loss - r / i)
            for loss, r, i in zip(losses, residual, np.diag(inverse))]

    def __call__(self, subnets: Sequence[Blocks]) -> List[float]:
        """Predicted losses, minus the mean of the trained subnets of their cost.

        Args:
            subnets (Sequence[Blocks]): The subnets.
        """
        return ((self._rows(subnets) - self.mean) @ self.weights).tolist()

    def _rows(self, subnets: Sequence[Blocks]) -> np.ndarray:
        rows = np.zeros((len(subnets), len(self.columns)))
        for row, blocks in zip(rows, subnets):
            # an option that no trained subnet has is ignored
            row[[self.columns[o] for o in _options(blocks) if o in self.columns]] = 1
        return rows


def _options(blocks: Blocks) -> Set[tuple]:
    """``(block, name, option)`` for all blocks."""
    found = set()
    for i, block in enumerate(blocks):
        if block is None:
            found.add((i, 'left out', 0))
            continue
        found |= {(i, field.name, getattr(block, field.name))
                  for field in fields(block)
                  if block.nl_ratio or field.name != 'nl_stride'}
    return found
