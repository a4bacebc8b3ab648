# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
import torch
import torch.nn as nn

from autonl_mm.benchmark import networks
from autonl_mm.benchmark.networks import build_classifier
from autonl_mm.models import LightNL, MBConv


def test_the_networks_are_what_they_are_called(tiny_arch):
    def count(name):
        net = build_classifier(name)
        return sum(isinstance(m, LightNL) for m in net.modules())

    name = str(tiny_arch)
    assert count(name) == 2
    assert count(name + networks.WITHOUT) == 0
    assert count('AutoNL-S') == count('s') == 7
    for variant, act in ((networks.HSWISH, nn.Hardswish), (networks.RELU, nn.ReLU)):
        assert count(name + variant) == 2
        acts = {type(m) for m in build_classifier(name + variant).modules()}
        assert act in acts and nn.SiLU not in acts
    plain, without = (
        [m.se for m in build_classifier(name + variant).modules()
         if isinstance(m, MBConv)] for variant in ('', networks.WITHOUT_SE))
    assert len(plain) == len(without) and any(plain) and not any(without)
    assert build_classifier(name + networks.WITHOUT_SE)(image()).shape == (2, 1000)
    net = build_classifier(name)
    assert net(image()).shape == (2, 1000)
    # LightNL does something
    layer = next(m for m in net.modules() if isinstance(m, LightNL))
    y = torch.randn(2, layer.in_channels, 6, 6)
    assert not torch.equal(layer(y), y)


def test_normalize(tiny_arch):
    for variant, normalize in networks.NORMALIZED.items():
        for name, count in (('AutoNL-S', 7), (str(tiny_arch), 2)):
            for net in (build_classifier(name, normalize),
                        build_classifier(name + variant)):
                layers = [m for m in net.modules() if isinstance(m, LightNL)]
                assert [m.normalize for m in layers] == [normalize] * count


def test_reduced_light_nl(tiny_arch):
    x = torch.randn(2, 16, 6, 6)
    for variant, kind in networks.REDUCED.items():
        net = build_classifier(str(tiny_arch) + variant)
        kinds = {type(m) for m in net.modules() if isinstance(m, LightNL)}
        assert kinds == {kind}
    assert torch.equal(networks.AddOnly(16)(x), x + x)
    layer = networks.ConvolutionOnly(16, zero_init=False).eval()
    torch.testing.assert_close(layer(x), x + layer.norm(layer.conv(x)))


def test_no_such_network():
    with pytest.raises(ValueError, match="has 'nonet', which is neither one of ours"):
        build_classifier('nonet')


def image():
    return torch.randn(2, 3, 32, 32)
