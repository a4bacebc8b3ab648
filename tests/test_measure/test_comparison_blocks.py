# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn as nn
from mmcv.cnn import build_plugin_layer

from autonl_mm.measure.comparison_blocks import (
    FORMS,
    AddOnly,
    EinsumLightNL,
    LightNLForm,
    SharedNL,
)
from autonl_mm.measure.counting import built_macs
from autonl_mm.models import LightNL


def test_shared_features_with_a_1x1_output():
    layer = SharedNL(6, normalize='size', zero_init=False).double().eval()
    nn.init.uniform_(layer.norm.running_mean)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    flat = x.flatten(2)
    y = flat @ flat.transpose(1, 2) @ flat / 20
    y = torch.einsum('oi,nip->nop', layer.conv.weight[:, :, 0, 0], y)
    want = x + layer.norm(y.unflatten(2, (4, 5)))
    torch.testing.assert_close(layer(x), want)
    for module in (SharedNL(6), SharedNL(6, norm_cfg=None)):
        for train in (True, False):
            fresh = torch.randn(2, 6, 4, 5)
            assert torch.equal(module.train(train)(fresh), fresh)
        module.init_weights()
        assert torch.equal(module(fresh), fresh)


def test_parts_of_light_nl():
    x = torch.randn(2, 16, 6, 6)
    assert torch.equal(AddOnly(16)(x), x + x)
    layer = LightNLForm(16, 'conv', zero_init=False).eval()
    torch.testing.assert_close(layer(x), x + layer.norm(layer.conv(x)))


def test_einsum_is_the_same_formula():
    for shape, stride in (((2, 8, 12, 9), 2), ((1, 64, 3, 3), 1)):
        for normalize in 'size', 'rms':
            kwargs = dict(stride=stride, normalize=normalize, zero_init=False)
            ours = LightNL(shape[1], **kwargs).eval()
            theirs = EinsumLightNL(shape[1], **kwargs).eval()
            theirs.load_state_dict(ours.state_dict())
            x = torch.randn(shape)
            torch.testing.assert_close(theirs(x), ours(x))


def by_einsum(form, x, k, stride):
    """The forms as LightNLForm's docstring writes them, from ``(N, C, H, W)``."""
    h, w = x.shape[2:]
    x = x.flatten(2)
    s = x.unflatten(2, (h, w))[:, :, ::stride, ::stride].flatten(2)
    size = s.shape[2]
    mu = s.mean(2, keepdim=True)
    d = x[:, :k] - mu[:, :k]
    matrix = (torch.einsum('niq,ncq->nic', s[:, :k], s)
              - size * torch.einsum('ni,nc->nic', mu[:, :k, 0], mu[:, :, 0]))
    queries, keys = d.relu(), (s - mu)[:, :k].relu()
    affinity = torch.einsum('nip,niq->npq', queries, keys)
    eps = 1e-6 * queries.amax((1, 2)) * keys.amax((1, 2))
    y = dict(
        conv=lambda: x,
        conv_rms=lambda: x,
        mean=lambda: x.mean(2, keepdim=True).expand_as(x),
        centred=lambda: torch.einsum('nip,nic->ncp', d, matrix),
        correlation=lambda: torch.einsum(
            'nip,nic,ni->ncp', d, matrix,
            1 / (s[:, :k].var(2, correction=0) + 1e-5)) / (size * k),
        relu=lambda: torch.einsum('npq,ncq,np->ncp', affinity, s - mu,
                                  1 / (affinity.sum(2) + eps[:, None])),
        groups=lambda: torch.cat(
            [torch.einsum('nip,niq,ncq->ncp', a, b, v) for a, b, v in zip(
                *(t.tensor_split(4, 1) for t in (x[:, :k], s[:, :k], s)))], 1),
    )[form]()
    if form in ('conv_rms', 'centred', 'groups'):
        y = y / y.square().mean((1, 2), keepdim=True).sqrt()
    return y.unflatten(2, (h, w))


def y_of(form, x, order='auto', stride=1, ratio=0.5):
    """What the depthwise convolution of a LightNLForm gets."""
    layer = LightNLForm(x.shape[1], form, channel_ratio=ratio, stride=stride,
                        order=order)
    got = []
    layer._convolve = lambda y: got.append(y) or y
    layer(x)
    return got[0]


