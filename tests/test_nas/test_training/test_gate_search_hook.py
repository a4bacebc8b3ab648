# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The paper's rule: gradients alone bring the cost to the target."""
import argparse

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample

from autonl_mm.nas import AutoNLSuperNet, GateSearchHook

STEPS = 60


# One gate of this space switches up to 130e3 MACs.
@pytest.mark.parametrize('target, rel', [
    pytest.param(450e3, 0.2, marks=pytest.mark.long), (700e3, 0.02)])
def test_gradients_reach_the_target(target, rel, tiny_search, scope, monkeypatch):
    torch.manual_seed(0)
    cfg = Config.fromfile(tiny_search)
    init_default_scope('mmpretrain')
    cfg.model.update(
        target=target, cost_weight=0.5, data_preprocessor=cfg.data_preprocessor)
    model = MODELS.build(cfg.model).train()
    supernet = model.supernet
    cfg.optim_wrapper.paramwise_cfg.custom_keys.threshold.lr_mult = 6
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    # each iteration has a smaller rate, as in a search
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer.optimizer, STEPS)
    fitted, fit_budget = [], AutoNLSuperNet.fit_budget

    def fit(*args):
        fitted.append(runner.iter)
        return fit_budget(*args)

    monkeypatch.setattr(AutoNLSuperNet, 'fit_budget', fit)
    hook = GateSearchHook(warmup=0.2, freeze_at=1, candidates=0)
    runner = argparse.Namespace(model=model, max_iters=STEPS, seed=0,
                                optim_wrapper=optimizer, train_loop=None)
    batch = dict(
        inputs=list(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)),
        data_samples=[DataSample().set_gt_label(i) for i in range(2)])
    costs = []
    for runner.iter in range(STEPS):
        if not runner.iter:
            hook.before_run(runner)
        hook.before_train_iter(runner, runner.iter)
        costs.append(supernet.cost().item())
        model.train_step(batch, optimizer)
        decay.step()
        hook.after_train_iter(runner, runner.iter)
    _, largest = supernet.cost_range()
    assert set(costs[:12]) == {largest}
    assert costs[-1] == pytest.approx(target, rel=rel)
    # the knapsack is for the choice alone
    assert fitted == [STEPS - 1]
    assert supernet.cost().item() == pytest.approx(target, rel=0.02)
