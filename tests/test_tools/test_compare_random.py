# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import random
import re
from collections import Counter
from itertools import combinations

import pytest
import torch
from conftest import ROOT, call_main, load_tool, main_error
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from search_spaces import TINY_SPACE

from autonl_mm import AUTONL_S, ArchSpec, count_macs
from autonl_mm.experiments.random_subnets import random_subnet
from autonl_mm.nas import SearchSpace

SCRIPT = 'tools/benchmarks/compare_random.py'
compare_random = load_tool(SCRIPT)
rank_correlation = load_tool('tools/benchmarks/rank_correlation.py')
SPACE = SearchSpace.from_config(TINY_SPACE)


OPTIONS = ['--cfg-options', 'train_cfg.max_epochs=1',
           'param_scheduler.total_steps=1', 'train_cfg.val_interval=1']


def rows_of(out):
    return [line for line in out.splitlines()
            if line.startswith('| ') and '---' not in line]


@pytest.mark.long
def test_one_command(tiny_search, tmp_path, monkeypatch, capsys, scope, forked_trials):
    arguments = [tiny_search, '--work-dir', tmp_path, '--num-random', '3',
                 '--seeds', '1', '--tolerance', '0.1', *OPTIONS]
    call_main(monkeypatch, compare_random, *arguments)
    out = capsys.readouterr().out
    rows = rows_of(out)
    assert [r.split(' | ')[0] for r in rows] == [
        '| network', '| searched', '| without LightNL', '| LightNL everywhere',
        '| random 0', '| random 1', '| random 2'
    ]
    searched = ArchSpec.from_file(tmp_path / 'search/arch.txt')
    macs = count_macs(searched, 32, 2).total
    assert f'| {macs / 1e6:.2f} M |' in rows[1]
    assert '- 3 random networks ' in out
    assert re.search(r'- searched \d+\.\d+, as one more draw: [+-]\d+\.\d+, t ', out)
    assert 'ranks of the random networks' not in out  # after the choice
    assert '6 training runs' in out and re.search(r'; search \d+\.\d min', out)
    assert (tmp_path / 'comparison.md').read_text().strip() in out
    archs = []
    for path in tmp_path.glob('*-seed*/result.json'):
        result = json.loads(path.read_text())
        archs.append(ArchSpec.from_text(result['arch']))
        assert path.parent.name.endswith('-seed0') and result['seed'] == 0
        assert result['metric'] == 'accuracy/top1'
    within = [abs(count_macs(a, 32, 2).total / macs - 1) <= 0.1 for a in archs]
    # the searched network and three random ones
    assert len(within) == 6 and sum(within) >= 4

    # finished runs are not repeated
    before = (tmp_path / 'comparison.md').read_text()
    logs = {p: p.stat().st_mtime for p in tmp_path.glob('*/train.log')}
    assert len(logs) == 6
    call_main(monkeypatch, compare_random, *arguments)
    assert before == (tmp_path / 'comparison.md').read_text()
    assert logs == {p: p.stat().st_mtime for p in logs}
    # nor mixed with those of another recipe, nor is the search with another config's
    assert 'holds a run of another network' in main_error(
        monkeypatch, compare_random, *arguments, 'optim_wrapper.optimizer.lr=0.1')
    cfg = Config.fromfile(tiny_search)
    cfg.model.target *= 0.9
    other = tmp_path / 'other.py'
    cfg.dump(other)
    assert 'search holds a search with another config' in main_error(
        monkeypatch, compare_random, other, *arguments[1:])


