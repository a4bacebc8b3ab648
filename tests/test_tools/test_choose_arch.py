# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""One supernet, all targets."""
import json

import pytest
import torch
from conftest import ROOT, call_main, load_tool, main_error, run_ranks, run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from search_spaces import latencies

from autonl_mm import ArchSpec, count_macs
from autonl_mm.experiments import trials
from autonl_mm.experiments.finalists import FIRST_SEED
from autonl_mm.nas.search_configs import build_supernet

tool = load_tool('tools/choose_arch.py')
COUNTS = ['--candidates', 8, '--num-samples', 8, '--recalibrate', 8]


def macs_of(arch):
    return count_macs(arch, 32, 2).total


@pytest.mark.long
def test_several_targets(tiny_search, searched, tmp_path, monkeypatch, capsys, scope):
    checkpoint = searched[0] / 'epoch_6.pth'
    arguments = [tiny_search, checkpoint, '--targets', 400e3, 600e3, '--pareto',
                 '--out', tmp_path, *COUNTS]
    call_main(monkeypatch, tool, *arguments)
    out = capsys.readouterr().out
    assert 'choosing: 8 candidates for each of 10 costs, seed 0, ' in out
    assert 'on 2 batches of 4 training images\n' in out
    rows = json.loads((tmp_path / 'chosen.json').read_text())
    assert [row['goal'] for row in rows] == ['macs_400k', 'macs_600k']
    for row, target in zip(rows, (400e3, 600e3)):
        folder = tmp_path / row['goal']
        arch = ArchSpec.from_file(folder / 'arch.txt')
        assert macs_of(arch) == row['macs'] and abs(row['macs'] / target - 1) <= 0.02
        assert f'| {row["macs"]:,.6g} |' in out

        # the config builds the subnet, which takes the weights strictly
        cfg = Config.fromfile(folder / 'retrain.py')
        init_default_scope(cfg.default_scope)
        cfg.model.data_preprocessor = cfg.data_preprocessor
        model = MODELS.build(cfg.model)
        assert model.backbone.arch() == arch
        assert row['params'] == sum(p.numel() for p in model.parameters())
        state = torch.load(folder / 'subnet.pth', weights_only=True)['state_dict']
        model.load_state_dict(state)
        # BN has the subnet's statistics
        assert not torch.equal(
            state['backbone.layers.0.bn.running_var'],
            torch.load(checkpoint, weights_only=False)['state_dict'][
                'model.backbone.layers.0.bn.running_var'])

    record = json.loads((tmp_path / 'pareto.json').read_text())
    rows = record['candidates']
    assert len(rows) > 40 and len({tuple(n['arch']) for n in rows}) > 40
    front = sorted((n for n in rows if n['on_front']), key=lambda n: n['macs'])
    assert len(front) >= 2
    for a, b in zip(front, front[1:]):
        assert a['loss'] > b['loss']
    for n in rows:
        assert macs_of(ArchSpec.from_text('\n'.join(n['arch']))) == n['macs']
        assert n['batches'] < 2 or n['on_front'] or any(
            f['macs'] <= n['macs'] and f['loss'] <= n['loss'] for f in front)
    assert (tmp_path / 'pareto.png').stat().st_size > 5000

    # again: nothing is tried, the same is chosen
    before = (tmp_path / 'chosen.json').read_text()
    written = (tmp_path / 'losses.json').stat().st_mtime_ns
    call_main(monkeypatch, tool, *arguments)
    assert (tmp_path / 'chosen.json').read_text() == before
    assert (tmp_path / 'losses.json').stat().st_mtime_ns == written
    assert "of candidates that were tried with batches 2, now 1" in main_error(
        monkeypatch, tool, *arguments, '--num-samples', 4)


def test_limits(tiny_search, searched, tmp_path, monkeypatch, capsys, scope):
    """Milliseconds and parameters together."""
    supernet = build_supernet(Config.fromfile(tiny_search))
    path = tmp_path / 'latency.json'
    path.write_text(json.dumps(dict(latency_ms=latencies(supernet))))
    call_main(monkeypatch, tool, tiny_search, searched[0] / 'epoch_6.pth', '--out',
              tmp_path / 'out', '--max', 'latency=700', '--max', 'params=9e3',
              '--latency', path, *COUNTS)
    row, = json.loads((tmp_path / 'out/chosen.json').read_text())
    assert row['latency'] <= 700 and row['params'] <= 9000
    assert row['goal'] == 'latency_max_700_params_max_9k'
    assert (tmp_path / 'out' / row['goal'] / 'subnet.pth').exists()


