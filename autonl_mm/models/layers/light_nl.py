# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""LightNL, the lightweight non-local block (AutoNL, section 3.1).

Shapes: N images, C channels, H x W the map, k compact channels, s the
stride, h x w = ceil(H/s) x ceil(W/s) the strided map.
"""
from typing import Optional

import torch
import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor

from autonl_mm.cost import light_nl_order
from autonl_mm.deploy import DeployMixin
from autonl_mm.ops import fused_light_nl, load_fused_operators, pack_weights, runs_fused
from autonl_mm.registry import MODELS

ORDERS = ('auto', 'channel', 'spatial')
LOW_PRECISION = (torch.float16, torch.bfloat16)


def light_nl(x: Tensor,
             nl_channels: int,
             stride: int = 1,
             order: str = 'auto',
             weight: Optional[Tensor] = None) -> Tensor:
    r"""The compact non-local operation, ``y = x_c x_sc^T x_s / (HW)``.

    .. math::
        y_{c,p} = \frac{1}{HW} \sum_q \Big(\sum_{i<k} x_{i,p} x^s_{i,q}\Big)
                  x^s_{c,q}

    with :math:`x^s` every ``stride``-th row and column of ``x``. The divisor
    is the full map's size whatever the stride, as in the paper's equation and
    its TensorFlow release; the PyTorch release has no divisor on square maps.

    Args:
        x (Tensor): Features, ``(N, C, H, W)``.
        nl_channels (int): k, how many of the first channels make the
            affinity.
        stride (int): s. Defaults to 1.
        order (str): ``'channel'`` forms the C x k context matrix, MACs
            ``(hw + HW) * k * C``; ``'spatial'`` the HW x hw affinity, MACs
            ``HW * hw * (k + C)``; ``'auto'`` takes the cheaper. Defaults to
            ``'auto'``.
        weight (Tensor, optional): ``(k, hw)``, how much each channel at each
            sampled position counts in the affinity: a search's relaxation of
            fewer channels and of a wider stride. Defaults to None.

    Returns:
        Tensor: ``(N, C, H, W)``, in the precision of ``x``.
    """
    n, c, h, w = x.shape
    # A row a position, the order of channels_last: there these are views, and
    # y is in that layout too, in which the depthwise convolution is fastest.
    x_s = x.permute(0, 2, 3, 1).flatten(1, 2)  # (N, HW, C)
    x_c = x_sc = x_s[..., :nl_channels]  # (N, HW, k)
    if stride > 1:
        # Copied as a map: a copy of rows would fix even sizes in torch.export.
        sampled = x[:, :, ::stride, ::stride].contiguous(
            memory_format=torch.channels_last)
        x_s = sampled.permute(0, 2, 3, 1).flatten(1, 2)  # (N, hw, C)
        x_sc = x_s[..., :nl_channels]  # (N, hw, k)
    if weight is not None:
        x_sc = x_sc * weight.t()
    x_sc = x_sc.transpose(1, 2)  # (N, k, hw)
    if order == 'auto':
        order = light_nl_order(c, nl_channels, h * w, x_s.shape[1])
    # Dividing the small matrix spares a pass over the map.
    if order == 'channel':
        context = torch.bmm(x_sc, x_s) / (h * w)  # (N, k, C)
        y = torch.bmm(x_c, context)
    else:
        affinity = torch.bmm(x_c, x_sc) / (h * w)  # (N, HW, hw)
        y = torch.bmm(affinity, x_s)
    return y.view(n, h, w, c).permute(0, 3, 1, 2)


def affinity_rows(x: Tensor,
                  nl_channels: int,
                  stride: int,
                  positions: Tensor) -> Tensor:
    """Rows of the affinity of :func:`light_nl`, and nothing else of it.

    Args:
        x (Tensor): Features, ``(N, C, H, W)``.
        nl_channels (int): k, how many of the first channels make the
            affinity.
        stride (int): s.
        positions (Tensor): ``(P, 2)`` of integers, row and column of the map
            of each of P positions.

    Returns:
        Tensor: ``(N, P, h, w)``: how much each sampled position weighs in the
        output at each of the positions, the divisor HW included.
    """
    h, w = x.shape[2:]
    compact = x[:, :nl_channels]
    sampled = compact[:, :, ::stride, ::stride]
    queries = compact[:, :, positions[:, 0], positions[:, 1]]  # (N, k, P)
    rows = torch.matmul(queries.transpose(1, 2), sampled.flatten(2)) / (h * w)
    return rows.unflatten(2, sampled.shape[2:])


@MODELS.register_module()
class LightNL(DeployMixin, BaseModule):
    """Plug-in layer ``z = x + BN(DWConv3x3(light_nl(x)))``.

    BN's weight starts at zero, so a new block is the identity.

    Args:
        in_channels (int): C, channels in and out.
        channel_ratio (float): r; the affinity is made of the first
            ``int(r * C)`` channels. Defaults to 0.25.
        stride (int): s, spatial stride of the compact features. Defaults
            to 1.
        order (str): Order of the products, see :func:`light_nl`. Defaults to
            ``'auto'``.
        norm_cfg (dict, optional): Normalisation; None for none. Defaults to
            ``dict(type='BN')``.
        zero_init (bool): Whether the block starts as the identity, by a zero
            BN weight or, without normalisation, a zero kernel. It stays so
            through ``init_weights`` of a surrounding model, whatever that
            says of normalisation layers. Defaults to True.
        dilation (int): Dilation of the depthwise convolution, for backbones
            whose stride was exchanged for dilation. Defaults to 1.
        init_cfg (dict, optional): Initialisation instead of the paper's.
            Defaults to None.

    Raises:
        ValueError: If a value is out of range; names it.

    Shape:
        ``(N, C, H, W)`` in, the same out, in the precision of the input. For
        float16 and bfloat16 the branch is computed in float32: it is cubic
        in ``x``, activations of 1e3 make 1e9. For the same reason
        ``model.half()`` leaves its few parameters and the statistics of its
        normalisation in float32.
    """

    _abbr_ = 'light_nl'

    def __init__(self,
                 in_channels: int,
                 channel_ratio: float = 0.25,
                 stride: int = 1,
                 order: str = 'auto',
                 norm_cfg: Optional[dict] = dict(type='BN'),
                 zero_init: bool = True,
                 dilation: int = 1,
                 init_cfg: Optional[dict] = None):
        super().__init__(init_cfg=init_cfg)
        if not 0 < channel_ratio <= 1:
            raise ValueError(f'channel_ratio of LightNL is {channel_ratio}, '
                             'expected a ratio in (0, 1]')
        self.nl_channels = int(in_channels * channel_ratio)
        if self.nl_channels < 1:
            raise ValueError(
                f'channel_ratio {channel_ratio} of {in_channels} channels '
                'leaves LightNL no channel, expected at least '
                f'{1 / in_channels:.4g}')
        if not isinstance(stride, int) or stride < 1:
            raise ValueError(f'stride of LightNL is {stride!r}, expected a '
                             'positive integer')
        if not isinstance(dilation, int) or dilation < 1:
            raise ValueError(f'dilation of LightNL is {dilation!r}, expected '
                             'a positive integer')
        if order not in ORDERS:
            raise ValueError(f'order of LightNL is {order!r}, expected one of '
                             f'{ORDERS}')
        self.in_channels = in_channels
        self.channel_ratio = channel_ratio
        self.stride = stride
        self.order = order
        self.zero_init = zero_init
        self.fused = False
        self.conv = nn.Conv2d(
            in_channels,
            in_channels,
            3,
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            bias=False)
        self.norm = (
            build_norm_layer(norm_cfg, in_channels)[1]
            if norm_cfg else nn.Identity())
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        init_depthwise(self.conv)
        if isinstance(self.norm, nn.Identity):
            if self.zero_init:
                nn.init.zeros_(self.conv.weight)
        else:
            nn.init.constant_(self.norm.weight, 0 if self.zero_init else 1)
            nn.init.zeros_(self.norm.bias)

    def init_weights(self) -> None:
        """Undo what a parent's rule for all norms did, then ``init_cfg``."""
        self._reset_parameters()
        super().init_weights()

    def _apply(self, fn, *args, **kwargs):
        # What .half(), .to() and the like do to every tensor of a module.
        def keep_precision(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            if new.dtype in LOW_PRECISION and tensor.dtype != new.dtype:
                return tensor.to(new.device)
            return new

        super()._apply(keep_precision, *args, **kwargs)
        if self.fused:
            pack_weights(self.conv)
        return self

    def use_fused_operator(self) -> None:
        """Compute the block as one operator where there is one for it.

        That is on a CPU, in float32, without gradients
        (``torch.no_grad()``), and after normalisation was folded; anything
        else is computed as before.

        Raises:
            RuntimeError: If the operator does not compile.
        """
        load_fused_operators()
        # A subclass may compute something else.
        self.fused = (type(self) is LightNL and self.conv.bias is not None
                      and isinstance(self.norm, nn.Identity))
        if self.fused:
            pack_weights(self.conv)

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        """``(N, C, H, W)`` to ``(N, C, H, W)``.

        Args:
            x (Tensor): Features.
            residual (Tensor, optional): What a block adds after LightNL, of
                the same shape: the fused operator does it in the same pass.
        """
        if self.fused and runs_fused(x):
            return fused_light_nl(x, self.conv.weight, self.conv.bias,
                                  self.nl_channels, self.stride, self.order,
                                  self.conv.dilation[0], residual)
        out = x + self.branch(x)
        return out if residual is None else residual + out

    def branch(self, x: Tensor, weight: Optional[Tensor] = None) -> Tensor:
        """What the block adds to ``x``, ``(N, C, H, W)``.

        Args:
            x (Tensor): Features, ``(N, C, H, W)``.
            weight (Tensor, optional): As for :func:`light_nl`.
        """
        if _autocasts(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.branch(x, weight)
        y = x.float() if x.dtype in LOW_PRECISION else x
        y = light_nl(y, self.nl_channels, self.stride, self.order, weight)
        return self.norm(self.conv(y)).to(x.dtype)

    def extra_repr(self) -> str:
        return (f'{self.in_channels}, nl_channels={self.nl_channels}, '
                f'stride={self.stride}, order={self.order!r}')


@MODELS.register_module()
class SharedNL(LightNL):
    """The step from a conventional non-local block to LightNL.

    Features are shared, ``y = x x^T x / (HW)`` without theta, phi and g, but
    ``W_z`` is still a 1x1 convolution. ``LightNL(channel_ratio=1)`` is the
    next step.

    Args:
        in_channels (int): C, channels in and out.
        order (str): Order of the products, see :func:`light_nl`. Defaults to
            ``'auto'``.
        norm_cfg (dict, optional): Normalisation; None for none. Defaults to
            ``dict(type='BN')``.
        zero_init (bool): Whether the block starts as the identity. Defaults
            to True.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Shape:
        ``(N, C, H, W)`` in, the same out.
    """

    _abbr_ = 'shared_nl'

    def __init__(self,
                 in_channels: int,
                 order: str = 'auto',
                 norm_cfg: Optional[dict] = dict(type='BN'),
                 zero_init: bool = True,
                 init_cfg: Optional[dict] = None):
        super().__init__(
            in_channels,
            channel_ratio=1,
            order=order,
            norm_cfg=norm_cfg,
            zero_init=zero_init,
            init_cfg=init_cfg)
        self.conv = nn.Conv2d(in_channels, in_channels, 1, bias=False)
        self._reset_parameters()


def _autocasts(device_type: str) -> bool:
    """Whether autocast is on: switching it off takes as long as a product."""
    try:
        return torch.is_autocast_enabled(device_type)
    except TypeError:  # before torch 2.4 it knew one device
        return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


def init_depthwise(conv: nn.Conv2d) -> None:
    """Normal init with fan-out ``k * k``, as both releases have it.

    A depthwise kernel's every output channel feeds on one input channel, but
    torch's ``fan_out`` multiplies by the channels all the same and would make
    the weights smaller by their square root.
    """
    nn.init.kaiming_normal_(conv.weight, mode='fan_in', nonlinearity='relu')
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