def test_every_network_is_trained_with_every_seed(
        tiny_search, tiny_arch, tmp_path, monkeypatch, capsys, scope):
    """The runs are stubs here, whose metric is 10 times the seed."""
    runs = []
    retrain_base = Config.fromfile(tiny_search).retrain_base

    def train_all(tool, trials, jobs, where):
        assert tool == ROOT / 'tools/train.py'
        for trial in trials:
            arch, seed = trial.key['arch'], trial.key['seed']
            assert trial.config == retrain_base
            assert trial.options['randomness.seed'] == seed
            assert trial.options['train_cfg.max_epochs'] == 1
            assert trial.out.name.endswith(f'-seed{seed}')
            runs.append((arch, seed))
        return [dict(metric='accuracy/top1', value=10 * trial.key['seed'], seconds=1)
                for trial in trials]

    monkeypatch.setattr(compare_random.trials, 'train_all', train_all)
    arch = SPACE.largest.without_light_nl()
    tiny_arch.write_text(arch.to_text())
    call_main(monkeypatch, compare_random, tiny_search, '--work-dir', tmp_path,
              '--num-random', '3', '--seeds', '2', '--tolerance', '1', '--arch',
              tiny_arch, *OPTIONS)
    out = capsys.readouterr().out
    rows = rows_of(out)
    assert 'seed 0 | seed 1 | mean' in rows[0]
    assert len(rows) == 1 + 3 + 3
    for row in rows[1:]:
        assert row.endswith('| 0.00 | 10.00 | 5.00 |')
    # more networks instead of more seeds
    call_main(monkeypatch, compare_random, tiny_search, '--work-dir', tmp_path,
              '--num-random', '3', '--seeds', '2', '--random-seeds', '1', '--tolerance',
              '1', '--arch', tiny_arch, *OPTIONS)
    few = rows_of(capsys.readouterr().out)
    assert few[:4] == rows[:4]
    assert all(row.endswith('| 0.00 |  | 0.00 |') for row in few[4:])
    runs = runs[:10]
    # the searched network has no LightNL, so it is trained only once per seed
    assert rows[1].split('|')[2:] == rows[2].split('|')[2:]
    assert len(runs) == len(set(runs)) == 2 * 5
    assert {seed for _, seed in runs} == {0, 1}
    assert runs.count((arch.to_text(), 0)) == 1
    assert '10 training runs' in out


def test_random_networks_of_a_target_are_those_of_rank_correlation(
        tiny_search, tiny_arch, tmp_path, monkeypatch, capsys, scope):
    names = []

    def train_all(tool, trials, jobs, where):
        names.append([trial.out.name for trial in trials])
        return [dict(metric='accuracy/top1', value=50., seconds=1) for _ in trials]

    monkeypatch.setattr(compare_random.trials, 'train_all', train_all)
    monkeypatch.setattr(rank_correlation, 'supernet_losses',
                        lambda cfg, checkpoint, networks, work_dir:
                        [1.] * len(networks))
    tiny_arch.write_text(SPACE.largest.to_text())
    macs = count_macs(SPACE.largest, 32, 2).total
    shared = ['--work-dir', tmp_path / 'runs', '--target', f'{0.9 * macs:.0f}',
              '--tolerance', '0.2', '--seeds', '1']
    call_main(monkeypatch, compare_random, tiny_search, *shared, '--arch', tiny_arch,
              '--num-random', '3', '--only-random')
    rows = rows_of(capsys.readouterr().out)
    assert [r.split(' | ')[0] for r in rows[1:]] == [
        '| searched', '| random 0', '| random 1', '| random 2']
    call_main(monkeypatch, rank_correlation, tiny_search, 'none.pth', *shared,
              '--num-networks', '3', '--sets', 'cost', '--report', 'ranks_0.9')
    assert sorted(p.name for p in (tmp_path / 'runs').glob('*.*')) == [
        'comparison.json', 'comparison.md', 'ranks_0.9.json', 'ranks_0.9.md',
        'ranks_0.9.png']
    (searched, *compared), ranked = names
    assert compared == ranked and searched not in ranked
    shared[3] = f'{0.5 * macs:.0f}'
    assert 'not within 20% of --target' in main_error(
        monkeypatch, compare_random, tiny_search, *shared, '--arch', tiny_arch)


