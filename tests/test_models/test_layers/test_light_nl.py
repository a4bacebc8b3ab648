# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy
import math

import pytest
import torch
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.model import BaseModule, ExponentialMovingAverage
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import load_state_dict as mmengine_load_state_dict
from torch.func import functional_call, vmap
from torch.func import grad as gradient
from torch.utils._python_dispatch import TorchDispatchMode

from autonl_mm.models.layers import LightNL, affinity_rows, light_nl, light_nl_reference
from autonl_mm.models.layers.light_nl import RMS_MARK, init_depthwise

ORDERS = ('channel', 'spatial', 'auto')
NORMALIZE = ('size', 'rms')
PARENT_RULES = [
    dict(type='Kaiming', layer='Conv2d'),
    dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1)
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small tensors; other processes use the cores


def trained(layer):
    """Random BN weights and statistics, so that they change the output."""
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return layer


# --------------------------------------------------------------- the function
def test_reference_by_hand():
    # k = 1, HW = 2: y[c] = x[0] * sum over q of x[0, q] * x[c, q]
    x = torch.tensor([[[[1., 2.]], [[3., 4.]]]], dtype=torch.float64)
    for stride, y in (1, [[5, 10], [11, 22]]), (2, [[1, 2], [3, 6]]):
        y = torch.tensor(y, dtype=torch.float64)[None, :, None]
        torch.testing.assert_close(light_nl_reference(x, 1, stride, 'size'), y / 2)
        square = y[..., ::stride].square().mean()
        torch.testing.assert_close(light_nl_reference(x, 1, stride), y / square.sqrt())
    # k = 2: 1 * 1 + 3 * 3 and 1 * 2 + 3 * 4 for the first position
    y = light_nl_reference(x, 2, normalize='size')
    assert y[0, :, 0, 0].tolist() == [(10 * 1 + 14 * 2) / 2, (10 * 3 + 14 * 4) / 2]
    assert not light_nl_reference(0 * x, 2).any()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_agrees_with_the_reference(data):
    n = data.draw(st.integers(1, 2))
    c = data.draw(st.integers(1, 6))
    k = data.draw(st.integers(1, c))
    h, w = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    stride = data.draw(st.integers(1, 9))
    x = torch.randn(n, c, h, w, dtype=torch.float64)
    for normalize in NORMALIZE:
        want = light_nl_reference(x, k, stride, normalize)
        for order in ORDERS:
            got = light_nl(x, k, stride, order, normalize=normalize)
            assert got.shape == x.shape and got.dtype == x.dtype
            assert (got - want).abs().max() <= 1e-10 * want.abs().max().clamp(1)


def test_default_order_is_the_cheaper(monkeypatch):
    asked = []
    module = __import__('autonl_mm.models.layers.light_nl', fromlist=['light_nl_order'])
    real = module.light_nl_order
    monkeypatch.setattr(module, 'light_nl_order',
                        lambda *a: asked.append(a) or real(*a))
    for normalize in NORMALIZE:
        light_nl(torch.randn(2, 16, 9, 6), 4, 2, normalize=normalize)
    assert asked == [(16, 4, 54, 15, normalize) for normalize in NORMALIZE]


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest result of any operator."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(item, torch.Tensor):
                self.numel = max(self.numel, item.numel())
        return out


@pytest.mark.parametrize('order', ['channel', 'auto'])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('normalize', NORMALIZE)
def test_channel_order_forms_no_affinity(order, stride, normalize):
    # the affinity would have 512**4 elements, 256 GiB
    x = torch.randn(1, 8, 512, 512, requires_grad=True)
    with LargestTensor() as largest:
        light_nl(x, 2, stride, order, normalize=normalize).sum().backward()
    assert largest.numel <= x.numel()


@pytest.mark.parametrize('normalize', NORMALIZE)
def test_spatial_order_forms_no_context(normalize):
    x = torch.randn(1, 64, 2, 2)
    with LargestTensor() as largest:
        light_nl(x, 64, 1, 'spatial', normalize=normalize)
    assert largest.numel <= x.numel() < 64 * 64
    with LargestTensor() as largest:
        light_nl(x, 64, 1, 'channel', normalize=normalize)
    assert largest.numel == 64 * 64


@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('normalize', NORMALIZE)
def test_gradcheck(order, stride, normalize):
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: light_nl(x, 2, stride, order, normalize=normalize), (x, ))


