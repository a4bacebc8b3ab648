# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The search as training: schedule, records, resume, ranks."""
import argparse
import json
import logging
import re
import shutil
import uuid

import pytest
import torch
from conftest import run_ranks, run_tool
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from search_spaces import TINY_SPACE, randomize, set_threshold
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autonl_mm import ArchSpec, count_macs
from autonl_mm.config_checks import check_search
from autonl_mm.nas import (
    AutoNLSuperNet,
    GateSearchHook,
    SandwichSearchHook,
    export_subnet,
)
from autonl_mm.nas.training import base_search_hook
from autonl_mm.nas.training.base_search_hook import describe
from autonl_mm.nas.training.cost_aware_model import load_search
from autonl_mm.runs import launch

TARGET = 500e3


def test_records(searched):
    work_dir, output = searched
    lines = [x for x in output.splitlines() if 'search: epoch' in x]
    assert len(lines) == 6
    for i, line in enumerate(lines, 1):
        record = json.loads((work_dir / f'gates/epoch_{i}.json').read_text())
        assert f'epoch {i}, cost {record["cost"]:,.6g} MACs' in line
        assert 'target 500,000 MACs' in line
        assert '1.0 k3e1 | 2.0 ' in line and '| 3.0 ' in line
        arch = ArchSpec.from_text('\n'.join(record['arch']))
        assert count_macs(arch, 32, 2).total == record['cost']
        assert record['target'] == TARGET and record['epoch'] == i
        gate = record['gates']['layers.2.1.expand_ratio']
        assert gate['options'] == [0, 3, 6] and len(gate['margin']) == 2
    assert ArchSpec.from_file(work_dir / 'arch.txt') == arch
    assert abs(record['cost'] / TARGET - 1) <= 0.05


def test_tensorboard(searched):
    work_dir, _ = searched
    events, = work_dir.glob('*/vis_data/events.out.*')
    accumulator = EventAccumulator(str(events.parent))
    accumulator.Reload()
    tags = accumulator.Tags()['scalars']
    for tag in ('cost', 'loss', 'loss_cost', 'gates/layers.2.0.kernel_size/5',
                'gates/layers.2.1.expand_ratio/3'):
        assert tag in tags
    assert len(accumulator.Scalars('gates/layers.2.0.nl/True')) == 6


def test_thresholds_are_held_in_the_warm_up(searched):
    work_dir, _ = searched

    def thresholds(epoch):
        state = torch.load(
            work_dir / f'epoch_{epoch}.pth', weights_only=False)['state_dict']
        return {k: v for k, v in state.items() if k.endswith('threshold')}

    # warm-up ends in the fifth of six epochs
    assert all((t == 0).all() for t in thresholds(3).values())
    assert any((t != 0).any() for t in thresholds(5).values())


def test_tries_candidates_once(searched):
    work_dir, output = searched
    line, = [x for x in output.splitlines() if 'the first candidate' in x]
    before, best = map(float, re.findall(r'\d\.\d{4}', line))
    assert best <= before
    assert 'trying 12 subnets of 490,000 to 510,000 MACs' in output
    # in the fifth epoch of six
    assert output.index('search: epoch 4') < output.index(line)
    archs = [json.loads((work_dir / f'gates/epoch_{i}.json').read_text())[
        'arch'] for i in (5, 6)]
    assert archs[0] == archs[1]


def test_what_was_chosen_stays(tiny_search, scope):
    cfg = Config.fromfile(tiny_search)
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model).train()
    supernet = model.supernet
    randomize(supernet, 0)
    hook = GateSearchHook(freeze_at=0.75)
    runner = argparse.Namespace(
        model=model, iter=5, max_iters=6, seed=0, optim_wrapper=None,
        train_loop=None)
    hook.before_run(runner)
    hook.before_train_iter(runner, 0)
    chosen = supernet.active_subnet()
    assert chosen == list(hook.chosen)
    assert model.step_subnets == [hook.chosen] and not model.soft_targets
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if 'threshold' not in name:
                parameter.mul_(10)  # of a step in which what is off grows
    assert supernet.active_subnet() != chosen
    hook.after_train_iter(runner, 0)
    assert supernet.active_subnet() == chosen


