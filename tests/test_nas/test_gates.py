# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
import torch

from autonl_mm.nas import (
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


def test_what_is_drawn_is_shown_with_the_same_gradient():
    value = torch.tensor([0.0, 2.0, 2.0], requires_grad=True)
    drawn = torch.tensor([0.25, 0.0, torch.nan])
    out = indicator(value, torch.ones(3), drawn)
    assert out.tolist() == [0.25, 0, 1]
    out.sum().backward()
    s = torch.tensor([-1.0, 1.0, 1.0]).sigmoid()
    torch.testing.assert_close(value.grad, s * (1 - s))


def test_only_training_explores():
    gates = NestedGates((3, 5, 7))
    value = torch.tensor([1.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(50):
        gates.explore(torch.randint(2, (2, ), generator=generator), 1.0,
                      generator)
        seen.update(gates.indicators(value).tolist())
        assert gates.decided(value).tolist() == [1, 0]
    assert {0, 1} < seen and all(0 <= g <= 1 for g in seen)
    gates.eval()
    assert gates.indicators(value).tolist() == [1, 0]
    torch.testing.assert_close(
        gates.decided(value, relaxed=True), value.sigmoid())
    gates.train().stop_exploring()
    assert gates.indicators(value).tolist() == [1, 0]


def test_a_few_gates_of_a_drawn_network_are_in_between():
    gates = NestedGates(range(2001))
    drawn = torch.arange(2000) % 2
    gates.explore(drawn, 0.5, torch.Generator().manual_seed(0))
    shown = gates.indicators(torch.ones(2000)).detach()
    between = (shown > 0) & (shown < 1)
    assert between.float().mean() == pytest.approx(0.1, abs=0.03)
    assert torch.equal(shown[~between], drawn[~between].float())
    assert shown[between].mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize('rate', [0.3, 0.8])
def test_exploring_estimates_the_gain_of_the_whole_part(rate):
    """Averaged over draws, L(1) - L(0), though L is bent."""
    gates = NestedGates((0, 1))
    value = torch.ones(1)

    def loss(g):
        return (3 * g - 1)**4 + g

    generator = torch.Generator().manual_seed(0)
    total, count = 0, 30000
    for _ in range(count):
        on = torch.zeros(1) if torch.rand(
            (), generator=generator) < rate else None
        gates.explore(on, rate, generator)
        loss(gates.indicators(value)).sum().backward()
        total -= gates.threshold.grad.item()
        gates.threshold.grad = None
        gates.average_gain(*gates.take_gain(), momentum=1e-4)
    s = value.sigmoid().item()
    difference = loss(1) - loss(0)
    assert total / count == pytest.approx(difference * s * (1 - s), rel=0.15)
    assert -gates.gain.item() == pytest.approx(difference, rel=0.15)


def test_without_exploring_the_gradient_is_that_of_what_is_decided():
    gates = NestedGates((0, 1))
    gates.stop_exploring()
    on = gates.indicators(torch.ones(1))
    assert on.item() == 1
    (3 * on).sum().backward()
    s = torch.ones(1).sigmoid()
    torch.testing.assert_close(gates.threshold.grad, -3 * s * (1 - s))
    gates.average_gain(*gates.take_gain(), momentum=0.5)
    assert gates.gain.item() == 0


def test_a_part_behind_one_that_is_off_says_nothing():
    gates = NestedGates((3, 5, 7))
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        gates.explore(torch.randint(2, (2, ), generator=generator), 0.8,
                      generator)
        shown = gates.indicators(torch.ones(2)).cumprod(0)
        (shown * torch.tensor([-2.0, -3.0])).sum().backward()
        gates.average_gain(*gates.take_gain(), momentum=5e-3)
    # The second is worth 3, however often the first is off.
    assert gates.gain[1].item() == pytest.approx(3, rel=1e-4)


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
