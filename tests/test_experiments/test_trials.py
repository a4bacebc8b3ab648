# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import argparse
import json
import textwrap
from math import inf, nan

import pytest

from autonl_mm.experiments import trials
from autonl_mm.experiments.cluster import Cluster


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A replacement for train.py: logs like mmengine and counts its runs."""
    path = tmp_path / 'train.py'
    path.write_text(textwrap.dedent("""
        import json, os, sys
        from pathlib import Path
        config, _, out, _, *options = sys.argv[1:]
        if 'fail' in config:
            sys.exit('no such model')
        folder = Path(out) / '20260101_000000/vis_data'
        folder.mkdir(parents=True, exist_ok=True)
        records = [dict(loss=1., step=1), {'accuracy/top1': 40., 'step': 1},
                   {'time': 1., 'accuracy/top1': 60., 'step': 2}]
        (folder / 'scalars.json').write_text(
            '\\n'.join(map(json.dumps, records)))
        print('\\n'.join(options))
        print('threads', os.environ['OMP_NUM_THREADS'])
        with open(Path(out) / 'runs', 'a') as f:
            f.write('x')
    """))
    (tmp_path / 'config.py').write_text('lr = 0.1')
    (tmp_path / 'fail.py').write_text('')
    monkeypatch.chdir(tmp_path)
    return path


def train(tool, out, config='config.py', options=None, jobs=1, prepare=None, **key):
    run = trials.Trial(config, out, key, options or {}, prepare=prepare)
    return trials.train_all(tool, [run], jobs, Cluster())[0]


@pytest.mark.parametrize('losses, expected', [
    ([9, 9, 1, 3], 2), ([nan, 9, nan, 1, inf, 3], 2), ([9, 2, 1, nan], nan)])
def test_training_loss(losses, expected, tmp_path):
    """Records that are not finite are left out; a diverged run has no loss."""
    folder = tmp_path / '20260101_000000/vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(
        json.dumps(dict(loss=loss, step=i)) for i, loss in enumerate(losses)))
    assert trials.training_loss(tmp_path) == dict(
        metric='loss', value=pytest.approx(expected, nan_ok=True))


def test_several_reports_of_a_work_dir(capsys):
    parser = argparse.ArgumentParser()
    trials.add_args(parser, 'comparison')
    assert parser.parse_args(['--work-dir', 'runs']).report == 'comparison'
    name = 'comparison_6.5M'
    assert parser.parse_args(['--work-dir', 'runs', '--report', name]).report == name
    for wrong in ('', 'no/folder', '.'):
        with pytest.raises(SystemExit):
            parser.parse_args(['--work-dir', 'runs', '--report', wrong])
        assert 'expected the name of a file without folder' in capsys.readouterr().err


def test_trains_once(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(trials.os, 'cpu_count', lambda: 8)
    out = tmp_path / 'run'
    prepared = []

    def once():
        return train(tool, out, options={'model.width': 2}, jobs=2,
                     prepare=lambda: prepared.append(out.is_dir()), arch='a', seed=1)

    result = once()
    assert result.pop('seconds') > 0
    assert result == dict(arch='a', seed=1, metric='accuracy/top1', value=60.)
    log = (out / 'train.log').read_text()
    assert 'model.width=2' in log and 'max_keep_ckpts=1' in log
    assert 'threads 4' in log
    assert once() == json.loads((out / 'result.json').read_text())
    assert (out / 'runs').read_text() == 'x' and prepared == [True]


def test_results_of_another_recipe_are_not_mixed_in(tool, tmp_path):
    """Found before anything is trained."""
    config, other = tmp_path / 'config.py', tmp_path / 'other.py'
    other.write_text(config.read_text())

    def run(name, file='x', config=config, options=(), **key):
        return trials.Trial(config, tmp_path / name, key, dict(options),
                            files={'model.arch': tmp_path / file})

    first = dict(name='a', arch='a', options={'lr': 1})
    expected = trials.train_all(tool, [run(**first)], 1, Cluster())
    # the same content at another path
    same = run(**first, file='y', config=other)
    assert trials.train_all(tool, [same], 1, Cluster()) == expected
    other.write_text('lr = 0.2')
    for difference in (dict(arch='b'), dict(options={'lr': 2}), dict(options={}),
                       dict(config=other)):
        runs = [run('new', arch='a'), run(**{**first, **difference})]
        with pytest.raises(ValueError, match=r'/a holds a run of another network'):
            trials.train_all(tool, runs, 1, Cluster())
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('change, words', [
    (dict(value='60'), "value is '60', expected a number"),
    (dict(metric=None), 'metric is None, expected text'),
    (dict(seconds=[1]), r'seconds is \[1\], expected a number')])
def test_a_broken_result_is_found_before_anything_is_trained(
        change, words, tool, tmp_path):
    train(tool, tmp_path / 'b', seed=1)
    record = tmp_path / 'b/result.json'
    record.write_text(json.dumps(dict(json.loads(record.read_text()), **change)))
    runs = [trials.Trial('config.py', tmp_path / name, dict(seed=1), {})
            for name in 'ab']
    with pytest.raises(ValueError, match=rf'^\S*/b/result\.json .*{words}: remove '):
        trials.train_all(tool, runs, 1, Cluster())
    assert not (tmp_path / 'a').exists()


def test_a_run_that_fails(tool, tmp_path):
    out = tmp_path / 'run'
    with pytest.raises(RuntimeError, match=r'train\.log'):
        train(tool, out, 'fail.py')
    assert 'no such model' in (out / 'train.log').read_text()
    assert not (out / 'result.json').exists()


@pytest.mark.long
def test_a_run_that_was_begun_is_resumed(tool, tmp_path):
    out = tmp_path / 'run'

    def is_resumed(options=(), **key):
        train(tool, out, options=dict(options), **key)
        (out / 'result.json').unlink()  # as if the tool had been killed before
        return (out / 'train.log').read_text().split('threads')[-2].count('--resume')

    assert [is_resumed(seed=1), is_resumed(seed=1), is_resumed(seed=1)] == [0, 1, 1]
    assert (out / 'train.log').read_text().count('threads') == 3  # appended
    # another run: from its start, with its own log
    assert [is_resumed(seed=2), is_resumed(seed=2)] == [0, 1]
    assert [is_resumed([('lr', 1)], seed=2), is_resumed([('lr', 1)], seed=2)] == [0, 1]
    (tmp_path / 'config.py').write_text('lr = 0.2')
    assert is_resumed([('lr', 1)], seed=2) == 0
    assert (out / 'train.log').read_text().count('threads') == 1


def test_order_is_kept(tool, tmp_path):
    runs = [trials.Trial('config.py', tmp_path / str(i), dict(seed=i), {})
            for i in (3, 1, 2)]
    results = trials.train_all(tool, runs, 2, Cluster())
    assert [result['seed'] for result in results] == [3, 1, 2]
