# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Segmentors of masks, with one output channel: trained, evaluated, exported."""
import copy

import cv2
import mmengine
import numpy as np
import pytest
import torch
from conftest import ROOT, call_main, load_tool, run_tool
from mmengine.config import Config
from tiny_models import CONFIGS

test_tool = load_tool('tools/test.py')
export_tool = load_tool('tools/deployment/export.py')
HEADS = dict(of_two=dict(num_classes=2, out_channels=1), of_one=dict(num_classes=1))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Bright squares, and masks of 0 and 1 with a corner to ignore."""
    root, rng = tmp_path_factory.mktemp('masks'), np.random.default_rng(0)
    for part in ('train', 'val'):
        for kind in ('images', 'masks'):
            (root / kind / part).mkdir(parents=True)
        for i in range(4):
            mask = np.zeros((64, 96), np.uint8)
            y, x = rng.integers(8, 32, 2)
            mask[y:y + 24, x:x + 24] = 1
            image = rng.normal(60, 20, (64, 96, 3)) + 120 * mask[..., None]
            cv2.imwrite(str(root / f'images/{part}/{i}.png'), image.clip(0, 255))
            mask[:4, :4] = 255
            cv2.imwrite(str(root / f'masks/{part}/{i}.png'), mask)
    return root


def config(data, head, classes=('background', 'object')):
    """Config of two iterations with a tiny segmentor."""
    cfg = Config.fromfile(ROOT / 'configs/demo/semantic-fpn_autonl-s_1xb8_demo-seg.py')
    cfg.model = copy.deepcopy(CONFIGS['segmentor']['model'])
    cfg.model.data_preprocessor.size_divisor = 8
    del cfg.model.decode_head['num_classes']
    cfg.model.decode_head.update(
        head, threshold=0.5,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
    for name in ('train', 'val', 'test'):
        part = 'train' if name == 'train' else 'val'
        cfg[f'{name}_dataloader'].batch_size = 2
        cfg[f'{name}_dataloader'].dataset.update(
            data_root=str(data), img_suffix='.png', seg_map_suffix='.png',
            data_prefix=dict(img_path=f'images/{part}', seg_map_path=f'masks/{part}'),
            metainfo=dict(classes=classes, palette=[[0, 0, 0], [255, 0, 0]]))
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.param_scheduler.total_steps = 1
    return cfg


@pytest.mark.parametrize('head', HEADS)
def test_trained_evaluated_exported(head, data, tmp_path, monkeypatch, scope):
    """The exported model gives the label map that mmseg gives."""
    cfg, path = config(data, HEADS[head]), tmp_path / 'config.py'
    cfg.dump(path)
    run_tool('tools/train.py', path, '--work-dir', tmp_path / 'run')
    weights = tmp_path / 'run/epoch_1.pth'

    def predict(model, threshold):
        out = tmp_path / 'predictions.pkl'
        call_main(monkeypatch, test_tool, path, model, '--out', out, '--work-dir',
                  tmp_path / 'test', '--cfg-options',
                  f'model.decode_head.threshold={threshold}')
        return mmengine.load(out)

    # half of the pixels of two iterations' network are above the median
    threshold = torch.cat([sample['seg_logits']['data'].flatten()
                           for sample in predict(weights, 0.5)]).median().item()
    expected = [s['pred_sem_seg']['data'] for s in predict(weights, threshold)]
    assert 0.4 < torch.stack(expected).mean() < 0.6
    for labels in [], ['--labels']:
        file = tmp_path / f'{len(labels)}.onnx'
        call_main(monkeypatch, export_tool, path, weights, '--input-shape', 64, 96,
                  '--rounds', 1, '--out', file, *labels, '--cfg-options',
                  f'model.decode_head.threshold={threshold}')
        got = [s['pred_sem_seg']['data'] for s in predict(file, threshold)]
        same = torch.stack(got) == torch.stack(expected)
        assert same.float().mean() > 0.999  # rounding at the median
