# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy

import pytest
import torch

from autonl_mm.nas import GateState, indicator
from autonl_mm.nas.supernet.gates import IMPORTANCE_MOMENTUM


def build(*options, skippable=False, statistic='relative', **named):
    """Gates of one block, of kernel sizes unless they are named."""
    named = named or dict(kernel_size=options)
    state = GateState([named], [skippable], statistic)
    return state


def importance_after(state, times, on, rate, loss, generator):
    """Sample, run a loss forward and backward, average."""
    for _ in range(times):
        state.sample(on(), rate, generator)
        gates = state(torch.ones(len(state.threshold)))
        loss(gates).sum().backward()
        state.average_importance()
    return state.importance


def test_indicator_is_hard_forward_and_sigmoid_backward():
    value = torch.tensor([0.5, 1.0, 2.0], requires_grad=True)
    threshold = torch.tensor([1.0, 1.0, 1.0], requires_grad=True)
    out = indicator(value, threshold)
    assert out.tolist() == [0, 0, 1]
    (out * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    s = (value - threshold).detach().sigmoid()
    expected = s * (1 - s) * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(value.grad, expected)
    torch.testing.assert_close(threshold.grad, -expected)


def test_sampled_values_have_the_same_gradient():
    value = torch.tensor([0.0, 2.0, 2.0], requires_grad=True)
    sampled = torch.tensor([0.25, 0.0, torch.nan])
    out = indicator(value, torch.ones(3), sampled)
    assert out.tolist() == [0.25, 0, 1]
    out.sum().backward()
    s = torch.tensor([-1.0, 1.0, 1.0]).sigmoid()
    torch.testing.assert_close(value.grad, s * (1 - s))


def test_gates_lie_flat_in_the_order_of_blocks_and_decisions():
    state = GateState(
        [dict(expand_ratio=(0, 3, 6), nl=(False, True), nl_ratio=(0.125, 0.25)), {},
         dict(kernel_size=(3, 5, 7))], [True, False, False], 'relative')
    assert state.slices == [
        dict(expand_ratio=slice(0, 2), nl=slice(2, 3), nl_ratio=slice(3, 4)), {},
        dict(kernel_size=slice(4, 6))]
    assert state.is_measured.tolist() == [False] * 3 + [True] + [False] * 2
    # what must be on for each part to be seen
    assert [row.nonzero()[:, 0].tolist() for row in state.ancestors] == [
        [], [0], [0], [0, 2], [], [4]]


def test_only_training_samples():
    state = build(3, 5, 7)
    value = torch.tensor([1.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(50):
        state.sample(torch.randint(2, (2, ), generator=generator), 1.0, generator)
        seen.update(state(value).tolist())
        assert state.decide(value).tolist() == [1, 0]
    assert {0, 1} < seen and all(0 <= g <= 1 for g in seen)
    state.eval()
    assert state(value).tolist() == [1, 0]
    torch.testing.assert_close(state.decide(value, relaxed=True), value.sigmoid())
    state.train().stop_sampling()
    assert state(value).tolist() == [1, 0]


def test_a_few_gates_of_a_sampled_subnet_are_in_between():
    state = build(*range(2001))
    subnet = torch.arange(2000) % 2
    state.sample(subnet, 0.5, torch.Generator().manual_seed(0))
    on = state(torch.ones(2000)).detach()
    between = (on > 0) & (on < 1)
    assert between.float().mean() == pytest.approx(0.1, abs=0.03)
    assert torch.equal(on[~between], subnet[~between].float())
    assert on[between].mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize('rate', [0.3, 0.8])
def test_sampling_estimates_the_importance_of_the_whole_part(rate, monkeypatch):
    """Averaged over samples, L(1) - L(0), though L is bent."""
    monkeypatch.setattr('autonl_mm.nas.supernet.gates.IMPORTANCE_MOMENTUM', 0.02)
    count, steps = 1000, 100  # gates that do not depend on each other
    state = GateState([dict(nl=(False, True))] * count, [False] * count, 'relative')

    def loss(g):
        return (3 * g - 1)**4 + g

    def on():
        return torch.zeros(count) if torch.rand(
            (), generator=generator) < rate else None

    generator = torch.Generator().manual_seed(0)
    importance_after(state, steps, on, rate, loss, generator)
    s = torch.ones(1).sigmoid().item()
    difference = loss(1) - loss(0)
    assert -state.threshold.grad.mean().item() / steps == pytest.approx(
        difference * s * (1 - s), rel=0.15)
    importance = state.importance_sum.sum() / state.importance_weight.sum()
    assert -importance.item() == pytest.approx(difference, rel=0.1)


def test_without_sampling_the_gradient_is_that_of_what_is_decided():
    state = build(0, 1)
    on = state(torch.ones(1))
    assert on.item() == 1
    (3 * on).sum().backward()
    s = torch.ones(1).sigmoid()
    torch.testing.assert_close(state.threshold.grad, -3 * s * (1 - s))
    state.average_importance()
    assert state.importance.item() == 0


def test_a_part_behind_one_that_is_off_says_nothing():
    state = build(3, 5, 7)
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([-2.0, -3.0])
    importance = importance_after(
        state, 500, lambda: torch.randint(2, (2, ), generator=generator), 0.8,
        lambda on: on.cumprod(0) * weights, generator)
    # The second's importance is 3, however often the first is off.
    assert importance[1].item() == pytest.approx(3, rel=1e-4)


def test_nothing_inside_of_what_is_off_is_seen():
    """Of a block that is skipped, or of LightNL that is off."""
    state = build(
        expand_ratio=(0, 3), kernel_size=(3, 5), nl=(False, True), nl_stride=(2, 1),
        skippable=True)
    generator = torch.Generator().manual_seed(0)
    seen = torch.zeros(4)
    for _ in range(300):
        state.importance_weight.zero_()
        state.sample(torch.randint(2, (4, ), generator=generator), 0.5, generator)
        on = state(torch.ones(4))
        on.sum().backward()
        block, _, nl, _ = on = on.detach()
        state.average_importance()
        between = ((on > 0) & (on < 1)).float()
        visible = torch.stack([torch.ones(()), block, block, block * nl])
        torch.testing.assert_close(
            state.importance_weight, visible * between * IMPORTANCE_MOMENTUM)
        seen += state.importance_weight > 0
    assert (seen > 0).all()


def test_energies_are_relative_to_initialisation():
    state = build(3, 5)
    state.remember(torch.tensor([8.0]))
    assert state.values(torch.tensor([8.0])).tolist() == [1]
    assert state.values(torch.tensor([2.0])).tolist() == [0.25]
    assert 'initial' in state.state_dict()


def test_energies_of_the_paper():
    state = build(3, 5, statistic='norm')
    state.remember(torch.tensor([8.0]))
    assert state.values(torch.tensor([2.0])).tolist() == [2]


@pytest.mark.parametrize('statistic, expected', [
    ('relative', [1, 1]), ('norm', [4, 10])])
def test_distances_are_averaged(statistic, expected, monkeypatch):
    monkeypatch.setattr('autonl_mm.nas.supernet.gates.DISTANCE_MOMENTUM', 0.5)

    def fresh():
        return build(nl_ratio=(0.125, 0.25, 0.5), statistic=statistic)

    state, unused = fresh(), torch.full((2, ), 9.)
    assert state.values(unused).tolist() == [1, 1]
    state.average_distances(torch.tensor([4.0, 10.0]))
    assert state.values(unused).tolist() == expected
    state.average_distances(torch.tensor([2.0, 10.0]))
    scale = 4 if statistic == 'relative' else 1
    assert state.values(unused)[0].item() == 3 / scale
    other = fresh()
    other.load_state_dict(state.state_dict())
    assert other.values(unused).tolist() == state.values(unused).tolist()


def test_distances_that_are_not_finite_are_left_out():
    state = build(nl_ratio=(0.125, 0.25, 0.5))
    inf, nan = float('inf'), float('nan')
    state.average_distances(torch.tensor([nan, 10.]))  # as the first batch too
    assert state.initial.tolist() == state.distance.tolist() == [0, 10]
    state.average_distances(torch.tensor([4., inf]))
    assert state.initial.tolist() == state.distance.tolist() == [4, 10]
    state.average_distances(torch.tensor([2., 20.]))
    assert state.distance.tolist() == pytest.approx([3.8, 11])


def test_importance_that_is_not_finite_is_left_out():
    state = build(3, 5, 7)
    generator = torch.Generator().manual_seed(0)
    importance_after(state, 50, lambda: torch.ones(2), 0.5, lambda on: -on, generator)
    before = state.importance.clone()
    importance_after(state, 50, lambda: torch.ones(2), 0.5,
                     lambda on: on * float('inf'), generator)
    assert torch.equal(state.importance, before) and before.any()


def test_distance_of_zero_divides_nothing_by_zero():
    state = build(nl_stride=(2, 1))
    state.average_distances(torch.zeros(1))
    assert torch.isfinite(state.values(torch.zeros(1))).all()


def test_copies_in_the_middle_of_an_iteration():
    """What averages and exports copy; before the gradient was taken away too."""
    state = build(3, 5, 7)
    state.sample(torch.ones(2), 0.5, torch.Generator().manual_seed(0))
    state(torch.ones(2)).sum().backward()
    state.average_importance()
    other = copy.deepcopy(state)
    assert torch.equal(other.importance_sum, state.importance_sum)
