# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Named networks are timm's networks of the same names."""
import pytest
import torch
import torch.nn as nn
from mmcv.cnn.bricks import Conv2dAdaptivePadding

from autonl_mm import count_macs
from autonl_mm.arch import resolve_arch
from autonl_mm.measure.counting import built_macs
from autonl_mm.models import AutoNL
from autonl_mm.named_networks import NAMED_NETWORKS


def timms(name):
    """timm's network with random weights, its norms as after training."""
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    net = timm.create_model(name).eval()
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (norm.bias, norm.running_mean):
                nn.init.uniform_(tensor, -0.5, 0.5)
    return net


def take_weights(net, theirs):
    """Load timm's weights, which are in the same order by other names."""
    values = list(theirs.state_dict().values())[:-2]  # without the classifier
    state = net.state_dict()
    assert len(state) == len(values)
    net.load_state_dict(dict(zip(state, values)))


@pytest.mark.parametrize('name', NAMED_NETWORKS)
def test_is_timms_network(name):
    """Every feature map, its cost and where images of the zoo come from."""
    theirs = timms(name)
    ours = AutoNL(name, out_indices=range(9)).eval()
    assert ours.out_strides == (2, 2, 4, 8, 16, 16, 32, 32, 32)
    take_weights(ours, theirs)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = ours(x)
        x = theirs.bn1(theirs.conv_stem(x))
        expected = [x]
        for stage in theirs.blocks:
            x = stage(x)
            expected.append(x)
        expected.append(theirs.bn2(theirs.conv_head(x)))
    assert len(maps) == len(expected)
    for out, wanted in zip(maps, expected):
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-5 * wanted.std())
    assert count_macs(resolve_arch(name), 64).total == built_macs(theirs, 3, 64, 64)

    cfg, named = theirs.default_cfg, NAMED_NETWORKS[name]
    assert named.url == cfg['url'] and named.interpolation == cfg['interpolation']
    size = named.input_size
    assert cfg['input_size'] == (3, size, size)
    assert cfg['crop_pct'] == pytest.approx(size / (size + 32), abs=3e-3)
    for mine, timms_own in (named.mean, cfg['mean']), (named.std, cfg['std']):
        assert mine == pytest.approx([255 * v for v in timms_own], abs=0.51)


def test_autonl_has_names_too():
    assert resolve_arch('autonl_s') is resolve_arch('s')
    assert resolve_arch('autonl_l') is resolve_arch('l')


def kinds(net):
    """``eps`` of the norms, types of activations and of the stem's convolution."""
    return ({m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)},
            {type(m) for m in net.modules()
             if type(m).__module__ == 'torch.nn.modules.activation'},
            type(net.layers[0].conv))


def test_given_settings_win():
    name = 'tf_efficientnet_lite0'

    def build(arch=name, **kwargs):
        return AutoNL(arch, out_indices=(2, ), **kwargs)

    assert kinds(build()) == ({1e-3}, {nn.ReLU6}, Conv2dAdaptivePadding)
    assert kinds(build('mobilenetv2_100')) == ({1e-5}, {nn.ReLU6}, nn.Conv2d)
    given = dict(
        act_cfg=dict(type='ReLU'), se_act_cfg=dict(type='ReLU'),
        conv_cfg=dict(type='Conv2d'),
        norm_cfg=dict(type='BN', eps=1e-4))
    net = build(**given)
    assert kinds(net) == ({1e-4}, {nn.ReLU}, nn.Conv2d) and net.cfgs == given
    # eps is of the weights, momentum of the training
    assert kinds(build(norm_cfg=dict(type='BN', momentum=0.1)))[0] == {1e-3}
    synced = build(norm_cfg=dict(type='SyncBN'))
    assert synced.cfgs['norm_cfg'] == dict(type='SyncBN', eps=1e-3)
    groups = build(norm_cfg=dict(type='GN', num_groups=2))
    assert groups.cfgs['norm_cfg'] == dict(type='GN', num_groups=2)
    # not for networks without a name of their own
    assert kinds(build('s', norm_cfg=dict(type='BN', momentum=0.1)))[0] == {1e-5}
    assert kinds(build(resolve_arch(name))) == ({1e-3}, {nn.SiLU}, nn.Conv2d)


@pytest.mark.parametrize('blocks', [None, (3, 8)])
def test_light_nl_changes_no_logit(blocks):
    spec = resolve_arch('semnasnet_100')
    with_nl = spec.with_light_nl(0.25, 2, blocks)
    assert with_nl.without_light_nl() == spec
    assert [i for i, b in enumerate(with_nl.blocks) if b.nl_ratio] == list(
        range(len(spec.blocks)) if blocks is None else blocks)
    plain = AutoNL('semnasnet_100', out_indices=(-1, )).eval()
    net = AutoNL(with_nl, out_indices=(-1, ), **plain.cfgs).eval()
    net.init_weights()
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all('light_nl' in name for name in missing)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x)[0], plain(x)[0])


def test_typing_error_names_the_network():
    with pytest.raises(ValueError, match='such as mnasnet_100, semnasnet_100'):
        resolve_arch('mnasnet100')
