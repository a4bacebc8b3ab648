# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Blocks that LightNL is compared with; no network needs them.

Configs name them as ``type='autonl_mm.SharedNL'``.
"""
from typing import Optional, Tuple

import torch
import torch.nn as nn
from torch import Tensor

from autonl_mm.cost import light_nl_order
from autonl_mm.models import LightNL, SqueezeExcite, light_nl_reference
from autonl_mm.models.layers.export_and_precision import (
    at_least_float32,
    largest,
    root,
    without_autocast,
)
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


# What LightNLForm convolves. Each form takes the feature map x, (N, P, C), and its
# sampled positions s, (N, S, C), of N images with C channels and P or S positions, k,
# and the order of the products. It returns y, (N, P, C).
GROUPS = 4


def _products(queries: Tensor, keys: Tensor, values: Tensor, order: str) -> Tensor:
    """``queries keys^T values`` of (N, P, k), (N, S, k), (N, S, C): (N, P, C)."""
    if order == 'channel':
        return queries @ (keys.transpose(1, 2) @ values)
    return queries @ keys.transpose(1, 2) @ values


# Means of a normalisation are sums: a mean counts as a pooling layer's MACs.
def _over_rms(y: Tensor, eps: float = 0.) -> Tensor:
    """Each image's ``y`` over its root mean square; zeros stay zeros."""
    return y / root(y.square().sum((1, 2), keepdim=True) / y[0].numel() + eps)


def _centre(x: Tensor, s: Tensor) -> Tuple[Tensor, Tensor]:
    """Both without the mean of the sampled positions."""
    mean = s.sum(1, keepdim=True) / s.shape[1]
    return x - mean, s - mean


def _conv(x, s, k, order):
    return x


def _conv_rms(x, s, k, order):
    return _over_rms(x / largest(x))


def _mean(x, s, k, order):
    return x.mean(1, keepdim=True).expand_as(x)


def _centred(x, s, k, order):
    scale = largest(x)
    x, s = _centre(x / scale, s / scale)
    # A constant feature map leaves rounding errors of 1e-7, whose y is below 1e-15.
    return _over_rms(_products(x[..., :k], s[..., :k], s, order), 1e-20)


def _correlation(x, s, k, order):
    x, s = _centre(x, s)
    keys = s[..., :k]
    variance = keys.square().sum(1, keepdim=True) / s.shape[1]
    queries = x[..., :k] / (variance + 1e-5)
    return _products(queries, keys, s, order) / (k * s.shape[1])


def _relu(x, s, k, order):
    x, s = _centre(x, s)
    queries, keys = x[..., :k].relu(), s[..., :k].relu()
    queries, keys = queries / largest(queries), keys / largest(keys)
    total = queries @ keys.sum(1, keepdim=True).transpose(1, 2)
    return _products(queries, keys, s, order) / (total + 1e-6)


def _groups(x, s, k, order):
    scale = largest(x)
    x, s = x / scale, s / scale
    parts = zip(*(t.tensor_split(GROUPS, -1) for t in (x[..., :k], s[..., :k], s)))
    return _over_rms(torch.cat([_products(*part, order) for part in parts], -1))


FORMS = dict(
    conv=_conv, conv_rms=_conv_rms, mean=_mean, centred=_centred,
    correlation=_correlation, relu=_relu, groups=_groups)


@MODELS.register_module()
class LightNLForm(LightNL):
    r"""``z = x + BN(DWConv3x3(y))`` with another ``y`` than LightNL's.

    With sums over the n sampled positions q, their mean :math:`\mu` and variance
    :math:`\sigma^2` of each channel, and channels i of the k compact ones, ``form`` is:

    - ``'conv'``: :math:`y = x`, one more depthwise convolution;
    - ``'conv_rms'``: x over its root mean square;
    - ``'mean'``: the image's mean vector at all positions;
    - ``'centred'``: :math:`\sum_i (x_{i,p} - \mu_i) M_{i,c}` over its root mean square,
      with :math:`M_{i,c} = \sum_q x_{i,q} x_{c,q} - n \mu_i \mu_c`;
    - ``'correlation'``: :math:`\frac{1}{k} \sum_i (x_{i,p} - \mu_i) M_{i,c} /
      (n (\sigma_i^2 + \epsilon))`; the root mean square of each of its channels is at
      most :math:`\sigma_c` at stride 1;
    - ``'relu'``: :math:`\sum_q a_{p,q} (x_{c,q} - \mu_c) / (\sum_q a_{p,q} +
      \epsilon)` with :math:`a_{p,q} = \sum_i relu(x_{i,p} - \mu_i) relu(x_{i,q} -
      \mu_i)`, a mean of the sampled positions, which is zero where no position is like
      p;
    - ``'groups'``: as LightNL, in each of four groups of compact channels with its
      share of the C channels, over its root mean square.

    A root mean square is of all positions, sampled or not, unlike LightNL's.

    Args:
        in_channels (int): C, channels in and out.
        form (str): The form of y.
        **kwargs: As for :class:`LightNL`, without ``normalize``.

    Raises:
        ValueError: If there is no such form, or fewer compact channels than groups.

    Shape:
        ``(N, C, H, W)`` in, the same out.
    """

    def __init__(self, in_channels: int, form: str, **kwargs):
        if form not in FORMS:
            raise ValueError(f'form of LightNLForm is {form!r}, expected one of '
                             f'{", ".join(FORMS)}')
        super().__init__(in_channels, **kwargs)
        if form == 'groups' and self.nl_channels < GROUPS:
            raise ValueError(
                f'channel_ratio {self.channel_ratio} of {in_channels} channels leaves '
                f'{self.nl_channels} compact channels for {GROUPS} groups')
        self.form = form

    def branch(self, x: Tensor, weight: Optional[Tensor] = None) -> Tensor:
        with without_autocast(x):
            rows = at_least_float32(x).permute(0, 2, 3, 1)
            sampled = rows[:, ::self.stride, ::self.stride].flatten(1, 2)
            positions, k = rows.flatten(1, 2), self.nl_channels
            order = self.order
            if order == 'auto':
                order = light_nl_order(self.in_channels, k, positions.shape[1],
                                       sampled.shape[1], 'size')
            y = FORMS[self.form](positions, sampled, k, order)
        y = y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return self._convolve(y).to(x.dtype)


@MODELS.register_module()
class SqueezeExcitePlugin(SqueezeExcite):
    """Squeeze-excite as a plug-in layer that starts as the identity.

    Its factor is twice the sigmoid, and its last layer starts at zero. In an inverted
    residual, its place is after the depthwise convolution.

    Args:
        in_channels (int): C, channels in and out.
        ratio (float): Hidden units as a share of C. Defaults to 0.25.

    Shape:
        ``(N, C, H, W)`` in, the same out.
    """

    _abbr_ = 'se'

    def __init__(self, in_channels: int, ratio: float = 0.25):
        super().__init__(
            in_channels, max(1, int(in_channels * ratio)), dict(type='SiLU'))
        self._start_as_identity()

    def init_weights(self) -> None:
        """Initialise by the parents' rules, and let the last layer start at zero."""
        super().init_weights()
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C, H, W)``."""
        scale = self.expand(self.act(self.reduce(self.pool(x))))
        return x * (2 * scale.sigmoid())