def test_only_the_chosen_subnet_is_trained_after_the_choice(tiny_search, scope):
    cfg = Config.fromfile(tiny_search)
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model).train()
    hook = SandwichSearchHook(freeze_at=0.5)
    runner = argparse.Namespace(
        model=model, max_iters=6, seed=0, optim_wrapper=None, train_loop=None)
    hook.before_run(runner)
    table = model.supernet.cost_table
    largest, cheapest = table.extremes()
    assert model.supernet.space.arch(largest) == model.supernet.space.largest
    assert table.range() == (table.cost_of(cheapest), table.cost_of(largest))
    for runner.iter, count in ((2, 4), (3, 1)):
        hook.before_train_iter(runner, 0)
        assert len(model.step_subnets) == count
        assert count == 1 or model.step_subnets[:2] == [largest, cheapest]
        assert model.soft_targets == (count > 1)
    assert model.step_subnets == [model.supernet.active_subnet()]


class _Seen(Hook):
    """The subnets that are evaluated."""
    priority = 'LOWEST'

    def __init__(self):
        self.archs = []

    def before_val_epoch(self, runner):
        self.archs.append(runner.model.supernet.arch().to_text())


def ema_runner(tiny_search, work_dir, **ema):
    cfg = launch.load_config(argparse.Namespace(
        config=str(tiny_search), work_dir=str(work_dir), launcher='none', local_rank=0,
        cfg_options={'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 1,
                     'custom_hooks.0.candidates': 4,
                     'default_hooks.checkpoint.max_keep_ckpts': 2,
                     'experiment_name': uuid.uuid4().hex}))
    cfg.custom_hooks.insert(0, dict(type='EMAHook', momentum=0.01, **ema))
    return launch.build_runner(cfg)


@pytest.mark.parametrize('ema', [
    dict(), dict(update_buffers=True, priority='ABOVE_NORMAL')])
def test_averaged_weights_have_the_searched_subnet(ema, tiny_search, tmp_path, scope):
    """In validation, in the checkpoint and in the log; weights are averaged."""
    runner = ema_runner(tiny_search, tmp_path, **ema)
    seen = _Seen()
    runner.register_hook(seen)
    runner.train()
    records = [json.loads((tmp_path / f'gates/epoch_{i}.json').read_text())
               for i in (1, 2)]
    logged = [record['arch'] for record in records]
    assert [arch.splitlines() for arch in seen.archs] == logged
    supernet = runner.model.supernet
    assert logged[0] != logged[1] == supernet.arch().to_text().splitlines()
    own = {k: v.clone() for k, v in supernet.state_dict().items()}
    load_search(runner.model, str(tmp_path / 'epoch_2.pth'))
    assert ArchSpec.from_file(tmp_path / 'arch.txt') == export_subnet(supernet)[0]
    averaged = supernet.state_dict()
    for name in ('distance', 'initial', 'importance_sum', 'importance_weight'):
        assert torch.equal(averaged[f'gate_state.{name}'], own[f'gate_state.{name}'])
    assert not torch.equal(averaged['layers.0.conv.weight'],
                           own['layers.0.conv.weight'])


def test_averaging_before_the_choice_is_refused(tiny_search, tmp_path, scope):
    with pytest.raises(ValueError, match="EMAHook has the priority 'VERY_HIGH', but "
                                         "must be called after GateSearchHook"):
        ema_runner(tiny_search, tmp_path, priority='VERY_HIGH').train()


@pytest.mark.parametrize('hook_type, options', [
    (GateSearchHook, dict(warmup_sample_rate=0.99)),
    (SandwichSearchHook, dict(subnets=3))])
