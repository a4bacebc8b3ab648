# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Global average pooling with dropout, the neck of AutoNL's classifier."""
from typing import Sequence, Tuple, Union

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor

from autonl_mm.registry import MODELS


@MODELS.register_module()
class PoolDropout(BaseModule):
    """Global average pooling, then dropout.

    mmpretrain's linear heads have no dropout, and its heads with dropout add
    another layer before it.

    Args:
        dropout (float): Probability that a channel is set to zero in
            training. Defaults to 0.2, as in the authors' releases.

    Shape:
        ``(N, C, H, W)`` in, ``(N, C)`` out; for a list or tuple of feature
        maps, a tuple of outputs.

    Raises:
        ValueError: If ``dropout`` is not in [0, 1].
    """

    def __init__(self, dropout: float = 0.2):
        super().__init__()
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, inputs: Union[Tensor, Sequence[Tensor]]
    ) -> Union[Tensor, Tuple[Tensor, ...]]:
        """Pool one feature map, or each of several."""
        if isinstance(inputs, Tensor):
            return self.dropout(self.gap(inputs).flatten(1))
        return tuple(self.forward(x) for x in inputs)
