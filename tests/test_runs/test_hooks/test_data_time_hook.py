# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import os
import time

import pytest
import torch
import torch.nn as nn
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

from autonl_mm.runs.hooks import DataTimeHook, data_time_hook


class FakeRunner:
    """The attributes of a runner that the hook reads, with given times."""

    def __init__(self, times, num_workers=2, persistent_workers=False):
        self.times = times
        self.iter = len(times)
        self.message_hub = MessageHub.get_instance(f'hub{id(self)}')
        self.train_dataloader = self.logger = self
        self.num_workers = num_workers
        self.persistent_workers = persistent_workers
        self.warnings = []
        self.warning = self.warnings.append

    def run(self, hook):
        hook.before_train_epoch(self)
        for i, (waited, taken) in enumerate(self.times):
            self.message_hub.update_scalar('train/data_time', waited)
            self.message_hub.update_scalar('train/time', taken)
            hook.after_train_iter(self, i)
        hook.after_train_epoch(self)
        return self.warnings


def test_one_warning_per_epoch():
    # a worker's batch late now and then, as with several workers
    times = [(0.9, 1.0), (0., 0.1), (0., 0.1)] * 10
    warning, = FakeRunner(times).run(DataTimeHook())
    assert '75% of the last 30' in warning
    assert '(0.300 of 0.400 s, up to iteration 30)' in warning
    assert f'num_workers (now 2; there are {os.cpu_count()} cores)' in warning
    assert 'persistent_workers=True' in warning
    for kwargs in dict(persistent_workers=True), dict(num_workers=0):
        warning, = FakeRunner(times, **kwargs).run(DataTimeHook())
        assert 'persistent_workers' not in warning


@pytest.mark.parametrize('share, count', [(0.19, 0), (0.21, 1)])
def test_stated_share(share, count):
    times = [(share, 1.)] * 10
    assert len(FakeRunner(times).run(DataTimeHook())) == count


def test_few_iterations_say_nothing():
    assert FakeRunner([(1., 1.)] * 9).run(DataTimeHook()) == []


def test_interval(monkeypatch):
    """The parts of a long epoch are checked one by one."""
    times = [(0., 1.)] * 10 + [(0.9, 1.)] * 10 + [(0., 1.)] * 15
    monkeypatch.setattr(data_time_hook, 'INTERVAL', 10)
    warning, = FakeRunner(times).run(DataTimeHook())
    assert '90% of the last 10' in warning


# ------------------------------------------------------------ a real run of it
class Slow(Dataset):

    def __len__(self):
        return 12

    def __getitem__(self, i):
        time.sleep(0.02)
        return dict(x=torch.ones(1))


class Quick(BaseModel):

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x, mode):
        return dict(loss=self.layer(x).sum())


def test_run_of_mmengine(tmp_path):
    """With mmengine's own IterTimerHook and loop."""
    runner = Runner(
        model=Quick(),
        work_dir=tmp_path,
        train_dataloader=dict(
            dataset=Slow(), batch_size=1, num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate')),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            checkpoint=None, data_time=dict(type='autonl_mm.DataTimeHook')),
        experiment_name=tmp_path.name)
    runner.train()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('The data loader limits this run') == 2
    assert 'of the last 12 iterations' in log
