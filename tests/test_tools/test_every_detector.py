# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Every COCO config trains an epoch, evaluates and resumes, at a small size.

Remapped weights need the extra ``pretrained``.
The data are the demo's images, with COCO's class names; or those in the folder
that the environment variable AUTONL_COCO names, in COCO's layout. Takes one or
two minutes per config::

    AUTONL_COCO=data/coco128 pytest -m slow tests/test_tools/test_every_detector.py
"""
import json
import os
from pathlib import Path

import pytest
from conftest import ROOT, run_tool, without_downloads
from mmengine.config import Config

CONFIGS = sorted(p for p in ROOT.glob('configs/mmdet/*_coco.py'))
SIZES = ('scale', 'crop_size', 'size', 'img_scale')
SIZE = 128
METRIC = 'coco/bbox_mAP_50'


@pytest.fixture(scope='session')
def coco(tmp_path_factory):
    """Folder in COCO's layout: annotations/, train2017/, val2017/."""
    if os.environ.get('AUTONL_COCO'):
        return Path(os.environ['AUTONL_COCO']).resolve()
    from mmdet.datasets import CocoDataset
    out = tmp_path_factory.mktemp('demo')
    run_tool('tools/dataset_converters/make_demo_data.py', '--out', out,
             '--sets', 'det', '--det-train', '8', '--det-val', '4')
    root = out / 'det'
    for part in ('train', 'val'):
        (root / part).rename(root / f'{part}2017')
        path = root / f'annotations/instances_{part}.json'
        annotations = json.loads(path.read_text())
        names = CocoDataset.METAINFO['classes']
        for category, name in zip(annotations['categories'], names):
            category['name'] = name
        path.with_name(f'instances_{part}2017.json').write_text(json.dumps(annotations))
    return root


def shrink(node, size):
    """Set all sizes of the transforms in a config, in place."""
    if isinstance(node, (list, tuple)):
        for item in node:
            shrink(item, size)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in SIZES and isinstance(value, (list, tuple)):
                node[key] = (size, size)
            else:
                shrink(value, size)


def small(path, coco, folder, epochs):
    """Write the config with one or two epochs on a few small images."""
    cfg = Config.fromfile(path)
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        loader.batch_size = min(loader.batch_size, 4)
        shrink(loader, SIZE)
        dataset = loader.dataset
        while 'dataset' in dataset:
            dataset.times = 1
            dataset = dataset.dataset
        dataset.data_root = f'{coco}/'
    for hook in cfg.get('custom_hooks', []):
        shrink(hook, SIZE)
    for name in ('val', 'test'):
        cfg[f'{name}_evaluator'].ann_file = str(
            coco / 'annotations/instances_val2017.json')
    without_downloads(cfg)
    if 'roi_head' in cfg.model:
        cfg.model.train_cfg.rcnn.sampler.num = 64
    cfg.train_cfg.update(max_epochs=epochs, val_interval=1)
    cfg.train_cfg.pop('dynamic_intervals', None)
    cfg.default_hooks.checkpoint.update(interval=1)
    out = folder / f'{epochs}.py'
    cfg.dump(out)
    return out


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_epoch_evaluation_resume(path, coco, tmp_path):
    run = tmp_path / 'run'
    one = small(path, coco, tmp_path, 1)
    log = run_tool('tools/train.py', one, '--work-dir', run, timeout=3600).stdout
    # mmdet's message if no box is above the score threshold
    assert METRIC in log or 'results of the whole dataset is empty' in log
    metrics = tmp_path / 'metrics.json'
    run_tool('tools/test.py', one, run / 'epoch_1.pth', '--work-dir',
             tmp_path / 'test', '--out', metrics, '--out-item', 'metrics',
             timeout=3600)
    scalars = next(run.glob('*/vis_data/scalars.json')).read_text()
    trained = [json.loads(line)[METRIC] for line in scalars.splitlines()
               if METRIC in line]
    tested = json.loads(metrics.read_text())
    assert [v for k, v in tested.items() if k == METRIC] == trained

    two = small(path, coco, tmp_path, 2)
    log = run_tool('tools/train.py', two, '--work-dir', run, '--resume',
                   timeout=3600).stdout
    assert 'resumed epoch: 1' in log
    assert (run / 'epoch_2.pth').exists()
