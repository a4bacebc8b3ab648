# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Costs of all subnets of a search space, by one cost model."""
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from autonl_mm.cost import CostModel, Size, iter_blocks

from .space import BlockSpace, SearchSpace, Subnet

# Parts of a range of costs; all parts are sampled equally often
NUM_LEVELS = 16


class CostTable:
    """The cost of a subnet: a sum over its blocks, and a rest that all subnets share.

    Args:
        model (CostModel): The cost model of the blocks.
        space (SearchSpace): The space.
        input_shape (tuple[int, int]): ``(H, W)`` of the image.
        num_classes (int, optional): Outputs of the counted classifier, None without a
            classifier.
        with_head (bool): Whether there is a head convolution.
        in_channels (int): Channels of the image. Defaults to 3.
        output_stride (int): As for AutoNL. Defaults to 32.
        sampling (str): ``'choices'`` or ``'networks'``: which of them are sampled
            equally often at equal costs. Defaults to ``'choices'``.

    Attributes:
        unit (str): Unit of the costs.
        blocks (list[Tensor]): For each block its costs, of ``BlockSpace.shape``, in
            float64; 0 for a choice without the block.
        rest (float): Cost of stem, head and classifier.

    Raises:
        ValueError: If a latency table lacks a block.
    """

    def __init__(self, model: CostModel, space: SearchSpace, input_shape: Size,
                 num_classes: Optional[int], with_head: bool, in_channels: int = 3,
                 output_stride: int = 32, sampling: str = 'choices'):
        self.space = space
        self.sampling = sampling
        self.unit = model.unit
        self.rest = model.network(space.largest, input_shape, num_classes, with_head,
                                  in_channels, output_stride)
        sizes = [size for _, _, size in iter_blocks(
            space.largest, input_shape, output_stride)]
        keys = list(zip(space.blocks, sizes, space.largest.placements(output_stride)))
        known: Dict = {}  # blocks of a stage have the same table
        for block, *place in keys:
            if (block, *place) not in known:
                specs = map(block.spec, block.choices())
                known[(block, *place)] = torch.tensor(
                    [0 if s is None else model.block(s, *place)
                     for s in specs], dtype=torch.float64).reshape(block.shape)
            self.rest -= model.block(block.largest, *place)
        self.blocks: List[Tensor] = [known[key] for key in keys]
        self._sampled = [self._mask(block) for block in space.blocks]

    def _mask(self, block: BlockSpace) -> Tensor:
        """``(n, )`` of bool, the choices of a block that are sampled."""
        mask = torch.ones(block.shape, dtype=torch.bool)
        if self.sampling == 'networks':
            mask[:] = False
            mask[tuple(torch.tensor(block.forms()).T)] = True
        return mask.flatten()

    def cost_of(self, subnet: Sequence[Sequence[int]]) -> float:
        """Cost of a subnet.

        Args:
            subnet (Subnet): The subnet.
        """
        return self.rest + sum(
            table[tuple(choice)].item() for table, choice in zip(self.blocks, subnet))

    def range(self) -> Tuple[float, float]:
        """Minimum and maximum cost of the subnets of the space."""
        return (self.rest + sum(t.min().item() for t in self.blocks),
                self.rest + sum(t.max().item() for t in self.blocks))

    def extremes(self) -> Tuple[Subnet, Subnet]:
        """The largest subnet, which contains all subnets, and the cheapest."""
        largest = [tuple(n - 1 for n in block.shape) for block in self.blocks]
        cheapest = [tuple(map(int, torch.unravel_index(block.argmin(), block.shape)))
                    for block in self.blocks]
        return largest, cheapest

    def levels(self, count: int = NUM_LEVELS) -> List[float]:
        """Costs in the middle of equal parts of the range, on a logarithmic scale.

        Args:
            count (int): Number of parts. Defaults to 16.
        """
        low, high = self.range()
        return [low * (high / low)**((i + 0.5) / count) for i in range(count)]

    def probabilities(self, cost: Optional[float]) -> List[Tensor]:
        r"""Probabilities of each block's choices, in proportion to
        :math:`e^{-\beta cost}`; 0 for choices that are not sampled.

        Args:
            cost (float, optional): Mean cost of the sampled subnets; with
                ``sampling='networks'`` the mean differs a little. None for equal
                probabilities.

        Returns:
            list[Tensor]: ``(n, )`` for each block of n choices.
        """
        tables = [t.flatten() for t in self.blocks]
        low, high = -1.0, 1.0  # beta, in units of 1% of the most expensive block
        unit = max(t.max().item() for t in tables) / 100

        def chances() -> List[Tensor]:
            beta = (low + high) / 2
            return [(-beta / unit * t).where(mask, torch.tensor(-torch.inf)).softmax(0)
                    for t, mask in zip(tables, self._sampled)]

        for _ in range(50 if cost else 0):
            mean = self.rest + sum((p * t).sum().item()
                                   for p, t in zip(chances(), tables))
            middle = (low + high) / 2
            low, high = (middle, high) if mean > cost else (low, middle)
        return chances()

    def sample_subnet(self, probabilities: Sequence[Tensor],
                      generator: torch.Generator) -> Subnet:
        """A random subnet.

        Args:
            probabilities (Sequence[Tensor]): From :meth:`probabilities`.
            generator (Generator): Source of random numbers.

        Returns:
            Subnet: The sample.
        """
        while True:
            flat = [torch.multinomial(p, 1, generator=generator).item()
                    for p in probabilities]
            subnet = [tuple(map(int, np.unravel_index(i, table.shape)))
                      for i, table in zip(flat, self.blocks)]
            if self.sampling == 'choices' or self.space.is_packed(subnet):
                return subnet
