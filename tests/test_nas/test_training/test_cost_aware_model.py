# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy
import json
import math

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from search_spaces import TINY_SPACE, latencies, randomize, set_importance
from torch import nn

from autonl_mm import count_macs
from autonl_mm.nas import CostAwareModel
from autonl_mm.nas.training.soft_targets import soft_loss

BACKBONE = dict(
    type='autonl_mm.AutoNLSuperNet',
    space=TINY_SPACE,
    input_shape=(32, 32),
    num_classes=10)
TASK = dict(
    type='mmpretrain.ImageClassifier',
    backbone=BACKBONE,
    neck=dict(type='autonl_mm.PoolDropout'),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=32))
DATA_PREPROCESSOR = dict(
    num_classes=10,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)


@pytest.fixture(autouse=True)
def mmpretrain_scope(scope):
    from mmengine.registry import init_default_scope
    init_default_scope('mmpretrain')


def build(**kwargs):
    cfg = dict(
        type='autonl_mm.CostAwareModel',
        model=copy.deepcopy(TASK),
        cost_weight=0.1,
        data_preprocessor=dict(DATA_PREPROCESSOR))
    return MODELS.build(dict(cfg, **kwargs))


def batch(n=4):
    from mmpretrain.structures import DataSample
    return dict(
        inputs=torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(i % 10) for i in range(n)])


def losses_of(model):
    return model(**model.data_preprocessor(batch(), True), mode='loss')


def test_the_papers_objective():
    model = build()
    losses = losses_of(model)
    cost = count_macs(model.supernet.arch(), 32, 10).total
    assert losses['cost'].item() == cost
    assert losses['loss_cost'].item() == pytest.approx(0.1 * math.log(cost))
    assert 'loss' in losses
    total, logged = model.parse_losses(losses)
    assert total.item() == pytest.approx(
        losses['loss'].item() + losses['loss_cost'].item())
    assert logged['cost'].item() == cost


@pytest.mark.parametrize('factor', [0.5, 0.8])
def test_penalty_of_a_target(factor):
    model = build()
    cost = model.supernet.cost_range()[1]
    model = build(target=factor * cost)
    model.narrow_budget(0)
    losses = losses_of(model)
    assert losses['loss_cost'].item() == pytest.approx(0.1 * -math.log(factor))


def test_target_is_held():
    model = build()
    low, high = model.supernet.cost_range()
    target = (low * high)**0.5
    model = build(target=target)
    for _ in range(3):
        assert abs(losses_of(model)['cost'].item() / target - 1) <= 0.05


def test_best_subnet_is_chosen_by_force():
    low, high = build().supernet.cost_range()
    model = build(target=(low * high)**0.5)
    model.enforce_budget()
    before = model.supernet.arch()
    importance = torch.full_like(model.supernet.gate_state.importance, 0.1)
    for slices in model.supernet.gate_state.slices:
        if 'kernel_size' in slices:
            importance[slices['kernel_size']] = -1.0
    set_importance(model.supernet.gate_state, importance)
    model.enforce_budget()
    assert model.supernet.arch() == before
    model.enforce_budget(force=True)
    low, high = model.budget
    assert low <= model.supernet.cost().item() <= high
    assert {b.kernel_size for b in model.supernet.arch().blocks} == {3}


def test_enforce_budget():
    model = build()
    low, high = model.supernet.cost_range()
    for share in (0, 0.1, 0.5, 0.9, 1):
        target = low**(1 - share) * high**share
        model = build(target=target)
        randomize(model.supernet, 5)
        model.enforce_budget()
        assert abs(model.supernet.cost().item() / target - 1) <= 0.05


def test_the_whole_range_is_never_enforced():
    """Rounding may put its end below the largest subnet."""
    high = build(target=1e6).supernet.cost_range()[1]
    model = build(target=1e6)
    for model.target in np.linspace(0.3e6, high, 80).tolist():
        model.narrow_budget(0)
        model.enforce_budget()
        assert model.supernet.cost().item() == high, model.target


