# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
import torch

from autonl_mm.models.search import (
    CompactnessGates,
    NestedGates,
    WeightGates,
    indicator,
)


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


def test_flip_shows_the_opposite_with_the_same_gradient():
    value = torch.tensor([0.0, 2.0], requires_grad=True)
    flip = torch.tensor([True, True])
    out = indicator(value, torch.ones(2), flip)
    assert out.tolist() == [1, 0]
    out.sum().backward()
    s = torch.tensor([-1.0, 1.0]).sigmoid()
    torch.testing.assert_close(value.grad, s * (1 - s))


def test_only_training_explores():
    gates = NestedGates((3, 5, 7))
    value = torch.tensor([1.0, -1.0])
    gates.explore(1 - 1e-9, torch.Generator())
    assert gates.indicators(value).tolist() == [0, 1]
    assert gates.decided(value).tolist() == [1, 0]
    gates.eval()
    assert gates.indicators(value).tolist() == [1, 0]
    torch.testing.assert_close(
        gates.decided(value, relaxed=True), value.sigmoid())


def test_exploring_estimates_the_gain_of_the_whole_part():
    """Averaged over draws, L(1) - L(0) of a quadratic loss, exactly."""
    gates = NestedGates((0, 1))
    value = torch.ones(1)

    def loss(g):
        return (3 * g - 1)**2 + g

    generator = torch.Generator().manual_seed(0)
    rate, total, count = 0.25, 0, 4000
    for _ in range(count):
        gates.explore(rate, generator)
        loss(gates.indicators(value)).sum().backward()
        total -= gates.threshold.grad.item()
        gates.threshold.grad = None
    s = value.sigmoid().item()
    assert total / count == pytest.approx(
        (loss(1) - loss(0)) * s * (1 - s), rel=0.1)
    gates.explore(0.0, generator)
    assert gates.indicators(value).item() == 1
    gates.stop_exploring()


def test_threshold_is_a_parameter_by_that_name():
    names = dict(NestedGates((0, 3, 6)).named_parameters())
    assert set(names) == {'threshold'}
    assert names['threshold'].shape == (2, )


def test_weight_gates_are_relative_to_initialisation():
    gates = WeightGates((3, 5))
    gates.remember(torch.tensor([8.0]))
    assert gates(torch.tensor([8.0])).tolist() == [1]
    assert gates(torch.tensor([2.0])).tolist() == [0.25]
    assert 'initial' in gates.state_dict()


def test_weight_gates_of_the_paper():
    gates = WeightGates((3, 5), 'norm')
    gates.remember(torch.tensor([8.0]))
    assert gates(torch.tensor([2.0])).tolist() == [2]


@pytest.mark.parametrize('statistic, expected', [
    ('relative', [1, 1]), ('norm', [4, 10])])
def test_compactness_gates_average(statistic, expected):
    gates = CompactnessGates((0.125, 0.25, 0.5), statistic, momentum=0.5)
    assert gates().tolist() == [1, 1]
    gates.update(torch.tensor([4.0, 10.0]))
    assert gates().tolist() == expected
    gates.update(torch.tensor([2.0, 10.0]))
    scale = 4 if statistic == 'relative' else 1
    assert gates()[0].item() == 3 / scale
    copy = CompactnessGates((0.125, 0.25, 0.5), statistic, momentum=0.5)
    copy.load_state_dict(gates.state_dict())
    assert copy().tolist() == gates().tolist()


def test_distance_of_zero_divides_nothing_by_zero():
    gates = CompactnessGates((2, 1))
    gates.update(torch.zeros(1))
    assert torch.isfinite(gates()).all()
