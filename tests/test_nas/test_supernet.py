# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy
import itertools
import random
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS
from search_spaces import TINY_SPACE, latencies, random_spaces, randomize, set_gain

from autonl_mm import count_macs
from autonl_mm.cost import LatencyTable
from autonl_mm.models import AutoNL
from autonl_mm.nas import AutoNLSuperNet, NestedGates, SearchSpace, export_subnet
from autonl_mm.nas.space import DECISIONS


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
    net.eval().to(x.dtype)
    with torch.no_grad():
        for a, b in zip(supernet(x), net(x), strict=True):
            assert a.shape == b.shape
            assert (a - b).abs().max() <= tolerance * b.abs().max()
    return arch


@settings(max_examples=60, deadline=None)
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
        conv_cfg=data.draw(
            st.sampled_from([None, dict(type='Conv2dAdaptivePadding')])),
        output_stride=data.draw(st.sampled_from([8, 16, 32])))
    randomize(supernet, seed)
    torch.manual_seed(seed)
    arch = check_export(supernet, torch.randn(2, 3, h, w))
    assert arch == supernet.arch()
    assert len(arch.stages) == stages


@pytest.mark.parametrize('seed', range(3))
def test_default_space_at_224(seed):
    supernet = AutoNLSuperNet()
    randomize(supernet, seed)
    check_export(supernet, torch.randn(1, 3, 224, 224))
    assert supernet.cost().item() == count_macs(supernet.arch()).total


@settings(max_examples=60, deadline=None)
@given(
    config=random_spaces().filter(valid),
    seed=st.integers(0, 2**20),
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    num_classes=st.sampled_from([None, 10, 1000]))
def test_cost_is_exactly_that_of_the_arch(config, seed, shape, num_classes):
    supernet = build(config, input_shape=shape, num_classes=num_classes)
    randomize(supernet, seed)
    expected = count_macs(supernet.arch(), shape, num_classes).total
    assert supernet.cost().item() == expected
    low, high = supernet.cost_range()
    assert low <= expected <= high
    everything = count_macs(supernet.space.largest, shape, num_classes)
    assert high == everything.total


def test_cost_in_low_precision_is_exact_too():
    supernet = AutoNLSuperNet().half()
    assert supernet.cost().item() == count_macs(supernet.arch()).total


def test_cost_without_head():
    supernet = build(out_indices=(1, 3))
    arch = supernet.arch()
    expected = count_macs(arch, 32, None, with_head=False).total
    assert supernet.cost().item() == expected
    assert supernet.cost_range()[1] == expected


@settings(max_examples=15, deadline=None)
@given(config=random_spaces().filter(valid), seed=st.integers(0, 2**20))
def test_gradient_of_relaxed_cost(config, seed):
    supernet = build(config).double()
    randomize(supernet, seed)
    cost = supernet.cost(relaxed=True)
    cost.backward()
    params = [p for n, p in supernet.named_parameters()
              if n.endswith('threshold')]
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
    gate = supernet.layers[2][0].gates['kernel_size']
    before = supernet.cost().item()
    slope = torch.ones(1).double().sigmoid()
    slope = (slope * (1 - slope)).item()
    grad = gate.threshold.grad.item()
    with torch.no_grad():
        gate.threshold.fill_(2.0)
    assert -grad == pytest.approx((before - supernet.cost().item()) * slope)


def test_gates_report():
    supernet = build()
    with torch.no_grad():
        supernet.layers[2][1].gates['expand_ratio'].threshold[0] = 3
        supernet.layers[3][0].gates['kernel_size'].threshold[0] = 1.5
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


def test_thresholds_are_parameters_that_end_so():
    supernet = build()
    names = [n for n, _ in supernet.named_parameters()
             if n.endswith('threshold')]
    assert len(names) == len(supernet.gates())


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


def test_fresh_supernet_is_the_largest_network():
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
    gate = supernet.layers[2][0].gates['nl_ratio']
    with torch.no_grad():
        supernet.train()(x)
    supernet.eval()(x)
    assert gate.distance.sum() == 0
    supernet.train()(x)
    first = gate.distance.clone()
    assert first.sum() > 0
    supernet(x * 3 + 1)
    assert not torch.equal(first, gate.distance)