def test_samples_are_seeded_by_the_first_rank(
        hook_type, options, tiny_search, scope, monkeypatch):
    """With diff_rank_seed each rank has another seed."""
    monkeypatch.setattr(base_search_hook, 'shared_seed', lambda runner: 7)
    cfg = Config.fromfile(tiny_search)
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model).train()
    samples = []
    for seed, iteration in ((7, 3), (8, 3), (8, 4)):
        hook = hook_type(**options)
        runner = argparse.Namespace(
            model=model, iter=iteration, max_iters=9, seed=seed, optim_wrapper=None)
        hook.before_run(runner)
        hook.before_train_iter(runner, 0)
        assert model.soft_targets == (hook_type is SandwichSearchHook)
        samples.append(repr((
            model.step_subnets, model.supernet.gate_state._sampled.tolist()
            if hook_type is GateSearchHook else None)))
    assert samples[0] == samples[1] != samples[2]


@pytest.mark.parametrize('options', [
    {'custom_hooks.0.candidates': 0}, {'model.target': None}])
def test_no_candidates(options, tiny_search, tmp_path):
    output = run_tool(
        'tools/train.py', tiny_search, '--work-dir', tmp_path,
        '--cfg-options', 'train_cfg.max_epochs=2', 'custom_hooks.0.warmup=0.3',
        *(f'{k}={v}' for k, v in options.items())).stdout
    assert 'search: epoch 2' in output and 'trying' not in output
    # thresholds are trained after the warm-up
    record = json.loads((tmp_path / 'gates/epoch_1.json').read_text())
    moved = [t for gate in record['gates'].values() for t in gate['threshold']]
    assert sum(t != 0 for t in moved) > len(moved) / 2


def load(path):
    checkpoint = torch.load(path, weights_only=False)
    return checkpoint['state_dict'], checkpoint['optimizer']['state']


def same_search(one, two, last):
    """Weights, the optimiser's averages and records of two work dirs agree."""
    for a, b in zip(load(one / f'{last}.pth'), load(two / f'{last}.pth'), strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            if isinstance(value, dict):  # of the optimiser
                assert all(torch.equal(v, b[key][k]) for k, v in value.items()), key
            else:
                assert torch.equal(value, b[key]), key
    for name in ('arch.txt', f'gates/{last}.json'):
        assert (one / name).read_text() == (two / name).read_text()


@pytest.mark.long
@pytest.mark.parametrize('epoch', [1, pytest.param(3, marks=pytest.mark.slow), 5])
def test_resumed_is_as_if_not_stopped(epoch, tiny_search, searched, tmp_path):
    work_dir, _ = searched
    shutil.copy(work_dir / f'epoch_{epoch}.pth', tmp_path)
    (tmp_path / 'gates').mkdir()
    for number in (epoch, 7):  # a longer run was here before
        shutil.copy(work_dir / 'gates/epoch_6.json',
                    tmp_path / f'gates/epoch_{number}.json')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / f'epoch_{epoch}.pth'))
    run_tool('tools/train.py', tiny_search, '--work-dir', tmp_path, '--resume')
    same_search(work_dir, tmp_path, 'epoch_6')
    assert (tmp_path / f'gates/epoch_{epoch}.json').exists()
    assert not (tmp_path / 'gates/epoch_7.json').exists()


@pytest.mark.long
@pytest.mark.parametrize('config', [
    'tiny_search', pytest.param('sandwich_search', marks=pytest.mark.slow)])
