# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy
import random
import statistics
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.registry import MODELS
from search_spaces import (
    TINY_SPACE,
    gate_index,
    latencies,
    random_spaces,
    randomize,
    set_importance,
    set_threshold,
)

from autonl_mm import count_macs
from autonl_mm.cost import LatencyTable, ParamsModel
from autonl_mm.measure.counting import built_macs
from autonl_mm.models import AutoNL
from autonl_mm.nas import AutoNLSuperNet, SearchSpace, export_subnet
from autonl_mm.nas.supernet.export import build_subnet
from autonl_mm.nas.supernet.space import DECISIONS


def build(space=TINY_SPACE, **kwargs):
    kwargs.setdefault('input_shape', 32)
    return AutoNLSuperNet(space, **kwargs)


def valid(config):
    try:
        SearchSpace.from_config(config)
    except ValueError:
        return False
    return True


def check_export(supernet, x, tolerance=1e-5):
    supernet.eval()
    arch, state = export_subnet(supernet)
    net = AutoNL(arch, **supernet.kwargs)
    net.load_state_dict(state)
    net.to(x.dtype).eval()
    with torch.no_grad():
        for a, b in zip(supernet(x), net(x), strict=True):
            assert a.shape == b.shape
            assert (a - b).abs().max() <= tolerance * b.abs().max()
    return arch


@given(
    config=random_spaces().filter(valid),
    seed=st.integers(0, 2**20),
    h=st.integers(16, 40),
    w=st.integers(16, 40),
    data=st.data())
def test_supernet_is_the_network_that_it_exports(config, seed, h, w, data):
    stages = len(config['stages'])
    supernet = build(
        config,
        out_indices=data.draw(st.sampled_from([(-1, ), (0, stages)])),
        conv_cfg=data.draw(st.sampled_from([None, dict(type='Conv2dAdaptivePadding')])),
        output_stride=data.draw(st.sampled_from([8, 16, 32])),
        normalize=data.draw(st.sampled_from(['size', 'rms'])))
    randomize(supernet.double(), seed)
    torch.manual_seed(seed)
    x = torch.randn(2, 3, h, w, dtype=torch.float64)
    with torch.no_grad():  # LightNL is cubic in its input, many of them overflow
        assume(supernet.eval()(x)[-1].isfinite().all())
    arch = check_export(supernet, x)
    assert arch == supernet.arch()
    assert arch.normalize in (None, supernet.space.largest.normalize)
    assert len(arch.stages) == stages


@pytest.mark.parametrize('normalize', ['size', 'rms'])
def test_default_space_at_224(normalize):
    torch.manual_seed(0)  # with the paper's LightNL, some networks overflow
    supernet = AutoNLSuperNet(normalize=normalize)
    randomize(supernet, 0)
    check_export(supernet, torch.randn(1, 3, 224, 224))
    assert supernet.cost().item() == count_macs(supernet.arch()).total


@given(
    config=random_spaces().filter(valid),
    seed=st.integers(0, 2**20),
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    num_classes=st.sampled_from([None, 10, 1000]),
    normalize=st.sampled_from(['size', 'rms']),
    placed=st.fixed_dictionaries(dict(
        in_channels=st.integers(1, 6), output_stride=st.sampled_from([8, 16, 32]))))
def test_cost_is_exactly_that_of_the_arch(
        config, seed, shape, num_classes, normalize, placed):
    supernet = build(config, input_shape=shape, num_classes=num_classes,
                     normalize=normalize, **placed)
    randomize(supernet, seed)
    expected = count_macs(supernet.arch(), shape, num_classes, **placed).total
    assert supernet.cost().item() == expected
    low, high = supernet.cost_range()
    assert low <= expected <= high
    everything = count_macs(supernet.space.largest, shape, num_classes, **placed)
    assert high == everything.total


def test_cost_is_that_of_the_built_subnet():
    """Also by torch's counter, of a subnet with a left-out block."""
    supernet = AutoNLSuperNet(
        input_shape=(97, 64), num_classes=None, in_channels=1, output_stride=8)
    subnet = supernet.sample_subnet(torch.Generator().manual_seed(0))
    supernet.set_active_subnet(subnet)
    assert supernet.cost().item() == supernet.cost_of(subnet) == built_macs(
        build_subnet(supernet), 1, 97, 64)


def test_cost_in_low_precision_is_exact_too():
    supernet = AutoNLSuperNet().half()
    assert supernet.cost().item() == count_macs(supernet.arch()).total


