# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Depthwise convolutions of small feature maps, which train fast on a CPU."""
from typing import Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call


def depthwise_conv2d(x: Tensor,
                     conv: nn.Conv2d,
                     weight: Optional[Tensor] = None) -> Tensor:
    """A depthwise convolution whose weight may be trained on small feature maps.

    For a feature map with fewer rows than the kernel has, oneDNN (torch 2.13) takes the
    gradient of the weight in a loop that is not vectorised: 73 ms for 64 feature maps
    of 1152x4x4 and a 5x5 kernel, where the forward pass takes 1.2 ms. One product for
    each position of the kernel takes 15 ms (``benchmark.py --parts depthwise``).
    All other results are computed by ``conv`` itself.

    Args:
        x (Tensor): ``(N, C, H, W)``.
        conv (nn.Conv2d): The convolution, of C groups.
        weight (Tensor, optional): Replaces the weight of ``conv``. Defaults to None.

    Returns:
        Tensor: ``(N, C, H', W')``.
    """
    if has_slow_gradient(x, conv):
        return _DepthwiseConv2d.apply(
            x, conv.weight if weight is None else weight, conv.bias, conv.stride,
            conv.padding, conv.dilation)
    if weight is None:
        return conv(x)
    return functional_call(conv, dict(weight=weight), (x, ))


def is_plain(conv: nn.Module) -> bool:
    """Whether a layer is torch's convolution with zeros for padding.

    The forms of our own, such as the fused operators, compute nothing else. A
    ``conv_cfg`` may name a subclass or set ``padding_mode``.

    Args:
        conv (nn.Module): The layer.
    """
    return type(conv) is nn.Conv2d and conv.padding_mode == 'zeros'


def has_slow_gradient(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether oneDNN would use the slow path for the gradient of the weight.

    Args:
        x (Tensor): ``(N, C, H, W)``.
        conv (nn.Conv2d): The convolution. False for a convolution with a hook, which
            must be called, and where :func:`is_plain` is false.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False  # and ask nothing of the sizes, which may be symbols
    weight = conv.weight
    return (x.device.type == 'cpu' and torch.is_grad_enabled()
            and weight.requires_grad and is_plain(conv)
            and not conv._forward_hooks and not conv._forward_pre_hooks
            and x.shape[2] <= conv.dilation[0] * (conv.kernel_size[0] - 1)
            and x.dtype == weight.dtype == torch.float32
            and not torch.is_autocast_enabled('cpu')
            # is_contiguous(memory_format=channels_last), which vmap does not know
            and x.permute(0, 2, 3, 1).is_contiguous())


class _DepthwiseConv2d(torch.autograd.Function):

    # for torch.func; all operations below can be differentiated again
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Optional[Tensor],
                stride: Tuple[int, int], padding: Tuple[int, int],
                dilation: Tuple[int, int]) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding, dilation, x.shape[1])

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        x, weight, _, *ctx.arguments = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.arguments
        of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
        grad_x = grad_weight = grad_bias = None
        if of_x:
            grad_x = torch.ops.aten.convolution_backward(
                grad, x, weight, None, stride, padding, dilation, False, (0, 0),
                x.shape[1], (True, False, False))[0]
        if of_weight:
            # (N, H, W, C): channels side by side, which are multiplied together
            grad = grad.permute(0, 2, 3, 1)
            padded = F.pad(x.permute(0, 2, 3, 1),
                           (0, 0, padding[1], padding[1], padding[0], padding[0]))
            rows, columns = weight.shape[2:]
            h, w = grad.shape[1:3]
            taps = []
            for i in range(0, rows * dilation[0], dilation[0]):
                for j in range(0, columns * dilation[1], dilation[1]):
                    sampled = padded[:, i:i + stride[0] * h:stride[0],
                                     j:j + stride[1] * w:stride[1]]
                    taps.append((sampled * grad).sum((0, 1, 2)))
            grad_weight = torch.stack(taps, 1).view_as(weight)
        if of_bias:
            grad_bias = grad.sum((0, 1, 2) if of_weight else (0, 2, 3))
        return grad_x, grad_weight, grad_bias, None, None, None
