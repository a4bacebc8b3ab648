# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Losses on a few images: the same each time, and without a trace."""
import argparse
import copy
import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS

from autonl_mm.nas.selection import proxy_loss
from autonl_mm.nas.selection.candidates import CandidateSelection, build_held_out
from autonl_mm.nas.selection.proxy_loss import FixedBatches, ProxyLoss
from autonl_mm.runs import launch, ranks


@pytest.fixture
def runner(tiny_search, tmp_path, scope):
    """A search that is about to train, with a model that uses chance."""
    runner = launch.build_runner(launch.load_config(argparse.Namespace(
        config=str(tiny_search), work_dir=str(tmp_path), launcher='none',
        local_rank=0, cfg_options={'model.model.neck.dropout': 0.5})))
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.model.train()
    return runner


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), \
        torch.get_rng_state().tolist()


@contextmanager
def no_change(subnet):
    yield


def test_the_same_each_time_and_without_a_trace(runner):
    model = runner.model
    state = {k: v.clone() for k, v in model.state_dict().items()}
    iterator = iter(runner.train_dataloader)  # of the epoch under way
    before = random_states()

    def losses(start, stop, num_samples=16):
        proxy = ProxyLoss(runner, model.model, no_change, num_samples)
        return proxy.losses([0], start, stop)[0]

    whole = losses(0, 4)
    assert len(set(whole)) == 4
    assert losses(0, 4) == whole == losses(0, 9, 13)
    assert losses(0, 1) + losses(1, 3) == whole[:3]
    assert losses(3, 9) == whole[3:]
    assert losses(4, 9) == []
    assert random_states() == before
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert len(list(iterator)) == len(runner.train_dataloader)
    assert model.training


@pytest.mark.parametrize('share, workers', [(0.1, 0), (0.6, 2), (2, 0)])
def test_bounded_memory_changes_nothing(share, workers, runner, monkeypatch):
    """However many batches stay in memory, and whoever loads them."""
    model = runner.model.model
    whole = ProxyLoss(runner, model, no_change, 16)
    expected, = whole.losses([0], 0, 4)
    assert not whole.batches.is_full and len(whole.batches.kept) == 4
    runner.train_dataloader.num_workers = workers
    kept_bytes = whole.batches.kept_bytes
    monkeypatch.setattr(proxy_loss, 'MAX_BYTES', int(share * kept_bytes))
    proxy = ProxyLoss(runner, model, no_change, 16)
    before = random_states()
    assert proxy.losses([0], 0, 1) == [expected[:1]]
    assert proxy.losses([0, 1], 1, 4) == [expected[1:]] * 2
    assert proxy.losses([0], 0, 4) == [expected]
    assert proxy.batches.kept_bytes <= share * kept_bytes / 2
    assert len(proxy.batches.kept) == {0.1: 0, 0.6: 1, 2: 4}[share]
    assert random_states() == before


def test_runs_the_subnet(runner):
    supernet = runner.model.supernet
    subnet = supernet.active_subnet()
    cheapest = [tuple(0 for _ in c) for c in subnet]
    proxy = ProxyLoss(runner, runner.model.model, runner.model.exported_as, 8)
    (whole, cheap), again = proxy.losses([subnet, cheapest], 0, 2), \
        proxy.losses([subnet], 0, 2)
    assert [whole] == again and whole != cheap
    proxy.losses([cheapest], 0, 1)
    assert supernet.cost().item() == supernet.cost_of(cheapest)


def test_all_images_where_there_are_few(runner):
    proxy = ProxyLoss(runner, runner.model.model, no_change, 10_000)
    assert proxy.num_batches == len(runner.train_dataloader)
    assert len(proxy.losses([0], 0, 10_000)[0]) == proxy.num_batches


