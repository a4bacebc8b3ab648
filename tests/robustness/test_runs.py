# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Runs of tools/train.py that are stopped, or cannot write, or cannot start."""
import os
import textwrap

import pytest
import torch
from conftest import ROOT, load_tool, main_error, run_tool, tiny_training
from mmengine.runner import EpochBasedTrainLoop

from autonl_mm.runs.checkpoints import load_checkpoint
from autonl_mm.runs.lock import lock


@pytest.fixture
def config(image_folder, tmp_path):
    """A training of two epochs of four iterations."""
    cfg = tiny_training(image_folder, batch_size=8, max_epochs=2)
    cfg.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py'


def script(tmp_path, text):
    """train.py with something done before."""
    path = tmp_path / 'script.py'
    path.write_text(textwrap.dedent(text) + textwrap.dedent(f"""
        import runpy, sys
        sys.argv[0] = {str(ROOT / 'tools/train.py')!r}
        runpy.run_path(sys.argv[0], run_name='__main__')
        """))
    return path


def last_line(result):
    return result.stdout.strip().splitlines()[-1]


@pytest.mark.long
def test_stop_and_go_on(config, tmp_path):
    """SIGTERM in the second epoch. That it goes on exactly is tested with the hooks."""
    stopped = run_tool(script(tmp_path, """
        import os, signal
        from mmengine.runner import EpochBasedTrainLoop
        run_iter = EpochBasedTrainLoop.run_iter
        def kill(self, idx, batch):
            if self.iter == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            run_iter(self, idx, batch)
        EpochBasedTrainLoop.run_iter = kill
        """), config, '--work-dir', tmp_path / 'run', check=False)
    assert stopped.returncode == 143, stopped.stdout[-3000:]
    path = tmp_path / 'run/iter_6.pth'
    line = last_line(stopped)
    assert line.startswith('train.py: stopped by SIGTERM') and str(path) in line
    assert line.endswith('--resume') and not (tmp_path / 'run/train.lock').exists()
    log = run_tool('tools/train.py', config, '--work-dir', tmp_path / 'run',
                   '--resume').stdout
    assert '2 batches of epoch 2 are skipped' in log
    assert (tmp_path / 'run/epoch_2.pth').is_file() and not path.exists()

    # resumed as something else, it stops at once
    failed = run_tool('tools/train.py', config, '--work-dir', tmp_path / 'run',
                      '--resume', '--cfg-options', 'train_dataloader.batch_size=16',
                      check=False)
    assert failed.returncode == 1
    assert '8 images per step of the optimiser, this run 16' in last_line(failed)


@pytest.mark.long
def test_a_search_that_goes_on_as_another(tiny_search, searched, tmp_path):
    """Its phases are shares of the iterations: with another batch it would never choose
    a network."""
    failed = run_tool(
        'tools/train.py', tiny_search, '--work-dir', tmp_path, '--resume',
        searched[0] / 'epoch_3.pth', '--cfg-options', 'train_dataloader.batch_size=8',
        'model.target=450e3', check=False)
    line = last_line(failed)
    assert failed.returncode == 1 and 'epoch_3.pth' in line
    for words in ('4 images per step of the optimiser, this run 8',
                  '36 iterations of the search, this run 18',
                  '500000.0 MACs as its target, this run 450000.0'):
        assert words in line


@pytest.mark.long
def test_a_full_disk(config, tmp_path):
    """No file may have more than 100 kB, as if the disk were full."""
    failed = run_tool(script(tmp_path, """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        """), config, '--work-dir', tmp_path / 'run', check=False)
    assert failed.returncode == 1
    assert last_line(failed) == (
        f'train.py: File too large: {tmp_path}/run/epoch_1.pth could not be written. '
        'Files that were saved before are complete')
    assert not [p for p in (tmp_path / 'run').iterdir() if '.pth' in p.name]


