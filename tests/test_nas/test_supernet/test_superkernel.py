# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autonl_mm.models.layers import light_nl
from autonl_mm.nas import GateState, SearchSpace
from autonl_mm.nas.supernet.superkernel import (
    SearchableMBConv,
    affinity_distances,
    part_energies,
    part_sizes,
    position_weights,
    unit_weights,
)


def test_parts():
    assert part_sizes([3, 5, 9]) == (3, 2, 4)
    energy = torch.arange(6.0)
    assert part_energies(energy, (1, 2, 3)).tolist() == [3, 12]


def test_unit_weights_are_nested():
    gates = torch.tensor([1.0, 0.0, 1.0])
    assert unit_weights(gates, (2, 1, 2, 1)).tolist() == [1, 1, 1, 0, 0, 0]
    assert unit_weights(None, (4, )) is None


def test_position_weights_are_nested():
    gates = torch.tensor([0.5, 0.5])
    weights = position_weights(gates, (4, 2, 1), 5, 6)
    for i in range(5):
        for j in range(6):
            expected = 1 if i % 4 == j % 4 == 0 else (
                0.5 if i % 2 == j % 2 == 0 else 0.25)
            assert weights[i, j] == expected
    coarse = position_weights(torch.tensor([0.0]), (6, 3), 5, 4)
    assert coarse.nonzero().tolist() == [[0, 0], [0, 2], [2, 0], [2, 2], [4, 0], [4, 2]]


