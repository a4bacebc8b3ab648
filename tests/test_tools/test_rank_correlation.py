# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import re

import numpy as np
import pytest
import torch
from conftest import ROOT, call_main, load_tool, main_error
from mmengine.config import Config
from scipy.stats import kendalltau

from autonl_mm import ArchSpec, count_macs
from autonl_mm.experiments.finalists import fit, write_finalists
from autonl_mm.nas.search_configs import build_supernet

SCRIPT = 'tools/benchmarks/rank_correlation.py'
tool = load_tool(SCRIPT)


@pytest.fixture
def run(searched, tiny_search, tmp_path, monkeypatch, capsys, scope):
    """Runs the tool with trainings that are stubs; returns output, sets, trainings."""
    trained = []
    retrain_base = Config.fromfile(tiny_search).retrain_base

    def train_all(tool, trials, jobs, where):
        results = []
        for trial in trials:
            arch, seed = trial.key['arch'], trial.key['seed']
            assert trial.config == retrain_base
            assert trial.options['randomness.seed'] == seed
            trained.append((arch, seed))
            macs = count_macs(ArchSpec.from_text(arch), 32, 2).total
            results.append(dict(
                metric='accuracy/top1', value=50 + macs / 1e5 + seed, seconds=1))
        return results

    monkeypatch.setattr(tool.trials, 'train_all', train_all)

    def run(*options):
        call_main(monkeypatch, tool, tiny_search, searched[0] / 'epoch_6.pth',
                  '--work-dir', tmp_path, '--num-networks', 4, '--tolerance', 0.1,
                  *options)
        sets = json.loads((tmp_path / 'rank_correlation.json').read_text())
        return capsys.readouterr().out, sets, trained

    return run


def test_both_sets(run, tmp_path):
    out, sets, trained = run('--seeds', 2)
    assert list(sets) == ['cost', 'range']
    for rows in sets.values():
        assert len(rows) == 4
        for row in rows:
            macs = count_macs(ArchSpec.from_text(row['arch']), 32, 2).total
            assert row['macs'] == macs
            assert row['value'] == pytest.approx(50.5 + macs / 1e5)
            assert 0.1 < row['loss'] < 3
    assert all(abs(row['macs'] / 500e3 - 1) <= 0.1 for row in sets['cost'])
    macs = [row['macs'] for row in sets['range']]
    assert macs == sorted(macs) and macs[-1] > 1.5 * macs[0]
    assert len(set(trained)) == len(trained)
    # the accuracies are those of the MACs here
    for rows, text in zip(sets.values(), out.split('networks of ')[1:]):
        assert re.search(r'- MACs: tau [+]1\.00', text)
        tau = kendalltau([-r['loss'] for r in rows], [r['value'] for r in rows])[0]
        assert re.search(rf"- the supernet's losses: tau \{tau:+.2f} \(", text)
    assert f'{len(trained)} training runs' in out
    assert (tmp_path / 'rank_correlation.md').read_text().strip() in out
    assert (tmp_path / 'rank_correlation.png').stat().st_size > 5000


@pytest.mark.long
def test_losses_are_those_of_the_shared_weights(run):
    """The same again, and others for other networks."""
    _, first, _ = run('--sets', 'cost')
    _, again, _ = run('--sets', 'cost')
    assert first == again and list(first) == ['cost']
    losses = [row['loss'] for row in first['cost']]
    assert np.unique(losses).size == 4