def test_held_out_images(runner, tmp_path):
    """The losses are those of these images, and of no others."""
    held_out = dict(runner.cfg.val_dataloader.dataset, holdout=6)
    selection = CandidateSelection(num_samples=100, held_out=held_out)
    with pytest.raises(ValueError, match='images of held_out are images of val_data'):
        selection.open(runner)
    runner._val_loop = None
    selection.open(runner)
    proxy = selection.proxy_loss(runner, runner.model)
    assert proxy.held_out and proxy.images == [4, 2] and proxy.num_batches == 2
    seen = []
    for part in proxy.batches.parts(0, 2):
        seen += [s.img_path for batch in part for s in batch['data_samples']]
    assert sorted(seen) == sorted(
        selection.images.get_data_info(i)['img_path'] for i in range(6))
    expected, = ProxyLoss(runner, runner.model.model, no_change, 6,
                          dataset=selection.images).losses([0], 0, 2)
    subnet = runner.model.supernet.active_subnet()
    assert proxy.losses([subnet], 0, 2)[0] == pytest.approx(expected, abs=1e-5)


def test_fingerprint_of_images(runner):
    def fingerprint(seed=0, count=8, **change):
        dataset = DATASETS.build(dict(runner.cfg.val_dataloader.dataset, **change))
        return FixedBatches(runner, dataset, count, 0, seed).fingerprint()

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(seed=1), fingerprint(count=4),
                fingerprint(holdout=7), fingerprint(split='train'),
                fingerprint(seed=5)}) == 6


def test_images_that_cannot_be_compared(runner, monkeypatch):
    """A dataset without paths and pixels is used, but not without a word."""
    runner._val_loop = None
    monkeypatch.setattr(DATASETS, 'build', lambda config: [0] * 3)
    warnings = []
    monkeypatch.setattr(runner.logger, 'warning', warnings.append)
    assert build_held_out(runner, dict()) == [0] * 3
    message, = warnings
    assert 'held_out and of train_dataloader cannot be compared' in message


def test_ranks_try_the_same_candidates(runner, monkeypatch):
    monkeypatch.setattr(ranks, 'all_gather_object', lambda digest: [digest, 'other'])
    proxy = ProxyLoss(runner, runner.model.model, no_change, 8)
    with pytest.raises(RuntimeError, match='candidates of rank 1 differ'):
        proxy.losses([0], 0, 1)


def test_trained_images_are_not_held_out(runner):
    runner._val_loop = None
    selection = CandidateSelection(held_out=dict(runner.cfg.train_dataloader.dataset))
    with pytest.raises(ValueError, match='24 images of held_out are images of train'):
        selection.open(runner)


def test_recalibration(runner, monkeypatch):
    """BN has the statistics of the subnet, over all batches."""
    model, supernet = runner.model, runner.model.supernet
    subnet = supernet.sample_subnet(torch.Generator().manual_seed(3))
    proxy = ProxyLoss(runner, model.model, model.exported_as, 8)
    batches = FixedBatches(runner, runner.train_dataloader.dataset, 8, 0, 1)
    states = random_states()
    with model.exported_as(subnet):
        task = copy.deepcopy(model.model)
        proxy.recalibrate(batches)
        measured = [m for m in model.model.modules()
                    if isinstance(m, torch.nn.BatchNorm2d)]
    assert random_states() == states and model.training
    norms = [m for m in task.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad(), model.exported_as(subnet):
        for part in batches.parts(0, 2):
            for batch in part:
                task(**task.data_preprocessor(batch, True))
    assert len(measured) == len(norms) > 10
    assert {norm.momentum for norm in measured} == {0.1}
    for found, norm in zip(measured, norms):
        torch.testing.assert_close(found.running_mean, norm.running_mean)
        torch.testing.assert_close(found.running_var, norm.running_var)
    # a batch without a finite loss changes none
    with model.exported_as(subnet):
        bad = copy.deepcopy(next(batches.parts(0, 1))[0])
        bad['inputs'] = [x.float() * float('nan') for x in bad['inputs']]
        monkeypatch.setattr(batches, 'parts', lambda *args: [
            [batch, bad] for part in FixedBatches.parts(batches, *args)
            for batch in part])
        proxy.recalibrate(batches)
        for module, norm in zip((m for m in model.model.modules()
                                 if isinstance(m, torch.nn.BatchNorm2d)), norms):
            torch.testing.assert_close(module.running_mean, norm.running_mean)
    # losses leave them as they are
    before = {k: v.clone() for k, v in model.state_dict().items() if 'gate' not in k}
    proxy.losses([subnet], 0, 2)
    for name, value in model.state_dict().items():
        assert 'gate' in name or torch.equal(value, before[name]), name
