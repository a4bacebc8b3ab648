# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The graph of a classifier of mmpretrain."""
from typing import List, Sequence, Tuple

import torch.nn as nn
from torch import Tensor

from .base import TaskGraph


class ClassifierGraph(TaskGraph):
    """Images to ``logits (N, classes)``.

    Their softmax gives the scores, or their sigmoid for a multi-label head.
    """

    task = 'classification'
    outputs = ('logits', )

    @staticmethod
    def check(model: nn.Module) -> None:
        """Refuse a classifier that does not predict from logits.

        Args:
            model (nn.Module): A classifier.

        Raises:
            ValueError: If its head predicts in its own way; names it.
        """
        from mmpretrain.models import ClsHead, MultiLabelClsHead
        kind = type(model.head)
        if getattr(kind, 'predict', None) not in (
                ClsHead.predict, MultiLabelClsHead.predict):
            raise ValueError(
                f'{type(model).__name__} with the head {kind.__name__} cannot be '
                'exported, because one output of logits does not give its '
                "predictions: only heads with ClsHead's or MultiLabelClsHead's "
                'predict can, such as LinearClsHead and MultiLabelLinearClsHead')

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, classes)``."""
        return self.model(self.inputs(x), mode='tensor')

    @staticmethod
    def reference(model: nn.Module, images: Tensor) -> List[Tensor]:
        """Logits of mmpretrain's own code."""
        inputs = model.data_preprocessor(dict(inputs=images))['inputs']
        return [model(inputs, mode='tensor')]

    def agreement(self, got: Sequence[Tensor],
                  expected: Sequence[Tensor]) -> Tuple[int, int]:
        """Count equal labels, which the head predicts.

        Args:
            got (Sequence[Tensor]): Outputs.
            expected (Sequence[Tensor]): Outputs of the reference.

        Returns:
            tuple[int, int]: See :func:`count_equal`, summed over the images.
        """
        samples = [self.model.head._get_predictions(logits, None)
                   for logits, in (got, expected)]
        counts = [count_equal(a.pred_label, b.pred_label) for a, b in zip(*samples)]
        return sum(n for n, _ in counts), sum(n for _, n in counts)


def count_equal(labels: Tensor, others: Tensor) -> Tuple[int, int]:
    """Compare two predictions for one image.

    Images have far more labels that are not predicted than labels that are. They are
    not counted, as they would hide differences. No label at all counts as a label.

    Args:
        labels (Tensor): Predicted labels ``(n, )``; one of a single-label head.
        others (Tensor): Labels of the second prediction ``(m, )``.

    Returns:
        tuple[int, int]: Number of labels in both predictions, and in the one that has
        more of them.
    """
    one, other = (set(x.tolist()) or {None} for x in (labels, others))
    return len(one & other), max(len(one), len(other))
