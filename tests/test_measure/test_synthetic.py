# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Batches of noise for a config of each codebase."""
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope

from autonl_mm.measure.synthetic import NUM_OBJECTS, make_batch


@pytest.mark.parametrize('name', [
    'demo/autonl-s_1xb32_demo-cls', 'mmdet/mask-rcnn_autonl-s_fpn_1x_coco',
    'mmseg/autonl-s_fpn_1xb8-2400i_cityscapes-256x256'])
def test_shapes_and_labels(name, scope):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    init_default_scope(cfg.default_scope)
    batch = make_batch(cfg, 2, (48, 64))
    again = make_batch(cfg, 2, (48, 64))
    for i in range(2):
        image, sample = (batch[k][i] for k in ('inputs', 'data_samples'))
        assert image.shape == (3, 48, 64) and image.dtype == torch.uint8
        assert torch.equal(image, again['inputs'][i])
        assert not torch.equal(image, batch['inputs'][1 - i])
        if 'cls' in name:
            assert sample.gt_label.item() in (0, 1)
        elif 'rcnn' in name:
            objects = sample.gt_instances
            assert len(objects) == NUM_OBJECTS
            assert objects.masks.masks.shape == (NUM_OBJECTS, 48, 64)
            x1, y1, x2, y2 = objects.bboxes.T
            assert (0 <= x1).all() and (x1 < x2).all() and (x2 <= 64).all()
            assert (0 <= y1).all() and (y1 < y2).all() and (y2 <= 48).all()
            assert objects.labels.max() <= 1
        else:
            assert sample.gt_sem_seg.data.shape == (1, 48, 64)
            assert set(sample.gt_sem_seg.data.unique().tolist()) == {0, 1}
