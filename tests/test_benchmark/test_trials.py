# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import textwrap

import pytest

from autonl_mm.benchmark import trials
from autonl_mm.benchmark.cluster import Cluster


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


def test_trains_once(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(trials.os, 'cpu_count', lambda: 8)
    out = tmp_path / 'run'
    prepared = []

    def train(**key):
        return trials.train(tool, 'config.py', out, {'model.width': 2}, 2, Cluster(),
                            lambda: prepared.append(out.is_dir()), **key)

    result = train(arch='a', seed=1)
    assert result.pop('seconds') > 0
    assert result == dict(
        arch='a', seed=1, metric='accuracy/top1', value=60.)
    log = (out / 'train.log').read_text()
    assert 'model.width=2' in log and 'max_keep_ckpts=1' in log
    assert 'threads 4' in log
    again = train(arch='a', seed=1)
    assert again == json.loads((out / 'result.json').read_text())
    assert (out / 'runs').read_text() == 'x' and prepared == [True]
    with pytest.raises(ValueError, match='holds another run'):
        train(arch='b', seed=1)


def test_a_run_that_fails(tool, tmp_path):
    out = tmp_path / 'run'
    with pytest.raises(RuntimeError, match=r'train\.log'):
        trials.train(tool, 'fail.py', out, {}, 1, Cluster())
    assert 'no such model' in (out / 'train.log').read_text()
    assert not (out / 'result.json').exists()


@pytest.mark.long
def test_a_run_that_was_begun_is_resumed(tool, tmp_path):
    out = tmp_path / 'run'

    def is_resumed(options=(), **key):
        trials.train(tool, 'config.py', out, dict(options), 1, Cluster(), **key)
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


def test_order_is_kept():
    assert trials.at_a_time(2, lambda x: x * x, [3, 1, 2], Cluster()) == [9, 1, 4]
