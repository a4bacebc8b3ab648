# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Losses on a few images: the same each time, and without a trace."""
import argparse
import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from autonl_mm.cli import launch
from autonl_mm.nas.proxy_loss import ProxyLoss


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
def no_change(network):
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
def test_bounded_memory_changes_nothing(share, workers, runner):
    """However many batches stay in memory, and whoever loads them."""
    model = runner.model.model
    whole = ProxyLoss(runner, model, no_change, 16)
    expected, = whole.losses([0], 0, 4)
    assert not whole.is_full and len(whole.kept) == 4
    runner.train_dataloader.num_workers = workers
    proxy = ProxyLoss(runner, model, no_change, 16, int(share * whole.kept_bytes))
    before = random_states()
    assert proxy.losses([0], 0, 1) == [expected[:1]]
    assert proxy.losses([0, 1], 1, 4) == [expected[1:]] * 2
    assert proxy.losses([0], 0, 4) == [expected]
    assert proxy.kept_bytes <= share * whole.kept_bytes / 2
    assert len(proxy.kept) == {0.1: 0, 0.6: 1, 2: 4}[share]
    assert random_states() == before


def test_sees_the_network_that_is_asked_for(runner):
    supernet = runner.model.supernet
    choices = supernet.choices()
    cheapest = [tuple(0 for _ in c) for c in choices]
    proxy = ProxyLoss(runner, runner.model.model, runner.model.network, 8)
    (whole, cheap), again = proxy.losses([choices, cheapest], 0, 2), \
        proxy.losses([choices], 0, 2)
    assert [whole] == again and whole != cheap
    proxy.losses([cheapest], 0, 1)
    assert supernet.cost().item() == supernet.cost_of(cheapest)


def test_all_images_where_there_are_few(runner):
    proxy = ProxyLoss(runner, runner.model.model, no_change, 10_000)
    assert proxy.num_batches == len(runner.train_dataloader)
    assert len(proxy.losses([0], 0, 10_000)[0]) == proxy.num_batches