@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('shape', [(2, 15), (1, 15), (2, 1)])
@pytest.mark.parametrize('normalize', NORMALIZE)
def test_gradcheck_of_weights(order, shape, normalize):
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = (torch.rand(shape, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, weight: light_nl(x, 2, 1, order, weight, normalize), (x, weight))


@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('factor', [1e-17, 1e-12, 1e-7, 2e-6, 1e-3, 1e3, 1e7, 1e14])
def test_rms_does_not_depend_on_the_size_of_the_features(order, stride, weighted,
                                                         factor):
    """Nor does its gradient, but for the factor's inverse."""
    x, grad = torch.randn(2, 2, 12, 7, 6)
    weight = torch.rand(3, 42 if stride == 1 else 12) if weighted else None

    def both(x):
        x = x.requires_grad_()
        w = None if weight is None else weight.to(x)
        y = light_nl(x, 3, stride, order, w, normalize='rms')
        return y, torch.autograd.grad(y, x, grad.to(x))[0]

    want, want_grad = both(x.double())
    if stride == 1 and not weighted:
        torch.testing.assert_close(want.square().mean((1, 2, 3)),
                                   torch.ones(2, dtype=torch.float64))
    got, got_grad = both(x.detach() * factor)
    torch.testing.assert_close(got, want.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_grad * factor, want_grad.float(), rtol=1e-3,
                               atol=1e-4)


@pytest.mark.parametrize('order', ['channel', 'spatial'])
def test_rms_below_the_range_of_squares(order):
    x = (torch.randn(2, 12, 7, 6) * 1e-30).requires_grad_()
    y = light_nl(x, 3, 2, order, normalize='rms')
    assert not y.any()
    y.sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('factor', [1e-5, 1e-3, 1e4])
def test_small_and_large_features_in_half_precision(dtype, factor):
    layer = LightNL(8, zero_init=False).eval()
    x = (torch.randn(2, 8, 6, 6) * factor).to(dtype)
    want = layer.branch(x.float())
    got = layer.to(dtype).branch(x.requires_grad_())
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.05)
    got.backward(torch.full_like(got, 1e-3))  # gradients are of the size 1 / factor
    assert x.grad.isfinite().all()


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('size', [2, 4])  # 2: an own gradient of the convolution
def test_transforms_of_torch_func(stride, size):
    layer = LightNL(8, 0.25, stride, zero_init=False).eval()
    x = torch.randn(3, 8, size, size).to(memory_format=torch.channels_last)
    params = dict(layer.named_parameters())

    def loss(params, x):
        return functional_call(layer, params, (x, )).square().sum()

    def of_each(x):
        return torch.autograd.grad(loss(params, x[None]), list(params.values()))

    got = vmap(gradient(lambda p, x: loss(p, x[None])), (None, 0))(params, x)
    for name, wanted in zip(params, zip(*map(of_each, x))):
        torch.testing.assert_close(got[name], torch.stack(wanted), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(vmap(lambda x: layer(x[None])[0])(x), layer(x))
    double = layer.double()
    x = x[:1].double().requires_grad_()
    assert torch.autograd.gradgradcheck(double, (x, ))


@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('zeros', ['black', 'compact', 'sampled', 'other'])
def test_rms_of_zeros(order, weighted, zeros):
    """Where the product is zero, so are y and its gradients."""
    x = torch.randn(2, 8, 6, 6)
    if zeros == 'black':
        x.zero_()
    elif zeros == 'compact':
        x[:, :2] = 0
    elif zeros == 'sampled':
        x[:, :, ::2, ::2] = 0
    else:
        x[:, 2:] = 0  # no zero product
    x.requires_grad_()
    weight = torch.ones(2, 9, requires_grad=True) if weighted else None
    y = light_nl(x, 2, 2, order, weight, 'rms')
    assert bool(y.any()) == (zeros == 'other')
    (y * torch.randn(y.shape)).sum().backward()
    for leaf in (x, weight) if weighted else (x, ):
        assert leaf.grad.isfinite().all()
        assert bool(leaf.grad.any()) == (zeros == 'other')


@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_rms_keeps_nan_and_inf(order, value):
    x = torch.randn(2, 8, 6, 6)
    x[1, 0, 2, 3] = value
    y = light_nl(x, 2, 1, order, normalize='rms')
    assert y[0].isfinite().all() and not y[1].isfinite().any()


@pytest.mark.parametrize('normalize', NORMALIZE)
@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('k', [1, 3, 8])
def test_affinity_rows(k, stride, normalize):
    x = torch.randn(2, 8, 7, 5, dtype=torch.float64)
    positions = torch.tensor([[0, 0], [6, 4], [3, 1]])
    rows = affinity_rows(x, k, stride, positions, normalize)
    sampled = x[:, :, ::stride, ::stride]
    assert rows.shape == (2, 3, *sampled.shape[2:])
    if normalize == 'size':
        full = torch.einsum('niab,nicd->nabcd', x[:, :k], sampled[:, :k]) / 35
        for i, (a, b) in enumerate(positions.tolist()):
            torch.testing.assert_close(rows[:, i], full[:, a, b])
    # the block weights the features with them
    want = light_nl_reference(x, k, stride, normalize)
    for i, (a, b) in enumerate(positions.tolist()):
        got = torch.einsum('nab,ncab->nc', rows[:, i], sampled)
        torch.testing.assert_close(got, want[:, :, a, b], rtol=0, atol=1e-10)


@pytest.mark.parametrize('size', [1e-15, 1., 1e13])
def test_affinity_rows_of_any_size(size):
    """In the range in which LightNL itself is right."""
    x, positions = torch.randn(2, 8, 7, 9), torch.tensor([[1, 2], [6, 8]])
    expected = affinity_rows(x.double() * size, 4, 2, positions)
    rows = affinity_rows(x * size, 4, 2, positions)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-5, atol=0.)