def test_config_digest(tiny_search):
    """All settings of which losses may depend."""
    cfg, other = Config.fromfile(tiny_search), Config.fromfile(tiny_search)
    other.work_dir, other.launcher = 'elsewhere', 'pytorch'
    assert tool.config_digest(cfg) == tool.config_digest(other)
    other.train_dataloader.dataset.pipeline[-2].prob = 0.25
    assert tool.config_digest(cfg) != tool.config_digest(other)


SHORT = ['--short-training', 'train_cfg.max_epochs=1', 'param_scheduler.total_steps=1']


def test_finalists(tiny_search, searched, tmp_path, monkeypatch, capsys, scope):
    """The best by the fit to the losses is written; trainings are stubs here."""
    runs = []

    def train_all(path, queue, jobs, where):
        assert path == ROOT / 'tools/train.py' and jobs == 1
        runs.extend(queue)
        return [dict(value=float('nan') if i == 3 else abs(i - 2))
                for i in range(len(queue))]

    monkeypatch.setattr(trials, 'train_all', train_all)
    call_main(monkeypatch, tool, tiny_search, searched[0] / 'epoch_6.pth', '--targets',
              500e3, '--out', tmp_path, *COUNTS, '--finalists', 4, *SHORT, '--jobs', 1)
    out = capsys.readouterr().out
    assert ("macs_500k: 4 finalists, training losses of 0.0000 to nan; the supernet's "
            'best has 2.0000') in out
    assert ('macs_500k: the fit chooses the finalist with the loss 0.0000, number 1 of '
            '4') in out
    archs = [trial.key['arch'] for trial in runs]
    assert len(set(archs)) == len(archs) == 4
    assert archs[2] == (tmp_path / 'macs_500k/arch.txt').read_text()
    row, = json.loads((tmp_path / 'chosen.json').read_text())
    assert row['arch'] == archs[2].splitlines()
    found = json.loads((tmp_path / 'finalists.json').read_text())
    assert [row['arch'] for row in found] == [a.splitlines() for a in archs]
    assert {row['goal'] for row in found} == {'macs_500k'}
    assert found[2]['fit'] == min(row['fit'] for row in found[:3])
    for trial in runs:
        assert abs(macs_of(ArchSpec.from_text(trial.key['arch'])) / 500e3 - 1) <= 0.02
        assert trial.options['train_cfg.max_epochs'] == 1
        # another seed than of the trainings that finalists are compared by
        assert trial.options['randomness.seed'] == trial.key['seed'] == FIRST_SEED
        assert trial.config == Config.fromfile(tiny_search).retrain_base


@pytest.mark.long
def test_rounds_of_finalists(
        tiny_search, searched, tmp_path, monkeypatch, capsys, scope):
    """Later ones are predicted from the earlier ones; trainings are stubs here."""
    runs = []

    def train_all(path, queue, jobs, where):
        runs.append([trial.key['arch'] for trial in queue])
        return [dict(value=10 - len(runs) + 0.01 * i) for i in range(len(queue))]

    monkeypatch.setattr(trials, 'train_all', train_all)
    arguments = [
        tiny_search, searched[0] / 'epoch_6.pth', '--targets', 450e3, 550e3, '--out',
        tmp_path, *COUNTS, '--finalists', 3, 2, *SHORT, '--jobs', 1]
    call_main(monkeypatch, tool, *arguments)
    out = capsys.readouterr().out
    # first those of the supernet for all targets, then the others
    assert [len(archs) for archs in runs] == [3, 3, 2, 2]
    assert len({arch for archs in runs for arch in archs}) == 10
    assert 'a fit to 6 training losses predicts each from all others with tau' in out
    assert ("macs_450k: 3 finalists, training losses of 9.0000 to 9.0200; the "
            "supernet's best has 9.0000") in out
    assert 'macs_550k: 2 more finalists, training losses of 6.0000 to 6.0100\n' in out
    finalists = json.loads((tmp_path / 'finalists.json').read_text())
    assert len(finalists) == 10
    rows = json.loads((tmp_path / 'chosen.json').read_text())
    for row, target, archs in zip(rows, (450, 550), runs[2:]):
        assert all(abs(macs_of(ArchSpec.from_text(arch)) / target / 1e3 - 1) <= 0.02
                   for arch in archs)
        best = min((f for f in finalists if f['goal'] == f'macs_{target}k'),
                   key=lambda f: f['fit'])
        assert row['arch'] == best['arch']
        assert row['arch'] == (tmp_path / f'macs_{target}k/arch.txt'
                               ).read_text().splitlines()
        assert 0 < row['loss'] < 10
    # again: the same subnets
    before, runs[:] = list(runs), []
    call_main(monkeypatch, tool, *arguments)
    assert runs == before


