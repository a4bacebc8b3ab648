# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The training tools end to end, with a tiny network and data set."""
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import (
    ROOT,
    call_main,
    free_port,
    load_tool,
    main_error,
    run_ranks,
    run_tool,
    tiny_training,
)
from mmengine.runner import EpochBasedTrainLoop

train, test = load_tool('tools/train.py'), load_tool('tools/test.py')


@pytest.fixture
def config(image_folder, tmp_path):
    """A training of one epoch of four iterations."""
    cfg = tiny_training(image_folder, batch_size=8, max_epochs=1)
    cfg.default_hooks.logger.interval = 1
    cfg.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py'


def options(*settings, epochs=1):
    return ['--cfg-options', f'train_cfg.max_epochs={epochs}',
            f'param_scheduler.total_steps={epochs}', *settings]


def scalars(work_dir):
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for f in files for line in f.read_text().splitlines()]


def test_train_test_resume_summarize(config, tmp_path):
    run = ['tools/train.py', config, '--work-dir', tmp_path / 'run', '--resume']
    log = run_tool(*run).stdout
    assert 'allocator: freed memory is kept' in log
    assert 'has no checkpoint, the run starts from the beginning' in log
    trained = [r for r in scalars(tmp_path / 'run') if 'accuracy/top1' in r][-1]

    # the same metric again
    metrics = tmp_path / 'metrics.json'
    run_tool('tools/test.py', config, tmp_path / 'run/epoch_1.pth', '--work-dir',
             tmp_path / 'test', '--out', metrics, '--out-item', 'metrics')
    tested = json.loads(metrics.read_text())
    assert tested['accuracy/top1'] == trained['accuracy/top1']

    # continues from where it stopped
    log = run_tool(*run, *options(epochs=2)).stdout
    assert re.search(r'resumed epoch: 1, iter: 4', log), log[-3000:]
    assert (tmp_path / 'run/epoch_2.pth').exists()

    # and the log is summarised in one line
    summary = run_tool('tools/analysis_tools/analyze_logs.py', tmp_path / 'run').stdout
    last = summary.strip().splitlines()[-1]
    assert 'accuracy/top1' in last and 'epoch_2.pth' in last
    assert '| 2 |' in summary
    assert (tmp_path / 'run/curve.png').stat().st_size > 5000


@pytest.mark.long
def test_activation_of_a_trained_network_is_changed(config, tmp_path):
    """By one setting. Weights stay, BN's statistics are measured anew."""
    run_tool('tools/train.py', config, '--work-dir', tmp_path / 'swish')
    source = tmp_path / 'swish/epoch_1.pth'
    changed = tmp_path / 'changed.py'
    changed.write_text(
        f'_base_ = {str(config)!r}\n'
        "custom_hooks = [dict(type='PreciseBNHook', priority='ABOVE_NORMAL')]\n")
    run_tool('tools/train.py', changed, '--work-dir', tmp_path / 'hswish', *options(
        f'load_from={source}', 'model.backbone.act_cfg.type=HSwish',
        'param_scheduler.eta_max=1e-12'))
    before, after = (torch.load(path, weights_only=False) for path in (
        source, tmp_path / 'hswish/epoch_1.pth'))
    assert 'HSwish' in after['meta']['cfg'] and 'HSwish' not in before['meta']['cfg']
    changed = []
    for name, value in before['state_dict'].items():
        if not torch.allclose(value, after['state_dict'][name], rtol=1e-4, atol=1e-6):
            changed.append(name.rsplit('.', 1)[-1])
    assert set(changed) == {'running_mean', 'running_var', 'num_batches_tracked'}


def test_load_from_and_pretrained(config, tmp_path):
    run_tool('tools/train.py', config, '--work-dir', tmp_path / 'run')
    checkpoint = tmp_path / 'run/epoch_1.pth'
    init_cfg = 'model.backbone.init_cfg'
    for words, *settings in (
            (f'Load checkpoint from {checkpoint}', f'load_from={checkpoint}'),
            (f'load backbone. in model from: {checkpoint}',
             f'{init_cfg}.type=Pretrained', f'{init_cfg}.checkpoint={checkpoint}',
             f'{init_cfg}.prefix=backbone.')):
        log = run_tool('tools/train.py', config, '--work-dir', tmp_path / 'again',
                       *options(*settings)).stdout
        assert words in log, log[-3000:]


