# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The training tools end to end, with a tiny network and data set."""
import json
import os
import re
import shutil
import textwrap
from pathlib import Path

import pytest
import torch
from conftest import ROOT, free_port, run_ranks, run_tool

CONFIG = ROOT / 'configs/demo/autonl-s_1xb32_demo-cls.py'


@pytest.fixture
def options(image_folder, tiny_arch):
    """--cfg-options for a run of seconds."""
    return [
        '--cfg-options', f'model.backbone.arch={tiny_arch}',
        'model.backbone.out_indices=(-1,)', 'model.head.in_channels=64',
        'model.head.num_classes=2', 'train_dataloader.batch_size=8',
        'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
        'test_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.persistent_workers=False',
        'test_dataloader.persistent_workers=False',
        f'train_dataloader.dataset.data_root={image_folder}',
        f'val_dataloader.dataset.data_root={image_folder}',
        f'test_dataloader.dataset.data_root={image_folder}',
        'train_dataloader.dataset.pipeline.1.crop_size=32',
        'train_cfg.max_epochs=2', 'param_scheduler.total_steps=2',
        'default_hooks.logger.interval=1'
    ]


def scalars(work_dir):
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for f in files for line in f.read_text().splitlines()]


def test_train_test_resume_summarize(options, tmp_path):
    work_dir = tmp_path / 'run'
    log = run_tool('tools/train.py', CONFIG, '--work-dir', work_dir, *options).stdout
    assert 'allocator: freed memory is kept' in log
    assert (work_dir / 'epoch_2.pth').exists()
    trained = [r for r in scalars(work_dir) if 'accuracy/top1' in r][-1]

    # the same metric again
    metrics = tmp_path / 'metrics.json'
    run_tool('tools/test.py', CONFIG, work_dir / 'epoch_2.pth', '--work-dir',
             tmp_path / 'test', '--out', metrics, '--out-item', 'metrics',
             *options)
    tested = json.loads(metrics.read_text())
    assert tested['accuracy/top1'] == trained['accuracy/top1']

    # continues from where it stopped
    more = [o.replace('max_epochs=2', 'max_epochs=3') for o in options]
    more = [o.replace('total_steps=2', 'total_steps=3') for o in more]
    log = run_tool('tools/train.py', CONFIG, '--work-dir', work_dir,
                   '--resume', *more).stdout
    assert re.search(r'resumed epoch: 2, iter: 8', log), log[-3000:]
    assert (work_dir / 'epoch_3.pth').exists()

    # and the log is summarised in one line
    summary = run_tool('tools/analysis_tools/analyze_logs.py', work_dir).stdout
    last = summary.strip().splitlines()[-1]
    assert 'accuracy/top1' in last and 'epoch_3.pth' in last
    assert '| 3 |' in summary
    assert (work_dir / 'curve.png').stat().st_size > 5000


@pytest.mark.long
def test_activation_of_a_trained_network_is_changed(options, tmp_path):
    """By one setting. Weights stay, BN's statistics are measured anew."""
    run_tool('tools/train.py', CONFIG, '--work-dir', tmp_path / 'swish', *options)
    source = tmp_path / 'swish/epoch_2.pth'
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {str(CONFIG)!r}\n'
        "custom_hooks = [dict(type='PreciseBNHook', priority='ABOVE_NORMAL')]\n")
    run_tool('tools/train.py', config, '--work-dir', tmp_path / 'hswish', *options,
             f'load_from={source}', 'model.backbone.act_cfg.type=HSwish',
             'param_scheduler.eta_max=1e-12')
    before, after = (torch.load(path, weights_only=False) for path in (
        source, tmp_path / 'hswish/epoch_2.pth'))
    assert 'HSwish' in after['meta']['cfg'] and 'HSwish' not in before['meta']['cfg']
    changed = []
    for name, value in before['state_dict'].items():
        if not torch.allclose(value, after['state_dict'][name], rtol=1e-4, atol=1e-6):
            changed.append(name.rsplit('.', 1)[-1])
    assert set(changed) == {'running_mean', 'running_var', 'num_batches_tracked'}


def test_resume_without_a_checkpoint_starts_again(options, tmp_path):
    options = [o.replace('max_epochs=2', 'max_epochs=1') for o in options]
    log = run_tool('tools/train.py', CONFIG, '--work-dir', tmp_path / 'run',
                   '--resume', *options).stdout
    assert 'has no checkpoint, the run starts from the beginning' in log
    assert (tmp_path / 'run/epoch_1.pth').exists()