@pytest.mark.parametrize('normalize', NORMALIZE)
def test_affinity_rows_form_no_affinity(normalize):
    x = torch.randn(1, 8, 512, 512)
    with LargestTensor() as largest:
        affinity_rows(x, 4, 1, torch.tensor([[5, 500], [300, 20]]), normalize)
    assert largest.numel <= x.numel()


# ------------------------------------------------------------------ the layer
@pytest.mark.parametrize('normalize', NORMALIZE)
def test_forward_is_the_formula(normalize):
    layer = trained(LightNL(8, 0.5, stride=2, normalize=normalize)).double().eval()
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    y = light_nl_reference(x, 4, 2, normalize)
    want = torch.zeros_like(y)
    padded = nn.functional.pad(y, (1, 1, 1, 1))
    for i in range(3):
        for j in range(3):
            want += padded[:, :, i:i + 5, j:j + 7] * \
                layer.conv.weight[:, 0, i, j].view(1, -1, 1, 1)
    norm = layer.norm
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    want = (want - norm.running_mean.view(1, -1, 1, 1)) * \
        factor.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(layer(x), x + want, rtol=0, atol=1e-10)


@pytest.mark.parametrize('c,ratio,k', [(8, 0.25, 2), (10, 0.25, 2),
                                       (7, 0.5, 3), (5, 1, 5), (3, 1 / 3, 1)])
def test_number_of_compact_channels(c, ratio, k):
    assert LightNL(c, ratio).nl_channels == k


def test_names_and_repr():
    layer = LightNL(8, stride=2, order='channel', normalize='size')
    assert list(layer.state_dict()) == [
        'conv.weight', 'norm.weight', 'norm.bias', 'norm.running_mean',
        'norm.running_var', 'norm.num_batches_tracked'
    ]
    assert layer.conv.weight.shape == (8, 1, 3, 3)
    assert layer._abbr_ == 'light_nl'
    assert "nl_channels=2, stride=2, order='channel', normalize='size'" in repr(layer)
    # the fifth argument
    layer = LightNL(8, 0.25, 1, 'auto', 'rms')
    assert layer.normalize == 'rms' and "normalize='rms'" in repr(layer)
    assert set(layer.state_dict()) == {
        *LightNL(8, normalize='size').state_dict(), RMS_MARK}
    assert not any(RMS_MARK in name for name, _ in layer.named_parameters())


