# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy
from itertools import product

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autonl_mm import ops
from autonl_mm.models.layers import LightNL, light_nl_reference

CHANNELS_LAST = torch.channels_last


@pytest.fixture(scope='module', autouse=True)
def operator():
    ops.load_fused_operators()


NORMALIZE = ('size', 'rms')
ACTIVATIONS = ('silu', 'hardswish', 'relu', 'relu6')


def formula(x, weight, bias, nl_channels, stride, dilation, normalize='rms'):
    y = light_nl_reference(x.double(), nl_channels, stride, normalize)
    return x + F.conv2d(y, weight.double(), bias.double(), padding=dilation,
                        dilation=dilation, groups=x.shape[1])


@settings(max_examples=50)
@given(st.data())
def test_it_is_the_formula(data):
    """For any size, both orders and any number of threads."""
    def draw(low, high):
        return data.draw(st.integers(low, high))

    n, c, h, w = draw(1, 5), draw(1, 60), draw(1, 20), draw(1, 20)
    k, stride, dilation = draw(1, c), draw(1, 4), draw(1, 5)
    order = data.draw(st.sampled_from(['auto', 'channel', 'spatial']))
    normalize = data.draw(st.sampled_from(NORMALIZE))
    torch.manual_seed(draw(0, 9))
    x = torch.randn(n, c, h, w)
    if data.draw(st.booleans()):
        x = x.contiguous(memory_format=CHANNELS_LAST)
    weight, bias = torch.randn(c, 1, 3, 3), torch.randn(c)
    want = formula(x, weight, bias, k, stride, dilation, normalize)
    residual = torch.randn(n, c, h, w) if data.draw(st.booleans()) else None
    if residual is not None:
        want = want + residual
    threads = torch.get_num_threads()
    torch.set_num_threads(draw(1, 6))
    try:
        got = ops.fused_light_nl(x, weight, bias, k, stride, order, dilation,
                                 residual, normalize)
    finally:
        torch.set_num_threads(threads)
    assert (got - want).abs().max() <= 2e-6 * want.abs().max()
    assert got.dtype == x.dtype and got.shape == x.shape
    assert got.is_contiguous(memory_format=CHANNELS_LAST) == \
        x.is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('normalize', NORMALIZE)
def test_nan_and_inf_are_kept(value, order, normalize):
    x = torch.randn(1, 16, 6, 6)
    x[0, 0, 2, 3] = value
    weight, bias = torch.randn(16, 1, 3, 3), torch.randn(16)
    got = ops.fused_light_nl(x, weight, bias, 4, order=order, normalize=normalize)
    want = formula(x, weight, bias, 4, 1, 1, normalize)
    assert torch.equal(got.isfinite(), want.isfinite())
    assert not got.isfinite().all()


@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('factor', [0, 1e-17, 1e-12, 1e-7, 1e3, 1e12])
def test_root_mean_square_of_features_of_any_size(order, factor):
    """At stride 2; where the product is zero, so is y."""
    x = torch.randn(2, 19, 9, 7) * factor
    weight, bias = torch.randn(19, 1, 3, 3), torch.zeros(19)
    got = ops.fused_light_nl(x, weight, bias, 4, 2, order, normalize='rms')
    want = formula(x, weight, bias, 4, 2, 1)
    assert bool((want - x).any()) == (factor > 0)
    torch.testing.assert_close(got - x, (want - x).float(), rtol=1e-4,
                               atol=1e-5 + 1e-6 * factor)


def test_views_and_weights_of_any_layout():
    big = torch.randn(2, 24, 9, 11)
    weight = torch.randn(16, 1, 3, 3).contiguous(memory_format=CHANNELS_LAST)
    bias = torch.randn(32)[::2]
    for x in (big[:, 4:20], big[:, :16, ::2, 1::3], big[:, :16].permute(0, 1, 3, 2)):
        got = ops.fused_light_nl(x, weight, bias, 4, 2)
        want = formula(x, weight, bias, 4, 2, 1)
        torch.testing.assert_close(got, want.float(), rtol=1e-5, atol=1e-5)