def test_cost_without_head():
    supernet = build(out_indices=(1, 3))
    arch = supernet.arch()
    expected = count_macs(arch, 32, None, with_head=False).total
    assert supernet.cost().item() == expected
    assert supernet.cost_range()[1] == expected


@settings(max_examples=8)
@given(config=random_spaces().filter(valid), seed=st.integers(0, 2**20))
def test_gradient_of_relaxed_cost(config, seed):
    supernet = build(config).double()
    randomize(supernet, seed)
    cost = supernet.cost(relaxed=True)
    cost.backward()
    params = [p for n, p in supernet.named_parameters() if n.endswith('threshold')]
    rng = random.Random(seed)
    for param in rng.sample(params, min(3, len(params))):
        i = rng.randrange(len(param))
        eps = 1e-4
        with torch.no_grad():
            param[i] += eps
            up = supernet.cost(relaxed=True).item()
            param[i] -= 2 * eps
            down = supernet.cost(relaxed=True).item()
            param[i] += eps
        difference = (up - down) / (2 * eps)
        assert param.grad[i].item() == pytest.approx(
            difference, rel=1e-5, abs=1e-6 * cost.item())


def test_gradient_of_hard_cost_is_what_switching_a_gate_saves():
    """Through the hard gate, times the sigmoid's slope at its margin."""
    supernet = build().double()
    supernet.cost().backward()
    gate = gate_index(supernet, 'layers.2.0.kernel_size')
    before = supernet.cost().item()
    slope = torch.ones(1).double().sigmoid()
    slope = (slope * (1 - slope)).item()
    grad = supernet.gate_state.threshold.grad[gate].item()
    set_threshold(supernet, 'layers.2.0.kernel_size', 2.0)
    assert -grad == pytest.approx((before - supernet.cost().item()) * slope)


def test_gates_report():
    supernet = build()
    set_threshold(supernet, 'layers.2.1.expand_ratio', 3, 0)
    set_threshold(supernet, 'layers.3.0.kernel_size', 1.5)
    gates = supernet.gates()
    skipped = gates['layers.2.1.expand_ratio']
    assert skipped['options'] == [0, 3, 6] and skipped['choice'] == 0
    assert skipped['value'] == pytest.approx([1, 1])
    assert skipped['threshold'] == [3, 0]
    assert skipped['margin'] == pytest.approx([-2, 1])
    assert gates['layers.3.0.kernel_size']['choice'] == 3
    assert gates['layers.3.1.nl']['choice'] is True
    arch = supernet.arch()
    assert len(arch.blocks) == 4 and arch.stages[2][0].kernel_size == 3
    assert not any(name.startswith('layers.1.') for name in gates)


def test_all_thresholds_are_one_parameter_that_ends_so():
    supernet = build()
    (name, threshold), = [(n, p) for n, p in supernet.named_parameters()
                          if 'threshold' in n]
    assert name == 'gate_state.threshold'
    assert len(threshold) == sum(
        len(gate['options']) - 1 for gate in supernet.gates().values())


def test_is_a_backbone_like_any_other():
    supernet = MODELS.build(
        dict(
            type='autonl_mm.AutoNLSuperNet',
            space=TINY_SPACE,
            out_indices=(2, 3),
            frozen_stages=1,
            norm_eval=True,
            in_channels=4))
    supernet.init_weights()
    outs = supernet.train()(torch.randn(2, 4, 64, 64))
    assert [o.shape[1] for o in outs] == [16, 24]
    assert supernet.out_channels == (16, 24)
    assert supernet.out_strides == (4, 8)
    assert not any(p.requires_grad for p in supernet.layers[1].parameters())
    assert not supernet.layers[2][0].depthwise.norm.training


def test_fresh_supernet_is_the_largest_subnet():
    supernet = AutoNLSuperNet()
    supernet.init_weights()
    assert supernet.arch() == SearchSpace.from_config('mnasnet').largest
    # LightNL is the identity at first, in a block that is searched too
    assert all((m.weight == 0).all() for n, m in supernet.named_modules()
               if n.endswith('light_nl.norm'))
    check_export(supernet, torch.randn(1, 3, 64, 64))


def test_distances_move_only_in_training():
    supernet = build()
    x = torch.randn(4, 3, 32, 32)
    state = supernet.gate_state
    with torch.no_grad():
        supernet.train()(x)
    supernet.eval()(x)
    assert state.distance.sum() == 0
    supernet.train()(x)
    first = state.distance.clone()
    assert torch.equal(first > 0, state.is_measured)
    supernet(x * 3 + 1)
    changed = first != state.distance
    assert torch.equal(changed, state.is_measured)