@pytest.mark.parametrize('share', [None, 0.1, 0.4, 0.8])
def test_networks_are_drawn_around_a_cost(share):
    supernet = build(num_classes=10)
    low, high = supernet.cost_range()
    cost = share and low + share * (high - low)
    supernet.sample_around(cost)
    generator = torch.Generator().manual_seed(0)
    costs = [
        count_macs(supernet.space.arch(supernet.draw(generator)), 32,
                   10).total for _ in range(400)
    ]
    if cost is None:
        cost = supernet._rest_cost + sum(
            t.mean().item() for t in supernet._tables)
    error = statistics.stdev(costs) / len(costs)**0.5
    assert statistics.mean(costs) == pytest.approx(cost, abs=3 * error)
    assert len(set(costs)) > 20


def test_what_is_drawn_is_shown():
    supernet = build().train()
    supernet.explore(1.0, seed=5)
    drawn = supernet.draw(torch.Generator().manual_seed(5))
    with torch.no_grad():
        supernet(torch.randn(2, 3, 32, 32))
    seen = 0
    for block, choice in zip(supernet.blocks, drawn):
        for name, gate in block.gates.items():
            on = torch.arange(len(gate.options) - 1) < choice[
                DECISIONS.index(name)]
            hard = gate.shown == gate.shown.round()
            assert torch.equal(gate.shown[hard], on[hard].float())
            seen += hard.sum().item()
    assert seen


def test_exploring_is_drawn_from_the_seed_alone():
    a, b = build(), build()

    def draws(net):
        return [str(g._draw.tolist()) for g in net.modules()
                if isinstance(g, NestedGates)]

    for net in (a, b):
        net.explore(0.9, seed=3)
    torch.rand(5)
    assert draws(a) == draws(b)
    b.explore(0.9, seed=4)
    assert draws(a) != draws(b)
    # what is shown is not what is decided
    assert a.cost().item() == a.cost_range()[1]
    a.stop_exploring()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        out = a(x)[0]
        b.load_state_dict(a.state_dict())
        b.stop_exploring()
        assert torch.equal(out, b(x)[0])
        b.explore(0.9, seed=4)
        assert not torch.equal(out, b(x)[0])
        b.load_state_dict(a.state_dict())
        assert torch.equal(a.eval()(x)[0], b.eval()(x)[0])


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(['mnasnet', 'tiny', 'cifar']),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
    start=st.sampled_from(['on', 'off', 'mixed']))
def test_any_target_of_the_space_is_reached(name, share, seed, start):
    if name == 'mnasnet':
        supernet = MNASNET
    elif name == 'tiny':
        supernet = build(num_classes=10)
    else:
        supernet = build(CIFAR_SPACE, num_classes=10)
    randomize(supernet, seed)
    if start != 'mixed':
        for block in supernet.blocks:
            for gate in block.gates.values():
                gate.threshold.data.fill_(-1 if start == 'on' else 3)
    low, high = supernet.cost_range()
    target = low * (high / low)**share
    reached = supernet.fit_budget(0.98 * target, 1.02 * target)
    assert reached == pytest.approx(supernet.cost().item(), rel=1e-9)
    assert abs(reached / target - 1) <= 0.05


MNASNET = AutoNLSuperNet()
CIFAR_SPACE = dict(
    TINY_SPACE,
    stem_channels=16,
    head_channels=320,
    stages=[
        dict(TINY_SPACE['stages'][0], channels=16),
        dict(channels=24, depth=2, stride=1),
        dict(channels=40, depth=3, stride=2),
        dict(channels=80, depth=3, stride=2)
    ])


def test_without_gains_the_margins_decide():
    supernet = build()
    gate = supernet.layers[3][1].gates['kernel_size']
    with torch.no_grad():
        gate.threshold.fill_(0.99)
    before = supernet.cost().item()
    supernet.fit_budget(0, before * 0.999)
    assert gate.threshold.item() == pytest.approx(1.05)
    assert supernet.layers[3][1].spec.kernel_size == 5
    assert supernet.cost().item() < before
    # inside of the interval nothing moves
    thresholds = [t.tolist() for t in supernet.thresholds()]
    supernet.fit_budget(0, before)
    assert thresholds == [t.tolist() for t in supernet.thresholds()]