@pytest.mark.parametrize('form', FORMS)
def test_forms(form):
    """Both orders, with and without a stride, are the formula."""
    for shape, stride in (((2, 9, 6, 7), 1), ((1, 10, 5, 8), 2), ((3, 8, 2, 2), 1)):
        x = torch.randn(shape, dtype=torch.float64) + torch.randn(shape[1], 1, 1)
        want = by_einsum(form, x, int(shape[1] * 0.5), stride)
        for order in ('channel', 'spatial', 'auto'):
            torch.testing.assert_close(y_of(form, x, order, stride), want)


@pytest.mark.parametrize('form', FORMS)
def test_forms_are_bounded(form):
    """y has a fixed size, or the size of x, for features of 1e-6 to 1e8."""
    x = torch.randn(2, 16, 8, 8)
    x[0, 3] += 20
    usual = y_of(form, x)
    degree = form not in ('conv_rms', 'centred', 'groups')  # in x
    for scale in (1e-6, 1e3, 1e8):
        y = y_of(form, scale * x)
        # correlation has an eps beside the variance
        if form != 'correlation' or scale > 1:
            torch.testing.assert_close(y / scale**degree, usual, rtol=1e-3, atol=1e-4)
        if degree:
            assert y.abs().max() <= 2 * scale * x.abs().max()
        else:
            assert y.square().mean((1, 2, 3)).max() < 1.001
    if form == 'correlation':
        deviation = x.flatten(2).std(2, correction=0)
        assert (usual.flatten(2).square().mean(2).sqrt() <= deviation * 1.001).all()
    if form == 'relu':
        mean = x.mean((2, 3), keepdim=True)
        assert ((usual + mean).amax((2, 3)) <= x.amax((2, 3)) + 1e-3).all()


@pytest.mark.parametrize('form', FORMS)
def test_forms_at_constant_features(form):
    """Where nothing varies, centred forms add nothing; gradients are finite."""
    for value in (0., 3.7, 1e4):
        x = torch.full((2, 8, 5, 5), value, requires_grad=True)
        y = y_of(form, x)
        y.sum().backward()
        assert torch.isfinite(y).all() and torch.isfinite(x.grad).all()
        if form in ('centred', 'correlation', 'relu'):
            assert y.abs().max() < 1e-3 * max(value, 1)


@pytest.mark.parametrize('form', FORMS)
def test_forms_start_as_the_identity_and_learn(form):
    layer = LightNLForm(8, form, channel_ratio=0.5)
    for x in (torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6).half()):
        if x.dtype == torch.half:
            layer = layer.half()
        assert torch.equal(layer.eval()(x), x)
    layer = layer.float().train()
    layer(torch.randn(2, 8, 6, 6)).square().sum().backward()
    assert layer.norm.weight.grad.abs().min() > 0


def test_macs_of_forms():
    """Products and convolution count, and the pooling of 'mean'; normalisation does
    not."""
    c, k, n = 24, 6, 36
    products = 2 * k * c * n
    for form, added in (('conv', 0), ('conv_rms', 0), ('mean', c * n),
                        ('centred', products), ('correlation', products),
                        ('relu', products + k * n), ('groups', products // 4)):
        assert built_macs(LightNLForm(c, form), c, 6, 6) == 9 * c * n + added, form


def test_no_such_form():
    with pytest.raises(ValueError, match="'median', expected one of conv, conv_rms"):
        LightNLForm(8, 'median')
    with pytest.raises(ValueError, match='leaves 3 compact channels for 4 groups'):
        LightNLForm(12, 'groups')


def test_squeeze_excite_starts_as_the_identity():
    name, layer = build_plugin_layer(
        dict(type='autonl_mm.SqueezeExcitePlugin'), in_channels=20)
    x = torch.randn(2, 20, 3, 3)
    assert name == 'se' and layer.reduce.out_channels == 5
    for _ in range(2):
        assert torch.equal(layer(x), x)
        nn.init.ones_(layer.expand.weight)
        gate = layer.expand(layer.act(layer.reduce(x.mean((2, 3), keepdim=True))))
        torch.testing.assert_close(layer(x), x * 2 * gate.sigmoid())
        layer.init_weights()
    _, layer = build_plugin_layer(
        dict(type='autonl_mm.SqueezeExcitePlugin', ratio=0.01), in_channels=20)
    assert layer.reduce.out_channels == 1


def test_plugins_of_configs():
    name, layer = build_plugin_layer(dict(type='autonl_mm.SharedNL'), in_channels=8)
    assert name == 'shared_nl' and isinstance(layer, SharedNL)
    name, layer = build_plugin_layer(
        dict(type='autonl_mm.LightNLForm', form='mean'), in_channels=8)
    assert name == 'light_nl' and isinstance(layer, LightNLForm)
