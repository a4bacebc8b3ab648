# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Runs that are stopped go on exactly, or are told why they cannot."""
import itertools
import os
import re
import shutil
import signal
import uuid
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY_ARCH
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from autonl_mm import checkpoint
from autonl_mm.models import PluginBackbone
from autonl_mm.runs.checkpoints import MismatchError, find_resumable, load_checkpoint
from autonl_mm.runs.hooks import ResumeCheckHook, ResumeHook, StopHook, Stopped
from autonl_mm.runs.hooks.safe_checkpoint_hook import drop_foreign_paths

checkpoint.install()


class Noisy(torch.utils.data.Dataset):
    """Samples that differ whenever they are loaded."""

    def __init__(self, count=12, classes=('a', 'b')):
        self.count, self.metainfo = count, dict(classes=classes)

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return dict(inputs=torch.tensor([i, np.random.rand(), torch.rand(()), 1.]))


class Model(BaseModel):

    def __init__(self, width=4):
        super().__init__()
        self.fc = torch.nn.Linear(4, width)
        self.norm = torch.nn.BatchNorm1d(width)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = self.norm(self.fc(torch.stack(inputs)))
        if mode == 'predict':
            return [x.mean()]
        return dict(loss=torch.nn.functional.dropout(x, 0.5).square().mean())


class Value(BaseMetric):

    def process(self, data_batch, data_samples):
        self.results += [float(x) for x in data_samples]

    def compute_metrics(self, results):
        return dict(acc=float(np.mean(results)))


class Signal(Hook):
    """Sends a signal in an iteration, before the model is trained."""

    def __init__(self, at, number=signal.SIGTERM):
        self.at, self.number = at, number

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            os.kill(os.getpid(), self.number)


def build(work_dir, *, loop='epoch', workers=0, batch_size=2, count=12, model=None,
          classes=('a', 'b'), hooks=(), counts=1, end=3, val=False, interval=1,
          **kwargs):
    torch.manual_seed(0)  # for the model
    kwargs.setdefault('randomness', dict(seed=3))
    by_epoch = loop == 'epoch'
    loader = dict(
        batch_size=batch_size, num_workers=workers, dataset=Noisy(count, classes),
        collate_fn=dict(type='pseudo_collate'),
        sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler',
                     shuffle=True))
    if val:
        kwargs.update(
            val_dataloader=dict(
                loader, num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False)),
            val_cfg=dict(), val_evaluator=dict(type=Value))
    steps = -(-count // batch_size)
    cfg = dict(by_epoch=True, max_epochs=end) if by_epoch else dict(
        by_epoch=False, max_iters=end * steps, val_interval=steps)
    runner = Runner(
        model or Model(), str(work_dir), train_dataloader=loader, train_cfg=cfg,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
                           accumulative_counts=counts),
        param_scheduler=dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=15),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='autonl_mm.SafeCheckpointHook', by_epoch=by_epoch,
                            interval=interval if by_epoch else steps,
                            save_best='acc' if val else None, rule='greater')),
        custom_hooks=[dict(type='EMAHook')], log_level='WARNING',
        # mmengine's message hubs are shared by runs of one name
        experiment_name=uuid.uuid4().hex,
        cfg=Config(dict(train_dataloader=dict(batch_size=batch_size),
                        optim_wrapper=dict(accumulative_counts=counts))), **kwargs)
    for hook in (ResumeCheckHook, ResumeHook, StopHook):
        runner.register_hook(hook())
    for hook in hooks:
        runner.register_hook(hook)
    return runner


def resume(work_dir, **kwargs):
    runner = build(work_dir, load_from=find_resumable(work_dir), resume=True, **kwargs)
    runner.train()
    return runner


def final(work_dir):
    saved = load_checkpoint(find_resumable(work_dir))
    return saved['state_dict'] | {
        f'momentum{i}': v['momentum_buffer']
        for i, v in saved['optimizer']['state'].items()}


