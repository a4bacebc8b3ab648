# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn as nn

from autonl_mm.measure.classifiers import build_classifier, network_by_name
from autonl_mm.measure.comparison_blocks import AddOnly
from autonl_mm.models import LightNL, MBConv


def light_nls(net):
    return [m for m in net.modules() if isinstance(m, LightNL)]


def test_build_classifier(tiny_arch):
    net = build_classifier(tiny_arch)
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 1000)
    layer, other = light_nls(net)
    y = torch.randn(2, layer.in_channels, 6, 6)
    assert not torch.equal(layer(y), y)  # as after training
    # of notation without a line for it, the paper's
    assert layer.normalize == other.normalize == 'size'
    layers = light_nls(build_classifier(tiny_arch, light_nl=AddOnly))
    assert [type(m) for m in layers] == [AddOnly] * 2
    net = build_classifier(tiny_arch, light_nl=None, squeeze_excite=False)
    assert not light_nls(net)
    assert not any(m.se for m in net.modules() if isinstance(m, MBConv))
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 1000)


def test_network_by_name(tiny_arch):
    for name in 'AutoNL-S', 's':
        assert [m.normalize for m in light_nls(network_by_name(name))] == ['rms'] * 7
    name = str(tiny_arch)
    for variant in 'size', 'rms':
        layers = light_nls(network_by_name(f'{name}:{variant}'))
        assert [m.normalize for m in layers] == [variant] * 2
    assert type(light_nls(network_by_name(f'{name}:add-only'))[0]) is AddOnly
    assert [layer.form for layer in light_nls(
        network_by_name(f'{name}:convolution-only'))] == ['conv'] * 2
    for variant, act in ('h-swish', nn.Hardswish), ('relu', nn.ReLU):
        acts = {type(m) for m in network_by_name(f'{name}:{variant}').modules()}
        assert act in acts and nn.SiLU not in acts
    blocks = [m for m in network_by_name(f'{name}:no-light-nl:no-se').modules()
              if isinstance(m, MBConv)]
    assert blocks and not any(b.light_nl or b.se for b in blocks)


def test_no_such_network(tiny_arch):
    with pytest.raises(ValueError, match="'nonet' is neither AutoNL-S, AutoNL-L, nor"):
        network_by_name('nonet')
    with pytest.raises(ValueError, match="variant 'fast', expected some of no-"):
        network_by_name(f'{tiny_arch}:fast')
