# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json

import pytest
from conftest import ROOT, call_main, load_tool, main_error

tool = load_tool('tools/benchmarks/benchmark_forward.py')
CLS = ROOT / 'configs/demo/autonl-s_1xb32_demo-cls.py'
DET = ROOT / 'configs/demo/retinanet_autonl-s_1xb8_demo-det.py'
SEG = ROOT / 'configs/demo/semantic-fpn_autonl-s_1xb8_demo-seg.py'


def test_all_codebases(tmp_path, monkeypatch, capsys, scope):
    out = tmp_path / 'latency.json'
    call_main(monkeypatch, tool, CLS, DET, SEG, '--input-shapes', '64x64', '64x96',
              '32x32', '--rounds', '2', '--device', 'cpu', '--out', out)
    printed = capsys.readouterr().out
    measured = json.loads(out.read_text())
    models = measured['models']
    assert measured['batch_size'] == 1
    assert [m['input_shape'] for m in models] == [[64, 64], [64, 96], [32, 32]]
    for path, model in zip((CLS, DET, SEG), models):
        assert model['name'] == path.stem and f'| {path.stem} | ' in printed
        assert model['parameters'] > 100_000
        assert list(model['seconds']) == ['as trained', 'deploy form']
        for times in model['seconds'].values():
            assert len(times) == 2 and min(times) > 0


@pytest.mark.parametrize('arguments, words', [
    (['missing.py'], "'missing.py' does not exist"),
    ([CLS, '--rounds', '0'], '--rounds is 0'),
    ([CLS, '--input-shapes', '64'], "'64', expected HxW"),
    ([CLS, DET, SEG, '--input-shapes', '64x64', '64x64'], '2 shapes for 3 configs'),
    ([CLS], '--input-shape'),
    ([ROOT / 'configs/mmpretrain/autonl-supernet_1xb32_cifar10.py',
      '--input-shapes', '32x32'],
     'config of a search'),
])
def test_errors(arguments, words, monkeypatch, scope):
    assert words in main_error(monkeypatch, tool, *arguments)
