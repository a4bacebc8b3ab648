# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from search_spaces import TINY_SPACE

from autonl_mm import ArchSpec
from autonl_mm.nas import AutoNLSuperNet, export_subnet
from autonl_mm.nas.search_configs import write_retrain_config
from autonl_mm.nas.supernet.export import subnet_text

LITE = dict(
    act_cfg=dict(type='ReLU6'), se_act_cfg=dict(type='HSwish'),
    conv_cfg=dict(type='Conv2dAdaptivePadding'),
    norm_cfg=dict(type='BN', momentum=0.2, eps=0.1))


@pytest.mark.parametrize('base', [
    dict(arch='s'), dict(arch='mnasnet_100', norm_cfg=dict(type='BN', momentum=0.5)),
    dict(arch='s', act_cfg=dict(type='LeakyReLU', negative_slope=0.3),
         se_act_cfg=dict(type='ReLU')),
    dict(arch='s', norm_cfg=dict(type='BN', eps=0.01), conv_cfg=dict(type='Conv2d'))
], ids=['default', 'name', 'act', 'norm'])
@pytest.mark.parametrize('settings', [{}, LITE], ids=['default', 'lite'])
def test_retrain_config_builds_the_subnet(settings, base, tmp_path):
    """Also where the search has other settings of its layers than the base config."""
    supernet = AutoNLSuperNet(TINY_SPACE, input_shape=32, **settings).eval()
    arch, state = export_subnet(supernet)
    Config(dict(model=dict(backbone=dict(type='autonl_mm.AutoNL', **base)))).dump(
        tmp_path / 'base.py')
    write_retrain_config(
        tmp_path / 'retrain.py', str(tmp_path / 'base.py'), arch, supernet.cfgs)
    backbone = Config.fromfile(tmp_path / 'retrain.py').model.backbone
    # what is the base's own business stays
    given = base.get('norm_cfg', {})
    norm_cfg = backbone.get('norm_cfg', {})
    assert {k: v for k, v in norm_cfg.items() if k != 'eps'}.items() >= {
        k: v for k, v in given.items() if k != 'eps'}.items()

    net = MODELS.build(dict(backbone, out_indices=(-1, ))).eval()
    net.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[0], supernet(x)[0])

    text = subnet_text(arch, supernet.cfgs)
    assert ArchSpec.from_text(text) == arch
    assert [line for line in text.splitlines() if line.startswith('#')] == [
        "# set conv_cfg={'type': 'Conv2dAdaptivePadding'}",
        "# set act_cfg={'type': 'ReLU6'}", "# set se_act_cfg={'type': 'HSwish'}",
        "# set norm_cfg={'type': 'BN', 'momentum': 0.01, 'eps': 0.1}"
    ] * bool(settings)