@pytest.mark.parametrize('norm_cfg,kind', [
    (dict(type='BN'), nn.BatchNorm2d),
    (dict(type='SyncBN'), nn.SyncBatchNorm),
    (dict(type='GN', num_groups=2), nn.GroupNorm),
    (None, nn.Identity),
])
def test_norms(norm_cfg, kind):
    layer = LightNL(8, norm_cfg=norm_cfg)
    assert isinstance(layer.norm, kind)
    x = torch.randn(2, 8, 6, 5)
    # SyncBN computes on the CPU in eval mode only
    layer.train(kind is not nn.SyncBatchNorm)
    assert torch.equal(layer(x), x)
    layer.init_weights()
    assert torch.equal(layer(x), x)
    started = LightNL(8, norm_cfg=norm_cfg, zero_init=False)
    started.train(kind is not nn.SyncBatchNorm)
    assert not torch.allclose(started(x), x)


def test_norm_cfg_is_passed_on():
    cfg = dict(type='BN', momentum=0.3, eps=0.5, requires_grad=False)
    norm = LightNL(8, norm_cfg=cfg).norm
    assert (norm.momentum, norm.eps) == (0.3, 0.5)
    assert not norm.weight.requires_grad


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('stride', [1, 2, 20])
@pytest.mark.parametrize('normalize', NORMALIZE)
def test_fresh_layer_is_the_identity(train, order, stride, normalize):
    layer = LightNL(16, stride=stride, order=order, normalize=normalize).train(train)
    x = torch.randn(2, 16, 9, 12) * 100
    assert torch.equal(layer(x), x)
    layer.init_weights()
    assert torch.equal(layer(x), x)


def test_zero_init_off():
    layer = LightNL(8, zero_init=False)
    assert torch.equal(layer.norm.weight, torch.ones(8))
    layer.init_weights()
    assert torch.equal(layer.norm.weight, torch.ones(8))


def test_own_init_cfg_wins():
    layer = LightNL(8, init_cfg=dict(type='Constant', layer='BatchNorm2d', val=0.5))
    layer.init_weights()
    assert torch.equal(layer.norm.weight, torch.full((8, ), 0.5))


def test_kernel_init_uses_the_fan_out_of_one_channel():
    layer = LightNL(4000)
    for _ in range(2):
        std = layer.conv.weight.std().item()
        assert std == pytest.approx(math.sqrt(2 / 9), rel=0.03)
        layer.init_weights()


def test_init_depthwise_clears_the_bias():
    conv = nn.Conv2d(8, 8, 5, groups=8)
    init_depthwise(conv)
    assert not conv.bias.any()


def test_dilation():
    layer = trained(LightNL(4, norm_cfg=None, zero_init=False, dilation=2))
    assert layer.conv.dilation == (2, 2)
    x = torch.randn(1, 4, 8, 10)
    assert layer(x).shape == x.shape


@pytest.mark.parametrize('normalize', NORMALIZE)
def test_channels_last_equals_contiguous(normalize):
    layer = trained(LightNL(16, stride=2, normalize=normalize))
    x = torch.randn(2, 16, 14, 10)
    last = x.contiguous(memory_format=torch.channels_last)
    for train in True, False:
        layer.train(train)
        torch.testing.assert_close(layer(last), layer(x))
    moved = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    torch.testing.assert_close(moved(last), layer(x))


@pytest.mark.parametrize('kwargs,words', [
    (dict(channel_ratio=0), ('channel_ratio', '0', '(0, 1]')),
    (dict(channel_ratio=1.5), ('channel_ratio', '1.5', '(0, 1]')),
    (dict(channel_ratio=-0.25), ('channel_ratio', '-0.25', '(0, 1]')),
    (dict(channel_ratio=float('nan')), ('channel_ratio', 'nan', '(0, 1]')),
    (dict(channel_ratio=0.1), ('channel_ratio', '0.1', '0.125')),
    (dict(stride=0), ('stride', '0', 'positive integer')),
    (dict(stride=1.5), ('stride', '1.5', 'positive integer')),
    (dict(stride=(1, 1)), ('stride', '(1, 1)', 'positive integer')),
    (dict(order='fast'), ('order', "'fast'", "'channel'")),
    (dict(order=None), ('order', 'None', "'spatial'")),
    (dict(dilation=0), ('dilation', '0', 'positive integer')),
    (dict(normalize='root'), ('normalize', "'root'", "'rms'")),
    (dict(normalize=None), ('normalize', 'None', "'size'")),
    (dict(norm_cfg=dict(type='IN')), ('norm_cfg', "'IN'", 'affine=True')),
])
def test_bad_argument_is_named(kwargs, words):
    with pytest.raises(ValueError) as info:
        LightNL(8, **kwargs)
    for word in words:
        assert word in str(info.value)


