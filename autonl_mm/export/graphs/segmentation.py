# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The graphs of an encoder-decoder of mmseg: logits, or a label map."""
from functools import partial
from typing import List, Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .base import TaskGraph


class SegmentorGraph(TaskGraph):
    """Images to ``logits (N, classes, H, W)`` of all pixels.

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
                # It computes its size in Python: a trace would fix the size.
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

    @staticmethod
    def check(model: nn.Module) -> None:
        """Refuse a segmentor whose outputs are not the logits of labels.

        Args:
            model (nn.Module): An encoder-decoder.

        Raises:
            ValueError: If it has its own post-processing; names the class.
        """
        from mmseg.models.segmentors import BaseSegmentor
        kind = type(model)
        if kind.postprocess_result is not BaseSegmentor.postprocess_result:
            raise ValueError(
                f'{kind.__name__} cannot be exported because it has its own '
                'postprocess_result: only segmentors with BaseSegmentor\'s can, such '
                'as EncoderDecoder')

    def scores(self, logits: Tensor) -> Tensor:
        """Scores ``(N, 2 or more, H, W)`` whose largest is the predicted label's.

        A single channel is the logit of label 1. The threshold's logit becomes the
        score of label 0.

        Args:
            logits (Tensor): ``(N, channels, H, W)``.
        """
        if logits.shape[1] > 1:
            return logits
        threshold = logits.new_tensor(self.model.decode_head.threshold).logit()
        return torch.cat([threshold.expand_as(logits), logits], 1)

    def agreement(self, got: Sequence[Tensor],
                  expected: Sequence[Tensor]) -> Tuple[int, int]:
        """Count equal labels.

        Args:
            got (Sequence[Tensor]): Outputs.
            expected (Sequence[Tensor]): Outputs of the reference.

        Returns:
            tuple[int, int]: Number of pixels with the same label, and of all.
        """
        same = self.scores(got[0]).argmax(1) == self.scores(expected[0]).argmax(1)
        return int(same.sum()), same.numel()


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

    def agreement(self, got: Sequence[Tensor],
                  expected: Sequence[Tensor]) -> Tuple[int, int]:
        """Number of pixels with the reference's label, and number of all pixels."""
        same = got[0] == self.scores(expected[0]).argmax(1)
        return int(same.sum()), same.numel()

    def difference(self, got: Sequence[Tensor],
                   expected: Sequence[Tensor]) -> Tuple[float, float]:
        """Largest gap between the best logit and the chosen label's logit.

        Labels are not compared, because rounding decides between classes with almost
        the same logit.

        Returns:
            tuple[float, float]: The largest gap (infinity if the shapes differ)
            and the largest absolute logit of the reference.
        """
        (labels, ), (logits, ) = got, expected
        if labels.shape != logits[:, 0].shape:
            return float('inf'), 1.
        scores = self.scores(logits)
        chosen = scores.gather(1, labels[:, None])[:, 0]
        return ((scores.amax(1) - chosen).max().item(),
                logits.abs().max().item())
