# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy

import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from autonl_mm.engine.optimizers import RMSpropTF


def tensorflow_rmsprop(weights, grads, lrs, alpha, eps, momentum, decay):
    """TensorFlow's ApplyRMSProp, after its kernel, in float64.

    ``ms`` starts at one and ``mom`` at zero, as its RMSPropOptimizer makes
    the slots.
    """
    weights = weights.astype(np.float64)
    ms, mom = np.ones_like(weights), np.zeros_like(weights)
    for grad, lr in zip(grads, lrs):
        grad = grad.astype(np.float64) + decay * weights
        ms += (np.square(grad) - ms) * (1 - alpha)
        mom = mom * momentum + grad * lr / np.sqrt(ms + eps)
        weights = weights - mom
    return weights


@pytest.mark.parametrize('decay', [0, 0.1])
@pytest.mark.parametrize('momentum', [0, 0.9])
@pytest.mark.parametrize('alpha,eps', [(0.9, 1e-3), (0.5, 1e-10), (0., 1.)])
def test_is_tensorflows_rule(decay, momentum, alpha, eps):
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(4, 3)), rng.normal(size=7)]
    grads = [[rng.normal(size=w.shape) * 10.**rng.integers(-3, 2)
              for w in start] for _ in range(30)]
    lrs = [0.016 * 0.97**(i // 3) for i in range(30)]
    lrs[10] = 0.5
    params = [nn.Parameter(torch.tensor(w)) for w in start]
    optimizer = RMSpropTF(
        params, 1., alpha=alpha, eps=eps, momentum=momentum,
        weight_decay=decay)
    for step, lr in zip(grads, lrs):
        optimizer.param_groups[0]['lr'] = lr
        for param, grad in zip(params, step):
            param.grad = torch.tensor(grad)
        optimizer.step()
        for param, grad in zip(params, step):  # decay must not leak into it
            assert torch.equal(param.grad, torch.tensor(grad))
    for i, param in enumerate(params):
        want = tensorflow_rmsprop(start[i], [g[i] for g in grads], lrs, alpha,
                                  eps, momentum, decay)
        np.testing.assert_allclose(
            param.detach().numpy(), want, rtol=1e-10, atol=1e-12)


def test_defaults_are_the_recipes():
    assert RMSpropTF([nn.Parameter(torch.ones(1))]).defaults == dict(
        lr=0.016, alpha=0.9, eps=1e-3, momentum=0.9, weight_decay=0.)


def test_groups_have_their_own_options():
    a, b = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in 'ab')
    optimizer = RMSpropTF([
        dict(params=[a], lr=0.1, weight_decay=0.5),
        dict(params=[b], momentum=0.)
    ], lr=0.01)
    grads = [np.full(2, 0.3)] * 5
    for grad in grads:
        a.grad, b.grad = torch.tensor(grad), torch.tensor(grad)
        optimizer.step()
    for param, lr, momentum, decay in ((a, 0.1, 0.9, 0.5), (b, 0.01, 0., 0.)):
        want = tensorflow_rmsprop(
            np.ones(2), grads, [lr] * 5, 0.9, 1e-3, momentum, decay)
        np.testing.assert_allclose(param.detach().numpy(), want, rtol=1e-12)


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 2))


def run(model, optimizer, start, stop):
    for i in range(start, stop):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(i))
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def test_resumes_exactly(tmp_path):
    model = small_model()
    optimizer = RMSpropTF(model.parameters(), weight_decay=1e-3)
    run(model, optimizer, 0, 5)
    torch.save(
        dict(model=model.state_dict(), optimizer=optimizer.state_dict()),
        tmp_path / 'state.pth')
    run(model, optimizer, 5, 10)

    state = torch.load(tmp_path / 'state.pth', weights_only=True)
    resumed = small_model()
    resumed.load_state_dict(state['model'])
    # other options: those of the state count
    again = RMSpropTF(resumed.parameters(), lr=1., momentum=0., alpha=0.)
    again.load_state_dict(state['optimizer'])
    run(resumed, again, 5, 10)
    for a, b in zip(resumed.parameters(), model.parameters()):
        assert torch.equal(a, b)


def test_deepcopy_of_state():
    model = small_model()
    optimizer = RMSpropTF(model.parameters())
    run(model, optimizer, 0, 2)
    twin = copy.deepcopy(optimizer.state_dict())
    run(model, optimizer, 2, 4)
    assert not torch.equal(twin['state'][0]['square_avg'],
                           optimizer.state_dict()['state'][0]['square_avg'])


def test_parameters_without_gradients_stay():
    used, unused, late = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = RMSpropTF([used, unused, late], weight_decay=0.1)
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2)) and unused not in optimizer.state
    late.grad = torch.ones(2)
    optimizer.step()
    assert not torch.equal(late, torch.ones(2))
    optimizer = RMSpropTF([nn.Parameter(torch.ones(2))])
    optimizer.step()  # nothing to do


def test_closure():
    param = nn.Parameter(torch.ones(2))
    optimizer = RMSpropTF([param])

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2
    assert optimizer.step(closure).item() < 2


@pytest.mark.parametrize('option,value', [
    ('lr', -0.1),
    ('eps', -1e-3),
    ('weight_decay', -1),
    ('momentum', -0.9),
    ('alpha', 1.),
    ('alpha', -0.1),
])
def test_bad_option_is_named(option, value):
    with pytest.raises(ValueError, match=f'{option} of RMSpropTF is {value}'):
        RMSpropTF([nn.Parameter(torch.ones(1))], **{option: value})


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = RMSpropTF(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match='does not support sparse gradients'):
        optimizer.step()


def test_weight_decay_of_the_recipe():
    """paramwise_cfg leaves it on exactly the conv and linear weights."""
    pytest.importorskip('mmpretrain')
    model = MODELS.build(
        dict(
            _scope_='mmpretrain',
            type='ImageClassifier',
            backbone=dict(
                type='autonl_mm.AutoNL',
                arch=['r2_k3_s22_e2_i8_o8_se0.25_nonlocal0.5'],
                out_indices=(-1, )),
            neck=dict(type='autonl_mm.PoolDropout'),
            head=dict(
                type='LinearClsHead',
                num_classes=3,
                in_channels=1280)))
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='autonl_mm.RMSpropTF', weight_decay=1e-5),
            paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.)))
    assert type(wrapper.optimizer) is RMSpropTF
    decayed = {
        id(p)
        for g in wrapper.optimizer.param_groups if g['weight_decay'] == 1e-5
        for p in g['params']
    }
    rest = {
        id(p)
        for g in wrapper.optimizer.param_groups if g['weight_decay'] == 0
        for p in g['params']
    }
    weights = {
        id(m.weight)
        for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    }
    assert decayed == weights
    assert rest == {id(p) for p in model.parameters()} - weights
    assert len(rest) > 10
