# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The graphs of an encoder-decoder of mmseg: logits, or a label map."""
from functools import partial
from typing import List, Sequence, Tuple

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .base import TaskGraph, logit_difference, top1_agreement


class SegmentorGraph(TaskGraph):
    """Images to ``logits (N, classes, H, W)``, for each pixel.

    Args:
        model (nn.Module): An encoder-decoder of mmseg in deploy form.
    """

    task = 'segmentation'
    outputs = ('logits', )

    def __init__(self, model: nn.Module, preprocess: bool = True):
        from mmseg.models.utils import Upsample
        super().__init__(model, preprocess)
        for module in model.modules():
            if isinstance(module, Upsample) and not module.size:
                # It computes its size in Python, so a trace would fix the size.
                module.forward = partial(
                    F.interpolate,
                    scale_factor=module.scale_factor,
                    mode=module.mode,
                    align_corners=module.align_corners)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, classes, H, W)``."""
        logits = self._logits(self.model, self.inputs(x))
        if self.preprocesses and self.preprocess.divisor > 1:
            logits = logits[:, :, :x.shape[2], :x.shape[3]]
        return logits

    @staticmethod
    def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
        return model.encode_decode(inputs, [dict(img_shape=inputs.shape[2:])])

    @classmethod
    def reference(cls, model: nn.Module, images: Tensor) -> List[Tensor]:
        """Logits of mmseg's own code on whole images."""
        from mmseg.structures import SegDataSample
        data = model.data_preprocessor(
            dict(inputs=list(images),
                 data_samples=[SegDataSample() for _ in images]))
        h, w = images.shape[2:]
        return [cls._logits(model, data['inputs'])[:, :, :h, :w]]

    agreement = staticmethod(top1_agreement)
    difference = staticmethod(logit_difference)


class LabelMapGraph(SegmentorGraph):
    """Images to ``labels (N, H, W)``, the class of each pixel."""

    outputs = ('labels', )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, H, W)`` of int64."""
        logits = super().forward(x)
        if logits.shape[1] > 1:
            return logits.argmax(1)
        threshold = self.model.decode_head.threshold
        return (logits[:, 0].sigmoid() > threshold).long()

    @staticmethod
    def agreement(got: Sequence[Tensor],
                  expected: Sequence[Tensor]) -> Tuple[int, int]:
        """Number of pixels with the reference's class, and of all."""
        same = got[0] == expected[0].argmax(1)
        return int(same.sum()), same.numel()

    @staticmethod
    def difference(got: Sequence[Tensor],
                   expected: Sequence[Tensor]) -> Tuple[float, float]:
        """Largest gap between the best logit and that of the chosen class.

        The labels themselves are not compared: where two classes have almost
        the same logit, rounding decides between them.

        Returns:
            tuple[float, float]: The largest gap (infinity if the shapes differ)
            and the largest absolute logit of the reference.

        Raises:
            ValueError: If there is only one class.
        """
        (labels, ), (logits, ) = got, expected
        if logits.shape[1] == 1:
            raise ValueError('a label map of one class cannot be checked: '
                             'export logits')
        if labels.shape != logits[:, 0].shape:
            return float('inf'), 1.
        chosen = logits.gather(1, labels[:, None])[:, 0]
        return ((logits.amax(1) - chosen).max().item(),
                logits.abs().max().item())
