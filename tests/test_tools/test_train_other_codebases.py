# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""tools/train.py and tools/test.py with a detector and a segmentor."""
import json

import pytest
import torch
from conftest import run_ranks, run_tool

DETECTOR = 'configs/demo/retinanet_autonl-s_1xb8_demo-det.py'
SEGMENTOR = 'configs/demo/semantic-fpn_autonl-s_1xb8_demo-seg.py'
CODEBASES = pytest.mark.parametrize('config, task, metric', [
    (DETECTOR, 'det', 'coco/bbox_mAP_50'),
    (SEGMENTOR, 'seg', 'mIoU'),
], ids=['detector', 'segmentor'])


@pytest.fixture(scope='module')
def demo_data(tmp_path_factory):
    root = tmp_path_factory.mktemp('demo')
    run_tool('tools/dataset_converters/make_demo_data.py', '--out', root,
             '--sets', 'det', 'seg', '--det-train', '4', '--det-val', '2',
             '--seg-train', '4', '--seg-val', '2')
    return root


def options(task, root, epochs=1):
    """Options for an epoch on four small images."""
    options = ['--cfg-options', f'train_cfg.max_epochs={epochs}',
               'train_cfg.val_interval=1', 'train_dataloader.batch_size=2',
               f'param_scheduler.total_steps={epochs}',
               'default_hooks.logger.interval=1']
    for part in ('train', 'val', 'test'):
        options.append(f'{part}_dataloader.dataset.data_root={root / task}/')
    if task == 'det':
        path = root / 'det/annotations/instances_val.json'
        options += [f'{p}_evaluator.ann_file={path}' for p in ('val', 'test')]
        # so that there are predictions to visualise and to compare
        options.append('model.test_cfg.score_thr=0.')
    return options


@CODEBASES
def test_train_test_resume(config, task, metric, demo_data, tmp_path):
    run = tmp_path / 'run'
    run_tool('tools/train.py', config, '--work-dir', run, *options(task, demo_data))
    scalars = next(run.glob('*/vis_data/scalars.json')).read_text()
    trained = [json.loads(line) for line in scalars.splitlines()
               if f'"{metric}"' in line]

    metrics = tmp_path / 'metrics.json'
    run_tool('tools/test.py', config, run / 'epoch_1.pth', '--work-dir',
             tmp_path / 'test', '--out', metrics, '--out-item', 'metrics',
             '--show-dir', tmp_path / 'visualised', *options(task, demo_data))
    assert json.loads(metrics.read_text())[metric] == trained[-1][metric]
    assert len(list((tmp_path / 'visualised').rglob('*.*g'))) == 2

    log = run_tool('tools/train.py', config, '--work-dir', run, '--resume',
                   *options(task, demo_data, epochs=2)).stdout
    assert 'resumed epoch: 1' in log
    assert (run / 'epoch_2.pth').exists()


@CODEBASES
def test_two_processes(config, task, metric, demo_data, tmp_path):
    """Over gloo, SyncBN as in the COCO and Cityscapes configs."""
    sync_bn = 'model.backbone.norm_cfg.type=SyncBN'
    # tools/dist_train.sh starts them in test_train.py
    log = run_ranks(2, 'tools/train.py', config, '--launcher', 'pytorch',
                    '--work-dir', tmp_path,
                    *options(task, demo_data), sync_bn,
                    'train_dataloader.batch_size=1')[0].stdout
    assert 'SyncBN needs a GPU: 1 settings' in log
    # four images, one per process
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert checkpoint['meta']['iter'] == 2
    assert all(v.isfinite().all() for v in checkpoint['state_dict'].values())


def test_what_does_not_fit_stops_before_training(demo_data, tmp_path):
    failed = run_tool('tools/train.py', DETECTOR, '--work-dir', tmp_path,
                      *options('det', demo_data),
                      'model.neck.in_channels=[24,96]', check=False)
    assert failed.returncode != 0
    message = failed.stdout.strip().splitlines()[-1]
    assert 'model.neck.in_channels is [24, 96]' in message
    assert 'gives 2 feature maps of [40, 96] channels' in message
    assert 'Epoch(train)' not in failed.stdout
