# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS

from autonl_mm.engine.hooks import batch_scaled_ema_hook
from autonl_mm.engine.hooks.batch_scaled_ema_hook import BatchScaledEMAHook


def stub_runner(model=None, **cfg):
    return SimpleNamespace(
        cfg=Config(cfg), model=model or nn.BatchNorm1d(3), iter=0, epoch=0,
        optim_wrapper=SimpleNamespace(should_update=lambda: True))


def momentum_for(hook=None, **cfg):
    hook = hook or BatchScaledEMAHook()
    hook.before_run(stub_runner(**cfg))
    return hook.ema_model.momentum


def loader(batch_size):
    return dict(batch_size=batch_size)


@pytest.mark.parametrize('batch_size', [1, 128, 4096, 8192])
def test_momentum_counts_images(batch_size):
    momentum = momentum_for(train_dataloader=loader(batch_size))
    # after as many images the average has forgotten as much
    steps = 8192 // batch_size
    assert (1 - momentum)**steps == pytest.approx(0.9999**2, rel=1e-9)


def test_known_values():
    assert momentum_for(train_dataloader=loader(4096)) == \
        pytest.approx(1e-4, rel=1e-9)
    assert momentum_for(train_dataloader=loader(128)) == \
        pytest.approx(3.1251514e-6, rel=1e-6)
    hook = BatchScaledEMAHook(momentum=0.1, base_batch_size=10)
    assert momentum_for(hook, train_dataloader=loader(20)) == \
        pytest.approx(0.19)


def test_accumulation_and_processes_make_the_batch(monkeypatch):
    want = momentum_for(train_dataloader=loader(1024))
    accumulated = momentum_for(
        train_dataloader=loader(128),
        optim_wrapper=dict(accumulative_counts=8))
    assert accumulated == want
    monkeypatch.setattr(batch_scaled_ema_hook, 'get_world_size', lambda: 4)
    assert momentum_for(
        train_dataloader=loader(128),
        optim_wrapper=dict(accumulative_counts=2)) == want


@pytest.mark.parametrize('counts', [1, 4, 16])
def test_accumulated_gradients_are_one_step(counts):
    """After as many images as much of the start is left."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = OptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.), accumulative_counts=counts)
    optimizer.initialize_count_status(model, 0, 10 * counts)
    hook = BatchScaledEMAHook(momentum=0.1, base_batch_size=64)
    runner = stub_runner(
        model, train_dataloader=loader(64 // counts),
        optim_wrapper=dict(accumulative_counts=counts))
    runner.optim_wrapper = optimizer
    hook.before_run(runner)
    nn.init.constant_(model.weight, 1.)
    for i in range(10 * counts):
        optimizer.update_params(model(torch.ones(1, 1)).sum())
        hook.after_train_iter(runner, i)
        if i + 1 == counts:  # the average starts with a copy
            nn.init.zeros_(model.weight)
    assert hook.ema_model.module.weight.item() == pytest.approx(0.9**9)


@pytest.mark.parametrize('cfg', [
    dict(),
    dict(train_dataloader=None, optim_wrapper=None),
    dict(train_dataloader=dict(batch_sampler=dict(type='X')))
])
def test_momentum_stays_without_a_batch_size(cfg):
    assert momentum_for(**cfg) == 1e-4


def test_a_second_run_is_not_scaled_twice():
    hook = BatchScaledEMAHook()
    first = momentum_for(hook, train_dataloader=loader(128))
    assert momentum_for(hook, train_dataloader=loader(128)) == first


def test_averages_weights_and_buffers():
    hook = HOOKS.build(
        dict(type='autonl_mm.BatchScaledEMAHook', momentum=0.25, base_batch_size=8))
    assert type(hook) is BatchScaledEMAHook
    model = nn.BatchNorm1d(2)
    runner = stub_runner(model, train_dataloader=loader(16))
    hook.before_run(runner)
    momentum = 1 - 0.75**2
    want = None
    for value in (1., 3., -2.):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(10 * value)
        hook.after_train_iter(runner, 0)
        # mmengine's average starts as a copy at its first update
        want = value if want is None else want + momentum * (value - want)
    average = hook.ema_model.module
    torch.testing.assert_close(average.weight, torch.full((2, ), want))
    torch.testing.assert_close(average.running_mean, torch.full((2, ), 10 * want))


def test_buffers_can_be_left_out():
    hook = BatchScaledEMAHook(momentum=0.25, update_buffers=False)
    model = nn.BatchNorm1d(2)
    runner = stub_runner(model, train_dataloader=loader(4096))
    hook.before_run(runner)
    for value in (1., 3.):
        model.running_mean.fill_(value)
        hook.after_train_iter(runner, 0)
    assert torch.equal(hook.ema_model.module.running_mean, torch.full((2, ), 3.))


def test_options_of_mmengines_hook():
    hook = BatchScaledEMAHook(begin_iter=2)
    model = nn.Linear(2, 2)
    runner = stub_runner(model, train_dataloader=loader(4096))
    hook.before_run(runner)
    assert not hook._ema_started(runner)
    runner.iter = 2
    assert hook._ema_started(runner)
