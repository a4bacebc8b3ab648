# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy
import math
from itertools import product

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import Sequential

from autonl_mm.arch import BlockSpec
from autonl_mm.models.layers import LightNL, MBConv, SqueezeExcite, light_nl_reference
from autonl_mm.models.layers.mbconv import fused_act_cfg


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small tensors; other processes use the cores


def spec(**kwargs):
    return BlockSpec(**dict(
        dict(
            in_channels=8,
            out_channels=8,
            stride=1,
            kernel_size=3,
            expand_ratio=3), **kwargs))


def randomized(block):
    """Random norms, so that every part of a block affects its output."""
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return block


def norm(module, x):
    return F.batch_norm(
        x, module.running_mean, module.running_var, module.weight,
        module.bias, eps=module.eps)


def reference_forward(block, x):
    """Paper, section 4.2: a block's parts in order, with functions of F only."""
    s = block.spec
    out = x
    if s.expand_ratio != 1:
        out = F.silu(norm(block.expand.bn, F.conv2d(out, block.expand.conv.weight)))
    out = F.silu(norm(block.depthwise.bn, F.conv2d(
        out, block.depthwise.conv.weight, stride=s.stride,
        padding=s.kernel_size // 2, groups=out.shape[1])))
    if s.se_ratio:
        hidden = F.silu(F.conv2d(
            out.mean((2, 3), keepdim=True), block.se.reduce.weight,
            block.se.reduce.bias))
        out = out * torch.sigmoid(F.conv2d(
            hidden, block.se.expand.weight, block.se.expand.bias))
    out = norm(block.project.bn, F.conv2d(out, block.project.conv.weight))
    if s.nl_ratio:
        y = light_nl_reference(out, s.nl_channels, s.nl_stride, s.normalize)
        out = out + norm(block.light_nl.norm, F.conv2d(
            y, block.light_nl.conv.weight, padding=1, groups=out.shape[1]))
    if s.skip and s.stride == 1 and s.in_channels == s.out_channels:
        out = out + x
    return out


@pytest.mark.parametrize(
    'stride,out,kernel,expand,se,nl,nl_stride,skip', [
        (1, 8, 3, 1, 0, 0, 1, True),
        (1, 8, 3, 6, 0, 0, 1, True),
        (1, 8, 5, 3, 0.5, 0, 1, True),
        (1, 8, 3, 3, 0, 0.5, 2, True),
        (1, 8, 5, 2.5, 0.25, 0.25, 1, True),
        (1, 8, 5, 2.5, 0.25, 0.25, 1, False),
        (2, 8, 3, 3, 0.25, 1.0, 2, True),
        (2, 12, 7, 1, 0.5, 0.5, 1, True),
        (1, 12, 3, 3, 0.5, 0.5, 1, True),
        (1, 4, 1, 0.5, 1.0, 0.25, 3, True),
    ])
def test_forward_equals_the_reference(stride, out, kernel, expand, se, nl,
                                      nl_stride, skip):
    block = MBConv(BlockSpec(8, out, stride, kernel, expand, se, nl, nl_stride, skip))
    block = randomized(block).double().eval()
    x = torch.randn(2, 8, 9, 6, dtype=torch.float64)
    got = block(x)
    assert got.shape == (2, out, -(-9 // stride), -(-6 // stride))
    torch.testing.assert_close(got, reference_forward(block, x))


@pytest.mark.parametrize('expand,se,nl', product([1, 1.0, 2], [0, 0.25], [0, 0.5]))
def test_parts_are_there_where_the_spec_has_them(expand, se, nl):
    block = MBConv(spec(expand_ratio=expand, se_ratio=se, nl_ratio=nl))
    assert (block.expand is not None) == (expand != 1)
    assert (block.se is not None) == bool(se)
    assert (block.light_nl is not None) == bool(nl)
    parts = ['expand'] * (expand != 1) + ['depthwise'] + ['se'] * bool(se) + \
        ['project'] + ['light_nl'] * bool(nl)
    assert [name for name, _ in block.named_children()] == parts
    # weights of the convolutions, and two of BN per channel
    mid = int(8 * expand)
    want = (expand != 1) * (8 * mid + 2 * mid) + (9 + 2) * mid \
        + bool(se) * (2 * mid * 2 + 2 + mid) + mid * 8 + 2 * 8 \
        + bool(nl) * (9 + 2) * 8
    assert sum(p.numel() for p in block.parameters()) == want


def test_layers_of_a_block():
    block = MBConv(
        spec(out_channels=12, stride=2, kernel_size=5, se_ratio=0.25,
             nl_ratio=0.5, nl_stride=2),
        norm_cfg=dict(type='BN', momentum=0.01, eps=1e-3))
    assert block.expand.conv.kernel_size == (1, 1)
    assert block.project.conv.kernel_size == (1, 1)
    conv = block.depthwise.conv
    assert (conv.kernel_size, conv.stride, conv.padding, conv.groups) == \
        ((5, 5), (2, 2), (2, 2), 24)
    assert not block.project.with_activation
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.momentum, module.eps) == (0.01, 1e-3)
        if isinstance(module, nn.Conv2d):
            in_se = module in (block.se.reduce, block.se.expand)
            assert (module.bias is not None) == in_se
    assert isinstance(block.light_nl, LightNL)
    assert block.light_nl.in_channels == 12
    assert block.light_nl.nl_channels == 6
    assert block.light_nl.stride == 2


@pytest.mark.parametrize('channels,ratio,hidden', [
    (8, 0.25, 2),
    (40, 0.25, 10),
    (10, 0.25, 2),  # round(2.5), half to even
    (24, 0.4, 10),  # round(9.6)
    (8, 0.01, 1),
])
def test_hidden_width_is_of_the_blocks_input(channels, ratio, hidden):
    block = MBConv(spec(in_channels=channels, se_ratio=ratio))
    assert block.se.reduce.weight.shape == (hidden, 3 * channels, 1, 1)
    assert block.se.expand.weight.shape == (3 * channels, hidden, 1, 1)
    assert block.se.reduce.bias.shape == (hidden, )
    assert block.se.expand.bias.shape == (3 * channels, )


def test_squeeze_excite():
    se = SqueezeExcite(6, 3, dict(type='Swish')).double()
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    mean = x.mean((2, 3))
    hidden = F.silu(mean @ se.reduce.weight.flatten(1).t() + se.reduce.bias)
    scale = torch.sigmoid(hidden @ se.expand.weight.flatten(1).t() + se.expand.bias)
    torch.testing.assert_close(se(x), x * scale[:, :, None, None])


@pytest.mark.parametrize('change,adds', [
    (dict(), True),
    (dict(nl_ratio=0.5), True),
    (dict(skip=False), False),
    (dict(stride=2), False),
    (dict(out_channels=12), False),
])
def test_identity_add(change, adds):
    # with a projection to zero only the identity, if any, is left
    block = MBConv(spec(**change)).eval()
    nn.init.zeros_(block.project.conv.weight)
    x = torch.randn(2, 8, 6, 6)
    if adds:
        assert torch.equal(block(x), x)
    else:
        assert not block(x).any()


def test_no_identity_where_dilation_replaces_stride():
    # a block of stride 2 has no identity, also when dilation replaces its stride
    block = MBConv(spec(stride=2), stride=1, dilation=2).eval()
    nn.init.zeros_(block.project.conv.weight)
    out = block(torch.randn(2, 8, 6, 6))
    assert out.shape == (2, 8, 6, 6) and not out.any()


def test_dilations():
    block = MBConv(spec(kernel_size=5, nl_ratio=0.5), dilation=2, nl_dilation=4)
    assert block.depthwise.conv.dilation == (2, 2)
    assert block.depthwise.conv.padding == (4, 4)
    assert block.light_nl.conv.dilation == (4, 4)
    assert block(torch.randn(2, 8, 9, 7)).shape == (2, 8, 9, 7)


@pytest.mark.parametrize('nl', [0, 0.5])
@pytest.mark.parametrize('train', [True, False])
def test_checkpointing_changes_nothing(nl, train):
    args = spec(se_ratio=0.25, nl_ratio=nl)
    plain = randomized(MBConv(args)).train(train)
    cp = MBConv(args, with_cp=True).train(train)
    cp.load_state_dict(plain.state_dict())
    results, calls = [], []
    for block in plain, cp:
        calls.clear()
        block.depthwise.register_forward_hook(lambda *a: calls.append(1))
        x = torch.randn(2, 8, 6, 5, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        out = block(x)
        out.square().sum().backward()
        results.append([out, x.grad] + [p.grad for p in block.parameters()])
        assert len(calls) == (2 if block is cp else 1)
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    with torch.no_grad():  # no activations to recompute
        calls.clear()
        cp(x)
        assert len(calls) == 1


@pytest.mark.parametrize('kernel', [3, 5])
def test_depthwise_init(kernel):
    block = MBConv(spec(in_channels=2000, out_channels=4, kernel_size=kernel))
    Sequential(block, init_cfg=dict(type='Kaiming', layer='Conv2d')).init_weights()
    weight = block.depthwise.conv.weight
    assert weight.mean().abs() < 0.01
    assert weight.std().item() == pytest.approx(math.sqrt(2 / kernel**2), rel=0.03)
    # the others follow init_cfg: normal, fan-out
    assert block.project.conv.weight.std().item() == pytest.approx(
        math.sqrt(2 / 4), rel=0.03)


@pytest.mark.parametrize('norm_cfg,kind', [
    (dict(type='SyncBN'), nn.SyncBatchNorm),
    (dict(type='GN', num_groups=2), nn.GroupNorm),
])
def test_norm_cfg_reaches_every_norm(norm_cfg, kind):
    block = MBConv(spec(nl_ratio=0.5), norm_cfg=norm_cfg)
    norms = [m for m in block.modules() if isinstance(m, kind)]
    assert len(norms) == 4
    assert not any(type(m) is nn.BatchNorm2d for m in block.modules())


def test_act_cfg_reaches_every_activation():
    block = MBConv(spec(se_ratio=0.25), act_cfg=dict(type='ReLU'))
    assert isinstance(block.expand.activate, nn.ReLU)
    assert isinstance(block.depthwise.activate, nn.ReLU)
    assert isinstance(block.se.act, nn.ReLU)


def test_squeeze_excite_has_an_activation_of_its_own():
    block = MBConv(spec(se_ratio=0.25), act_cfg=dict(type='HSwish'),
                   se_act_cfg=dict(type='Swish'))
    assert isinstance(block.depthwise.activate, nn.Hardswish)
    assert isinstance(block.se.act, nn.SiLU)


def test_swish_is_fused():
    block = MBConv(spec(se_ratio=0.25))
    assert isinstance(block.depthwise.activate, nn.SiLU)
    assert isinstance(block.se.act, nn.SiLU)
    for cfg in (None, dict(type='ReLU6'), dict(type='HSwish')):
        assert fused_act_cfg(cfg) == cfg


def test_deepcopy():
    block = randomized(MBConv(spec(se_ratio=0.25, nl_ratio=0.5))).eval()
    x = torch.randn(1, 8, 6, 6)
    assert torch.equal(copy.deepcopy(block)(x), block(x))