def test_budget_narrows():
    model = build(target=1e6)
    low, high = model.supernet.cost_range()
    model.narrow_budget(0)
    assert model.budget == pytest.approx((low, high))
    model.narrow_budget(1)
    assert model.budget == pytest.approx((0.98e6, 1.02e6))
    model.narrow_budget(0.5)
    assert low < model.budget[0] < 0.98e6 < 1.02e6 < model.budget[1] < high


def test_penalty_moves_the_gates_down():
    model = build(cost_weight=10.0)
    names = [n for n, _ in model.named_parameters() if n.endswith('threshold')]
    params = dict(model.named_parameters())
    optimizer = torch.optim.Adam([params[n] for n in names], lr=0.1)
    before = model.supernet.cost().item()
    for _ in range(30):
        optimizer.zero_grad()
        model.parse_losses(losses_of(model))[0].backward()
        optimizer.step()
    assert model.supernet.cost().item() < 0.7 * before


def test_predicts_as_the_task_model():
    model = build().eval()
    data = model.data_preprocessor(batch(), False)
    with torch.no_grad():
        a = model(**data, mode='predict')
        b = model.model(**data, mode='predict')
        scores = model(data['inputs'])
    assert torch.equal(a[0].pred_score, b[0].pred_score)
    assert scores.shape == (4, 10)
    assert model.val_step(batch())[0].pred_score.shape == (10, )


def test_latency_table_as_cost(tmp_path):
    path = tmp_path / 'latency.json'
    path.write_text(json.dumps(dict(latency_ms=latencies(build().supernet))))
    low, high = build(cost=str(path)).supernet.cost_range()
    model = build(cost=str(path), target=(low + high) / 2)
    model.enforce_budget()
    cost = model.supernet.cost().item()
    assert abs(cost / model.target - 1) <= 0.05
    assert model.supernet.cost_model.unit == 'ms'

    table = json.loads(path.read_text())
    key = next(k for k in table['latency_ms'] if 'k5' in k)
    del table['latency_ms'][key]
    path.write_text(json.dumps(table))
    with pytest.raises(ValueError) as error:
        build(cost=str(path))
    assert key in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize('kwargs, words', [
    (dict(target=1.0), ['target is 1 MACs', 'this space cost {:,.6g} to {:,.6g}',
                        '32x32']),
    (dict(target=1e12), ['target is 1e+12 MACs', 'this space cost']),
    (dict(cost_weight=-1), ['cost_weight is -1']),
])
def test_bad_arguments(kwargs, words):
    with pytest.raises(ValueError) as error:
        build(**kwargs)
    for word in words:
        assert word.format(*build().supernet.cost_range()) in str(error.value)


def test_model_without_a_supernet():
    task = copy.deepcopy(TASK)
    task['backbone'] = dict(type='autonl_mm.AutoNL', arch='s')
    task['head']['in_channels'] = 1280
    with pytest.raises(ValueError, match='0 AutoNLSuperNets'):
        build(model=task)


def test_missing_latency_table():
    with pytest.raises(FileNotFoundError):
        build(cost='nowhere.json')


def test_registered_under_both_names():
    assert MODELS.get('autonl_mm.CostAwareModel') is CostAwareModel
    assert MODELS.get('CostAwareModel') is CostAwareModel