def test_fine_tuning_from_inherited_weights(tiny_search, tiny_arch, tmp_path,
                                            monkeypatch, capsys, scope):
    """In the same time as the training from scratch: with the same settings."""
    runs = []

    def train_all(tool, trials, jobs, where):
        runs.extend((trial.out.name, {**trial.options, **trial.files, **trial.key})
                    for trial in trials)
        return [dict(metric='accuracy/top1',
                     value=60 + 10 * ('weights' in trial.key), seconds=1)
                for trial in trials]

    monkeypatch.setattr(compare_random.trials, 'train_all', train_all)
    tiny_arch.write_text(SPACE.largest.to_text())
    weights = tmp_path / 'subnet.pth'
    weights.write_bytes(b'weights')
    arguments = [tiny_search, '--work-dir', tmp_path / 'runs', '--num-random', '2',
                 '--seeds', '2', '--tolerance', '1', '--arch', tiny_arch, '--inherited']
    call_main(monkeypatch, compare_random, *arguments, weights)
    row, = [r for r in rows_of(capsys.readouterr().out) if 'fine-tuned' in r]
    assert row.endswith('| 70.00 | 70.00 | 70.00 |')
    tuned = [(name, options) for name, options in runs if 'weights' in options]
    assert [options['load_from'] for _, options in tuned] == [weights.resolve()] * 2
    for name, options in tuned:
        scratch, = [o for n, o in runs if n == name.split('-from-')[0]]
        assert options.keys() - scratch.keys() == {'load_from', 'weights'}
    assert '--inherited: none.pth does not exist' in main_error(
        monkeypatch, compare_random, *arguments, 'none.pth')


def test_all_start_from_inherited_weights(tiny_search, tiny_arch, tmp_path, monkeypatch,
                                          capsys, scope):
    """The random networks too, from two supernets in turn; a second call takes the
    same files."""
    cfg = Config.fromfile(tiny_search)
    init_default_scope(cfg.default_scope)
    cfg.model.data_preprocessor = cfg.data_preprocessor
    checkpoints = [tmp_path / 'search0.pth', tmp_path / 'search1.pth']
    supernets = [MODELS.build(cfg.model).state_dict() for _ in checkpoints]
    for path, state in zip(checkpoints, supernets):
        torch.save(dict(state_dict=state), path)
    runs = []

    def train_all(tool, trials, jobs, where):
        runs.append([(trial.key['arch'], trial.files['load_from']) for trial in trials])
        return [dict(metric='accuracy/top1', value=50., seconds=1) for _ in trials]

    monkeypatch.setattr(compare_random.trials, 'train_all', train_all)
    monkeypatch.setattr(compare_random, 'RECALIBRATE', 8)
    tiny_arch.write_text(SPACE.largest.to_text())
    weights = [tmp_path / 'subnet0.pth', tmp_path / 'subnet1.pth']
    for path in weights:
        path.write_bytes(b'weights')
    arguments = [tiny_search, '--work-dir', tmp_path / 'runs', '--num-random', '3',
                 '--seeds', '1', '--tolerance', '1', '--arch', tiny_arch, tiny_arch,
                 '--inherit-from', *checkpoints, '--only-random']
    for _ in range(2):
        call_main(monkeypatch, compare_random, *arguments, '--inherited', *weights)
    assert runs[0] == runs[1]
    searched, others = runs[0][:2], runs[0][2:]
    assert [path for _, path in searched] == [path.resolve() for path in weights]
    assert len(others) == 3
    for (arch, path), supernet in zip(others, [*supernets, supernets[0]]):
        state = torch.load(path, weights_only=True)['state_dict']
        assert (path.parent / 'arch.txt').read_text().startswith(arch)
        assert torch.equal(state['head.fc.weight'], supernet['model.head.fc.weight'])
    assert '--inherit-from needs --inherited' in main_error(
        monkeypatch, compare_random, *arguments)


def test_random_archs_have_the_cost(monkeypatch):
    def cost(subnet):
        return count_macs(SPACE.arch(subnet), 32, 2).total

    rng = random.Random(0)
    archs = {SPACE.arch(random_subnet(SPACE, cost, 485e3, 515e3, rng))
             for _ in range(5)}
    assert len(archs) == 5
    for arch in archs:
        assert abs(count_macs(arch, 32, 2).total / 500e3 - 1) <= 0.03
    monkeypatch.setattr('autonl_mm.experiments.random_subnets.TRIES', 10)
    with pytest.raises(ValueError, match='--tolerance'):
        random_subnet(SPACE, cost, 0.9, 1.1, rng)


