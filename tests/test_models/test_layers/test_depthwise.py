# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The gradient of a depthwise kernel on small feature maps is torch's."""
import pytest
import torch
import torch.nn as nn
from hypothesis import given
from hypothesis import strategies as st

from autonl_mm.arch import BlockSpec
from autonl_mm.models import LightNL, MBConv
from autonl_mm.models.layers.depthwise import (
    _DepthwiseConv2d,
    depthwise_conv2d,
    has_slow_gradient,
)


def images(*shape, **kwargs):
    return torch.randn(*shape, **kwargs).to(memory_format=torch.channels_last)


@given(st.data())
def test_exact(data):
    """Against torch in float64, for any size, stride, padding and dilation."""
    pick = lambda *options: data.draw(st.sampled_from(options))  # noqa: E731
    pair = lambda low, high: tuple(  # noqa: E731
        data.draw(st.integers(low, high)) for _ in range(2))
    kernel, stride, dilation = pick((3, 3), (5, 5), (3, 5)), pair(1, 2), pair(1, 2)
    padding = tuple(d * (k // 2) for d, k in zip(dilation, kernel))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    conv = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups=6,
                     bias=pick(True, False), dtype=torch.float64)
    x = images(2, 6, *pair(1, 6), dtype=torch.float64).requires_grad_()
    ours = _DepthwiseConv2d.apply(x, conv.weight, conv.bias, stride, padding, dilation)
    expected = conv(x)
    assert torch.equal(ours, expected)
    grad = torch.randn_like(expected)
    inputs = [t for t in (x, conv.weight, conv.bias) if t is not None]
    for a, b in zip(torch.autograd.grad(ours, inputs, grad),
                    torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_parts_of_the_gradient():
    conv = nn.Conv2d(6, 6, 5, padding=2, groups=6)
    x = images(2, 6, 3, 3).requires_grad_()
    for inputs in ([x], [conv.weight], [conv.bias]):
        for tensor in (x, conv.weight, conv.bias):
            tensor.requires_grad_(any(tensor is t for t in inputs))
        ours = _DepthwiseConv2d.apply(x, conv.weight, conv.bias, conv.stride,
                                      conv.padding, conv.dilation)
        a, = torch.autograd.grad(ours.square().sum(), inputs)
        b, = torch.autograd.grad(conv(x).square().sum(), inputs)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_where_it_is_used():
    conv = nn.Conv2d(8, 8, 5, padding=2, groups=8)
    small, large = images(2, 8, 4, 4), images(2, 8, 5, 5)
    assert has_slow_gradient(small, conv)
    assert not has_slow_gradient(large, conv)
    assert not has_slow_gradient(small.contiguous(), conv)
    assert not has_slow_gradient(small.double(), conv)
    with torch.no_grad():
        assert not has_slow_gradient(small, conv)
    with torch.autocast('cpu'):
        assert not has_slow_gradient(small, conv)
    padded = nn.Conv2d(8, 8, 5, padding=2, groups=8, padding_mode='circular')
    assert not has_slow_gradient(small, padded)
    assert '_DepthwiseConv2d' in str(depthwise_conv2d(small, conv).grad_fn)
    assert '_DepthwiseConv2d' not in str(depthwise_conv2d(large, conv).grad_fn)


def used(output):
    """Names of the functions that a graph consists of."""
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [child for child, _ in node.next_functions]
    return [type(node).__name__ for node in seen]


@pytest.mark.parametrize('layer', [
    MBConv(BlockSpec(16, 16, 1, 5, 3)), LightNL(16, 0.25, zero_init=False)],
    ids=['MBConv', 'LightNL'])
def test_layers(layer):
    """Both train by it; with a hook, which must be called, by the convolution."""
    torch.manual_seed(0)
    conv = layer.depthwise.conv if isinstance(layer, MBConv) else layer.conv
    x = images(4, 16, 2, 2)
    out = layer(x)
    assert used(out).count('_DepthwiseConv2dBackward') == 1
    ours = torch.autograd.grad(out.square().sum(), list(layer.parameters()))
    called = []
    conv.register_forward_hook(lambda *args: called.append(1))
    out = layer(x)
    assert called and '_DepthwiseConv2dBackward' not in used(out)
    for a, b in zip(ours, torch.autograd.grad(out.square().sum(),
                                              list(layer.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