def test_two_supernets(run, tmp_path, searched, tiny_search, monkeypatch):
    """The searched one and its initial weights, paired by network. A load_from is what
    a search starts from."""
    out, first, _ = run('--sets', 'cost')
    assert 'other supernet' not in out
    other = (tmp_path / 'rank_correlation.json').rename(tmp_path / 'searched.json')
    call = [tiny_search, 'init', '--work-dir', tmp_path, '--num-networks', 4,
            '--tolerance', 0.1, '--sets', 'cost', '--against', other]
    call_main(monkeypatch, tool, *call)
    second = json.loads((tmp_path / 'rank_correlation.json').read_text())
    trained, initial = ([row['loss'] for row in s['cost']] for s in (first, second))
    assert np.mean(trained) < np.mean(initial)
    values = [row['value'] for row in first['cost']]
    taus = [kendalltau(losses, values)[0] for losses in (trained, initial)]
    line, = re.findall(r'other supernet: tau (\S+)',
                       (tmp_path / 'rank_correlation.md').read_text())
    assert float(line) == pytest.approx(taus[0] - taus[1], abs=0.006)
    cfg = Config.fromfile(tiny_search)
    cfg.load_from = str(searched[0] / 'epoch_6.pth')
    cfg.dump(tmp_path / 'loaded.py')
    call_main(monkeypatch, tool, tmp_path / 'loaded.py', *call[1:])
    assert json.loads((tmp_path / 'rank_correlation.json').read_text()) == first
    for words, *arguments in (('has other networks of one cost', '--target', 600e3),
                              ('is not JSON', '--against', searched[0] / 'arch.txt'),
                              ('none.json', '--against', tmp_path / 'none.json')):
        assert words in main_error(monkeypatch, tool, *call, *arguments)


def test_the_networks_are_those_of_compare_random(run, tmp_path, monkeypatch,
                                                  searched, tiny_search):
    """In the same work dir none is trained twice."""
    arch = searched[0] / 'arch.txt'
    _, sets, trained = run('--sets', 'cost', '--arch', arch)
    ours = {row['arch'] for row in sets['cost']}
    trained.clear()
    compare = load_tool('tools/benchmarks/compare_random.py')
    call_main(monkeypatch, compare, tiny_search, '--work-dir', tmp_path / 'other',
              '--num-random', 4, '--seeds', 1, '--tolerance', 0.1, '--arch', arch)
    assert ours <= {arch for arch, _ in trained}


def test_ranks_by_the_fit_to_finalists(run, tmp_path, searched, tiny_search,
                                        monkeypatch, scope):
    """Losses that fall with the MACs predict accuracies that rise with them."""
    supernet = build_supernet(Config.fromfile(tiny_search))
    space, generator = supernet.space, torch.Generator().manual_seed(0)
    trained = [supernet.sample_subnet(generator) for _ in range(60)]
    trained = [(c, -count_macs(space.arch(c), 32, 2).total / 1e6) for c in trained]
    file = tmp_path / 'finalists.json'
    write_finalists(file, dict(all=trained), fit([trained], space), space)
    out, sets, _ = run('--finalists', file)
    macs, fitted = zip(*((row['macs'], row['fit']) for row in sets['cost']))
    tau = kendalltau([-f for f in fitted], macs)[0]
    assert re.search(rf'- the fit to the finalists: tau \{tau:+.2f} \(', out)
    assert out.count('the fit to the finalists') == 1  # not over the range of costs
    assert all('fit' not in row for row in sets['range'])
    assert '--finalists needs networks of one cost' in main_error(
        monkeypatch, tool, tiny_search, searched[0] / 'epoch_6.pth', '--work-dir',
        tmp_path, '--sets', 'range', '--finalists', file)


def test_bad_input(searched, tiny_search, tmp_path, monkeypatch, scope):
    checkpoint = searched[0] / 'epoch_6.pth'
    for words, *arguments in (
        ('has no AutoNLSuperNet',
         ROOT / 'configs/mmpretrain/autonl-s_2xb128_cifar10.py', checkpoint),
        ('There is no checkpoint file', tiny_search, tmp_path / 'none.pth'),
        ('--num-networks must be at least 3', tiny_search, checkpoint,
         '--num-networks', 2),
        ('a target of 1 MACs is outside of the search space, ', tiny_search, checkpoint,
         '--target', 1)):
        assert words in main_error(monkeypatch, tool, *arguments, '--work-dir',
                                   tmp_path)