@pytest.mark.parametrize('seed', range(5))
def test_the_network_of_the_most_gain_is_chosen(seed):
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
    for gate in supernet._all_gates():
        set_gain(
            gate,
            torch.randn(gate.gain_sum.shape, generator=generator) + 0.5)
    low, high = supernet.cost_range()
    middle = (low + high) / 2

    def gain(choices):
        total = 0.0
        for block, choice in zip(supernet.blocks, choices):
            spec = block.space.spec(choice)
            for name, i in zip(DECISIONS, choice):
                hangs_on_nl = name in ('nl_ratio', 'nl_stride')
                if spec is None or name not in block.gates or (
                        hangs_on_nl and not spec.nl_ratio):
                    continue
                total += block.gates[name].gain[:i].sum().item()
        return total

    best = -float('inf')
    space = supernet.space
    for choices in itertools.product(*(b.choices() for b in space.blocks)):
        cost = supernet._rest_cost + sum(
            t[c].item() for t, c in zip(supernet._tables, choices))
        if 0.9 * middle <= cost <= 1.1 * middle:
            best = max(best, gain(choices))
    cost = supernet.fit_budget(0.9 * middle, 1.1 * middle)
    assert 0.9 * middle <= cost <= 1.1 * middle
    assert gain(supernet.choices()) == pytest.approx(best, abs=1e-5)
    # a second time nothing moves
    thresholds = [t.tolist() for t in supernet.thresholds()]
    supernet.fit_budget(0.9 * middle, 1.1 * middle)
    assert thresholds == [t.tolist() for t in supernet.thresholds()]


def test_gains_are_of_parts_that_could_be_seen():
    supernet = build(num_classes=10).train()
    ever = 0
    for seed in range(60):
        supernet.explore(0.9, seed=seed)
        out = supernet(torch.randn(2, 3, 32, 32))[0]
        out.square().mean().backward()
        for block in supernet.blocks:
            shown = {name: gate.shown for name, gate in block.gates.items()}
            for name, (gain, weight) in block.take_gains().items():
                visible = torch.cat(
                    [torch.ones(1), shown[name][:-1]]).cumprod(0)
                if block.space.skippable and name != 'expand_ratio':
                    visible = visible * shown['expand_ratio'][0]
                if name in ('nl_ratio', 'nl_stride'):
                    visible = visible * shown['nl'][0]
                taken = weight > 0
                torch.testing.assert_close(weight[taken], visible[taken])
                between = (shown[name] > 0) & (shown[name] < 1)
                assert torch.equal(taken, between & (visible > 0))
                assert not gain[~taken].any()
                ever += int(gain.count_nonzero())
    assert ever > 50


def test_latency_as_cost():
    supernet = build()
    table = LatencyTable(latencies(supernet))
    supernet.set_cost_model(table)
    randomize(supernet, 3)
    assert supernet.cost().item() == pytest.approx(
        table.network(supernet.arch(), supernet.input_shape))
    supernet.cost().backward()
    grads = [p.grad for n, p in supernet.named_parameters()
             if n.endswith('threshold')]
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
    (dict(momentum=0), ['momentum is 0']),
    (dict(out_indices=(1, 2)), ['out_indices', '3 stages']),
    (dict(out_indices=(9, )), ['out_indices']),
    (dict(input_shape=(0, 32)), ['input_shape']),
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


def test_gains_under_mixed_precision():
    supernet = AutoNLSuperNet(TINY_SPACE).train()
    gate = supernet.layers[2][0].gates['kernel_size']

    def measure(factor, loss_scale):
        supernet.explore(0.9, seed=3)
        loss = factor * supernet(torch.ones(2, 3, 32, 32))[0].square().sum()
        loss.backward()
        before = gate.gain_sum.clone(), gate.gain_weight.clone()
        supernet.average_gains(loss_scale)
        return (gate.gain_sum - before[0], gate.gain_weight - before[1])

    torch.manual_seed(0)
    plain, weight = measure(1, 1)
    assert weight.any() and plain.any()
    for factor, wanted in ((1024., True), (float('inf'), False)):
        for value in supernet.state_dict():
            if 'gain' in value:
                supernet.state_dict()[value].zero_()
        gain, weight = measure(factor, 1024.)
        assert weight.any() == wanted
        assert torch.allclose(gain, plain * wanted, rtol=1e-3)