def test_no_images():
    x = torch.zeros(0, 8, 5, 5)
    got = ops.fused_light_nl(x, torch.zeros(8, 1, 3, 3), torch.zeros(8), 2)
    assert got.shape == x.shape


@pytest.mark.parametrize('change, words', [
    (dict(x=torch.zeros(2, 8, 5)), 'a float32 feature map'),
    (dict(x=torch.zeros(2, 8, 5, 5, dtype=torch.float64)), 'a float32 feature map'),
    (dict(weight=torch.zeros(8, 8, 3, 3)), r'weight \(8, 1, 3, 3\)'),
    (dict(weight=torch.zeros(8, 1, 5, 5)), r'weight \(8, 1, 3, 3\)'),
    (dict(bias=torch.zeros(7)), r'bias \(8\), got Float \[7\]'),
    (dict(residual=torch.zeros(2, 8, 5, 4)), r'residual \[2, 8, 5, 5\]'),
    (dict(nl_channels=9), r'0 < k <= 8 .* got 9'),
    (dict(dilation=0), 'positive stride and dilation'),
    (dict(normalize='root'), 'normalize rms or size, got root'),
])
def test_bad_input(change, words):
    arguments = dict(x=torch.zeros(2, 8, 5, 5), weight=torch.zeros(8, 1, 3, 3),
                     bias=torch.zeros(8), nl_channels=2, order='channel')
    with pytest.raises(RuntimeError, match=words):
        ops.fused_light_nl(**dict(arguments, **change))


# --------------------------------------------------------------------- MBConv


def conv(in_channels, out_channels, kernel_size=1, groups=1, **kwargs):
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, groups=groups, **kwargs)
    nn.init.normal_(layer.weight, std=(groups / in_channels)**0.5 / kernel_size)
    nn.init.normal_(layer.bias)
    return layer