def test_an_iteration_based_loop(config, request, tmp_path, scope):
    """Records with each checkpoint; killed, it goes on exactly."""
    path = request.getfixturevalue(config)

    class Kill(Hook):
        priority = 'LOWEST'

        def after_train_iter(self, runner, *args, **kwargs):
            if runner.iter == 12:
                raise KeyboardInterrupt

    def search(name, **options):
        runner = launch.build_runner(launch.load_config(argparse.Namespace(
            config=str(path), work_dir=str(tmp_path / name), launcher='none',
            local_rank=0, cfg_options={
                'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=18,
                                  val_interval=18),
                'train_dataloader.sampler.type': 'InfiniteSampler',
                'log_processor.by_epoch': False,
                'custom_hooks.1.interval': 99,
                'default_hooks.checkpoint.by_epoch': False,
                'default_hooks.checkpoint.interval': 5,
                'experiment_name': uuid.uuid4().hex, **options})))
        if name == 'run' and not options:
            runner.register_hook(Kill())
        runner.train()

    search('whole')
    gates = tmp_path / 'whole/gates'
    assert {p.name for p in gates.iterdir()} == {
        f'iter_{i}.json' for i in (5, 10, 15, 18)}
    record = json.loads((gates / 'iter_18.json').read_text())
    assert record['iter'] == 18 and abs(record['cost'] / TARGET - 1) <= 0.05
    with pytest.raises(KeyboardInterrupt):
        search('run')
    assert ArchSpec.from_file(tmp_path / 'run/arch.txt')
    shutil.copy(gates / 'iter_18.json', tmp_path / 'run/gates/iter_40.json')
    search('run', resume=True, load_from=str(tmp_path / 'run/iter_10.pth'))
    same_search(tmp_path / 'whole', tmp_path / 'run', 'iter_18')
    # those of the finished part stay, those of an earlier run go
    assert ({p.name: p.read_text() for p in gates.iterdir()} ==
            {p.name: p.read_text() for p in (tmp_path / 'run/gates').iterdir()})


@pytest.fixture
def sandwich_search(tiny_search, tmp_path):
    """A search by the sandwich rule, with soft targets and held-out images."""
    cfg = Config.fromfile(tiny_search)
    images = cfg.train_dataloader.dataset.to_dict()
    parts = [dict(type='autonl_mm.HoldoutDataset', dataset=images, holdout=8,
                  split=split) for split in ('train', 'val')]
    cfg.train_dataloader.dataset = parts[0]
    cfg.custom_hooks[0] = dict(
        type='autonl_mm.SandwichSearchHook', candidates=12, num_samples=16,
        held_out=parts[1])
    cfg.dump(tmp_path / 'sandwich.py')
    return tmp_path / 'sandwich.py'


@pytest.mark.long
def test_sandwich_rule(sandwich_search, tmp_path):
    """Candidates are tried on held-out images; resumed it goes on exactly."""
    whole, run = tmp_path / 'whole', tmp_path / 'run'
    options = ['--cfg-options', 'default_hooks.checkpoint.max_keep_ckpts=6',
               'optim_wrapper.accumulative_counts=2']
    output = run_tool('tools/train.py', sandwich_search, '--work-dir', whole,
                      *options).stdout
    assert ('trying 12 subnets of 490,000 to 510,000 MACs on 2 batches of 4 held-out '
            'images') in output
    assert len(re.findall(r'Epoch\(train\).* loss_soft: \d', output)) >= 12
    records = [json.loads((whole / f'gates/epoch_{i}.json').read_text())
               for i in range(1, 7)]
    for record in records:
        gates = record['gates'].values()
        assert not any(any(gate['importance']) for gate in gates)
        if record['epoch'] <= 4:  # the choice is in the fifth
            assert not any(any(gate['threshold']) for gate in gates)
    assert abs(records[5]['cost'] / TARGET - 1) <= 0.02
    assert records[4]['arch'] == records[5]['arch'] != records[3]['arch']

    run.mkdir()
    for epoch in (3, 5):
        shutil.copy(whole / f'epoch_{epoch}.pth', run)
        (run / 'last_checkpoint').write_text(str(run / f'epoch_{epoch}.pth'))
        run_tool('tools/train.py', sandwich_search, '--work-dir', run, '--resume',
                 *options)
        same_search(whole, run, 'epoch_6')
        (run / 'epoch_6.pth').unlink()