def test_light_nl_nowhere_and_everywhere():
    bare = AUTONL_S.without_light_nl()
    assert not any(b.nl_ratio for b in bare.blocks)
    full = compare_random.with_light_nl_everywhere(
        bare, SearchSpace.from_config('mnasnet'))
    assert [b.nl_ratio for b in full.blocks] == [0] + [0.25] * 17
    assert {b.nl_stride for b in full.blocks} == {1}
    paper = SearchSpace.from_config('mnasnet', 'size')
    assert compare_random.with_light_nl_everywhere(
        AUTONL_S.with_normalize('size'), paper) == full.with_normalize('size')
    for a, b in zip(AUTONL_S.blocks, full.blocks):
        assert a.kernel_size == b.kernel_size and a.se_ratio == b.se_ratio


def test_verdict():
    """Equal numbers of seeds are compared."""
    results = {'searched': [dict(value=64.0), dict(value=66.0)]}
    for i, value in enumerate((60.0, 62.0)):
        results[f'random {i}'] = [dict(value=value)]
    subnets = ['random 0', 'random 1']
    text, _, difference = compare_random.verdict(results, ['searched'], subnets)
    assert text.splitlines() == [
        '- 2 random networks 61.00 with a standard deviation of 1.41, the best 62.00',
        '- searched 64.00, as one more draw: +3.00, t 1.73 (6.31 needed)']
    results['other'] = [dict(value=68.0)]
    lines = compare_random.verdict(
        results, ['searched', 'other'], subnets, [difference])[0].splitlines()
    assert lines[-2:] == [
        '- 2 searched networks 66.00, as 2 more draws: +5.00, t 3.54 (6.31 needed)',
        '- pooled over 2 targets: +4.00, t 3.58 (3.00 needed)']
    results = {name: [dict(value=v - 1), dict(value=v + 1)]
               for name, v in (('random 0', 60), ('random 1', 64))}
    text, _, difference = compare_random.verdict(results, [], list(results))
    assert '- one training of a network scatters by 1.41, the networks by 2.65' in text
    assert difference is None


def test_networks_are_sampled_uniformly():
    """Equivalent choices, and the same blocks in another order, count once."""
    space = SearchSpace.from_config(dict(stem_channels=8, head_channels=16, stages=[
        dict(channels=16, depth=3, stride=1, kernel_size=(3, 5), expand_ratio=(0, 2),
             se_ratio=0, nl_ratio=0)]))

    def count(sampling):
        rng = random.Random(0)
        return Counter(
            space.arch(random_subnet(space, lambda _: 1, 0, 2, rng, sampling))
            for _ in range(1400))

    by_networks, by_choices = count('networks'), count('choices')
    assert len(by_networks) == len(by_choices) == 2 * (1 + 2 + 4)
    assert all(70 < number < 130 for number in by_networks.values())
    # half of the choices of a block leave it out
    alone = [number for arch, number in by_choices.items() if len(arch.blocks) == 1]
    assert all(130 < number < 220 for number in alone)


