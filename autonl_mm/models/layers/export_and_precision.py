# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Forms of LightNL's operations for exporters, compilers and half precision.

None of them changes the mathematics, which is in :mod:`.light_nl`.
"""
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from autonl_mm.cost import light_nl_order

LOW_PRECISION = (torch.float16, torch.bfloat16)


def _is_exporting() -> bool:
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def subsample(x: Tensor, stride: int) -> Tensor:
    """Every ``stride``-th row and column of ``(N, C, H, W)``, in channels_last.

    In an exported graph it is a max pooling with a window of one pixel: ncnn has no
    slice with a step, and OpenVINO does not know its size if images have a dynamic
    size.
    """
    if _is_exporting():
        return F.max_pool2d(x, 1, stride)
    # Copied before flattening, as flatten would copy too, but to another layout. vmap
    # knows no contiguous(memory_format=channels_last).
    rows = x.permute(0, 2, 3, 1)[:, ::stride, ::stride].contiguous()
    return rows.permute(0, 3, 1, 2)


def largest(x: Tensor) -> Tensor:
    """The largest absolute value of each image, ``(N, 1, ...)``, as a divisor.

    It is a constant for the gradient, and never zero. An exported graph has no
    gradient, and not every exporter has ``detach``.
    """
    if not _is_exporting():
        x = x.detach()
    dims = tuple(range(1, x.dim()))
    return _positive(x.abs().amax(dims, keepdim=True))


def root(square: Tensor) -> Tensor:
    """``sqrt(square)`` as a divisor; infinity if it is no divisor.

    This is the case if the square is zero or outside of the range of the dtype. The
    quotient is then 0, and its gradients are 0. A product with rsqrt() would have the
    cube of the root in its gradient. An exported graph only keeps zero out of the
    divisor, because ncnn has no ``where``.
    """
    if _is_exporting():
        return _positive(square).sqrt()
    return torch.where(square > 0, square, float('inf')).sqrt()


_for_xnnpack = False  # Dynamo does not trace a ContextVar


def is_for_xnnpack() -> bool:
    """Whether LightNL is :func:`xnnpack_light_nl`."""
    return _for_xnnpack


@contextmanager
def for_xnnpack() -> Iterator[None]:
    """Make LightNL :func:`xnnpack_light_nl`, for an export."""
    global _for_xnnpack
    _for_xnnpack = True
    try:
        yield
    finally:
        _for_xnnpack = False


def xnnpack_light_nl(x: Tensor, nl_channels: int, stride: int, order: str,
                     normalize: str) -> Tensor:
    """:func:`.light_nl.light_nl` of XNNPACK's operators, with positions as columns.

    For any other operator the network leaves XNNPACK and enters it again, with copies
    of feature maps. Each permutation of a feature map is a copy too. So only products
    of small matrices are transposed, a mean replaces the largest value and the sums,
    and a depthwise convolution with ones takes the sampled positions.
    """
    n, c, h, w = x.shape

    def sampled(x: Tensor) -> Tensor:
        if stride > 1:
            x = F.conv2d(x, torch.ones(c, 1, 1, 1), stride=stride, groups=c)
        return x.flatten(2)

    def mean(x: Tensor) -> Tensor:  # XNNPACK has the mean of feature maps only
        maps = x.reshape(n, 1, *x.shape[1:])
        return maps.mean((2, 3), keepdim=True).reshape(n, 1, 1)

    x_p, x_s = x.flatten(2), sampled(x)  # (N, C, HW), (N, C, hw)
    x_c, x_sc, count = x_p[:, :nl_channels], x_s[:, :nl_channels], x_s.shape[2]
    if order == 'auto':
        order = light_nl_order(c, nl_channels, h * w, count, normalize)
    if order == 'channel':
        context = torch.bmm(x_s, x_sc.transpose(1, 2))  # (N, C, k)
        if normalize == 'size':
            context = context / (h * w)
        else:
            scale = _positive(mean(context.abs()))
            context = context / scale
            trace = mean(torch.bmm(context, context[:, :nl_channels]) * context)
            context = context / root(trace * (scale * nl_channels / count))
        y = torch.bmm(context, x_c)
    else:
        affinity = torch.bmm(x_sc.transpose(1, 2), x_c)  # (N, hw, HW)
        affinity = affinity / (
            h * w if normalize == 'size' else _positive(mean(affinity.abs())))
        y = torch.bmm(x_s, affinity)
        if normalize == 'rms':
            y_s = sampled(y.view(n, c, h, w))
            y = y / root(mean(y_s * y_s))
    return y.view(n, c, h, w)


def _positive(x: Tensor) -> Tensor:
    return x.clamp(min=torch.finfo(x.dtype).tiny)


def without_view(y: Tensor) -> Tensor:
    """``y``; under torch.compile with dynamic sizes a copy of it.

    inductor (torch 2.13) fails for a view that is saved for the backward pass if it
    cannot order its strides, as in channels_last, without knowing the sizes.
    """
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return torch.ops.autonl_mm.no_view(y)
    return y


def _no_view(y: Tensor) -> Tensor:
    if any(isinstance(size, torch.SymInt) for size in y.shape):
        return y.neg().neg()  # inductor would remove a clone
    return y.view_as(y)


# An operator, since Dynamo shows sizes that are symbols as integers. After Dynamo it
# is replaced by its implementation.
_LIBRARY = torch.library.Library('autonl_mm', 'FRAGMENT')
_LIBRARY.define('no_view(Tensor y) -> Tensor')
_LIBRARY.impl('no_view', _no_view, 'CompositeImplicitAutograd')


def at_least_float32(x: Tensor) -> Tensor:
    """``x``, in float32 if it is in half precision."""
    return x.float() if x.dtype in LOW_PRECISION else x


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Switch autocast off on the device of ``x``, for a ``with`` statement."""
    # Entering autocast takes as long as one of LightNL's products.
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def keep_float32(convert: Callable) -> Callable:
    """The argument of ``nn.Module._apply``, but without conversion to half precision.

    Args:
        convert (Callable): From tensor to tensor, of ``.half()``, ``.to()`` and
            similar methods.
    """
    def converted(tensor: Tensor) -> Tensor:
        new = convert(tensor)
        if new.dtype in LOW_PRECISION and tensor.dtype != new.dtype:
            return tensor.to(new.device)
        return new

    return converted
