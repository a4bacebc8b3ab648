# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import pytest
from conftest import load_tool, main_error

tool = load_tool('tools/benchmarks/compare_configs.py')


def test_tables():
    """Differences are paired by seed; a curve that lacks a step has no mean there."""
    values = dict(scratch=[20., 22., 24.], remapped=[30., 33., 36.])
    curves = dict(scratch=[{1: 10., 2: v} for v in values['scratch']],
                  remapped=[{1: 20., 2: 30.}, {1: 21., 2: 33.}, {2: 36.}])
    results, means = tool.tables(values, curves).split('\n\n')
    assert [line.split(' | ') for line in results.splitlines()[2:]] == [
        ['| scratch', '20.00', '22.00', '24.00', '22.00', '2.00', ' |'],
        # differences 10, 11, 12: 4.303 is the quantile of two degrees of freedom
        ['| remapped', '30.00', '33.00', '36.00', '33.00', '3.00',
         f'+11.00 ± {4.3027 / 3**0.5:.2f} |']]
    assert means.splitlines()[2:] == ['| scratch | 10.00 | 22.00 |',
                                      '| remapped |  | 33.00 |']


def test_one_seed_and_one_step():
    assert tool.tables(dict(a=[1.], b=[2.]), dict(a=[{5: 1.}], b=[{5: 2.}])) == """\
| config | seed 0 | mean |
| --- | ---: | ---: |
| a | 1.00 | 1.00 |
| b | 2.00 | 2.00 |"""


@pytest.mark.parametrize('args, message', [
    (['a.py', 'other/a.py'], 'configs have the same name: a, a'),
    (['a.py', 'b.py'], 'config b.py does not exist'),
    (['a.py', '--seeds', '0'], '--seeds and --jobs must be at least 1'),
])
def test_errors(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.py').touch()
    assert message in main_error(monkeypatch, tool, *args, '--work-dir', 'runs')
    assert [p.name for p in tmp_path.iterdir()] == ['a.py']