def test_two_processes_train_like_one(config, tmp_path):
    """The same images per step give the same network; BN statistics are fixed."""
    same = options(
        'model.backbone.norm_eval=True', 'model.neck.dropout=0.',
        'train_dataloader.dataset.pipeline.1.padding=0',
        'optim_wrapper.optimizer.type=SGD', 'optim_wrapper.optimizer.lr=0.01', epochs=2)
    run_tool('tools/train.py', config, '--work-dir', tmp_path / 'one', *same)
    half = [*same, 'train_dataloader.batch_size=4']
    run_ranks(2, 'tools/train.py', config, '--launcher', 'pytorch', '--work-dir',
              tmp_path / 'two', *half)
    one, two = (
        torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)
        for name in ('one', 'two'))
    assert one['meta']['iter'] == two['meta']['iter'] == 8
    start = torch.load(tmp_path / 'one/epoch_1.pth', weights_only=False)
    moved = 0
    for name, value in one['state_dict'].items():
        torch.testing.assert_close(two['state_dict'][name], value, rtol=1e-4, atol=1e-5)
        moved += not torch.equal(start['state_dict'][name], value)
    assert moved > 20

    log = run_ranks(2, 'tools/test.py', config, tmp_path / 'two/epoch_2.pth',
                    '--launcher', 'pytorch', '--work-dir', tmp_path / 'test',
                    *half)[0].stdout
    assert 'accuracy/top1' in log


@pytest.mark.parametrize('name, files', [
    ('train', ['config.py']), ('test', ['config.py', 'epoch_1.pth'])])
def test_what_the_scripts_start(name, files, tmp_path):
    python, more = tmp_path / 'python', ['--amp', '--work-dir', 'a b']
    python.write_text('#!/bin/sh\necho "$PYTHONPATH"\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    out = run_tool(f'tools/dist_{name}.sh', *files, '2', *more, env=dict(
        PATH=f'{tmp_path}:{os.environ["PATH"]}', PORT='29513')).stdout
    path, *started = out.splitlines()
    assert Path(path.split(':')[0]).resolve() == ROOT
    tool = ROOT / f'tools/{name}.py'
    where, = [i for i, a in enumerate(started) if Path(a).resolve() == tool]
    assert started[:2] == ['-m', 'torch.distributed.run']
    assert {'--nproc_per_node=2', '--master_port=29513'} <= set(started[:where])
    assert started[where + 1:] == [*files, '--launcher', 'pytorch', *more]


@pytest.mark.slow
def test_the_scripts_train_and_test(config, tmp_path):
    run_tool('tools/dist_train.sh', config, '2', '--work-dir', tmp_path / 'run',
             env=dict(PORT=free_port()))
    log = run_tool('tools/dist_test.sh', config, tmp_path / 'run/epoch_1.pth', '2',
                   '--work-dir', tmp_path / 'test', env=dict(PORT=free_port())).stdout
    assert 'accuracy/top1' in log


def test_amp_and_auto_scale_lr(config, tmp_path, monkeypatch, scope):
    run = [config, '--work-dir', tmp_path / 'run', '--auto-scale-lr']
    log = run_tool('tools/train.py', *run, '--amp', *options(
        'auto_scale_lr.base_batch_size=16')).stdout
    assert 'CpuAmpOptimWrapper' in log
    assert 'LR is set based on batch size of 16' in log
    assert all(torch.isfinite(torch.tensor(r['loss']))
               for r in scalars(tmp_path / 'run') if 'loss' in r)
    # the config itself has no base batch size
    assert 'auto_scale_lr.base_batch_size' in main_error(monkeypatch, train, *run)


@pytest.mark.parametrize('option, words', [
    ('model.backbone.arch=xl',
     ["model.backbone.arch: arch 'xl' is unknown", "'s', 'l'"]),
    ('model.backbone.out_indices=(9,)', ['out_indices is (9,)', '4 (head']),
    ('load_from=/no/epoch_1.pth',
     ["load_from: there is no checkpoint file '/no/epoch_1.pth'"]),
    ('train_dataloader.dataset.data_root=/nowhere',
     ["train_dataloader.dataset.data_root: '/nowhere'", '--cfg-options']),
    ('val_dataloader.dataset.ann_file=missing.txt',
     ['val_dataloader.dataset.ann_file', 'missing.txt', 'does not exist']),
])
def test_bad_settings_stop_before_training(option, words, config, tmp_path,
                                            monkeypatch, scope):
    check_error(words, monkeypatch, train, config, '--work-dir', tmp_path / 'run',
                '--cfg-options', option)