def test_runs_in_double_precision():
    """A training step with its distances, and the export."""
    supernet = build().double().train()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    supernet.sample_gates(0.9, seed=1)
    supernet(x)[0].square().mean().backward()
    supernet.gate_state.average_importance()
    assert supernet.gate_state.distance.dtype == torch.float64
    assert supernet.gate_state.distance.any()
    randomize(supernet, 0)
    check_export(supernet, x, 1e-12)


@pytest.mark.parametrize('share', [None, 0.1, 0.4, 0.8])
def test_subnets_are_sampled_around_a_cost(share):
    supernet = build(num_classes=10)
    low, high = supernet.cost_range()
    cost = share and low + share * (high - low)
    supernet.sample_around(cost)
    generator = torch.Generator().manual_seed(0)
    costs = [
        count_macs(supernet.space.arch(supernet.sample_subnet(generator)), 32,
                   10).total for _ in range(400)
    ]
    if cost is None:
        cost = supernet.cost_table.rest + sum(
            t.mean().item() for t in supernet.cost_table.blocks)
    error = statistics.stdev(costs) / len(costs)**0.5
    assert statistics.mean(costs) == pytest.approx(cost, abs=3 * error)
    assert len(set(costs)) > 20


def test_the_sampled_subnet_runs():
    supernet = build().train()
    supernet.sample_gates(1.0, seed=5)
    subnet = supernet.sample_subnet(torch.Generator().manual_seed(5))
    sampled = supernet.gate_state._sampled
    hard = sampled == sampled.round()
    assert hard.any() and not hard.all()
    assert torch.equal(sampled[hard], supernet._on(subnet)[hard].float())
    # and its output is the subnet's, where no gate is in between
    sampled.copy_(supernet._on(subnet))
    supernet.norm_eval = True
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        out = supernet.train()(x)[0]
        supernet.gate_state.stop_sampling()
        supernet.set_active_subnet(subnet)
        torch.testing.assert_close(out, supernet.eval()(x)[0])


def test_sampling_depends_on_the_seed_alone():
    a, b = build(), build()

    def sampled(net):
        return net.gate_state._sampled.tolist()

    for net in (a, b):
        net.sample_gates(0.9, seed=3)
    torch.rand(5)
    assert sampled(a) == sampled(b)
    b.sample_gates(0.9, seed=4)
    assert sampled(a) != sampled(b)
    # what is sampled is not what is decided
    assert a.cost().item() == a.cost_range()[1]
    a.gate_state.stop_sampling()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        out = a(x)[0]
        b.load_state_dict(a.state_dict())
        b.gate_state.stop_sampling()
        assert torch.equal(out, b(x)[0])
        b.sample_gates(0.9, seed=4)
        assert not torch.equal(out, b(x)[0])
        b.load_state_dict(a.state_dict())
        assert torch.equal(a.eval()(x)[0], b.eval()(x)[0])


@given(
    name=st.sampled_from(['tiny', 'cifar', 'mnasnet']),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
    start=st.sampled_from(['on', 'off', 'mixed']))
def test_any_target_of_the_space_is_reached(name, share, seed, start):
    supernet = supernet_of(name)
    randomize(supernet, seed)
    if start != 'mixed':
        supernet.gate_state.threshold.data.fill_(-1 if start == 'on' else 3)
    low, high = supernet.cost_range()
    target = low * (high / low)**share
    reached = supernet.fit_budget(0.98 * target, 1.02 * target)
    assert reached == pytest.approx(supernet.cost().item(), rel=1e-9)
    assert abs(reached / target - 1) <= 0.05


@cache
def supernet_of(name):
    if name == 'mnasnet':
        return AutoNLSuperNet()
    cifar = dict(
        TINY_SPACE, stem_channels=16, head_channels=320, stages=[
            dict(TINY_SPACE['stages'][0], channels=16),
            dict(channels=24, depth=2, stride=1),
            dict(channels=40, depth=3, stride=2),
            dict(channels=80, depth=3, stride=2)])
    return build(cifar if name == 'cifar' else TINY_SPACE, num_classes=10)