@pytest.mark.long
def test_finalists_are_trained_and_not_evaluated(
        tiny_search, searched, tmp_path, monkeypatch, capsys, scope, forked_trials):
    arguments = [tiny_search, searched[0] / 'epoch_6.pth', '--targets', 500e3, '--out',
                 tmp_path, *COUNTS, '--finalists', 2, *SHORT]
    call_main(monkeypatch, tool, *arguments)
    out = capsys.readouterr().out
    results = [json.loads(p.read_text())
               for p in tmp_path.glob('finalists/*/result.json')]
    assert len(results) == 2 and {r['metric'] for r in results} == {'loss'}
    best = min(results, key=lambda r: r['value'])
    assert best['arch'] == (tmp_path / 'macs_500k/arch.txt').read_text()
    assert f'training losses of {best["value"]:.4f} to ' in out
    for path in tmp_path.glob('finalists/*/*/vis_data/scalars.json'):
        assert 'accuracy' not in path.read_text()
    # again: nothing is trained
    logs = {p: p.stat().st_mtime for p in tmp_path.glob('finalists/*/train.log')}
    call_main(monkeypatch, tool, *arguments)
    assert logs == {p: p.stat().st_mtime for p in logs} and len(logs) == 2


def test_ranks_choose_alike(tiny_search, searched, tmp_path):
    arguments = ('tools/choose_arch.py', tiny_search, searched[0] / 'epoch_6.pth',
                 '--targets', '500e3', '--out', tmp_path, *COUNTS)
    results = run_ranks(2, *arguments, '--launcher', 'pytorch')
    assert 'on 1 batches of 4' in results[0].stdout
    assert 'choosing' not in results[1].stdout
    row, = json.loads((tmp_path / 'chosen.json').read_text())
    assert abs(row['macs'] / 500e3 - 1) <= 0.02
    # another number of ranks tries other batches
    result = run_tool(*arguments, check=False)
    assert 'tried with ranks 2, now 1' in result.stdout


def test_bad_input(tiny_search, searched, tmp_path, monkeypatch, capsys, scope):
    checkpoint = searched[0] / 'epoch_6.pth'
    for words, *arguments in (
        ('nothing to choose for', tiny_search, checkpoint),
        ("'none.pth' does not exist", tiny_search, 'none.pth', '--targets', 5e5),
        ('a target of 1 MACs is outside', tiny_search, checkpoint, '--targets', 1),
        ('--targets has macs_500k twice', tiny_search, checkpoint, '--targets', 5e5,
         500000.1),
        ('a latency needs --latency TABLE', tiny_search, checkpoint, '--max',
         'latency=4'),
        ('--max limits a cost twice', tiny_search, checkpoint, '--max', 'macs=4e5',
         '--max', 'macs=5e5'),
        ('--candidates is 0', tiny_search, checkpoint, '--targets', 5e5,
         '--candidates', 0),
        ('--recalibrate is 0', tiny_search, checkpoint, '--targets', 5e5,
         '--recalibrate', 0),
        ('--finalists is 1', tiny_search, checkpoint, '--targets', 5e5, '--finalists',
         1, *SHORT),
        ('--finalists needs --short-training', tiny_search, checkpoint, '--targets',
         5e5, '--finalists', 2),
        ('--short-training is for finalists', tiny_search, checkpoint, '--targets',
         5e5, *SHORT),
        ('run without --launcher', tiny_search, checkpoint, '--targets', 5e5,
         '--finalists', 2, *SHORT, '--launcher', 'pytorch'),
        ("config 'none.py' does not exist", 'none.py', checkpoint, '--targets', 5e5)):
        assert words in main_error(monkeypatch, tool, *arguments, '--out', tmp_path)
    with pytest.raises(SystemExit):
        call_main(monkeypatch, tool, tiny_search, checkpoint, '--out', tmp_path,
                  '--max', 'flops=3')
    assert "'flops=3', expected NAME=NUMBER with one of macs, params" in (
        capsys.readouterr().err)