def test_unknown_argument_is_refused():
    with pytest.raises(TypeError, match='reduction'):
        MODELS.build(dict(type='autonl_mm.LightNL', in_channels=8, reduction=2))


# -------------------------------------------- identity in surrounding models
def classifier(**kwargs):
    backbone = dict(
        type='autonl_mm.AutoNL',
        arch=['r2_k3_s22_e2_i8_o8_nonlocal0.5', 'r1_k3_s22_e2_i8_o8_nonlocal'],
        out_indices=(-1, ))
    backbone.update(kwargs.pop('backbone', {}))
    return MODELS.build(
        dict(
            _scope_='mmpretrain',
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='autonl_mm.PoolDropout'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=1280),
            **kwargs))


def light_nls(model):
    found = [m for m in model.modules() if isinstance(m, LightNL)]
    assert found
    return found


def assert_identities(model):
    for layer in light_nls(model):
        x = torch.randn(2, layer.in_channels, 6, 5)
        for train in True, False:
            assert torch.equal(layer.train(train)(x), x)
        std = layer.conv.weight.std().item()
        assert 0.2 < std < 0.8  # sqrt(2/9) = 0.47, from a few samples


@pytest.mark.parametrize('kwargs', [
    dict(init_cfg=PARENT_RULES),
    dict(backbone=dict(init_cfg=PARENT_RULES)),
    dict(init_cfg=PARENT_RULES, backbone=dict(init_cfg=PARENT_RULES)),
    dict(init_cfg=PARENT_RULES, backbone=dict(init_cfg=None)),
    dict(backbone=dict(init_cfg=PARENT_RULES, norm_cfg=dict(type='GN', num_groups=2))),
], ids=['classifier', 'backbone', 'both', 'above', 'group_norm'])
def test_identity_survives_the_parents_rules(kwargs):
    model = classifier(**kwargs)
    for layer in light_nls(model):  # as if a parent's rule was applied before
        nn.init.ones_(layer.norm.weight)
    model.init_weights()
    assert_identities(model)
    # all other norms follow the rule
    others = {id(layer.norm) for layer in light_nls(model)}
    norms = [
        m for m in model.modules()
        if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm))
        and id(m) not in others
    ]
    assert norms
    for norm in norms:
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))


def detector_backbone(**kwargs):
    return MODELS.build(
        dict(
            dict(
                _scope_='mmdet',
                type='ResNet',
                depth=50,
                num_stages=2,
                strides=(1, 2),
                dilations=(1, 1),
                out_indices=(0, 1),
                base_channels=4,
                plugins=[
                    dict(
                        cfg=dict(type='LightNL', channel_ratio=0.5),
                        stages=(False, True),
                        position='after_conv3')
                ]), **kwargs))


def test_identity_as_mmdets_plugin():
    model = detector_backbone()
    assert [n for n, m in model.named_modules() if isinstance(m, LightNL)
            ] == [f'layer2.{i}.light_nl' for i in range(4)]
    model.init_weights()
    assert_identities(model)
    # so the network computes the same as without plug-ins
    plain = detector_backbone(plugins=None)
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys
    assert all('.light_nl.' in key for key in missing.unexpected_keys)
    x = torch.randn(2, 3, 32, 40)
    model.eval(), plain.eval()  # mmdet's eval() does not return self
    for a, b in zip(model(x), plain(x)):
        assert torch.equal(a, b)


def test_pretrained_weights_are_kept(tmp_path):
    trained_model = trained(classifier())
    path = str(tmp_path / 'net.pth')
    torch.save(trained_model.backbone.state_dict(), path)
    model = classifier(
        init_cfg=PARENT_RULES,
        backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=path)))
    model.init_weights()
    want = trained_model.backbone.state_dict()
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, want[key]), key


