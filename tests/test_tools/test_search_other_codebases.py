# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Searching a detector's and a segmentor's backbone on the demo data."""
import json

import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from autonl_mm import ArchSpec, count_macs


@pytest.mark.parametrize('name, task', [
    ('autonl-supernet_retinanet_1xb8_demo-det', 'det'),
    pytest.param('autonl-supernet_semantic-fpn_1xb8_demo-seg', 'seg',
                 marks=pytest.mark.slow),
])
def test_search_and_export(name, task, tmp_path, scope):
    data = tmp_path / 'data'
    run_tool('tools/dataset_converters/make_demo_data.py', '--out', data,
             '--sets', task, f'--{task}-train', '6', f'--{task}-val', '2')
    config = ROOT / f'configs/demo/{name}.py'
    cfg = Config.fromfile(config)
    options = ['--cfg-options', 'train_cfg.max_epochs=2',
               'train_dataloader.batch_size=2', 'param_scheduler.1.end=2',
               'custom_hooks.0.candidates=4']
    options += [f'{loader}_dataloader.dataset.data_root={data / task}/'
                for loader in ('train', 'val', 'test')]
    if task == 'det':
        annotations = data / 'det/annotations/instances_val.json'
        options += [f'{part}_evaluator.ann_file={annotations}'
                    for part in ('val', 'test')]
    work_dir = tmp_path / 'run'
    output = run_tool('tools/train.py', config, '--work-dir', work_dir,
                      *options).stdout
    assert 'trying 4 networks' in output
    record = json.loads((work_dir / 'gates/epoch_2.json').read_text())
    target = cfg.model.target
    assert abs(record['cost'] / target - 1) <= 0.05

    weights = tmp_path / 'subnet.pth'
    out = run_tool('tools/export_arch.py', config, work_dir / 'epoch_2.pth',
                   '--out', tmp_path / 'arch.txt', '--weights', weights,
                   '--eval', '--work-dir', tmp_path / 'eval',
                   *options).stdout
    arch = ArchSpec.from_file(tmp_path / 'arch.txt')
    macs = count_macs(arch, (160, 160), None, with_head=False).total
    assert macs == record['cost']
    assert '| exported, BN recalibrated | ' in out

    # the searched network in the task model, with its weights
    init_default_scope(cfg.default_scope)
    model = cfg.model.model
    model.backbone = dict(
        type='AutoNL', arch=str(tmp_path / 'arch.txt'),
        out_indices=(2, 3, 4), norm_cfg=model.backbone.norm_cfg)
    model = MODELS.build(model)
    model.load_state_dict(
        torch.load(weights, weights_only=True)['state_dict'])