def block(c=8, mid=24, out=8, kernel_size=3, stride=1, dilation=1, hidden=0,
          nl_ratio=0, nl_stride=1, nl_dilation=1, order='auto', normalize='size'):
    """Arguments of fused_mbconv except x."""
    mid = mid or c
    light_nl = None
    if nl_ratio:
        light_nl = LightNL(out, nl_ratio, nl_stride, order, normalize, norm_cfg=None,
                           dilation=nl_dilation)
        light_nl.conv = conv(out, out, 3, out, padding=light_nl.conv.padding,
                             dilation=light_nl.conv.dilation)
    return dict(
        expand=None if mid == c else conv(c, mid),
        depthwise=conv(mid, mid, kernel_size, mid, stride=stride,
                       padding=dilation * (kernel_size // 2),
                       dilation=dilation),
        reduce=conv(mid, hidden) if hidden else None,
        gate=conv(hidden, mid) if hidden else None,
        project=conv(mid, out),
        activation='silu',
        identity=False,
        light_nl=light_nl)


def mbconv_formula(x, expand, depthwise, reduce, gate, project, activation,
                   identity, light_nl, se_activation=None):
    """Layer by layer in double precision."""
    act, se_act = (getattr(F, a) for a in (activation, se_activation or activation))
    layers = copy.deepcopy(
        nn.ModuleList([expand or nn.Identity(), depthwise, project,
                       reduce or nn.Identity(), gate or nn.Identity()]))
    expand_, depthwise_, project_, reduce_, gate_ = layers.double()
    x = x.double()
    y = act(expand_(x)) if expand else x
    y = act(depthwise_(y))
    if reduce:
        mean = y.mean((2, 3), keepdim=True)
        y = y * gate_(se_act(reduce_(mean))).sigmoid()
    y = project_(y)
    if light_nl:
        y = formula(y, light_nl.conv.weight, light_nl.conv.bias,
                    light_nl.nl_channels, light_nl.stride,
                    light_nl.conv.dilation[0], light_nl.normalize)
    return x + y if identity else y


@settings(max_examples=50)
@given(st.data())
def test_mbconv_is_the_formula(data):
    """For any size and number of threads, with and without each layer."""
    def draw(low, high):
        return data.draw(st.integers(low, high))

    torch.manual_seed(draw(0, 9))
    n, h, w, stride = draw(1, 5), draw(1, 20), draw(1, 20), draw(1, 2)
    c, mid, out = 8 * draw(1, 5), 8 * draw(0, 9), 8 * draw(1, 9)
    identity = stride == 1 and data.draw(st.booleans())
    arguments = block(
        c, mid, c if identity else out, data.draw(st.sampled_from([1, 3, 5, 7])),
        stride, draw(1, 3), draw(0, 9), data.draw(st.sampled_from([0, 0.25, 1])),
        nl_dilation=draw(1, 2), nl_stride=draw(1, 3),
        order=data.draw(st.sampled_from(['auto', 'channel', 'spatial'])),
        normalize=data.draw(st.sampled_from(NORMALIZE)))
    arguments.update(
        identity=identity, activation=data.draw(st.sampled_from(ACTIVATIONS)),
        se_activation=data.draw(st.sampled_from((None, ) + ACTIVATIONS)))
    ops.pack_weights(*data.draw(st.sampled_from([
        [], [arguments[name] for name in ('expand', 'depthwise', 'gate', 'project')]])))
    x = torch.randn(n, c, h, w)
    if data.draw(st.booleans()):
        x = x.contiguous(memory_format=CHANNELS_LAST)
    threads = torch.get_num_threads()
    torch.set_num_threads(draw(1, 6))
    with torch.no_grad():
        try:
            got = ops.fused_mbconv(x, **arguments)
        finally:
            torch.set_num_threads(threads)
        want = mbconv_formula(x, **arguments)
    assert (got - want).abs().max() <= 3e-6 * want.abs().max()
    assert got.dtype == x.dtype and got.shape == want.shape
    assert got.is_contiguous(memory_format=CHANNELS_LAST) or \
        not x.is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('channels', [8, 16, 24, 32])
def test_tiles_of_every_size(channels, activation):
    """There is separate code for each number of rows and of vectors.

    A lambda that is not inlined reads its vectors from the wrong place. GCC 12
    once did not inline the one for one row of one vector.
    """
    for seed, (positions, hidden, identity) in enumerate(
            product(range(1, 14), [0, 4], [False, True])):
        torch.manual_seed(seed)
        arguments = dict(block(40, channels, 40 if identity else channels, 1,
                               hidden=hidden),
                         activation=activation, identity=identity)
        x = torch.randn(1, 40, 1, positions)
        with torch.no_grad():
            got = ops.fused_mbconv(x, **arguments)
            want = mbconv_formula(x, **arguments)
        assert (got - want).abs().max() <= 3e-6 * want.abs().max(), positions


@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('channels', [3, 8, 16, 24, 32, 43])
@pytest.mark.parametrize('normalize', NORMALIZE)
def test_light_nl_tiles_of_every_size(channels, order, normalize):
    for seed, (width, k) in enumerate(product(range(1, 9), [1, 2, 3])):
        torch.manual_seed(seed)
        x = torch.randn(1, channels, 2, width)
        weight, bias = torch.randn(channels, 1, 3, 3), torch.randn(channels)
        got = ops.fused_light_nl(x, weight, bias, k, 1, order, normalize=normalize)
        want = formula(x, weight, bias, k, 1, 1, normalize)
        assert (got - want).abs().max() <= 2e-6 * want.abs().max(), (width, k)


@pytest.mark.parametrize('hidden', [0, 4])
def test_mbconv_of_a_feature_map_beyond_the_cache(hidden):
    torch.manual_seed(0)
    arguments = block(16, 48, 24, 5, 2, hidden=hidden)
    x = torch.randn(1, 16, 150, 700).contiguous(memory_format=CHANNELS_LAST)
    with torch.no_grad():
        got, want = ops.fused_mbconv(x, **arguments), mbconv_formula(x, **arguments)
    assert (got - want).abs().max() <= 3e-6 * want.abs().max()


def through_activation(x, activation):
    """The operator's activation of the values x, all other layers the identity."""
    arguments = block(8, 0, 8, 1)
    for layer in (arguments['depthwise'], arguments['project']):
        nn.init.dirac_(layer.weight, groups=layer.groups)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        x = x.view(1, 1, 1, -1).repeat(1, 8, 1, 1)
        return ops.fused_mbconv(x, **dict(arguments, activation=activation))[0, 0, 0]


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_activations(activation):
    x = torch.cat([torch.linspace(-100, 100, 20001),
                   torch.tensor([0., -0., 1e-30, 1e4, -1e4, 1e30, -1e4])])
    want = getattr(F, activation)(x.double())
    error = (through_activation(x, activation) - want).abs()
    # Results below 1e-20 do not matter. log2(e) is rounded to a float, and x
    # multiplies its error.
    bound = (3e-7 + 2e-8 * x.clamp(-60, 60).abs()) * want.abs() + 1e-20
    assert (error <= bound).all()


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_mbconv_keeps_nan_and_inf(value, activation):
    arguments = dict(block(8, 24, hidden=0), activation=activation)
    x = torch.randn(2, 8, 5, 5)
    x[1, 0, 2, 3] = value
    with torch.no_grad():
        got, want = ops.fused_mbconv(x, **arguments), mbconv_formula(x, **arguments)
    assert torch.equal(got.isfinite(), want.isfinite())
    clipped = value == float('inf') and activation == 'relu6'
    assert got.isfinite().all() == clipped


def test_squeeze_excite_of_nan():
    x = torch.randn(2, 8, 5, 5)
    x[1, 0, 2, 3] = float('nan')
    with torch.no_grad():
        got = ops.fused_mbconv(x, **block(hidden=4))
    assert got[0].isfinite().all() and got[1].isnan().all()


def test_mbconv_without_images():
    got = ops.fused_mbconv(torch.zeros(0, 8, 5, 5), **block(stride=2))
    assert got.shape == (0, 8, 3, 3)


@pytest.mark.parametrize('change, words', [
    (dict(x=torch.zeros(2, 8, 5)), 'a float32 feature map'),
    (dict(x=torch.zeros(2, 8, 5, 5, dtype=torch.float64)), 'a float32 feature map'),
    (dict(x=torch.zeros(2, 12, 5, 5)), 'multiples of 8, got 12, 24 and 8'),
    (dict(x=torch.zeros(2, 16, 5, 5)), r'expand weight \[24, 16, 1, 1\]'),
    (dict(expand=None), r'depthwise weight \[8, 1, 3, 3\]'),
    (dict(depthwise=conv(24, 24, 2, 24)), 'an odd kernel size, got 2'),
    (dict(reduce=conv(16, 4)), r'reduce weight \[4, 24, 1, 1\]'),
    (dict(reduce=conv(24, 4)), r'gate weight \[24, 4, 1, 1\]'),
    (dict(reduce=conv(24, 4), gate=conv(8, 24)), r'gate weight \[24, 4, 1, 1\]'),
    (dict(project=conv(16, 8)), r'project weight \[8, 24, 1, 1\]'),
    (dict(project=nn.Conv2d(24, 8, 1, bias=False)), 'with a bias'),
    (dict(activation='gelu'), 'silu, hardswish, relu or relu6, got gelu'),
    (dict(se_activation='gelu'), 'silu, hardswish, relu or relu6, got gelu'),
    (dict(identity=True, project=conv(24, 16)), 'to add the identity'),
    (dict(identity=True, depthwise=conv(24, 24, 3, 24, stride=2)),
     'to add the identity'),
    (dict(light_nl=LightNL(16, norm_cfg=None)), 'a bias of LightNL'),
])
def test_bad_input_of_mbconv(change, words):
    arguments = dict(block(), x=torch.zeros(2, 8, 5, 5))
    with pytest.raises((RuntimeError, ValueError), match=words):
        ops.fused_mbconv(**dict(arguments, **change))