def test_what_is_refused_at_once(config, tmp_path, monkeypatch, scope):
    """In one line, and most of it before anything is built."""
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    (tmp_path / 'file').touch()
    monkeypatch.setattr(EpochBasedTrainLoop, 'run_iter', None)
    with lock(str(work_dir)):
        failed = run_tool('tools/train.py', config, '--work-dir', work_dir, check=False)
        assert failed.returncode == 1 and 'Traceback' not in failed.stdout
        assert last_line(failed).startswith('train.py: ')
        assert f'process {os.getpid()} of' in last_line(failed)
        for words, folder, *options in (
            ('--work-dir: cannot write to the folder', tmp_path / 'file'),
            ('num_workers is 0', work_dir, '--cfg-options',
             'train_dataloader.persistent_workers=True'),
            ('needs the package turbojpeg', work_dir, '--cfg-options',
             'train_dataloader.dataset.pipeline.0.imdecode_backend=turbojpeg'),
            ('pip install wandb', tmp_path / 'other', '--cfg-options',
             'visualizer.vis_backends.0.type=WandbVisBackend')):
            message = main_error(monkeypatch, load_tool('tools/train.py'), config,
                                 '--work-dir', folder, *options)
            assert words in message and '\n' not in message


def test_a_checkpoint_from_elsewhere(config, tmp_path):
    """What it calls its best checkpoint stays, and the run has one of its own."""
    options = ['--cfg-options', 'default_hooks.checkpoint.save_best=auto']
    run_tool('tools/train.py', config, '--work-dir', tmp_path / 'run', *options,
             'train_cfg.max_epochs=1')
    victim = tmp_path / 'victim/file'
    victim.parent.mkdir()
    victim.touch()
    state = load_checkpoint(tmp_path / 'run/epoch_1.pth')
    state['message_hub']['runtime_info'].update(
        best_ckpt=str(victim.parent), best_score=-1.)
    torch.save(state, tmp_path / 'foreign.pth')
    log = run_tool('tools/train.py', config, '--work-dir', tmp_path / 'new', '--resume',
                   tmp_path / 'foreign.pth', *options).stdout
    assert f"best_ckpt of the checkpoint, '{victim.parent}', is not of this run" in log
    assert victim.exists()
    assert len(list((tmp_path / 'new').glob('best_accuracy_top1_epoch_*.pth'))) == 1


def test_head_of_other_classes(config, tmp_path):
    failed = run_tool('tools/train.py', config, '--work-dir', tmp_path / 'run',
                      '--cfg-options', 'model.head.num_classes=10', check=False)
    assert last_line(failed).startswith('train.py: head.num_classes is 10, but')
    assert 'Epoch(train)' not in failed.stdout


def test_predictions_of_unlabelled_images(config, image_folder, tmp_path):
    """--out FILE.pkl writes them; without it the tool says so at the start."""
    work_dir = tmp_path / 'run'
    run_tool('tools/train.py', config, '--work-dir', work_dir, '--cfg-options',
             'train_cfg.max_epochs=1')
    unlabelled = ['--work-dir', tmp_path / 'test', '--cfg-options',
                  'test_dataloader.dataset.with_label=False']
    failed = run_tool('tools/test.py', config, work_dir / 'epoch_1.pth', *unlabelled,
                      check=False)
    assert 'test.py: test_dataloader.dataset has no labels' in last_line(failed)
    out = tmp_path / 'new/predictions.pkl'
    log = run_tool('tools/test.py', config, work_dir / 'epoch_1.pth', '--out', out,
                   *unlabelled).stdout
    assert 'only the predictions are written' in log and out.stat().st_size

    # a checkpoint knows its classes
    (tmp_path / 'data/val').mkdir(parents=True)
    for name, new in (('a', 'a'), ('b', 'c')):
        (tmp_path / 'data/val' / new).symlink_to(image_folder / 'val' / name)
    failed = run_tool('tools/test.py', config, work_dir / 'epoch_1.pth', '--work-dir',
                      tmp_path / 'test', '--cfg-options',
                      f'test_dataloader.dataset.data_root={tmp_path / "data"}',
                      check=False)
    line = last_line(failed)
    assert failed.returncode == 1 and line.startswith('test.py: ')
    assert "['a', 'c']" in line and "['a', 'b']" in line and 'epoch_1.pth' in line