@pytest.mark.slow
def test_sandwich_rule_in_bfloat16(sandwich_search, tmp_path):
    output = run_tool(
        'tools/train.py', sandwich_search, '--work-dir', tmp_path / 'run', '--amp',
        '--cfg-options', 'train_cfg.max_epochs=2').stdout
    assert 'trying 12 subnets' in output and 'loss_soft: nan' not in output
    assert ArchSpec.from_file(tmp_path / 'run/arch.txt')


def test_for_all_targets(sandwich_search, tmp_path):
    """Without a target the range is trained, and nothing is chosen."""
    output = run_tool(
        'tools/train.py', sandwich_search, '--work-dir', tmp_path / 'run',
        '--cfg-options', 'model.target=None', 'train_cfg.max_epochs=2').stdout
    assert 'trained for all targets, choose subnets with' in output
    assert 'trying' not in output and 'chose nothing' not in output
    assert not (tmp_path / 'run/arch.txt').exists()
    record = json.loads((tmp_path / 'run/gates/epoch_2.json').read_text())
    assert ArchSpec.from_text('\n'.join(record['arch'])) == AutoNLSuperNet(
        TINY_SPACE).space.largest
    assert not any(any(gate['threshold']) for gate in record['gates'].values())


RANKS = """\
import argparse, os, sys
import torch
import autonl_mm
from autonl_mm.runs import launch
from autonl_mm.nas import export_subnet

args = argparse.Namespace(
    config=sys.argv[1], work_dir=sys.argv[2], cfg_options={
        'randomness.diff_rank_seed': sys.argv[3] == 'diff'},
    launcher='pytorch', local_rank=0)
runner = launch.build_runner(launch.load_config(args))
runner.train()
supernet = runner.model.module.supernet
arch, state = export_subnet(supernet)
gates = {n: b for n, b in supernet.state_dict().items() if 'gate_state' in n}
torch.save(dict(arch=arch.to_text(), gates=gates, state={
    k: v for k, v in state.items() if 'running' not in k}),
    os.path.join(sys.argv[2], f'rank{os.environ["RANK"]}.pth'))
"""


@pytest.mark.long
@pytest.mark.parametrize('search, seeds', [
    ('tiny_search', 'same'), ('sandwich_search', 'same'), ('tiny_search', 'diff')])
def test_two_ranks_hold_identical_gates(search, seeds, request, tmp_path):
    script = tmp_path / 'ranks.py'
    script.write_text(RANKS)
    config = request.getfixturevalue(search)
    output = run_ranks(2, script, config, tmp_path, seeds)[0].stdout
    assert 'trying 12 subnets' in output
    a, b = (torch.load(tmp_path / f'rank{i}.pth') for i in range(2))
    assert a['arch'] == b['arch']
    for kind in ('gates', 'state'):
        assert a[kind].keys() == b[kind].keys()
        for key, value in a[kind].items():
            assert torch.equal(value, b[kind][key]), key
    if search == 'sandwich_search':
        assert 'on 1 batches of 4 held-out images' in output
        cost = count_macs(ArchSpec.from_text(a['arch']), 32, 2).total
        assert abs(cost / TARGET - 1) <= 0.02
        return
    moved = [k for k, v in a['gates'].items() if v.any()]
    for kind in ('threshold', 'distance', 'importance_sum'):
        assert any(k.endswith(kind) for k in moved)
    # each saw half of the images
    assert 'Epoch(train) [6][3/3]' in output


def test_rate():
    hook = GateSearchHook(
        warmup=0.4, freeze_at=0.8, warmup_sample_rate=0.5, sample_rate=0.1)
    assert [hook.rate(p) for p in (0, 0.2, 0.4, 0.79)] == pytest.approx(
        [0.5, 0.3, 0.1, 0.1])
    assert GateSearchHook(warmup=0).rate(0) == 0