def sampled_subnets(model, count):
    """Subnets of the space; nothing of the model is left to chance."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.
    generator = torch.Generator().manual_seed(0)
    return [model.supernet.sample_subnet(generator) for _ in range(count)]


def loss_as(model, subnet, data):
    with model.supernet.run_subnet(subnet):
        return model.model(**data, mode='loss')['loss']


def test_several_subnets_in_a_step():
    """The mean of their losses, and of their gradients."""
    model = build().train()
    subnets = sampled_subnets(model, 3)
    data = model.data_preprocessor(batch(), True)
    expected = sum(loss_as(model, n, data) for n in subnets) / 3
    grads = torch.autograd.grad(expected, list(model.model.head.parameters()))
    model.train_subnets(subnets)
    losses = model(**data, mode='loss')
    assert losses['loss'].item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses['loss_cost'].item() == 0
    assert losses['cost'].item() == model.supernet.cost_range()[1]
    model.parse_losses(losses)[0].backward()
    for grad, parameter in zip(grads, model.model.head.parameters()):
        torch.testing.assert_close(parameter.grad, grad)
    assert all(p.grad is not None for p in model.parameters())
    assert not model.supernet.gate_state.threshold.grad.any()
    model.train_subnets(())
    assert losses_of(model)['loss'].item() != expected.item()


def test_soft_targets():
    """The first learns from the labels, the others only what the first says."""
    model = build().train()
    subnets = sampled_subnets(model, 3)
    data = model.data_preprocessor(batch(), True)
    logits = []
    for subnet in subnets:
        with model.supernet.run_subnet(subnet):
            logits.append(model.model(data['inputs'], mode='tensor'))
    target = logits[0].softmax(1).detach()
    expected = sum(-(target * x.log_softmax(1)).sum(1).mean() for x in logits[1:])
    model.train_subnets(subnets, soft_targets=True)
    losses = model(**data, mode='loss')
    assert losses['loss'].item() == pytest.approx(
        loss_as(model, subnets[0], data).item(), rel=1e-5)
    assert losses['loss_soft'].item() == pytest.approx(expected.item(), rel=1e-5)
    total, _ = model.parse_losses(losses)
    assert total.item() == pytest.approx(sum(
        losses[k].item() for k in ('loss', 'loss_soft', 'loss_cost')), rel=1e-5)


def test_losses_of_lists():
    """As a detector has them: the mean of the subnets' sums."""
    model = build().train()
    subnets = sampled_subnets(model, 2)
    parts = iter([dict(loss_cls=[torch.ones(2), torch.ones(3) * 2], acc=torch.ones(1)),
                  dict(loss_cls=[torch.ones(2) * 5, torch.zeros(3)],
                       acc=torch.zeros(1))])

    class Detector(torch.nn.Module):
        def forward(self, *args, **kwargs):
            return next(parts)

    model.model = Detector()
    model.model.backbone = build().supernet
    model.train_subnets(subnets)
    losses = model._losses_of_subnets(None, None)
    assert losses['loss_cls'].item() == 4 and losses['acc'].item() == 1


def test_soft_targets_of_one_output_channel():
    """A segmentor's masks: the cross entropy of two sigmoids."""
    student = torch.randn(2, 1, 4, 4, requires_grad=True)
    teacher = torch.randn(2, 1, 4, 4)
    loss = soft_loss(student, teacher)
    torch.testing.assert_close(
        loss, nn.functional.binary_cross_entropy_with_logits(
            student, teacher.sigmoid()))
    loss.backward()
    assert student.grad.abs().min() > 0


def test_soft_targets_need_logits():
    model = build()

    class RetinaNet(torch.nn.Module):
        def __init__(self, backbone):
            super().__init__()
            self.backbone, self.bbox_head = backbone, torch.nn.Identity()

    model.model = RetinaNet(model.supernet)
    with pytest.raises(ValueError, match=r'a RetinaNet with .* no logits') as error:
        model.train_subnets([], soft_targets=True)
    assert 'soft_targets=False' in str(error.value)


@pytest.mark.parametrize('head', [
    dict(type='MultiLabelLinearClsHead', num_classes=2, in_channels=32),
    dict(type='MultiTaskHead', task_heads=dict(a=dict(type='ClsHead'))),
])
def test_soft_targets_need_one_label_per_image(head):
    """Logits of independent labels have no softmax."""
    model = build()
    model.model.head = MODELS.build(head)
    with pytest.raises(ValueError, match=f'the head {head["type"]} has no logits'):
        model.train_subnets([], soft_targets=True)