# ------------------------------------------------------------ mixed precision
def relative_error(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('leaf', ['float32', 'half'])
@pytest.mark.parametrize('gamma', [0, 1])
@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('stride', [1, 2])
def test_large_activations_under_autocast(half, leaf, gamma, order, stride):
    layer = LightNL(32, stride=stride, order=order, normalize='size').train()
    nn.init.constant_(layer.norm.weight, gamma)
    x = (torch.randn(2, 32, 14, 14) * 300).clamp(-1000, 1000) + 1000
    x = x.to(half if leaf == 'half' else torch.float32).requires_grad_()
    seen = []
    layer.norm.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.autocast('cpu', dtype=half):
        out = layer(x)
    assert out.dtype == x.dtype
    assert out.isfinite().all()
    out.float().square().mean().backward()
    for grad in [x.grad] + [p.grad for p in layer.parameters()]:
        assert grad is not None and grad.isfinite().all()
    assert x.grad.dtype == x.dtype
    assert layer.norm.running_var.isfinite().all()

    # the branch itself, against float64
    y = light_nl(x.detach().double(), layer.nl_channels, stride, order,
                 normalize='size')
    want = nn.functional.conv2d(
        y, layer.conv.weight.detach().double(), padding=1, groups=32)
    assert want.abs().max() > 1e8  # beyond the range of float16
    assert seen[0].dtype == torch.float32
    assert relative_error(seen[0].detach(), want) < 1e-5
    normed = nn.functional.batch_norm(
        want, None, None, layer.norm.weight.detach().double(), training=True)
    error = relative_error(out.detach(), x.detach().double() + normed)
    assert error < torch.finfo(x.dtype).eps


@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('leaf', ['float32', 'half'])
@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('size', [1e-3, 1, 1e3])
def test_rms_under_autocast(half, leaf, order, stride, size):
    """Only the products are in float32, and nothing leaves the range of float16."""
    layer = LightNL(32, 0.25, stride, order, 'rms', zero_init=False).train()
    x = (torch.randn(2, 32, 14, 14) * size).clamp(-1000, 1000)
    x = x.to(half if leaf == 'half' else torch.float32).requires_grad_()
    seen = []
    layer.norm.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.autocast('cpu', dtype=half):
        out = layer(x)
    assert out.dtype == x.dtype and seen[0].dtype == half
    y = light_nl(x.detach().double(), layer.nl_channels, stride, order, normalize='rms')
    want = nn.functional.conv2d(
        y, layer.conv.weight.detach().double(), padding=1, groups=32)
    assert want.abs().max() < 100
    assert relative_error(seen[0].detach(), want) < torch.finfo(half).eps
    want = x.detach().double() + nn.functional.batch_norm(
        want, None, None, training=True)
    assert relative_error(out.detach(), want) < torch.finfo(half).eps
    out.float().square().mean().backward()
    for grad in [x.grad] + [p.grad for p in layer.parameters()]:
        assert grad.isfinite().all()


@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('normalize', NORMALIZE)
def test_half_input_without_autocast(half, normalize):
    layer = LightNL(16, normalize=normalize, zero_init=False)
    x = torch.full((2, 16, 8, 8), 1000.).to(half).requires_grad_()
    out = layer(x)
    assert out.dtype == half and out.isfinite().all()
    out.float().sum().backward()
    assert x.grad.isfinite().all()


def test_outer_autocast_is_left_on():
    layer = LightNL(8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        layer(torch.randn(1, 8, 4, 4))
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16


# -------------------------------------------------------------------- compile
@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('normalize', NORMALIZE)
def test_compiles_without_graph_breaks(autocast, normalize):
    torch._dynamo.reset()
    layer = trained(LightNL(8, stride=2, normalize=normalize)).train()
    compiled = torch.compile(
        copy.deepcopy(layer), fullgraph=True, backend='aot_eager')
    x = torch.randn(2, 8, 9, 6)
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        want, got = layer(x), compiled(x)
    torch.testing.assert_close(got, want)
    want.sum().backward()
    got.sum().backward()
    for a, b in zip(compiled.parameters(), layer.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.slow
@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('normalize', NORMALIZE)
def test_many_sizes_with_inductor(normalize, stride, order):
    """In training, where tensors are saved whose sizes are symbols."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, 2, 1),
        LightNL(16, 0.25, stride, order, normalize, zero_init=False),
        torch.nn.Conv2d(16, 8, 3, 2, 1)).train()
    compiled = copy.deepcopy(network)
    compiled.compile(fullgraph=True)
    for size in ((64, 96), (80, 112), (96, 64), (61, 93)):
        x = torch.randn(2, 3, *size)
        losses = [net(x).square().mean() for net in (network, compiled)]
        for net, loss in zip((network, compiled), losses):
            net.zero_grad()
            loss.backward()
        torch.testing.assert_close(*losses)
        for a, b in zip(network.parameters(), compiled.parameters()):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_model_keeps_the_branch_in_float32(dtype):
    """model.half() with activations of 1e3: finite and close to float32."""
    torch.manual_seed(0)
    layer = LightNL(8, normalize='size', zero_init=False).eval()
    x = (torch.randn(2, 8, 9, 9) * 1e3).to(dtype)
    # statistics as in a trained layer, beyond the range of float16
    layer.train()
    layer(x.float())
    layer.eval()
    expected = layer(x.float())
    assert layer.norm.running_var.max() > 65504
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1), layer).to(dtype)
    assert model[0].weight.dtype == dtype
    assert layer.conv.weight.dtype == torch.float32
    out = layer(x)
    assert out.dtype == dtype
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=10)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_model_has_all_of_the_bounded_form_in_half(dtype):
    """At activations of 1e3, close to float32."""
    layer = LightNL(8, normalize='rms', zero_init=False).train()
    x = (torch.randn(2, 8, 9, 9) * 1e3).to(dtype)
    layer(x.float())
    layer.eval()
    expected = layer.branch(x.float())
    layer.to(dtype)
    tensors = [t for name, t in layer.state_dict().items()
               if name.split('.')[-1] not in (RMS_MARK, 'num_batches_tracked')]
    assert {t.dtype for t in tensors} == {dtype}
    got = layer.branch(x)
    assert got.dtype == dtype
    assert relative_error(got.float(), expected.double()) < 2 * torch.finfo(dtype).eps


# ------------------------------------------------- what weights were trained for
def light_nl_after_conv(normalize):
    return nn.Sequential(nn.Conv2d(8, 8, 1), trained(LightNL(8, normalize=normalize)))


@pytest.mark.parametrize('normalize', NORMALIZE)
def test_weights_load_into_the_same_form(normalize):
    layer = trained(LightNL(8, normalize=normalize))
    other = LightNL(8, normalize=normalize)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, 6, 5)
    assert torch.equal(other.eval()(x), layer.eval()(x))


@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.parametrize('load', ['torch', 'mmengine', 'file', 'Pretrained', 'prefix'])
@pytest.mark.parametrize('normalize', NORMALIZE)
def test_weights_of_the_other_form_are_refused(normalize, load, strict, tmp_path):
    """Also where mmengine would only log what does not fit."""
    other = NORMALIZE[normalize == 'size']
    state = light_nl_after_conv(normalize).state_dict()
    model = light_nl_after_conv(other)
    path = str(tmp_path / 'net.pth')
    with pytest.raises(RuntimeError) as error:
        if load == 'torch':
            model.load_state_dict(state, strict=strict)
        elif load == 'mmengine':
            mmengine_load_state_dict(model, state, strict=strict)
        elif load == 'file':
            torch.save(dict(state_dict=state), path)
            load_checkpoint(model, path, strict=strict)
        elif load == 'Pretrained':
            torch.save(state, path)
            LightNLs(other, dict(type='Pretrained', checkpoint=path)).init_weights()
        else:
            torch.save({f'backbone.{k}': v for k, v in state.items()}, path)
            LightNLs(other, dict(type='Pretrained', checkpoint=path,
                                 prefix='backbone.')).init_weights()
    assert f'1.conv.weight was trained with normalize={normalize!r}' in str(error.value)
    assert f'has normalize={other!r}' in str(error.value)


class LightNLs(BaseModule):

    def __init__(self, normalize, init_cfg):
        super().__init__(init_cfg)
        for name, layer in light_nl_after_conv(normalize).named_children():
            self.add_module(name, layer)


def test_weights_of_other_layers_load():
    """As those of a backbone, before its plug-ins are trained."""
    for normalize in NORMALIZE:
        model = light_nl_after_conv(normalize)
        result = model.load_state_dict(
            {k: v for k, v in model.state_dict().items() if k[0] == '0'}, strict=False)
        assert all(key.startswith('1.') for key in result.missing_keys)


def test_moving_averages_keep_the_form():
    model = light_nl_after_conv('rms')
    average = ExponentialMovingAverage(model, momentum=0.3, update_buffers=True)
    for _ in range(5):
        average.update_parameters(model)
    copy.deepcopy(model).load_state_dict(average.module.state_dict())
    with pytest.raises(RuntimeError, match="normalize='rms'"):
        light_nl_after_conv('size').load_state_dict(average.module.state_dict())
