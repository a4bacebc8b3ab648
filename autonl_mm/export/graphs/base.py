# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What all graphs share: preprocessing, and what a graph is.

A graph takes images ``(N, 3, H, W)`` as the config's pipeline loads them,
float32 from 0 to 255 in OpenCV's channel order, and does the data
preprocessor's part itself: channel order, normalisation, padding.

Beside its forward pass it has ``reference``, what the library's own code makes
of the same images, and ``difference``, how far an output is from that.
"""
from typing import Sequence, Tuple

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
        """Images to what the backbone takes."""
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


def logit_difference(got: Sequence[Tensor],
                     expected: Sequence[Tensor]) -> Tuple[float, float]:
    """Largest difference of logits, and the scale that it is measured on.

    Args:
        got (Sequence[Tensor]): The logits alone.
        expected (Sequence[Tensor]): Of the reference, likewise.
    """
    (got, ), (expected, ) = got, expected
    if got.shape != expected.shape:
        return float('inf'), 1.
    return (got - expected).abs().max().item(), expected.abs().max().item()
