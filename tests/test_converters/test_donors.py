# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Descriptions of trained networks, by the names and shapes of their tensors."""
import pytest
import safetensors.torch
import timm
import torch

from autonl_mm.converters import ConversionError, describe, load_donor
from autonl_mm.models import AutoNL
from autonl_mm.runs.checkpoints import BrokenCheckpointError

mmpretrain = pytest.importorskip('mmpretrain.models')


@pytest.mark.parametrize('name, depths, widths, act, eps', [
    ('mnasnet_100', (1, 3, 3, 3, 2, 4, 1), (16, 24, 40, 80, 96, 192, 320), 'ReLU',
     1e-5),
    ('mobilenetv2_035', (1, 2, 3, 4, 3, 3, 1), (8, 8, 16, 24, 32, 56, 112), 'ReLU6',
     1e-5),
    ('mobilenetv3_large_100', (1, 2, 3, 4, 2, 3), (16, 24, 40, 80, 112, 160), 'HSwish',
     1e-5),
    ('fbnetc_100', (1, 3, 4, 4, 4, 4, 1), (16, 24, 32, 64, 112, 184, 352), 'ReLU',
     1e-3),
    ('mobilenetv3_rw', (1, 2, 3, 4, 2, 3), (16, 24, 40, 80, 112, 160), 'HSwish', 1e-3),
    ('tf_mobilenetv3_large_minimal_100', (1, 2, 3, 4, 2, 3),
     (16, 24, 40, 80, 112, 160), 'ReLU', 1e-3),
    ('tf_efficientnet_lite0', (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320),
     'ReLU6', 1e-3),
])
def test_networks_of_timm(name, depths, widths, act, eps):
    with torch.device('meta'):
        model = timm.create_model(name)
    model.to_empty(device='cpu')
    state = {k: torch.ones_like(v) for k, v in model.state_dict().items()}
    donor = describe(state, name)
    assert tuple(map(len, donor.stages)) == depths
    assert tuple(s[0].out_channels for s in donor.stages) == widths
    assert [s[0].stride for s in donor.stages] == [1, 2, 2, 2, 1, 2, 1][:len(depths)]
    assert (donor.family.act, donor.stem.eps) == (act, eps)
    assert donor.family.same_padding == name.startswith('tf_')
    assert bool(donor.fc) == ('mobilenetv3' not in name)


@pytest.mark.parametrize('build, depths', [
    (lambda: mmpretrain.MobileNetV2(), (1, 2, 3, 4, 3, 3, 1)),
    (lambda: mmpretrain.MobileNetV3('large', out_indices=(16, )), (1, 2, 3, 4, 2, 3)),
    (lambda: mmpretrain.EfficientNet('b0'), (1, 2, 2, 3, 3, 4, 1)),
    (lambda: AutoNL('s'), (1, 2, 3, 3, 4, 4, 1)),
], ids=['MobileNetV2', 'MobileNetV3', 'EfficientNet', 'AutoNL'])
@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.backbone.'])
def test_networks_of_openmmlab(build, depths, prefix):
    state = {prefix + k: v for k, v in build().state_dict().items()}
    if prefix == 'backbone.':  # of a detector
        state['neck.lateral_convs.0.weight'] = torch.ones(1)
    donor = describe(state)
    assert tuple(map(len, donor.stages)) == depths
    assert donor.head is not None


@pytest.fixture(scope='module')
def weights():
    return timm.create_model('mnasnet_100').state_dict()


@pytest.mark.parametrize('change, message', [
    (lambda s: s.pop('blocks.2.1.conv_dw.weight'),
     'blocks.2.1.conv_dw.weight is missing'),
    (lambda s: s.pop('bn1.running_var'), 'bn1.running_var is missing'),
    (lambda s: s.update({'blocks.1.0.extra.weight': torch.ones(1)}),
     'unknown: blocks.1.0.extra.weight'),
    (lambda s: s.update({'blocks.1.0.conv_pw.weight': torch.ones(48, 17, 1, 1)}),
     r'blocks.1.0.conv_pw.weight is \(48, 17, 1, 1\), expected \(any, 16, 1, 1\)'),
    (lambda s: s['blocks.0.0.conv_dw.weight'].fill_(float('nan')),
     '^1 problems .*: blocks.0.0.conv_dw.weight is not of finite numbers'),
    (lambda s: [s.pop(k) for k in list(s) if 'bn' in k], 'have no BN'),
], ids=['missing', 'no statistics', 'extra', 'shape', 'nan', 'folded'])
def test_wrong_tensors_are_named(change, message, weights):
    state = {k: v.clone() for k, v in weights.items()}
    change(state)
    with pytest.raises(ConversionError, match=message):
        describe(state, 'mnasnet_100')