@pytest.mark.parametrize('hook_type, kwargs, words', [
    (GateSearchHook, dict(warmup=0.9, freeze_at=0.8),
     ['warmup is 0.9', 'freeze_at is 0.8']),
    (GateSearchHook, dict(warmup=-0.1), ['warmup is -0.1']),
    (GateSearchHook, dict(warmup_sample_rate=1.0), ['warmup_sample_rate is 1.0']),
    (GateSearchHook, dict(sample_rate=-1), ['sample_rate is -1']),
    (GateSearchHook, dict(freeze_at=1.1), ['freeze_at is 1.1']),
    (SandwichSearchHook, dict(freeze_at=0), ['freeze_at is 0', '0 < freeze_at <= 1']),
    (GateSearchHook, dict(candidates=-1), ['candidates is -1']),
    (GateSearchHook, dict(num_samples=0), ['num_samples is 0']),
    (SandwichSearchHook, dict(subnets=1), ['subnets is 1', 'at least 2']),
    (SandwichSearchHook, dict(candidates=0), ['candidates is 0', 'at least 1']),
])
def test_bad_arguments(hook_type, kwargs, words):
    with pytest.raises(ValueError) as error:
        hook_type(**kwargs)
    for word in words:
        assert word in str(error.value)


class _Runner:
    """What after_train reads of a runner."""

    def __init__(self):
        self.logger = logging.getLogger('test_search_hook')


@pytest.mark.parametrize('threshold, word', [
    (-1.0, 'every gate on'), (3.0, 'every gate off')])
def test_warns_of_a_search_that_chose_nothing(threshold, word, caplog):
    hook = GateSearchHook()
    hook.supernet = AutoNLSuperNet(TINY_SPACE)
    hook.supernet.gate_state.threshold.data.fill_(threshold)
    hook.after_train(_Runner())
    assert word in caplog.text
    caplog.clear()
    set_threshold(hook.supernet, 'layers.2.0.kernel_size', 2 - threshold)
    hook.after_train(_Runner())
    assert not caplog.text


def test_describe():
    supernet = AutoNLSuperNet(TINY_SPACE)
    set_threshold(supernet, 'layers.2.1.expand_ratio', 2, 0)
    for name in supernet.gates():
        if name.startswith('layers.3.0.'):
            set_threshold(supernet, name, 2)
    assert describe(supernet) == (
        '1.0 k3e1 | 2.0 k5e6 se0.5 nl0.25-1, 2.1 - | '
        '3.0 k3e3, 3.1 k5e6 se0.5 nl0.25-1')


def test_search_without_the_wrapper(tiny_search, tmp_path):
    cfg = Config.fromfile(tiny_search)
    cfg.model = cfg.model.model
    bare = tmp_path / 'bare.py'
    cfg.dump(bare)
    result = run_tool('tools/train.py', bare, '--work-dir', tmp_path / 'run',
                      check=False)
    assert result.returncode != 0
    assert result.stdout.splitlines()[-1].startswith('train.py: ')
    assert 'CostAwareModel' in result.stdout.splitlines()[-1]


@pytest.mark.parametrize('change, words', [
    (dict(), ['after each iteration', 'train_cfg.val_interval=12']),
    ({'custom_hooks.1.interval': 12}, ['custom_hooks[1]', 'InfiniteSampler',
                                       "dict(type='DefaultSampler', shuffle=True)"]),
])
def test_recalibration_in_an_iteration_based_loop(change, words, tiny_search):
    cfg = Config.fromfile(tiny_search)
    check_search(cfg)
    cfg.train_cfg = dict(by_epoch=False, max_iters=36, val_interval=12)
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    cfg.merge_from_dict(change)
    with pytest.raises(ValueError) as error:
        check_search(cfg)
    for word in words:
        assert word in str(error.value)
    cfg.merge_from_dict({'custom_hooks.1.interval': 12,
                         'train_dataloader.sampler.type': 'DefaultSampler'})
    check_search(cfg)
