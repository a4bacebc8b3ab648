# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""LightNL and MBConv as single CPU operators, compiled at their first use."""
from typing import Optional

import torch
import torch.nn as nn
from torch import Tensor

from autonl_mm.cost import light_nl_order

from .build import compiled_library


def load_fused_operators() -> None:
    """Load the operators that the functions below call.

    The first call on a machine compiles them, which takes half a minute;
    ``python -m autonl_mm.ops`` does it ahead of time, as ``make setup`` does.
    The library is kept in ``autonl_mm`` inside of ``XDG_CACHE_HOME``, by
    default ``~/.cache``, and runs on all processors of the architecture.
    ``torch.utils.cpp_extension`` is not used: it needs ninja, and a process
    that is killed while it compiles leaves a lock that other processes wait for.

    Raises:
        RuntimeError: If the C++ compiler (``c++``, or the one that the
            environment variable ``CXX`` names) does not start or fails.
    """
    if not hasattr(torch.ops.autonl_mm, 'mbconv'):
        with compiled_library() as library:
            torch.ops.load_library(str(library))


def fused_light_nl(x: Tensor,
                   weight: Tensor,
                   bias: Tensor,
                   nl_channels: int,
                   stride: int = 1,
                   order: str = 'auto',
                   dilation: int = 1,
                   residual: Optional[Tensor] = None,
                   normalize: str = 'rms') -> Tensor:
    """``x + conv(light_nl(x)) + residual`` in one pass, forward only.

    Fastest where ``x`` is in channels_last. Call :func:`load_fused_operators`
    first.

    Args:
        x (Tensor): Features, ``(N, C, H, W)``, float32, on the CPU.
        weight (Tensor): Weight of the depthwise convolution,
            ``(C, 1, 3, 3)``.
        bias (Tensor): Its bias, ``(C, )``.
        nl_channels (int): k; this and the next two are arguments of
            :func:`autonl_mm.models.light_nl`.
        stride (int): s. Defaults to 1.
        order (str): Order of the products. Defaults to ``'auto'``.
        dilation (int): Dilation of the convolution. Defaults to 1.
        residual (Tensor, optional): Added to the result, ``(N, C, H, W)``,
            float32. Defaults to None.
        normalize (str): Divisor of the product, ``'rms'`` or ``'size'``. Defaults to
            ``'rms'``.

    Returns:
        Tensor: ``(N, C, H, W)``, in the memory format of ``x``.

    Raises:
        RuntimeError: If a shape, a dtype or a setting does not fit; names it.
    """
    return torch.ops.autonl_mm.light_nl.default(
        x, weight, bias, residual, nl_channels, stride, dilation,
        _spatial(order, x.shape[1:], nl_channels, stride, normalize), normalize)


def fused_mbconv(x: Tensor,
                 expand: Optional[nn.Conv2d],
                 depthwise: nn.Conv2d,
                 reduce: Optional[nn.Conv2d],
                 gate: Optional[nn.Conv2d],
                 project: nn.Conv2d,
                 activation: str,
                 identity: bool,
                 light_nl: Optional[nn.Module] = None,
                 se_activation: Optional[str] = None) -> Tensor:
    """An inverted residual block in one pass, forward only.

    All numbers of channels must be multiples of 8. Fastest where ``x`` is in
    channels_last and :func:`pack_weights` was called on the layers. Call
    :func:`load_fused_operators` first.

    Args:
        x (Tensor): Features, ``(N, C_in, H, W)``, float32, on the CPU.
        expand (nn.Conv2d, optional): 1x1 convolution, followed by the
            activation; None for a block without it. All convolutions must
            have a bias.
        depthwise (nn.Conv2d): Depthwise k x k convolution with padding
            ``dilation * (k // 2)``, followed by the activation.
        reduce (nn.Conv2d, optional): First 1x1 convolution of squeeze-excite,
            followed by its activation; None for a block without it.
        gate (nn.Conv2d, optional): Second 1x1 convolution of squeeze-excite, followed
            by a sigmoid.
        project (nn.Conv2d): 1x1 convolution without activation.
        activation (str): ``'silu'``, ``'hardswish'``, ``'relu'`` or ``'relu6'``.
        identity (bool): Whether ``x`` is added to the result.
        light_nl (LightNL, optional): Applied after the project convolution;
            its normalisation must be folded. Defaults to None.
        se_activation (str, optional): The activation of squeeze-excite. Defaults to
            None, ``activation``.

    Returns:
        Tensor: ``(N, C_out, ceil(H/stride), ceil(W/stride))``, in the memory
        format of ``x``.

    Raises:
        RuntimeError: If a shape, a dtype or a setting does not fit; names it.
    """
    parameters = []
    for conv in (expand, depthwise, reduce, gate, project,
                 None if light_nl is None else light_nl.conv):
        parameters += ((None, None) if conv is None else
                       (conv.weight, conv.bias))
    stride = depthwise.stride[0]
    nl_settings = (0, 0, 0, False, 'rms')
    if light_nl is not None:
        shape = (project.out_channels, -(-x.shape[2] // stride),
                 -(-x.shape[3] // stride))
        nl_settings = (light_nl.nl_channels, light_nl.stride,
                       light_nl.conv.dilation[0],
                       _spatial(light_nl.order, shape, light_nl.nl_channels,
                                light_nl.stride, light_nl.normalize),
                       light_nl.normalize)
    return torch.ops.autonl_mm.mbconv.default(x, *parameters, identity,
                                              activation,
                                              se_activation or activation, stride,
                                              depthwise.dilation[0],
                                              *nl_settings)


def runs_fused(x: Tensor) -> bool:
    """Whether the operators can be used for ``x``: float32, on the CPU,
    without gradients."""
    return (x.dtype == torch.float32 and x.device.type == 'cpu'
            and not torch.is_grad_enabled())


def pack_weights(*convs: Optional[nn.Conv2d]) -> None:
    """Store the weights, ``(O, I, k, k)``, with output channels last.

    This is the layout that the operators read. With another layout, each call
    makes a copy. Shapes and values stay the same.

    Args:
        convs (nn.Conv2d, optional): Convolutions to change; None is skipped.
    """
    for conv in filter(None, convs):
        weight = conv.weight.data
        conv.weight.data = weight.permute(1, 2, 3, 0).contiguous().permute(
            3, 0, 1, 2)


def _spatial(order: str, shape, nl_channels: int, stride: int,
             normalize: str) -> bool:
    """Whether LightNL of a feature map ``(C, H, W)`` forms the affinity."""
    if order == 'auto':
        c, h, w = shape
        order = light_nl_order(c, nl_channels, h * w,
                               -(-h // stride) * -(-w // stride), normalize)
    return order == 'spatial'