@pytest.mark.parametrize('order', ['channel', 'spatial'])
@pytest.mark.parametrize('ratio, stride', [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize('normalize', ['size', 'rms'])
def test_weighted_light_nl_is_every_smaller_one(order, ratio, stride, normalize):
    """Feature reuse: all choices in what the largest one computes.

    The root mean square is that of the channels and positions that are chosen.
    """
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    channels = unit_weights(torch.tensor([float(ratio)]), (2, 2)).double()
    positions = position_weights(torch.tensor([float(stride)]), (2, 1), 7, 6).double()
    weight = channels[:, None] * positions.reshape(1, -1)
    y = light_nl(x, 4, 1, order, weight, normalize)
    expected = light_nl(x, (2, 4)[ratio], (2, 1)[stride], order, normalize=normalize)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize('order', ['channel', 'spatial'])
def test_root_mean_square_of_relaxed_choices(order):
    """Written out: shares of channels in the product, of positions in the mean too."""
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    channels = unit_weights(torch.tensor([0.3]), (2, 2)).double()
    positions = position_weights(torch.tensor([0.6]), (2, 1), 7, 6).double().flatten()
    rows = x.flatten(2).transpose(1, 2)
    compact = rows[..., :4]
    y = (compact * channels) @ (compact * positions[:, None]).transpose(1, 2) @ rows
    mean = (y.square() * positions[:, None]).sum((1, 2)) / positions.sum() / 8
    y = y / mean.sqrt()[:, None, None]
    got = light_nl(x, 4, 1, order, channels[:, None] * positions, 'rms')
    torch.testing.assert_close(got.flatten(2).transpose(1, 2), y, rtol=0, atol=1e-10)


def affinity(x, k, stride, full):
    """The HW x HW matrix itself, zeros where the stride samples nothing."""
    h, w = x.shape[2:]
    mask = torch.zeros(h, w, dtype=x.dtype)
    mask[::stride, ::stride] = 1
    mask = mask.flatten()
    x = x[:, :k].flatten(2)
    a = x.transpose(1, 2) @ x * mask
    return a if full else a[:, :, mask.bool()]


@given(
    h=st.integers(1, 7),
    w=st.integers(1, 7),
    seed=st.integers(0, 100),
    strides=st.sampled_from([(2, 1), (4, 2), (4, 2, 1), (1, ), (2, )]))
def test_distances_equal_those_of_the_large_matrices(h, w, seed, strides):
    torch.manual_seed(seed)
    x = torch.randn(3, 9, h, w)
    channels = (1, 3, 6)

    def square(a):
        return a.square().sum((1, 2))

    d = affinity_distances(x, channels, strides, 'norm')
    largest = affinity(x.double(), 6, strides[-1], True)
    for k, value in zip(channels, d['nl_ratio']):
        a = affinity(x.double(), k, strides[-1], True)
        torch.testing.assert_close(
            value.double(), square(largest - a).mean(), rtol=1e-4, atol=1e-4)
    for s, value in zip(strides, d.get('nl_stride', [])):
        a = affinity(x.double(), 6, s, True)
        torch.testing.assert_close(
            value.double(), square(largest - a).mean(), rtol=1e-4, atol=1e-4)

    d = affinity_distances(x, channels, strides, 'relative')
    for k, value in zip(channels, d['nl_ratio']):
        a = affinity(x.double(), k, strides[-1], True)
        cos2 = (a * largest).sum((1, 2))**2 / (square(a) * square(largest))
        torch.testing.assert_close(
            value.double(), (1 - cos2).mean(), rtol=1e-3, atol=1e-5)
    assert all((0 <= v).all() and (v <= 1).all() for v in d.values())


def test_relative_distance_of_strides():
    """0 where sampling loses nothing, whatever number of positions."""
    flat = torch.randn(2, 4, 1, 1).expand(2, 4, 8, 8)
    d = affinity_distances(flat, (4, ), (2, 1), 'relative')
    assert d['nl_stride'].item() < 1e-5
    noise = torch.randn(2, 4, 8, 8)
    d = affinity_distances(noise, (4, ), (2, 1), 'relative')
    assert d['nl_stride'].item() > 0.01


def test_no_large_matrix_is_formed():
    """Distances at 512x512 would take 550 GB by HW x HW matrices."""
    x = torch.randn(1, 4, 512, 512)
    d = affinity_distances(x, (2, 4), (2, 1), 'relative')
    assert all(torch.isfinite(v).all() for v in d.values())


class Gated(torch.nn.Module):
    """A block with the gates that a supernet would give it."""

    def __init__(self, statistic='relative', normalize='size'):
        super().__init__()
        space = SearchSpace.from_config('mnasnet', normalize).stages[2][1]
        self.layer = SearchableMBConv(
            space, statistic, norm_cfg=dict(type='BN', eps=1e-3))
        self.layer.init_weights()
        self.state = GateState([self.layer.options], [space.skippable], statistic)
        self.state.remember(self.energies())
        self.slices, = self.state.slices

    def energies(self):
        return torch.cat(list(self.layer.energies().values()))

    def values(self):
        return self.state.values(self.energies())

    def forward(self, x, distances=None):
        on = self.state(self.values())
        return self.layer(x, {n: on[i] for n, i in self.slices.items()}, distances)


@pytest.mark.parametrize('normalize', ['size', 'rms'])
def test_gates_start_at_one_and_have_gradients(normalize):
    block = Gated(normalize=normalize)
    assert list(block.slices) == [
        'expand_ratio', 'kernel_size', 'se_ratio', 'nl', 'nl_ratio',
        'nl_stride'
    ]
    torch.testing.assert_close(block.values(), torch.ones(8))
    torch.nn.init.ones_(block.layer.light_nl.norm.weight)
    block(torch.randn(4, 40, 8, 8)).square().mean().backward()
    for name, param in block.named_parameters():
        assert param.grad is not None and param.grad.abs().sum() > 0, name
    assert block.state.threshold.grad.abs().min() > 0


def test_literal_norms_leave_no_gradient():
    """The trap of the paper's statistic that 'relative' avoids."""
    block = Gated('norm')
    block(torch.randn(4, 40, 8, 8)).square().mean().backward()
    kernel = block.slices['kernel_size']
    assert block.values()[kernel].item() > 30
    assert block.state.threshold.grad[kernel].abs().max() < 1e-10


def test_energies_are_those_of_the_parts():
    layer = Gated().layer
    w = layer.depthwise.conv.weight.detach()
    energies = layer.energies()
    core = w[:, :, 1:4, 1:4].square().sum()
    torch.testing.assert_close(energies['kernel_size'], (w.square().sum() - core)[None])
    torch.testing.assert_close(
        energies['expand_ratio'],
        torch.stack([w[:120].square().sum(), w[120:].square().sum()]))
    se = layer.se.reduce.weight
    torch.testing.assert_close(
        energies['se_ratio'],
        torch.stack([se[:10].square().sum(), se[10:].square().sum()]))
    torch.testing.assert_close(
        energies['nl'], layer.light_nl.conv.weight.square().sum()[None])


@pytest.mark.parametrize('normalize', ['size', 'rms'])
def test_what_is_off_still_gets_a_gradient_to_its_gate(normalize):
    block = Gated(normalize=normalize)
    torch.nn.init.ones_(block.layer.light_nl.norm.weight)
    with torch.no_grad():
        block.state.threshold.fill_(1.5)
        block.state.threshold[block.slices['expand_ratio'].start] = 0
    block(torch.randn(4, 40, 8, 8)).square().mean().backward()
    grad = block.state.threshold.grad
    for name in ('kernel_size', 'nl'):
        assert grad[block.slices[name]].abs().sum() > 0, name
    assert grad[block.slices['expand_ratio']][1].abs() > 0
    assert grad[block.slices['se_ratio']][0].abs() > 0


def test_distances_are_measured_where_they_are_asked_for():
    block = Gated()
    x = torch.randn(2, 40, 8, 8)
    distances = {name: torch.full((i.stop - i.start, ), -1.)
                 for name, i in block.slices.items()}
    block(x, distances)
    for name, distance in distances.items():
        measured = name in ('nl_ratio', 'nl_stride')
        assert (distance >= 0).all() if measured else (distance == -1).all()
