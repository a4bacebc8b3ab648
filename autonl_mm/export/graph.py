# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What of a classifier or segmentor goes into an ONNX file.

A graph takes pictures ``(N, 3, H, W)`` as the config's pipeline loads them,
float32 from 0 to 255 in OpenCV's channel order, and does the data
preprocessor's part itself: channel order, normalisation, padding.

Beside its forward pass it has ``reference``, what the library's own code makes
of the same pictures, and ``difference``, how far an output is from that.
"""
from functools import partial
from typing import List, Sequence, Tuple

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from autonl_mm.models import LightNL


class Preprocess(nn.Module):
    """The test-time part of a data preprocessor, as tensor operations.

    Args:
        preprocessor (nn.Module): Of a model of mmpretrain, mmdet or mmseg.

    Raises:
        ValueError: If it pads to a fixed size.

    Shape:
        ``(N, 3, H, W)`` in; out the same, rounded up to the preprocessor's
        divisor.
    """

    def __init__(self, preprocessor: nn.Module):
        super().__init__()
        # One setting, three libraries, three names.
        self.flip = any(
            getattr(preprocessor, name, False)
            for name in ('_channel_conversion', 'channel_conversion',
                         'to_rgb'))
        self.normalise = getattr(preprocessor, '_enable_normalize', False)
        if self.normalise:
            self.register_buffer('mean', preprocessor.mean.float())
            self.register_buffer('std', preprocessor.std.float())
        self.divisor = getattr(preprocessor, 'pad_size_divisor', 1)
        self.pad_value = getattr(preprocessor, 'pad_value', 0)
        padding = getattr(preprocessor, 'test_cfg', None) or {}
        if padding.get('size'):
            raise ValueError(
                f'data_preprocessor.test_cfg.size is {padding["size"]}: '
                'graphs pad to no fixed size; remove it, and resize in the '
                'pipeline')
        if padding.get('size_divisor'):
            self.divisor = padding['size_divisor']
            self.pad_value = preprocessor.pad_val

    def forward(self, x: Tensor) -> Tensor:
        """Pictures to what the backbone takes."""
        if self.flip and x.shape[1] == 3:
            x = x[:, [2, 1, 0]]
        if self.normalise:
            x = (x - self.mean) / self.std
        if self.divisor > 1:
            h, w = x.shape[2:]
            x = F.pad(x, (0, -w % self.divisor, 0, -h % self.divisor),
                      value=self.pad_value)
        return x


class TaskGraph(nn.Module):
    """Base of the graphs.

    Args:
        model (nn.Module): A task model in deploy form; the graph's own.
    """

    task: str
    outputs: Sequence[str]

    def __init__(self, model: nn.Module):
        super().__init__()
        self.preprocess = Preprocess(model.data_preprocessor)
        self.model = model

    def use_channel_order(self) -> None:
        """Let no graph for all sizes hold a product quadratic in pixels."""
        for module in self.modules():
            if isinstance(module, LightNL):
                module.order = 'channel'


class ClassifierGraph(TaskGraph):
    """Pictures to ``logits (N, classes)``, whose softmax are the scores."""

    task = 'classification'
    outputs = ('logits', )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, classes)``."""
        return self.model(self.preprocess(x), mode='tensor')

    @staticmethod
    def reference(model: nn.Module, pictures: Tensor) -> List[Tensor]:
        """The logits of mmpretrain's model."""
        inputs = model.data_preprocessor(dict(inputs=pictures))['inputs']
        return [model(inputs, mode='tensor')]

    @staticmethod
    def difference(got: Sequence[Tensor],
                   expected: Sequence[Tensor]) -> Tuple[float, float]:
        """Largest difference, and the scale that it is measured on."""
        (got, ), (expected, ) = got, expected
        if got.shape != expected.shape:
            return float('inf'), 1.
        return ((got - expected).abs().max().item(),
                expected.abs().max().item())


class SegmentorGraph(TaskGraph):
    """Pictures to ``logits (N, classes, H, W)`` of each pixel.

    Args:
        model (nn.Module): An encoder-decoder of mmseg in deploy form.
    """

    task = 'segmentation'
    outputs = ('logits', )

    def __init__(self, model: nn.Module):
        from mmseg.models.utils import Upsample
        super().__init__(model)
        for module in model.modules():
            if isinstance(module, Upsample) and not module.size:
                # It computes its size in Python, which a trace would keep.
                module.forward = partial(
                    F.interpolate,
                    scale_factor=module.scale_factor,
                    mode=module.mode,
                    align_corners=module.align_corners)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, classes, H, W)``."""
        logits = self._logits(self.model, self.preprocess(x))
        if self.preprocess.divisor > 1:
            logits = logits[:, :, :x.shape[2], :x.shape[3]]
        return logits

    @staticmethod
    def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
        return model.encode_decode(inputs, [dict(img_shape=inputs.shape[2:])])

    @classmethod
    def reference(cls, model: nn.Module, pictures: Tensor) -> List[Tensor]:
        """The logits of mmseg's model, whole pictures."""
        from mmseg.structures import SegDataSample
        data = model.data_preprocessor(
            dict(inputs=list(pictures),
                 data_samples=[SegDataSample() for _ in pictures]))
        h, w = pictures.shape[2:]
        return [cls._logits(model, data['inputs'])[:, :, :h, :w]]

    difference = staticmethod(ClassifierGraph.difference)


class LabelMapGraph(SegmentorGraph):
    """Pictures to ``labels (N, H, W)``, the class of each pixel."""

    outputs = ('labels', )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, H, W)`` of int64."""
        logits = super().forward(x)
        if logits.shape[1] > 1:
            return logits.argmax(1)
        threshold = self.model.decode_head.threshold
        return (logits[:, 0].sigmoid() > threshold).long()

    @staticmethod
    def difference(got: Sequence[Tensor],
                   expected: Sequence[Tensor]) -> Tuple[float, float]:
        """How much less the chosen class has than the best, at most.

        So that rounding may decide where two classes have the same logit.
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


def graph_type(model: nn.Module, labels: bool = False) -> type:
    """The graph for a model.

    Args:
        model (nn.Module): A task model of mmpretrain, mmdet or mmseg.
        labels (bool): Whether a segmentor is to give label maps. Defaults to
            False, logits.

    Returns:
        type: A :class:`TaskGraph`.

    Raises:
        ValueError: If there is none; says what there is.
    """
    if hasattr(model, 'encode_decode'):
        return LabelMapGraph if labels else SegmentorGraph
    if labels:
        raise ValueError(f'label maps are for segmentors, the model is a '
                         f'{type(model).__name__}')
    if hasattr(model, 'bbox_head'):
        # Only this needs mmdet.
        from .detection import DetectorGraph
        DetectorGraph.check(model)
        return DetectorGraph
    if hasattr(model, 'head') and hasattr(model, 'extract_feat'):
        return ClassifierGraph
    raise ValueError(
        f'{type(model).__name__} cannot be exported: expected a classifier of '
        'mmpretrain, an encoder-decoder of mmseg or a single-stage detector '
        'of mmdet')
