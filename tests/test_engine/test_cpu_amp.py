# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import torch
import torch.nn as nn
from mmengine.optim import build_optim_wrapper

from autonl_mm.engine import CpuAmpOptimWrapper


def build(model, **kwargs):
    return build_optim_wrapper(
        model,
        dict(
            type='autonl_mm.CpuAmpOptimWrapper',
            optimizer=dict(type='SGD', lr=0.1),
            **kwargs))


def test_forward_is_bfloat16_and_the_rest_is_not():
    model = nn.Linear(4, 2)
    wrapper = build(model)
    assert type(wrapper) is CpuAmpOptimWrapper
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        out = model(torch.randn(3, 4))
    assert out.dtype == torch.bfloat16
    assert model(torch.randn(3, 4)).dtype == torch.float32
    wrapper.update_params(out.float().sum())
    assert model.weight.dtype == torch.float32
    assert not torch.equal(model.weight, before)


def test_keeps_what_mmengines_wrapper_does():
    model = nn.Linear(4, 2)
    wrapper = build(
        model, accumulative_counts=2, clip_grad=dict(max_norm=1e-3))
    wrapper.initialize_count_status(model, 0, 4)
    before = model.weight.detach().clone()
    for i in range(2):
        with wrapper.optim_context(model):
            loss = model(torch.randn(3, 4)).float().sum()
        wrapper.update_params(loss)
        # the first of two only accumulates
        assert torch.equal(model.weight, before) == (i == 0)
    change = (model.weight - before).norm()
    assert 0 < change <= 1.01e-4


def test_leaves_autocast_after_an_error():
    model = nn.Linear(4, 2)
    wrapper = build(model)
    try:
        with wrapper.optim_context(model):
            raise KeyError
    except KeyError:
        pass
    assert model(torch.randn(3, 4)).dtype == torch.float32