def test_without_importance_the_margins_decide():
    supernet = build()
    name = 'layers.3.1.kernel_size'
    threshold = supernet.gate_state.threshold
    set_threshold(supernet, name, 0.99)
    before = supernet.cost().item()
    supernet.fit_budget(0, before * 0.999)
    assert threshold[gate_index(supernet, name)].item() == pytest.approx(1.05)
    assert supernet.layers[3][1].spec.kernel_size == 5
    assert supernet.cost().item() < before
    # inside of the interval nothing moves
    thresholds = threshold.tolist()
    supernet.fit_budget(0, before)
    assert thresholds == threshold.tolist()


@pytest.mark.parametrize('seed', range(5))
def test_the_most_important_subnet_is_chosen(seed):
    supernet = build(
        dict(
            stem_channels=8,
            head_channels=16,
            stages=[
                dict(channels=8, depth=2, stride=2, se_ratio=0),
                dict(channels=16, depth=1, stride=2, kernel_size=3),
            ]),
        num_classes=10)
    generator = torch.Generator().manual_seed(seed)
    state = supernet.gate_state
    set_importance(state, torch.randn(state.threshold.shape, generator=generator) + 0.5)
    low, high = supernet.cost_range()
    middle = (low + high) / 2

    def importance(block, slices, choice):
        spec, total = block.space.spec(choice), 0.0
        for name, i in zip(DECISIONS, choice):
            hangs_on_nl = name in ('nl_ratio', 'nl_stride')
            if spec is None or name not in slices or (
                    hangs_on_nl and not spec.nl_ratio):
                continue
            total += state.importance[slices[name]][:i].sum().item()
        return total

    # every network there is: sums over one choice of each block
    totals, costs = np.zeros(1), np.full(1, supernet.cost_table.rest)
    for block, slices, table in zip(supernet.blocks, state.slices,
                                    supernet.cost_table.blocks):
        choices = list(block.space.choices())
        own = [importance(block, slices, c) for c in choices]
        totals = np.add.outer(totals, own).ravel()
        costs = np.add.outer(costs, [table[c].item() for c in choices]).ravel()
    best = totals[(costs >= 0.9 * middle) & (costs <= 1.1 * middle)].max()

    cost = supernet.fit_budget(0.9 * middle, 1.1 * middle)
    assert 0.9 * middle <= cost <= 1.1 * middle
    chosen = sum(map(
        importance, supernet.blocks, state.slices, supernet.active_subnet()))
    assert chosen == pytest.approx(best, abs=1e-5)
    # a second time nothing moves
    thresholds = state.threshold.tolist()
    supernet.fit_budget(0.9 * middle, 1.1 * middle)
    assert thresholds == state.threshold.tolist()


def test_importance_is_of_parts_that_could_be_seen():
    """In a whole network, by the rules that tests of the gates hold for one block."""
    supernet = build(num_classes=10).train()
    for name, module in supernet.named_modules():
        if name.endswith('light_nl.norm'):
            torch.nn.init.ones_(module.weight)  # zero in a fresh one
    state = supernet.gate_state
    ever = torch.zeros_like(state.importance_sum)
    for seed in range(100):
        state.importance_sum.zero_()
        state.importance_weight.zero_()
        supernet.sample_gates(0.9, seed=seed)
        supernet(torch.randn(2, 3, 32, 32))[0].square().mean().backward()
        on = state._on.detach()
        state.average_importance()
        taken = state.importance_weight > 0
        assert ((on > 0) & (on < 1))[taken].all()
        # nothing flows back to a part behind one that is off
        assert not state.importance_sum[~taken].any()
        ever += state.importance_sum != 0
        if ever.all():
            break
    assert ever.all()


@pytest.mark.parametrize('placed', [{}, dict(in_channels=1, output_stride=8)])
def test_latency_as_cost(placed):
    supernet = build(dict(TINY_SPACE, stages=[
        *TINY_SPACE['stages'], dict(channels=32, depth=2, stride=2)]), **placed)
    table = LatencyTable(latencies(supernet))
    supernet.set_cost_model(table)
    randomize(supernet, 3)
    assert supernet.cost().item() == pytest.approx(
        table.network(supernet.arch(), **supernet.counted))
    assert any('stride1-dilation1-2' in key for key in table.entries) == bool(placed)
    supernet.cost().backward()
    grads = [p.grad for n, p in supernet.named_parameters() if n.endswith('threshold')]
    assert any(g is not None and g.abs().sum() > 0 for g in grads)


