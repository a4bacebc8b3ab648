# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json

import cv2
import pytest
from conftest import ROOT, call_main, load_tool, main_error

from autonl_mm import AUTONL_S, count_macs

tool = load_tool('tools/benchmarks/compare_backbones.py')


@pytest.mark.long
def test_table_json_and_plot(tmp_path, monkeypatch, scope, capsys):
    monkeypatch.setenv('AUTONL_KEEP_MEMORY', '0')
    out, plot = tmp_path / 'backbones.json', tmp_path / 'backbones.png'
    own = 'configs/mmpretrain/autonl-s-modern_32xb128_in1k.py'
    call_main(
        monkeypatch, tool, '--networks', 'autonl-s', 'mobilenet-v2', own,
        '--input-shape', '64', '--batch-size', '2', '--rounds', '2',
        '--channels-last', '--device', 'cpu', '--out', out, '--plot', plot)
    text = capsys.readouterr().out
    record = json.loads(out.read_text())
    rows = {row['config']: row for row in record['rows']}
    assert list(rows) == ['autonl-s', 'mobilenet-v2', own]
    row = rows['autonl-s']
    assert row['macs'] == count_macs(AUTONL_S.with_normalize('size'), 64).total
    assert row['parameters'] == 4389350 and row['top1'] == 76.5
    assert rows[own]['top1'] is None
    for row in rows.values():
        assert [len(row['seconds'][kind]) for kind in tool.KINDS] == [2, 2, 2]
    lines = [line for line in text.splitlines() if line.startswith('| ')]
    assert len(lines) == 5
    assert lines[2].startswith('| AutoNL-S | ')
    assert '| 76.5 | Li et al. 2020' in lines[2]
    assert lines[4].endswith('| - | - |')
    first, second = (1e3 * t for t in row['seconds']['latency'])
    assert f'| {(first + second) / 2:.1f} (' in lines[4]
    assert cv2.imread(str(plot)).std() > 5


def test_every_network_has_a_config_and_a_source():
    for config, (name, top1, source) in tool.NETWORKS.items():
        assert (ROOT / tool.CONFIG.format(config)).is_file()
        assert name and 60 < top1 < 80 and 'arXiv' in source


@pytest.mark.parametrize('arguments,words', [
    (['--networks', 'mobilenet-v9'], 'mobilenet-v9 is neither'),
    (['--networks', 'configs/mmpretrain/autonl-supernet_1xb32_cifar10.py'],
     'this is the config of a search'),
    (['--input-shape', '16'], '--input-shape is [16]'),
    (['--rounds', '0'], 'at least 1'),
])
def test_bad_input(arguments, words, monkeypatch, scope):
    assert words in main_error(monkeypatch, tool, *arguments)
