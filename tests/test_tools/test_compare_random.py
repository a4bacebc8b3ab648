# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import importlib.util
import json
import random
import re

import pytest
from conftest import ROOT, run_tool
from search_spaces import TINY_SPACE

from autonl_mm import AUTONL_S, ArchSpec, count_macs
from autonl_mm.nas import SearchSpace

SCRIPT = 'tools/benchmarks/compare_random.py'
spec = importlib.util.spec_from_file_location('compare_random', ROOT / SCRIPT)
compare_random = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare_random)

SPACE = SearchSpace.from_config(TINY_SPACE)


def test_one_command(tiny_search, tmp_path):
    arguments = [
        SCRIPT, tiny_search, '--work-dir', tmp_path, '--num-random', '2',
        '--seeds', '2', '--tolerance', '0.1', '--cfg-options',
        'train_cfg.max_epochs=1', 'param_scheduler.total_steps=1',
        'train_cfg.val_interval=1'
    ]
    out = run_tool(*arguments).stdout
    rows = [line for line in out.splitlines() if line.startswith('| ')]
    assert [r.split(' | ')[0] for r in rows] == [
        '| network', '| searched', '| without LightNL', '| LightNL everywhere',
        '| random 0', '| random 1'
    ]
    assert 'seed 0 | seed 1 | mean' in rows[0]
    searched = ArchSpec.from_file(tmp_path / 'search/arch.txt')
    macs = count_macs(searched, 32, 2).total
    assert f'| {macs / 1e6:.2f} M |' in rows[1]
    assert re.search(r'searched \d+\.\d+; 2 random networks', out)
    assert '10 training runs' in out and 'search 0.' in out
    assert (tmp_path / 'comparison.md').read_text().strip() in out
    archs = []
    for path in tmp_path.glob('*-seed*/result.json'):
        result = json.loads(path.read_text())
        archs.append(ArchSpec.from_text(result['arch']))
        assert path.parent.name.endswith(f'-seed{result["seed"]}')
        assert result['metric'] == 'accuracy/top1'
    within = [abs(count_macs(a, 32, 2).total / macs - 1) <= 0.1 for a in archs]
    assert len(within) == 10 and sum(within) >= 6

    # nothing is done twice
    before = (tmp_path / 'comparison.md').read_text()
    logs = {p: p.stat().st_mtime for p in tmp_path.glob('*/train.log')}
    assert len(logs) == 10
    run_tool(*arguments)
    assert before == (tmp_path / 'comparison.md').read_text()
    assert logs == {p: p.stat().st_mtime for p in logs}


def test_random_archs_have_the_cost():
    def cost(choices):
        return count_macs(SPACE.arch(choices), 32, 2).total

    rng = random.Random(0)
    archs = {compare_random.random_arch(SPACE, cost, 500e3, 0.03, rng)
             for _ in range(5)}
    assert len(archs) == 5
    for arch in archs:
        assert abs(count_macs(arch, 32, 2).total / 500e3 - 1) <= 0.03
    with pytest.raises(ValueError, match='--tolerance'):
        compare_random.random_arch(SPACE, cost, 1.0, 0.03, rng, tries=10)


def test_light_nl_nowhere_and_everywhere():
    bare = AUTONL_S.without_light_nl()
    assert not any(b.nl_ratio for b in bare.blocks)
    full = compare_random.with_light_nl_everywhere(
        bare, SearchSpace.from_config('mnasnet'))
    assert [b.nl_ratio for b in full.blocks] == [0] + [0.25] * 17
    assert {b.nl_stride for b in full.blocks} == {1}
    for a, b in zip(AUTONL_S.blocks, full.blocks):
        assert a.kernel_size == b.kernel_size and a.se_ratio == b.se_ratio


def test_verdict():
    results = {'searched': [dict(value=64.0), dict(value=66.0)]}
    for i, value in enumerate((60.0, 62.0)):
        results[f'random {i}'] = [dict(value=value)]
    assert compare_random.verdict(results) == (
        'searched 65.00; 2 random networks 61.00 with a standard deviation of '
        '1.41, the best 62.00: +4.00, +2.8 standard deviations')


def test_bad_input(tmp_path, tiny_search):
    config = 'configs/mmpretrain/autonl-s_2xb128_cifar10.py'
    result = run_tool(SCRIPT, config, '--work-dir', tmp_path, check=False)
    assert result.returncode and 'no config of a search' in result.stdout
    result = run_tool(SCRIPT, tiny_search, '--work-dir', tmp_path, '--arch',
                      'nowhere.txt', check=False)
    assert result.returncode and 'nowhere.txt' in result.stdout