def test_latency_table_that_lacks_a_block():
    supernet = build()
    entries = latencies(supernet)
    key = next(k for k in entries if 'se0.25' in k)
    del entries[key]
    with pytest.raises(ValueError) as error:
        supernet.set_cost_model(LatencyTable(entries, 'mine.json'))
    assert key in str(error.value) and 'mine.json' in str(error.value)


@pytest.mark.parametrize('kwargs, words', [
    (dict(arch='s'), ['arch', 'gates']),
    (dict(with_cp=True), ['with_cp']),
    (dict(statistic='l2'), ["'l2'", "'relative'"]),
    (dict(sampling='all'), ["sampling is 'all'", "'networks'"]),
    (dict(out_indices=(1, 2)), ['out_indices', '3 stages']),
    (dict(out_indices=(9, )), ['out_indices']),
    (dict(input_shape=(0, 32)), ['input_shape']),
    (dict(normalize='root'), ["normalize is 'root'", "'rms'"]),
])
def test_bad_arguments(kwargs, words):
    with pytest.raises(ValueError) as error:
        build(**kwargs)
    for word in words:
        assert word in str(error.value)


def test_deepcopy():
    supernet = build()
    randomize(supernet, 1)
    other = copy.deepcopy(supernet)
    assert other.arch() == supernet.arch()
    assert other.cost().item() == supernet.cost().item()


def test_importance_under_mixed_precision():
    supernet = AutoNLSuperNet(TINY_SPACE).train()
    state = supernet.gate_state

    def measure(factor, loss_scale):
        state.importance_sum.zero_()
        state.importance_weight.zero_()
        supernet.sample_gates(0.9, seed=3)
        loss = factor * supernet(torch.ones(2, 3, 32, 32))[0].square().sum()
        loss.backward()
        state.average_importance(loss_scale)
        return state.importance_sum.clone(), state.importance_weight.clone()

    torch.manual_seed(0)
    plain, weight = measure(1, 1)
    assert weight.any() and plain.any()
    for factor, wanted in ((1024., True), (float('inf'), False)):
        scaled, weight = measure(factor, 1024.)
        assert weight.any() == wanted
        torch.testing.assert_close(scaled, plain * wanted, rtol=1e-3, atol=1e-9)


@settings(max_examples=5)
@given(config=random_spaces().filter(valid), seed=st.integers(0, 2**20))
def test_a_subnet_computes_and_learns_the_same(config, seed):
    """Output, gradients and running statistics agree with those of the gates."""
    gated = build(config).double().train()
    randomize(gated, seed)
    subnet = gated.sample_subnet(torch.Generator().manual_seed(seed))
    gated.set_active_subnet(subnet)
    # the gates' own gradient, which a subnet does not have, is left out
    gated._energies = lambda: AutoNLSuperNet._energies(gated).detach()
    whole = build(config).double().train()
    whole.load_state_dict(gated.state_dict())
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected, = gated(x)
    with whole.run_subnet(subnet):
        out, = whole(x)

    def check(one, other, name):
        scale = max(1, other.abs().max().item())
        assert (one - other).abs().max() <= 1e-7 * scale, name

    check(out, expected, 'output')
    for result in (out, expected):
        (result / expected.detach().abs().mean()).square().mean().backward()
    for (name, a), b in zip(gated.named_parameters(), whole.parameters()):
        if name.endswith('threshold'):
            continue
        # zeros where the network has no such part
        assert b.grad is not None, name
        check(b.grad, torch.zeros_like(b) if a.grad is None else a.grad, name)
    states = []
    for supernet in (gated, whole):
        supernet.set_active_subnet(subnet)
        states.append(export_subnet(supernet)[1])
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        check(states[1][name].double(), value.double(), name)
    assert whole._running is None


def test_a_subnet_is_frozen_where_the_supernet_is():
    supernet = build(frozen_stages=1, norm_eval=True).train()
    before = {k: v.clone() for k, v in supernet.named_buffers()}
    with supernet.run_subnet(supernet.active_subnet()):
        supernet(torch.randn(2, 3, 32, 32))[0].sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in supernet.named_buffers())
    assert all(p.grad is None for p in supernet.layers[1].parameters())