def test_kill_during_saving(options, tmp_path):
    """SIGKILL in the second save: the first stays, --resume finds it."""
    work_dir = tmp_path / 'run'
    script = tmp_path / 'killed.py'
    script.write_text(textwrap.dedent(f"""\
        import os, runpy, signal, sys
        import torch
        save, calls = torch.save, []
        def killed_save(obj, f, *args, **kwargs):
            calls.append(f)
            if len(calls) == 1:
                return save(obj, f, *args, **kwargs)
            write = os.write
            fsync = os.fsync
            os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
            return save(obj, f, *args, **kwargs)
        torch.save = killed_save
        sys.argv[0] = {str(ROOT / 'tools/train.py')!r}
        runpy.run_path(sys.argv[0], run_name='__main__')
        """))
    keep_one = [*options, 'default_hooks.checkpoint.max_keep_ckpts=1']
    killed = run_tool(script, CONFIG, '--work-dir', work_dir, *keep_one, check=False)
    assert killed.returncode == -9, killed.stdout[-2000:]
    assert not (work_dir / 'epoch_2.pth').exists()
    torch.load(work_dir / 'epoch_1.pth', weights_only=False)
    log = run_tool('tools/train.py', CONFIG, '--work-dir', work_dir,
                   '--resume', *keep_one).stdout
    assert 'resumed epoch: 1' in log
    assert (work_dir / 'epoch_2.pth').exists()
    assert not (work_dir / 'epoch_1.pth').exists()


def test_load_from_and_pretrained(options, tmp_path):
    work_dir = tmp_path / 'run'
    options = [o.replace('max_epochs=2', 'max_epochs=1') for o in options]
    run_tool('tools/train.py', CONFIG, '--work-dir', work_dir, *options)
    checkpoint = work_dir / 'epoch_1.pth'
    log = run_tool('tools/train.py', CONFIG, '--work-dir', tmp_path / 'again',
                   *options, f'load_from={checkpoint}').stdout
    assert f'Load checkpoint from {checkpoint}' in log
    log = run_tool(
        'tools/train.py', CONFIG, '--work-dir', tmp_path / 'pretrained',
        *options, 'model.backbone.init_cfg.type=Pretrained',
        f'model.backbone.init_cfg.checkpoint={checkpoint}',
        'model.backbone.init_cfg.prefix=backbone.', check=False).stdout
    assert f"load backbone. in model from: {checkpoint}" in log, log[-3000:]


