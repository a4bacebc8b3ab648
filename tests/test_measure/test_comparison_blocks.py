# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import torch
import torch.nn as nn
from mmcv.cnn import build_plugin_layer

from autonl_mm.measure.comparison_blocks import (
    AddOnly,
    ConvolutionOnly,
    EinsumLightNL,
    SharedNL,
)
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
    layer = ConvolutionOnly(16, zero_init=False).eval()
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


def test_plugins_of_configs():
    for hidden, units in (7, 7), (0.25, 5), (0.01, 1):
        name, layer = build_plugin_layer(
            dict(type='autonl_mm.SqueezeExcitePlugin', hidden_channels=hidden),
            in_channels=20)
        assert name == 'se' and layer.reduce.out_channels == units
        assert layer(torch.randn(2, 20, 3, 3)).shape == (2, 20, 3, 3)
    name, layer = build_plugin_layer(dict(type='autonl_mm.SharedNL'), in_channels=8)
    assert name == 'shared_nl' and isinstance(layer, SharedNL)
