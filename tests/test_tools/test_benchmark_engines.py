# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import sys

import pytest
import torch
from conftest import call_main, known_to_forks, load_tool, main_error

from autonl_mm.arch import ArchSpec
from autonl_mm.cost import count_macs
from autonl_mm.export.engines import ENGINES

tool = load_tool('tools/benchmarks/engines.py')


def test_table_json_and_plot(tiny_arch, monkeypatch, tmp_path, capsys):
    """In onnxruntime; others differ by their name alone."""
    names = [str(tiny_arch), f'{tiny_arch}:no-light-nl']
    monkeypatch.setattr(tool, 'BASE', names[1])
    monkeypatch.setitem(tool.TOP1, names[0], 12.3)
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
    assert '| network | top-1, % | MACs, M | onnxruntime, 1 |' in out
    macs = round(count_macs(ArchSpec.from_file(tiny_arch), 64).total / 1e6)
    assert f'| {names[0]} | 12.3 | {macs} | ' in out and f'| {names[1]} | - | ' in out
    assert (tmp_path / 'x.png').stat().st_size > 1000


@pytest.mark.parametrize('options, words', [
    (['--networks', 'no_such_net'], "'no_such_net' is neither"),
    (['--threads', 0], 'expected at least 1 each'),
    (['--rounds', 0], '--rounds is 0'),
])
def test_bad_options(options, words, monkeypatch):
    assert words in main_error(monkeypatch, tool, '--engines', 'onnxruntime', *options)


def test_networks_have_published_accuracies():
    """And those of the zoo are measured at the size of their accuracy."""
    for name in (*tool.ZOO, *tool.NETWORKS):
        assert name in tool.TOP1 or ':' in name
    assert tool.size_of('tf_efficientnet_lite1') == (240, 240)


def test_plot_of_time_and_accuracy(monkeypatch):
    """The front has the networks that no network beats in both."""
    figures = []
    monkeypatch.setattr(
        tool.outputs, 'save_figure', lambda figure, path: figures.append(figure))
    monkeypatch.setattr(tool.plt, 'close', lambda figure: None)
    seconds = {'mnasnet_100': 0.01, 'mobilenetv2_100': 0.02, 'AutoNL-S': 0.03,
               'AutoNL-S:relu': 0.001}
    tool.plot([dict(engine=engine, threads=1, network=name, seconds=[s])
               for engine in ('mnn', 'ncnn', 'litert') for name, s in seconds.items()],
              'x.png')
    panels = figures[0].axes
    assert [ax.get_title() for ax in panels] == [
        f'{engine}, 1 thread' for engine in ('mnn', 'ncnn', 'litert')]
    names = [text.get_text() for text in panels[0].texts]
    assert names == ['mnasnet_100', 'mobilenetv2_100', 'AutoNL-S']
    tool.plot([dict(engine='mnn', threads=1, network='x:relu', seconds=[1])], 'x.png')
    front, *points = panels[0].lines
    assert [*zip(*front.get_data())] == [(10, 74.65), (30, 76.5)]
    assert len(points) == 3


def test_engines_at_hand(monkeypatch, capsys):
    for engine in ENGINES.values():
        for module in engine.modules if engine.name != 'onnxruntime' else ():
            if module != 'onnx':
                monkeypatch.setitem(sys.modules, module, None)
    assert tool.choose_engines(None) == ['onnxruntime']
    assert "pip install -e '.[ncnn]'" in capsys.readouterr().out
    with pytest.raises(ImportError, match='ncnn models need ncnn'):
        tool.choose_engines(['ncnn'])
