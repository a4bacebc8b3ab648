# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
from conftest import ROOT, load_tool
from mmengine.config import Config

from autonl_mm import AUTONL_S, count_macs
from autonl_mm.runs import configs

get_flops = load_tool('tools/analysis_tools/get_flops.py')


def count(path, shape=None):
    cfg = Config.fromfile(ROOT / 'configs' / path)
    shape = shape or configs.input_size(cfg)
    model = configs.build_model(cfg)
    inputs, samples = get_flops.make_inputs(model, shape, cfg.default_scope)
    return model, inputs, get_flops.count_parts(model, inputs, samples)


def test_classifier_agrees_with_the_cost_formula(scope):
    model, inputs, macs = count('mmpretrain/autonl-s_32xb128_in1k.py')
    cost = count_macs(AUTONL_S.with_normalize('size'), tuple(inputs.shape[2:]))
    assert inputs.shape[2:] == (224, 224)
    assert macs[''] == cost.total
    for i in range(9):
        assert macs[f'backbone.layers.{i}'] == sum(
            row.macs for row in cost.rows
            if row.name.startswith(f'layers.{i}.'))
    last = get_flops.table(model, macs).splitlines()[-1]
    params = sum(p.numel() for p in model.parameters())
    assert last == f'| all | {params:,} | {cost.total / 1e6:,.2f} |'


@pytest.mark.parametrize('path, shape, parts', [
    ('mmdet/ssdlite_autonl-s_8xb24-600e_coco.py', None,
     ['backbone.layers.8', 'neck', 'bbox_head']),
    ('mmdet/faster-rcnn_mobilenetv2_fpn_1x_coco.py', (64, 100),
     ['backbone.layer7', 'neck', 'rpn_head', 'roi_head.bbox_head']),
    ('mmseg/autonl-s-d16_deeplabv3_4xb2-80k_cityscapes-512x1024.py', (64, 128),
     ['backbone.layers.7', 'decode_head']),
])
def test_detectors_and_segmentors(path, shape, parts, scope):
    model, inputs, macs = count(path, shape)
    if shape is None:
        assert inputs.shape[2:] == (320, 320)
    elif 'mmdet' in path:  # padded to a multiple of 32
        assert inputs.shape[2:] == (64, 128)
    named = dict(get_flops.parts(model))
    for part in parts:
        assert macs[part] > 0
    # every parameter and every multiplication is in one row
    assert sum(p.numel() for m in named.values() for p in m.parameters()) == (
        sum(p.numel() for p in model.parameters()))
    assert sum(macs.get(name, 0) for name in named) == macs['']
    if 'auxiliary_head' in named:
        assert macs.get('auxiliary_head', 0) == 0


def test_what_it_cannot_count(scope):
    with pytest.raises(ValueError, match='give --input-shape'):
        count('demo/autonl-s_1xb32_demo-cls.py')
    with pytest.raises(ValueError, match=r'export_arch\.py'):
        count('mmpretrain/autonl-supernet_8xb128_in1k.py')
