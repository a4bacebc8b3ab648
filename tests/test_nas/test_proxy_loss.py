# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Losses on a few images: the same each time, and without a trace."""
import argparse
import random

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


def test_the_same_each_time_and_without_a_trace(runner):
    model = runner.model
    state = {k: v.clone() for k, v in model.state_dict().items()}
    iterator = iter(runner.train_dataloader)  # of the epoch under way
    before = random_states()
    proxy = ProxyLoss(runner, model.model, 16)
    losses = proxy.losses(0, 4)
    assert len(proxy.batches) == len(losses) == 4
    assert len(set(losses)) == 4
    assert proxy.losses(0, 4) == losses
    assert proxy.losses(0, 1) + proxy.losses(1, 3) == losses[:3]
    assert proxy.losses(3, 9) == losses[3:]
    assert proxy.losses(4, 9) == []
    assert ProxyLoss(runner, model.model, 13).losses(0, 9) == losses
    assert random_states() == before
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert len(list(iterator)) == len(runner.train_dataloader)
    assert model.training


def test_sees_the_network_that_is_chosen(runner):
    supernet = runner.model.supernet
    proxy = ProxyLoss(runner, runner.model.model, 8)
    whole = proxy.losses(0, 2)
    choices = supernet.choices()
    cheapest = [tuple(0 for _ in c) for c in choices]
    supernet.choose(cheapest)
    assert proxy.losses(0, 2) != whole
    assert supernet.cost().item() == supernet.cost_of(cheapest)
    supernet.choose(choices)
    assert proxy.losses(0, 2) == whole


def test_all_images_where_there_are_few(runner):
    proxy = ProxyLoss(runner, runner.model.model, 10_000)
    assert len(proxy.batches) == len(runner.train_dataloader)