def test_other_networks_are_refused(weights):
    with pytest.raises(ConversionError, match=r"'model_best\.pth' is none of mnasnet"):
        describe(weights, source='runs/model_best.pth')
    with pytest.raises(ConversionError, match=r"'MNASNET' .*set donor to timm's"):
        describe(weights, 'MNASNET')
    with pytest.raises(ConversionError, match=r'not mobilenetv2_100: .* block 1 are'):
        describe(weights, 'mobilenetv2_100')
    with pytest.raises(ConversionError, match=r'not mnasnet_100: .* block 1 are'):
        describe(AutoNL('l').state_dict(), 'mnasnet_100')
    for small in mmpretrain.MobileNetV3('small'), timm.create_model(
            'mobilenetv3_small_050'):
        with pytest.raises(ConversionError, match='it is a small MobileNetV3'):
            describe(small.state_dict(), 'mobilenetv3_small_050')
    with pytest.raises(ConversionError, match=r'a search: give .*export_arch'):
        describe({'model.backbone.gate_state.threshold': torch.zeros(1)})
    with pytest.raises(ConversionError, match='not a known network'):
        describe(timm.create_model('resnet18').state_dict(), 'resnet18')
    state = timm.create_model('mixnet_s').state_dict()
    with pytest.raises(ConversionError, match=r'blocks\.1\.0\.\S+ is missing'):
        describe(state, 'mnasnet_100')


def test_files(tmp_path, weights):
    path = tmp_path / 'mnasnet_100-ra.pth'
    torch.save({'state_dict': {f'module.{k}': v.half() for k, v in weights.items()}},
               path)
    donor = load_donor(str(path))
    assert donor.stem.weight.dtype == torch.float32 and len(donor.sha256) == 64
    safetensors.torch.save_file(weights, tmp_path / 'mnasnet_100.safetensors')
    again = load_donor(str(tmp_path / 'mnasnet_100.safetensors'))
    assert torch.equal(again.stem.weight.half(), donor.stem.weight.half())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BrokenCheckpointError, match='mnasnet_100-ra'):
        load_donor(str(path))
    with pytest.raises(FileNotFoundError, match='there is no checkpoint'):
        load_donor(str(tmp_path / 'none.pth'))
    with pytest.raises(FileNotFoundError, match='no package has'):
        load_donor('package://resnet18')
    with pytest.raises(FileNotFoundError, match='timm has no file of weights'):
        load_donor('timm://no_such_network')
    with pytest.raises(ValueError, match='expected timm://NAME'):
        load_donor('https://somewhere/x.pth')
    (tmp_path / 'empty.safetensors').touch()
    with pytest.raises(BrokenCheckpointError, match=r'empty\.safetensors'):
        load_donor(str(tmp_path / 'empty.safetensors'))


def test_averaged_weights_of_timms_trainer(tmp_path, weights):
    average = {k: v + 1 for k, v in weights.items()}
    path = tmp_path / 'mnasnet_100.pth'
    torch.save(dict(state_dict=weights, state_dict_ema=average), path)
    assert torch.equal(load_donor(path).stem.weight, average['conv_stem.weight'])


def test_files_of_our_own_may_have_any_name(tmp_path, monkeypatch):
    net = AutoNL(['r1_k3_s11_e1_i8_o8'], out_indices=(-1, ))
    torch.save(net.state_dict(), tmp_path / 'best.pt')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert load_donor('~/best.pt').stages[0][0].out_channels == 8


def test_strides_of_our_own_networks():
    lines = ['r1_k3_s22_e1_i8_o8', 'r2_k3_s11_e2_i8_o12', 'r1_k3_s22_e2_i12_o14']
    state = AutoNL(lines, out_indices=(-1, )).state_dict()
    donor = describe(state, lines)
    assert [s[0].stride for s in donor.stages] == [2, 1, 2]
