# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The graph of a classifier of mmpretrain."""
from typing import List

import torch.nn as nn
from torch import Tensor

from .base import TaskGraph


class ClassifierGraph(TaskGraph):
    """Images to ``logits (N, classes)``, whose softmax gives the scores."""

    task = 'classification'
    outputs = ('logits', )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, classes)``."""
        return self.model(self.inputs(x), mode='tensor')

    @staticmethod
    def reference(model: nn.Module, images: Tensor) -> List[Tensor]:
        """Logits of mmpretrain's own code."""
        inputs = model.data_preprocessor(dict(inputs=images))['inputs']
        return [model(inputs, mode='tensor')]
