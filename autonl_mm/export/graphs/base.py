# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The base class of graphs, and their preprocessing.

A graph takes images ``(N, 3, H, W)`` as the config's pipeline loads them: float32 from
0 to 255 in OpenCV's channel order. It includes the data preprocessor: channel order,
normalisation and padding.

The method ``reference`` runs the library's own code on the same images. ``difference``
compares outputs with that reference, ``agreement`` compares predictions, by the rule
by which the library's head makes them.
"""
from typing import Sequence, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from autonl_mm.models import LightNL


class Preprocess(nn.Module):
    """The test-time part of a data preprocessor, as tensor operations.

    Args:
        preprocessor (nn.Module): Data preprocessor of mmpretrain, mmdet or mmseg.

    Raises:
        ValueError: If the preprocessor pads to a fixed size.

    Shape:
        ``(N, 3, H, W)`` in; the same out, with H and W padded to multiples of
        the preprocessor's divisor.
    """

    def __init__(self, preprocessor: nn.Module):
        super().__init__()
        # The three libraries name this setting differently.
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
                'graphs cannot pad to a fixed size: remove it, and resize in '
                'the pipeline')
        if padding.get('size_divisor'):
            self.divisor = padding['size_divisor']
            self.pad_value = preprocessor.pad_val

    def forward(self, x: Tensor) -> Tensor:
        """Turn images into the input of the backbone."""
        if self.flip and x.shape[1] == 3:
            # slices, because ncnn has neither indexing by a list nor reversal
            x = torch.cat([x[:, 2:3], x[:, 1:2], x[:, 0:1]], 1)
        if self.normalise:
            x = (x - self.mean) / self.std
        if self.divisor > 1:
            h, w = x.shape[2:]
            x = F.pad(x, (0, -w % self.divisor, 0, -h % self.divisor),
                      value=self.pad_value)
        return x


class TaskGraph(nn.Module):
    """Base of the graphs. Its outputs are logits.

    Args:
        model (nn.Module): A task model in deploy form, which may be changed.
        preprocess (bool): Whether the graph includes the data preprocessor. If not,
            its input is the output of :meth:`prepare`. Defaults to True.
    """

    task: str
    outputs: Sequence[str]

    def __init__(self, model: nn.Module, preprocess: bool = True):
        super().__init__()
        self.preprocess = Preprocess(model.data_preprocessor)
        self.preprocesses = preprocess
        self.model = model

    def prepare(self, images: Tensor) -> Tensor:
        """Input of the graph, from images ``(N, C, H, W)`` as they are loaded."""
        return images if self.preprocesses else self.preprocess(images)

    def inputs(self, x: Tensor) -> Tensor:
        """Input of the backbone, from the input of the graph."""
        return self.preprocess(x) if self.preprocesses else x

    def use_channel_order(self) -> None:
        """Fix the order of LightNL's products, for a graph of any image size.

        The other order needs memory that is quadratic in the number of pixels.
        """
        for module in self.modules():
            if isinstance(module, LightNL):
                module.order = 'channel'

    def difference(self, got: Sequence[Tensor],
                   expected: Sequence[Tensor]) -> Tuple[float, float]:
        """Compare outputs.

        Args:
            got (Sequence[Tensor]): Outputs.
            expected (Sequence[Tensor]): Outputs of the reference.

        Returns:
            tuple[float, float]: Largest absolute difference (infinity if the shapes
            differ) and largest absolute value of the reference.
        """
        (got, ), (expected, ) = got, expected
        if got.shape != expected.shape:
            return float('inf'), 1.
        return (got - expected).abs().max().item(), expected.abs().max().item()
