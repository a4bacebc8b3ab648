# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The benchmark of a GPU, on the CPU."""
import json

import pytest
from conftest import call_main, load_tool, main_error

tool = load_tool('tools/benchmarks/gpu.py')
SMALL = ('--device', 'cpu', '--input-shape', 32, '--rounds', 1, '--workers', 0)


@pytest.fixture
def run(tiny_arch, tmp_path, monkeypatch, capsys):
    """Runs the tool with a tiny network; returns its rows and what it printed."""
    networks = f'{tiny_arch}:no-light-nl', str(tiny_arch)

    def run(*options):
        out = tmp_path / 'gpu.json'
        call_main(monkeypatch, tool, *SMALL, '--networks', *networks, '--out', out,
                  *options)
        record = json.loads(out.read_text())
        assert record['pipeline'] > 0
        return record['rows'], capsys.readouterr().out

    return run


def test_rows(run, tiny_arch):
    rows, printed = run('--batch-sizes', 2, 4)
    assert [(r['batch'], r['pass'], r['network'] == str(tiny_arch)) for r in rows] == [
        (batch, kind, light_nl) for batch in (2, 4)
        for kind in ('training', 'inference') for light_nl in (False, True)]
    for row in rows:
        assert row['images/s'] == row['batch'] / row['seconds'][0] and row['MiB'] > 0
        assert row['dtype'] == 'float32'
        assert ('limited by' in row) == (row['pass'] == 'training')
        light_nl = row['network'] == str(tiny_arch)
        assert ('time to no LightNL' in row) == light_nl
        assert ('LightNL' in row) == (light_nl and row['batch'] == 2)
    for row in rows[1:4:2]:
        assert row['LightNL']['aten::bmm'] > 0  # nothing else has these
    assert '8 of 8 rows' in printed and 'ms in aten::' in printed
    assert rows[4]['MiB'] > rows[0]['MiB'] > rows[2]['MiB']  # by batch, by pass


def test_order_of_all_rows(monkeypatch):
    """The first values of the options first, and compiling last."""
    monkeypatch.setattr('sys.argv', ['gpu.py', '--forms', *tool.FORMS])
    args = tool.parse_args()
    keys = list(tool.keys_of_rows(args))
    assert len(set(keys)) == 7 * 2 * 2 * 2 * 3
    assert {key[2:] for key in keys[:14]} == {(256, 'bfloat16', 'eager')}
    assert {key[2:] for key in keys[14:56]} == {
        (256, 'bfloat16', 'graph'), (256, 'float16', 'eager'),
        (1024, 'bfloat16', 'eager')}
    assert keys[-1][2:] == (1024, 'float16', 'compile')


def test_an_error_of_one_row(run, monkeypatch):
    """The next rows are measured, without a comparison with it."""

    def training(model, *args):
        if any('light_nl' in name for name, _ in model.named_modules()):
            return real(model, *args)
        raise RuntimeError('out of memory\nmore')

    real = tool.training
    monkeypatch.setattr(tool, 'operator_times', lambda *args: {})  # takes a second
    monkeypatch.setitem(tool.PASSES, 'training', training)
    rows, printed = run('--batch-sizes', 2)
    assert rows[0]['error'] == 'RuntimeError: out of memory' and len(rows) == 4
    assert 'images/s' in rows[1] and 'time to no LightNL' not in rows[1]
    assert '| RuntimeError: out of memory\n' in printed


@pytest.mark.parametrize('stop', ['time', 'interrupt'])
def test_what_was_measured_is_kept(stop, run, tmp_path, monkeypatch):

    def measure(key, args):
        if key[1] == 'inference':
            if stop == 'interrupt':
                raise KeyboardInterrupt
            args.minutes = 0
        return {**dict(zip(tool.KEY, key)), 'images/s': 1., 'MiB': 1.}

    monkeypatch.setattr(tool, 'measure', measure)
    options = '--batch-sizes', 2
    if stop == 'time':
        rows, printed = run(*options)
        assert len(rows) == 3 and '3 of 4 rows' in printed
    else:
        with pytest.raises(SystemExit, match=r'interrupted, .*gpu\.json has the rows'):
            run(*options)
        rows = json.loads((tmp_path / 'gpu.json').read_text())['rows']
        assert len(rows) == 2


@pytest.mark.parametrize('options, words', [
    (['--networks', 'no_such_net'], "'no_such_net' is neither"),
    (['--batch-sizes', 8, 0], '--batch-sizes has 0'),
    (['--forms', 'graph'], 'needs a GPU'),
    (['--rounds', 0], '--rounds is 0'),
])
def test_bad_options(options, words, tmp_path, monkeypatch):
    assert words in main_error(monkeypatch, tool, *SMALL, '--out', tmp_path / 'x.json',
                               *options)
