# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import sys

import pytest
import torch
from conftest import call_main, known_to_forks, load_tool, main_error

from autonl_mm.export.engines import ENGINES

tool = load_tool('tools/benchmarks/engines.py')


def test_table_json_and_plot(tiny_arch, monkeypatch, tmp_path, capsys):
    """In onnxruntime; others differ by their name alone."""
    names = [str(tiny_arch), f'{tiny_arch}:no-light-nl']
    monkeypatch.setattr(tool, 'BASE', names[1])
    threads = torch.get_num_threads()
    with known_to_forks(tool):
        call_main(monkeypatch, tool, '--engines', 'onnxruntime', '--networks', *names,
                  '--threads', 1, '--rounds', 2, '--input-shape', 64, '--out',
                  tmp_path / 'x.json', '--plot', tmp_path / 'x.png')
    torch.set_num_threads(threads)
    record = json.loads((tmp_path / 'x.json').read_text())
    rows = {r['network']: r for r in record['records']}
    assert list(rows) == names and all(len(r['seconds']) == 2 for r in rows.values())
    assert rows[names[0]][f'ratio to {names[1]}'] > 0
    out = capsys.readouterr().out
    assert '| network | onnxruntime, 1 |' in out and f'| {names[1]} |' in out
    assert (tmp_path / 'x.png').stat().st_size > 1000


@pytest.mark.parametrize('options, words', [
    (['--networks', 'no_such_net'], "'no_such_net' is neither"),
    (['--threads', 0], 'expected at least 1 each'),
    (['--rounds', 0], '--rounds is 0'),
])
def test_bad_options(options, words, monkeypatch):
    assert words in main_error(monkeypatch, tool, '--engines', 'onnxruntime', *options)


def test_engines_at_hand(monkeypatch, capsys):
    for engine in ENGINES.values():
        for module in engine.modules if engine.name != 'onnxruntime' else ():
            if module != 'onnx':
                monkeypatch.setitem(sys.modules, module, None)
    assert tool.choose_engines(None) == ['onnxruntime']
    assert "pip install -e '.[ncnn]'" in capsys.readouterr().out
    with pytest.raises(ImportError, match='ncnn models need ncnn'):
        tool.choose_engines(['ncnn'])