def same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize('loop, workers, at, counts, name', [
    ('epoch', 0, 8, 1, 'iter_9.pth'), ('epoch', 0, 11, 1, 'epoch_2.pth'),
    ('epoch', 0, 7, 3, 'iter_9.pth'), ('epoch', 1, 8, 1, 'iter_9.pth'),
    ('iter', 0, 8, 1, 'iter_9.pth'), ('iter', 0, 11, 1, 'iter_12.pth'),
])
def test_a_stopped_run_goes_on_exactly(loop, workers, at, counts, name, tmp_path):
    how = dict(loop=loop, workers=workers, counts=counts, val=True)
    build(tmp_path / 'whole', **how).train()
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Stopped) as stopped:
        build(tmp_path / 'run', hooks=[Signal(at)], **how).train()
    assert stopped.value.number == signal.SIGTERM
    assert stopped.value.checkpoint == str(tmp_path / 'run' / name)
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    assert find_resumable(tmp_path / 'run') == stopped.value.checkpoint
    resume(tmp_path / 'run', **how)
    same(final(tmp_path / 'run'), final(tmp_path / 'whole'))
    if loop == 'epoch':  # what was saved in the middle of an epoch is gone
        assert not list((tmp_path / 'run').glob('iter_*'))


def test_the_middle_of_an_epoch_stays_until_a_later_checkpoint_is_saved(tmp_path):
    """With an interval of 2 that is two epochs later; a kill before must find it."""
    how = dict(interval=2, end=4)
    with pytest.raises(Stopped):  # in epoch 3, after epoch_2.pth was saved
        build(tmp_path / 'run', hooks=[Signal(14)], **how).train()
    seen = {}

    class Look(Hook):
        priority = 'VERY_LOW'

        def before_train_epoch(self, runner):
            seen[runner.epoch] = os.listdir(tmp_path / 'run')

    resume(tmp_path / 'run', hooks=[Look()], **how)
    assert 'iter_15.pth' in seen[3]  # after epoch 3, which is not saved
    assert not list((tmp_path / 'run').glob('iter_*'))
    assert (tmp_path / 'run/epoch_4.pth').exists()


@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_killed_run_that_counts_iterations_goes_on_exactly(workers, tmp_path):
    """From the last checkpoint, which was not asked for. The data are loaded three
    times, and evaluations between use random numbers too."""

    class Killed(Hook):

        def after_val(self, runner):
            torch.rand(7)
            np.random.rand(5)
            if runner.iter == 12 and runner.work_dir.endswith('run'):
                raise KeyboardInterrupt

    how = dict(loop='iter', workers=workers, val=True, hooks=[Killed()])
    build(tmp_path / 'whole', **how).train()
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / 'run', **how).train()
    assert find_resumable(tmp_path / 'run') == str(tmp_path / 'run/iter_12.pth')
    resume(tmp_path / 'run', **how | dict(hooks=()))
    same(final(tmp_path / 'run'), final(tmp_path / 'whole'))


@pytest.mark.long
def test_ranks_and_iterations_have_random_numbers_of_their_own(tmp_path):

    class Numbers(Hook):

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            numbers.append(torch.rand(()).item())

    numbers = []
    for seed in (0, 1):
        build(tmp_path / str(seed), loop='iter', hooks=[Numbers()], end=1,
              randomness=dict(seed=seed)).train()
    assert len(numbers) == len(set(numbers)) == 12


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGUSR1])
def test_other_signals(number, tmp_path):
    with pytest.raises(Stopped) as stopped:
        build(tmp_path / 'run', hooks=[Signal(3, number)]).train()
    assert stopped.value.number == number