def test_several_searches_and_targets(tiny_search, tiny_arch, tmp_path, monkeypatch,
                                      capsys, scope):
    archs = []

    def train_all(tool, trials, jobs, where):
        archs.append([trial.key['arch'] for trial in trials])
        return [dict(metric='accuracy/top1', value=50. + i, seconds=1)
                for i in range(len(trials))]

    monkeypatch.setattr(compare_random.trials, 'train_all', train_all)
    tiny_arch.write_text(SPACE.largest.to_text())
    other = tmp_path / 'other.txt'
    other.write_text(SPACE.largest.without_light_nl().to_text())
    shared = [tiny_search, '--work-dir', tmp_path, '--num-random', '3', '--seeds', '1',
              '--tolerance', '1', '--only-random', '--target', '1e6']
    call_main(monkeypatch, compare_random, *shared, '--arch', tiny_arch, other,
              '--report', 'first')
    out = capsys.readouterr().out
    assert '- searched 1 51.00, as one more draw: ' in out
    call_main(monkeypatch, compare_random, *shared, '--arch', tiny_arch, '--pool',
              tmp_path / 'first.json', '--target', '9e5')
    assert '- pooled over 2 targets: ' in capsys.readouterr().out
    call_main(monkeypatch, compare_random, *shared, '--arch', tiny_arch,
              '--sample-seed', '1')
    call_main(monkeypatch, compare_random, *shared, '--arch', tiny_arch, other,
              '--against', tmp_path / 'first.json', '--report', 'second')
    # t of two degrees of freedom, 4.30, times the square root of a half
    assert ('- difference from the 2 networks of the other search: +0.00 ± 3.04 (95%)'
            in capsys.readouterr().out)
    assert (tmp_path / 'comparison.json').exists()
    # ranks by a supernet
    monkeypatch.setattr(compare_random, 'supernet_losses',
                        lambda cfg, checkpoint, subnets, folder: [3., 1., 2.])
    call_main(monkeypatch, compare_random, *shared, '--arch', tiny_arch, '--checkpoint',
              tiny_arch)
    out = capsys.readouterr().out
    assert "ranks of the random networks by the supernet's losses: tau " in out
    assert '; by MACs: tau ' in out
    archs.pop()
    # without a searched network, and over networks
    call_main(monkeypatch, compare_random, *shared, '--arch', '--target', '5e5',
              '--sampling', 'networks')
    out = capsys.readouterr().out
    assert 'searched' not in out and '- 3 random networks 51.00 ' in out
    assert not (tmp_path / 'comparison.json').exists()
    del archs[3], archs[1]  # of the networks of the first run again
    for one, two in combinations(([*run[-3:]] for run in archs), 2):
        assert not set(one) & set(two)
    for arguments, words in (
        (['--arch', '--target', '0'], 'give the --target'),
        (['--arch', tiny_arch, '--pool', tmp_path / 'first.json'],
         'first.json has the target 1000000.0, expected another than 1000000.0'),
        (['--arch', tiny_arch, other, '--target', '9e5', '--against',
          tmp_path / 'first.json'], 'the target 1000000.0, expected 900000.0: only'),
        (['--arch', tiny_arch, '--target', '9e5', '--pool',
          tmp_path / 'first.json', tmp_path / 'first.json'], 'at the same target'),
        (['--arch', tiny_arch, '--target', '9e5', '--pool', tmp_path / 'first.json',
          '--inherited', tiny_arch, '--inherit-from', tiny_arch],
         'has the inherited False, expected True'),
        (['--arch', tiny_arch, other, '--against', tmp_path / 'first.json', '--seeds',
          '2'], 'has the seeds 1, expected 2'),
        (['--arch', tiny_arch, other, '--inherited', tiny_arch],
         '--inherited names 1 files for 2 searched networks'),
        (['--arch', tiny_arch, '--pool', tiny_arch], 'is not JSON'),
        (['--arch', tiny_arch, '--against', tmp_path / 'first.json'], 'at least two'),
        (['--against', tmp_path / 'first.json'], 'at least two'),  # before a search
        (['--arch', tiny_arch, '--pool', tmp_path / 'none.json'], 'none.json'),
    ):
        assert words in main_error(monkeypatch, compare_random, *shared, *arguments)


def test_bad_input(tmp_path, tiny_search, monkeypatch, scope):
    config = 'configs/mmpretrain/autonl-s_2xb128_cifar10.py'
    for arguments, words in (
        ([config], 'has no AutoNLSuperNet'),
        ([tiny_search, '--arch', 'nowhere.txt'], 'nowhere.txt'),
        ([tiny_search, '--num-random', '1'], '--num-random must be at least 2'),
    ):
        assert words in main_error(monkeypatch, compare_random, *arguments,
                                   '--work-dir', tmp_path)
