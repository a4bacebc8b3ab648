# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""From search to retraining."""
import re

import pytest
import torch
from conftest import run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from autonl_mm import ArchSpec, count_macs


def test_export(tiny_search, searched, tmp_path, scope):
    work_dir, _ = searched
    arch_file, weights = tmp_path / 'arch.txt', tmp_path / 'subnet.pth'
    retrain = tmp_path / 'configs/retrain.py'
    out = run_tool('tools/export_arch.py', tiny_search,
                   work_dir / 'epoch_6.pth', '--out', arch_file, '--weights',
                   weights, '--config', retrain, '--eval', '--work-dir',
                   tmp_path / 'eval', '--cfg-options',
                   'load_from=what_the_search_started_from.pth').stdout
    arch = ArchSpec.from_file(arch_file)
    assert arch == ArchSpec.from_file(work_dir / 'arch.txt')
    macs = count_macs(arch, 32, 2).total
    assert f'{macs:,.6g} MACs at 32x32' in out

    # accuracy three ways
    rows = dict(re.findall(r'^\| (.*?) \| accuracy/top1 (.*?)[, |]', out,
                           re.MULTILINE))
    assert list(rows) == ['supernet', 'exported', 'exported, BN recalibrated']
    assert rows['supernet'] == rows['exported']
    assert all(0 <= float(v) <= 100 for v in rows.values())

    # the retrain config builds the network, and takes the weights strictly
    cfg = Config.fromfile(retrain)
    init_default_scope(cfg.default_scope)
    cfg.model.data_preprocessor = cfg.data_preprocessor
    model = MODELS.build(cfg.model)
    assert model.backbone.arch() == arch
    params = sum(p.numel() for p in model.parameters())
    assert f'{params:,} parameters' in out
    state = torch.load(weights, weights_only=True)['state_dict']
    model.load_state_dict(state)
    assert len(retrain.read_text().splitlines()) < 20

    run_tool('tools/train.py', retrain, '--work-dir', tmp_path / 'retrained',
             '--cfg-options', f'load_from={weights}', 'train_cfg.max_epochs=1',
             'train_cfg.val_interval=1', 'param_scheduler.total_steps=1')
    assert (tmp_path / 'retrained/epoch_1.pth').exists()


def test_checkpoint_of_another_space(tiny_search, searched, tmp_path):
    work_dir, _ = searched
    cfg = Config.fromfile(tiny_search)
    cfg.model.model.backbone.space.stages[1].kernel_size = [3, 5, 7]
    other = tmp_path / 'other.py'
    cfg.dump(other)
    result = run_tool('tools/export_arch.py', other, work_dir / 'epoch_6.pth',
                      '--out', tmp_path / 'arch.txt', check=False)
    assert result.returncode
    last = result.stdout.splitlines()[-1]
    assert last.startswith('export_arch.py: ')
    assert 'does not fit the search space' in last
    assert not (tmp_path / 'arch.txt').exists()


@pytest.mark.parametrize('change, words', [
    (lambda cfg: cfg.pop('retrain_base'), ['--config', 'retrain_base']),
    (lambda cfg: setattr(cfg, 'model', cfg.model.model),
     ['ImageClassifier', 'CostAwareModel']),
])
def test_bad_configs(change, words, tiny_search, searched, tmp_path):
    cfg = Config.fromfile(tiny_search)
    change(cfg)
    path = tmp_path / 'changed.py'
    cfg.dump(path)
    result = run_tool('tools/export_arch.py', path,
                      searched[0] / 'epoch_6.pth', '--out',
                      tmp_path / 'arch.txt', '--config', tmp_path / 'r.py',
                      check=False)
    last = result.stdout.splitlines()[-1]
    assert result.returncode and last.startswith('export_arch.py: ')
    for word in words:
        assert word in last


def test_missing_checkpoint(tiny_search, tmp_path):
    result = run_tool('tools/export_arch.py', tiny_search, 'nowhere.pth',
                      '--out', tmp_path / 'arch.txt', check=False)
    assert result.returncode and "'nowhere.pth' does not exist" in result.stdout