def check_error(words, monkeypatch, *arguments):
    """A tool ends before its first iteration, with a line that has these words."""
    monkeypatch.setattr(EpochBasedTrainLoop, 'run_iter', None)
    message = main_error(monkeypatch, *arguments)
    assert '\n' not in message and all(word in message for word in words), message


def test_weights_that_do_not_fit_end_in_a_line(config, tmp_path, monkeypatch, scope):
    weights = tmp_path / 'weights.pth'
    torch.save({f'module.{part}.x': torch.ones(1) for part in ('backbone', 'head')},
               weights)
    pretrained = ['model.backbone.init_cfg.type=Pretrained',
                  f'model.backbone.init_cfg.checkpoint={weights}']
    for more, words in (
            (options(*pretrained, 'model.backbone.init_cfg.prefix=encoder.'),
             [f"{weights} has no tensor whose name starts with 'encoder.', only with "
              'backbone., head.: set one']),
            (options(*pretrained),
             ['none of the', 'tensors of AutoNL', 'backbone.x, head.x']),
            (options(*pretrained, 'model.backbone.init_cfg.checkpoint=/no.pth'),
             ["model.backbone.init_cfg.checkpoint: there is no checkpoint file"]),
            (['--resume', weights], ['has weights, but not the state of a run',
                                     f'load_from={weights}'])):
        check_error(words, monkeypatch, train, config, '--work-dir', tmp_path / 'run',
                    *more)


def test_empty_data_folder(config, tmp_path, monkeypatch, scope):
    folder = tmp_path / 'empty/train'
    folder.mkdir(parents=True)
    monkeypatch.setattr(EpochBasedTrainLoop, 'run_iter', None)
    with pytest.raises(RuntimeError, match=str(folder)):
        call_main(monkeypatch, train, config, '--work-dir', tmp_path / 'run',
                  *options(f'train_dataloader.dataset.data_root={folder.parent}'))


def test_corrupt_image_among_good_ones(config, image_folder, tmp_path, monkeypatch,
                                       scope):
    data = tmp_path / 'data'
    shutil.copytree(image_folder, data)
    bad = data / 'train/a/0.jpg'
    bad.write_bytes(b'no image')
    log = run_tool('tools/train.py', config, '--work-dir', tmp_path / 'run',
                   *options(f'train_dataloader.dataset.data_root={data}')).stdout
    assert f'skipped: {bad} is not a readable image' in log
    assert (tmp_path / 'run/epoch_1.pth').exists()

    (data / 'val/b/3.jpg').write_bytes(b'')
    with pytest.raises(ValueError, match=f'{data}/val/b/3.jpg is not a readable'):
        call_main(monkeypatch, train, config, '--work-dir', tmp_path / 'run2',
                  *options(f'val_dataloader.dataset.data_root={data}'))
    # nothing is lost: the epoch before the evaluation was saved
    assert (tmp_path / 'run2/epoch_1.pth').exists()


def test_unsafe_and_truncated_checkpoints(config, tmp_path, monkeypatch, scope):

    class Evil:

        def __reduce__(self):
            return os.system, (f'touch {tmp_path}/pwned', )

    evil = tmp_path / 'evil.pth'
    torch.save(dict(state_dict=Evil()), evil)
    legacy = tmp_path / 'legacy.pth'
    legacy.write_bytes(pickle.dumps(Evil()))
    truncated = tmp_path / 'truncated.pth'
    torch.save(dict(state_dict=dict(x=torch.zeros(1000))), truncated)
    truncated.write_bytes(truncated.read_bytes()[:2000])
    for path in (evil, legacy, truncated):
        check_error([str(path)], monkeypatch, test, config, path, '--work-dir',
                    tmp_path / 'test')
    assert not (tmp_path / 'pwned').exists()