def test_two_processes_train_like_one(options, tmp_path):
    """The same images per step give the same network; BN statistics are fixed."""
    same = [
        *options, 'model.backbone.norm_eval=True', 'model.neck.dropout=0.',
        'train_dataloader.dataset.pipeline.1.padding=0',
        'optim_wrapper.optimizer.type=SGD', 'optim_wrapper.optimizer.lr=0.01'
    ]
    run_tool('tools/train.py', CONFIG, '--work-dir', tmp_path / 'one', *same)
    half = [o.replace('batch_size=8', 'batch_size=4') for o in same]
    run_ranks(2, 'tools/train.py', CONFIG, '--launcher', 'pytorch', '--work-dir',
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

    log = run_ranks(2, 'tools/test.py', CONFIG, tmp_path / 'two/epoch_2.pth',
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
def test_the_scripts_train_and_test(options, tmp_path):
    options = [o.replace('max_epochs=2', 'max_epochs=1') for o in options]
    run_tool('tools/dist_train.sh', CONFIG, '2', '--work-dir', tmp_path / 'run',
             *options, env=dict(PORT=free_port()))
    log = run_tool('tools/dist_test.sh', CONFIG, tmp_path / 'run/epoch_1.pth', '2',
                   '--work-dir', tmp_path / 'test', *options,
                   env=dict(PORT=free_port())).stdout
    assert 'accuracy/top1' in log


def test_amp_and_auto_scale_lr(options, tmp_path):
    options = [o.replace('max_epochs=2', 'max_epochs=1') for o in options]
    log = run_tool('tools/train.py', CONFIG, '--work-dir', tmp_path / 'run',
                   '--amp', '--auto-scale-lr', *options,
                   'auto_scale_lr.base_batch_size=16').stdout
    assert 'CpuAmpOptimWrapper' in log
    assert 'LR is set based on batch size of 16' in log
    assert all(torch.isfinite(torch.tensor(r['loss']))
               for r in scalars(tmp_path / 'run') if 'loss' in r)
    # the demo config itself has no base batch size
    failed = run_tool('tools/train.py', CONFIG, '--work-dir',
                      tmp_path / 'run', '--auto-scale-lr', *options,
                      check=False)
    assert failed.returncode == 1
    assert 'auto_scale_lr.base_batch_size' in failed.stdout


@pytest.mark.parametrize('option, words', [
    ('model.backbone.arch=xl',
     ["model.backbone.arch: arch 'xl' is unknown", "'s', 'l'"]),
    ('model.backbone.out_indices=(9,)', ['out_indices is (9,)', '8 (head']),
    ('load_from=/no/epoch_1.pth',
     ["load_from: there is no checkpoint file '/no/epoch_1.pth'"]),
    ('train_dataloader.dataset.data_root=/nowhere',
     ["train_dataloader.dataset.data_root: '/nowhere'", '--cfg-options']),
    ('val_dataloader.dataset.ann_file=missing.txt',
     ['val_dataloader.dataset.ann_file', 'missing.txt', 'does not exist']),
])
def test_bad_settings_stop_before_training(option, words, options, tmp_path):
    plain = [o for o in options if not o.startswith('model.backbone')]
    failed = run_tool('tools/train.py', CONFIG, '--work-dir',
                      tmp_path / 'run', *plain, option, check=False)
    assert_one_line(failed, words)


def assert_one_line(failed, words):
    """A tool ended before training with a line that has these words."""
    assert failed.returncode == 1
    message = failed.stdout.strip().splitlines()[-1]
    for word in ['train.py: ', *words]:
        assert word in message, failed.stdout[-2000:]
    assert 'Epoch(train)' not in failed.stdout and 'Traceback' not in failed.stdout


def test_weights_that_do_not_fit_end_in_a_line(options, tmp_path):
    weights = tmp_path / 'weights.pth'
    torch.save({f'module.{part}.x': torch.ones(1) for part in ('backbone', 'head')},
               weights)
    pretrained = ['model.backbone.init_cfg.type=Pretrained',
                  f'model.backbone.init_cfg.checkpoint={weights}']
    for more, words in (
            ([*pretrained, 'model.backbone.init_cfg.prefix=encoder.'],
             [f"{weights} has no tensor whose name starts with 'encoder.', only with "
              'backbone., head.: set one']),
            (pretrained, ['none of the', 'tensors of AutoNL', 'backbone.x, head.x']),
            ([*pretrained, 'model.backbone.init_cfg.checkpoint=/no.pth'],
             ["model.backbone.init_cfg.checkpoint: there is no checkpoint file"]),
            (['--resume', weights], ['has weights, but not the state of a run',
                                     f'load_from={weights}'])):
        assert_one_line(run_tool(
            'tools/train.py', CONFIG, '--work-dir', tmp_path / 'run', *options, *more,
            check=False), words)


def test_empty_data_folder(options, tmp_path):
    (tmp_path / 'empty/train').mkdir(parents=True)
    failed = run_tool(
        'tools/train.py', CONFIG, '--work-dir', tmp_path / 'run', *options,
        f'train_dataloader.dataset.data_root={tmp_path / "empty"}',
        check=False)
    assert failed.returncode != 0
    assert str(tmp_path / 'empty/train') in failed.stdout
    assert 'Epoch(train)' not in failed.stdout


def test_corrupt_image_among_good_ones(options, image_folder, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(image_folder, data)
    bad = data / 'train/a/0.jpg'
    bad.write_bytes(b'no image')
    options = [o.replace('max_epochs=2', 'max_epochs=1') for o in options]
    log = run_tool('tools/train.py', CONFIG, '--work-dir', tmp_path / 'run',
                   *options,
                   f'train_dataloader.dataset.data_root={data}').stdout
    assert f'skipped: {bad} is not a readable image' in log
    assert (tmp_path / 'run/epoch_1.pth').exists()

    (data / 'val/b/3.jpg').write_bytes(b'')
    failed = run_tool('tools/train.py', CONFIG, '--work-dir',
                      tmp_path / 'run2', *options,
                      f'val_dataloader.dataset.data_root={data}', check=False)
    assert failed.returncode != 0
    assert f'{data}/val/b/3.jpg is not a readable image' in failed.stdout
    # nothing is lost: the epoch before the evaluation was saved
    assert (tmp_path / 'run2/epoch_1.pth').exists()


def test_unsafe_and_truncated_checkpoints(options, tmp_path):
    import pickle

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
        failed = run_tool('tools/test.py', CONFIG, path, '--work-dir',
                          tmp_path / 'test', *options, check=False)
        assert failed.returncode != 0
        assert str(path) in failed.stdout.strip().splitlines()[-1], (
            failed.stdout[-2000:])
    assert not (tmp_path / 'pwned').exists()
