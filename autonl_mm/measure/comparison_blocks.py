# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Blocks that LightNL is compared with; no network needs them.

Configs name them as ``type='autonl_mm.SharedNL'``.
"""
from typing import Optional, Union

import torch.nn as nn
from torch import Tensor

from autonl_mm.models import LightNL, SqueezeExcite, light_nl_reference
from autonl_mm.registry import MODELS


@MODELS.register_module()
class SharedNL(LightNL):
    """An intermediate step from a conventional non-local block to LightNL.

    It has LightNL's product ``y`` of all channels, without theta, phi and g, but
    ``W_z`` is still a 1x1 convolution. The next step is
    ``LightNL(channel_ratio=1)``.

    Args:
        in_channels (int): C, channels in and out.
        **kwargs: As for :class:`LightNL`, without ``channel_ratio`` and
            ``dilation``.

    Shape:
        ``(N, C, H, W)`` in, the same out.
    """

    _abbr_ = 'shared_nl'

    def __init__(self, in_channels: int, **kwargs):
        super().__init__(in_channels, channel_ratio=1, **kwargs)
        self.conv = nn.Conv2d(in_channels, in_channels, 1, bias=False)
        self._reset_parameters()


class EinsumLightNL(LightNL):
    """LightNL by :func:`~autonl_mm.models.layers.light_nl_reference`, in NCHW."""

    def branch(self, x: Tensor, weight: Optional[Tensor] = None) -> Tensor:
        y = light_nl_reference(x, self.nl_channels, self.stride, self.normalize)
        return self.norm(self.conv(y))


class AddOnly(LightNL):
    """The last step of LightNL: a feature map is added to the input."""

    def branch(self, x: Tensor, weight: Optional[Tensor] = None) -> Tensor:
        return x


class ConvolutionOnly(LightNL):
    """LightNL without its matrix products."""

    def branch(self, x: Tensor, weight: Optional[Tensor] = None) -> Tensor:
        return self.norm(self.conv(x))


@MODELS.register_module()
class SqueezeExcitePlugin(SqueezeExcite):
    """Squeeze-excite as a plug-in layer.

    Args:
        in_channels (int): C, channels in and out.
        hidden_channels (int | float): Hidden units; below 1, a share of C.

    Shape:
        ``(N, C, H, W)`` in, the same out.
    """

    _abbr_ = 'se'

    def __init__(self, in_channels: int, hidden_channels: Union[int, float]):
        if hidden_channels < 1:
            hidden_channels = max(1, int(in_channels * hidden_channels))
        super().__init__(in_channels, hidden_channels, dict(type='SiLU'))