@pytest.mark.parametrize('share', [None, 0.3])
def test_sampled_networks_count_once(share):
    """A block that is left out has one form, and equal blocks one order."""
    supernet = build(sampling='networks', space=dict(
        TINY_SPACE, stages=[*TINY_SPACE['stages'][:1],
                            dict(channels=16, depth=4, stride=2)]))
    low, high = supernet.cost_range()
    cost = share and low + share * (high - low)
    supernet.sample_around(cost)
    generator = torch.Generator().manual_seed(0)
    samples = [supernet.sample_subnet(generator) for _ in range(300)]
    for subnet in samples:
        assert supernet.space.is_packed(subnet)
        for block, choice in zip(supernet.space.blocks, subnet):
            assert choice in block.forms()
    costs = [supernet.cost_of(subnet) for subnet in samples]
    if share:
        # orders that are left out have fewer blocks
        assert statistics.mean(costs) == pytest.approx(cost, rel=0.1)
        return
    depths = Counter(len(supernet.space.arch(subnet).blocks) for subnet in samples)
    # a block has 60 forms besides being left out
    assert depths[5] > 0.9 * len(samples)


def test_samples_over_the_range():
    supernet = build()
    low, high = supernet.cost_range()
    levels = supernet.cost_table.levels()
    assert len(levels) == 16 and low < levels[0] < levels[-1] < high
    generator = torch.Generator().manual_seed(0)

    def spread(cost):
        supernet.sample_around(cost)
        costs = [supernet.cost_of(supernet.sample_subnet(generator))
                 for _ in range(300)]
        return np.histogram(np.log(costs), 4, np.log([low, high]))[0]

    over_the_range, uniform = spread(levels), spread(None)
    assert over_the_range.min() > 2 * uniform.min()


def test_a_batch_that_overflows_leaves_no_trace_in_the_gates():
    supernet = build()
    supernet.train()
    supernet(torch.randn(2, 3, 32, 32))
    statistics = {n: b.clone() for n, b in supernet.named_buffers() if 'running' in n}
    x = torch.randn(2, 3, 32, 32)
    x[0, 0, 0, 0] = float('inf')
    before = supernet.active_subnet()
    supernet(x)
    state = supernet.gate_state
    assert all(b.isfinite().all() for b in state.buffers())
    assert supernet.active_subnet() == before
    for name, value in statistics.items():  # as recalibration does
        supernet.get_buffer(name).copy_(value)
    distance = state.distance.clone()
    supernet(torch.randn(2, 3, 32, 32))
    assert (state.distance != distance)[state.is_measured].all()


@pytest.mark.parametrize('norm', ['BN', 'SyncBN'])
@pytest.mark.parametrize('convert', [
    lambda net: convert_sync_batchnorm(net, 'torch'), revert_sync_batchnorm])
def test_subnets_have_the_batch_norm_of_the_converted_supernet(norm, convert):
    supernet = build(norm_cfg=dict(type=norm))
    randomize(supernet, 0)
    supernet = convert(supernet)
    subnet = supernet.sample_subnet(torch.Generator().manual_seed(1))
    supernet.set_active_subnet(subnet)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), supernet.run_subnet(subnet):
        expected, = supernet(x)
    net = build_subnet(supernet)
    parts = [net] + [m for b in supernet.blocks for m in b._smaller.values()]
    kinds = {type(m) for part in parts for m in part.modules()
             if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)}
    synced = {m for m in supernet.modules() if isinstance(m, torch.nn.SyncBatchNorm)}
    assert len(parts) > 2
    assert {issubclass(k, torch.nn.SyncBatchNorm) for k in kinds} == {bool(synced)}
    with torch.no_grad():
        torch.testing.assert_close(net(x)[0], expected)


def test_gates_of_another_supernet():
    """The same subnet, although the weights and so the values differ."""
    supernet, other = build(), build()
    randomize(supernet, 1)
    supernet.set_active_subnet(
        supernet.sample_subnet(torch.Generator().manual_seed(5)))
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(3)
    other.copy_gates(supernet)
    assert other.active_subnet() == supernet.active_subnet()
    assert torch.equal(other.gate_state.distance, supernet.gate_state.distance)


def test_parameters_as_cost():
    supernet = build(num_classes=10)
    table = supernet.table_of(ParamsModel())
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        subnet = supernet.sample_subnet(generator)
        network = AutoNL(supernet.space.arch(subnet), out_indices=(-1, ))
        params = sum(p.numel() for p in network.parameters())
        assert table.cost_of(subnet) == params + 10 * 33
    headless = build(out_indices=(1, 3))
    network = AutoNL(headless.space.largest, out_indices=(1, 3))
    assert headless.table_of(ParamsModel()).range()[1] == sum(
        p.numel() for p in network.parameters())
