# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Searching a detector's and a segmentor's backbone on the demo data."""
import json

import pytest
import torch
from conftest import ROOT, run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from autonl_mm import ArchSpec, count_macs


def make_data(folder, task, count):
    """The demo's images, few of them."""
    data = folder / 'data'
    run_tool('tools/dataset_converters/make_demo_data.py', '--out', data,
             '--sets', task, f'--{task}-train', str(count), f'--{task}-val', '2')
    return data


@pytest.mark.long
@pytest.mark.parametrize('name, task', [
    ('autonl-supernet_retinanet_1xb8_demo-det', 'det'),
    pytest.param('autonl-supernet_semantic-fpn_1xb8_demo-seg', 'seg',
                 marks=pytest.mark.slow),
])
def test_search_and_export(name, task, tmp_path, scope):
    data = make_data(tmp_path, task, 6)
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
    output = run_tool('tools/train.py', config, '--work-dir', work_dir, *options).stdout
    assert 'trying 4 subnets' in output
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
    model.load_state_dict(torch.load(weights, weights_only=True)['state_dict'])


@pytest.mark.long
@pytest.mark.parametrize('name, task', [
    ('retinanet', 'det'),
    pytest.param('semantic-fpn', 'seg', marks=pytest.mark.slow),
])
def test_one_supernet_for_all_targets(name, task, tmp_path, scope):
    """Trained without a target; a network of each cost is chosen and retrains."""
    data = make_data(tmp_path, task, 8)
    cfg = Config.fromfile(
        ROOT / f'configs/demo/autonl-supernet-range_{name}_1xb8_demo-{task}.py')
    retrain = Config.fromfile(cfg.retrain_base)
    cfg.retrain_base = str(tmp_path / 'base.py')
    hook = cfg.custom_hooks[0]
    hook.held_out.holdout = cfg.train_dataloader.dataset.holdout = 2
    images = [cfg.train_dataloader.dataset.dataset, hook.held_out.dataset]
    for c in (cfg, retrain):
        c.train_dataloader.batch_size = 2
        c.train_cfg.max_epochs = 1
        images += [c.val_dataloader.dataset, c.test_dataloader.dataset]
        for evaluator in (c.val_evaluator, c.test_evaluator):
            if task == 'det':
                evaluator.ann_file = str(data / 'det/annotations/instances_val.json')
    images.append(retrain.train_dataloader.dataset)
    for dataset in images:
        dataset.data_root = f'{data / task}/'
    cfg.param_scheduler.pop(1)
    retrain.param_scheduler.total_steps = 1
    cfg.dump(tmp_path / 'range.py')
    retrain.dump(cfg.retrain_base)
    output = run_tool('tools/train.py', tmp_path / 'range.py', '--work-dir',
                      tmp_path / 'run').stdout
    assert 'trained for all targets' in output
    assert ('loss_soft' in output) == (task == 'seg')

    output = run_tool(
        'tools/choose_arch.py', tmp_path / 'range.py', tmp_path / 'run/epoch_1.pth',
        '--targets', '30e6', '60e6', '--out', tmp_path / 'chosen', '--candidates', '3',
        '--recalibrate', '4').stdout
    assert 'on 1 batches of 2 held-out images\n' in output
    for target in (30e6, 60e6):
        folder = tmp_path / f'chosen/macs_{target / 1e6:g}M'
        arch = ArchSpec.from_file(folder / 'arch.txt')
        macs = count_macs(arch, (160, 160), None, with_head=False).total
        assert abs(macs / target - 1) <= 0.02
    output = run_tool(
        'tools/train.py', folder / 'retrain.py', '--work-dir', tmp_path / 'retrained',
        '--cfg-options', f'load_from={folder / "subnet.pth"}').stdout
    assert 'unexpected key' not in output and 'missing keys' not in output
    assert (tmp_path / 'retrained/epoch_1.pth').exists()