def test_a_kill_between_saving_and_evaluating(tmp_path):
    """The evaluation is made up for, and the best checkpoint is the same."""

    class Killed(Hook):
        priority = 'LOWEST'

        def before_val(self, runner):
            if runner.epoch == 2:
                raise KeyboardInterrupt

    build(tmp_path / 'whole', val=True).train()
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / 'run', val=True, hooks=[Killed()]).train()
    logged = []

    class Log(Hook):

        def after_val_epoch(self, runner, metrics=None):
            logged.append((runner.epoch, metrics['acc']))

    resume(tmp_path / 'run', val=True, hooks=[Log()])
    assert [epoch for epoch, _ in logged] == [2, 3]
    assert len(list((tmp_path / 'run').glob('best_*'))) == 1


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The folder of a run of one epoch, which cannot be changed."""
    work_dir = tmp_path_factory.mktemp('run') / 'run'
    build(work_dir, end=1).train()
    return work_dir


@pytest.mark.parametrize('changes, words', [
    (dict(batch_size=4), '2 images per step of the optimiser, this run 4; '
     '6 iterations per epoch, this run 3'),
    (dict(counts=2), '2 images per step of the optimiser, this run 4'),
    (dict(count=20), '6 iterations per epoch, this run 10'),
    (dict(classes=('a', 'c')), "2 classes ['a', 'b'], this run 2 ['a', 'c']"),
    (dict(model=Model(width=3)), 'another network: 4 of 4 parameters differ, such as '
     'fc.weight (4, 4), this run (3, 4)'),
], ids=['batch', 'accumulation', 'data', 'classes', 'width'])
def test_resuming_as_something_else(changes, words, run, tmp_path):
    path = find_resumable(run)
    runner = build(tmp_path / 'run', load_from=path, resume=True, **changes)
    with pytest.raises(MismatchError) as error:
        runner.train()
    message = str(error.value)
    assert words in message and path in message
    assert f'--cfg-options load_from={path}' in message
    # which helps, except with another network
    if 'model' not in changes:
        build(tmp_path / 'new', load_from=path, end=1, **changes).train()


@pytest.mark.long
def test_a_network_that_renames_what_it_saves(tmp_path):
    """PluginBackbone saves its base's weights under the base's own names."""

    def model():
        model = Model()
        model.backbone = PluginBackbone(
            dict(type='autonl_mm.AutoNL', arch=TINY_ARCH.splitlines(),
                 out_indices=(-1, )),
            [dict(cfg=dict(type='autonl_mm.LightNL'), target=r'layers\.1\.0\.project')])
        return model

    build(tmp_path, model=model(), end=1).train()
    runner = build(tmp_path, model=model(), load_from=find_resumable(tmp_path),
                   resume=True)
    runner.train()
    assert runner.epoch == 3


def test_checkpoints_without_a_note(run, tmp_path):
    """Those of other tools tell the iterations of an epoch."""
    saved = load_checkpoint(find_resumable(run))
    del saved['meta']['autonl_mm']
    torch.save(saved, tmp_path / 'epoch_1.pth')
    how = dict(load_from=str(tmp_path / 'epoch_1.pth'), resume=True)
    build(tmp_path / 'same', **how).train()
    with pytest.raises(MismatchError, match='6 iterations per epoch, this run 3'):
        build(tmp_path / 'other', batch_size=4, **how).train()


def test_a_longer_schedule_is_told(run, tmp_path, capsys):
    runner = build(tmp_path / 'run', load_from=find_resumable(run), resume=True)
    runner.param_schedulers = dict(type='LinearLR', start_factor=0.1, by_epoch=False,
                                   end=99)
    said = []
    runner.logger.warning = said.append
    runner.train()
    told = r"LinearLR\.end=15 is used, and the config's 99 has no effect"
    assert any(re.search(told, s) for s in said)


def test_the_learning_rate_scales_with_accumulation(tmp_path):
    from autonl_mm.runs import launch
    cfg = Config(dict(
        auto_scale_lr=dict(enable=True, base_batch_size=64),
        optim_wrapper=dict(accumulative_counts=16)))

    class Built:
        auto_scale_lr = cfg.auto_scale_lr

        def register_hook(self, hook):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, 'from_cfg', lambda cfg: Built())
        runner = launch.build_runner(cfg)
    # mmengine divides the images of an iteration, 4, by this
    assert runner.auto_scale_lr['base_batch_size'] == 64 / 16
    assert cfg.auto_scale_lr.base_batch_size == 64


# ------------------------------------------- files that a checkpoint names
@pytest.fixture
def better(monkeypatch):
    """Each evaluation is better than the one before, in all runs of the test."""
    values = itertools.count(1)
    monkeypatch.setattr(Value, 'compute_metrics',
                        lambda self, results: dict(acc=float(next(values))))


def best_of(work_dir):
    return [path.name for path in work_dir.glob('best_*')]


def forge(path, **info):
    """Change what a checkpoint tells a run that resumes from it."""
    saved = load_checkpoint(path)
    saved['message_hub']['runtime_info'].update(info)
    torch.save(saved, path)


def test_the_former_best_checkpoint_is_removed(better, tmp_path):
    """By a resumed run too, also after it was moved; in a copy only the copy."""
    build(tmp_path / 'run', val=True, end=1).train()
    shutil.copytree(tmp_path / 'run', tmp_path / 'copy')
    for name, end in (('run', 2), ('copy', 2)):
        before = {p: best_of(p) for p in tmp_path.iterdir() if p.name != name}
        resume(tmp_path / name, val=True, end=end)
        assert best_of(tmp_path / name) == ['best_acc_epoch_2.pth']
        assert before == {path: best_of(path) for path in before}
    os.rename(tmp_path / 'run', tmp_path / 'moved')
    resume(tmp_path / 'moved', val=True, end=3)
    assert best_of(tmp_path / 'moved') == ['best_acc_epoch_3.pth']


@pytest.mark.parametrize('path', [
    '@/victim', '@/run/../victim', '@/run/best_link', '@/run2', '@', '@/run/logs',
    '@/run/epoch_1.pth', '@/gone/best_acc_epoch_1.pth'])
def test_what_a_checkpoint_calls_its_best_one(path, better, tmp_path):
    """Nothing but a best checkpoint of the run is removed, and there is a new one."""
    run = tmp_path / 'run'
    build(run, val=True, end=1).train()
    best, = run.glob('best_*')
    os.rename(best, tmp_path / 'best')  # as if it had been saved elsewhere
    for name in ('victim', 'run2', 'run/logs'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'file').touch()
    (run / 'best_link').symlink_to(tmp_path / 'victim')
    forge(run / 'epoch_1.pth', best_ckpt=path.replace('@', str(tmp_path)),
          best_score=-1.)
    resume(run, val=True, end=2)
    for name in ('victim', 'run2', 'run/logs'):
        assert (tmp_path / name / 'file').exists()
    assert (run / 'epoch_1.pth').exists() and (run / 'best_link').is_symlink()
    assert sorted(best_of(run)) == ['best_acc_epoch_2.pth', 'best_link']


def test_the_best_score_goes_with_its_checkpoint(tmp_path):
    """A run of another work dir has no best checkpoint, whatever the score was."""
    build(tmp_path / 'old', val=True, end=1).train()
    path = tmp_path / 'old/epoch_1.pth'
    forge(path, best_score=1e9)
    build(tmp_path / 'new', val=True, end=2, load_from=str(path), resume=True).train()
    assert len(best_of(tmp_path / 'new')) == 1
    assert best_of(tmp_path / 'old') == ['best_acc_epoch_1.pth']


def test_what_is_dropped_of_a_message_hub(tmp_path):
    run, out = tmp_path / 'run', tmp_path / 'out/run'
    for folder in (run, out):
        folder.mkdir(parents=True)
    (out / 'best_c_epoch_1.pth').touch()
    info = dict(
        best_ckpt_a='/elsewhere', best_score_a=1., best_ckpt_b=str(run / 'best_b.pth'),
        best_score_b=2., best_ckpt_c='/moved/best_c_epoch_1.pth', best_score_c=3.,
        best_ckpt=['x'], best_score=4., last_ckpt='/elsewhere/epoch_3.pth',
        keep_ckpt_ids=[1, '../../victim'], epoch=3, best_value='/kept')
    checkpoint = dict(message_hub=dict(
        runtime_info=info, resumed_keys=dict.fromkeys(info, True)))
    said = []
    runner = SimpleNamespace(
        work_dir=str(run), hooks=[CheckpointHook(out_dir=str(tmp_path / 'out'))],
        logger=SimpleNamespace(warning=said.append))
    drop_foreign_paths(runner, checkpoint)
    kept = dict(
        best_ckpt_b=str(run / 'best_b.pth'), best_score_b=2.,
        best_ckpt_c=str(out / 'best_c_epoch_1.pth'), best_score_c=3., epoch=3,
        best_value='/kept')
    assert info == kept
    assert checkpoint['message_hub']['resumed_keys'].keys() == kept.keys()
    assert len(said) == 4
    for name, line in zip(('best_ckpt_a', 'best_ckpt', 'last_ckpt', 'keep_ckpt_ids'),
                          said):
        assert line.startswith(f'resume: {name} of the checkpoint, ')
    info['keep_ckpt_ids'] = [1, 2]
    drop_foreign_paths(runner, checkpoint)
    assert info == {**kept, 'keep_ckpt_ids': [1, 2]} and len(said) == 4
    drop_foreign_paths(runner, dict(state_dict={}))
