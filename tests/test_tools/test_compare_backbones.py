# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import importlib.util
import json

import cv2
import pytest
from conftest import ROOT, run_tool

from autonl_mm import AUTONL_S, count_macs

SCRIPT = 'tools/benchmarks/compare_backbones.py'
spec = importlib.util.spec_from_file_location('compare_backbones',
                                              ROOT / SCRIPT)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def test_table_json_and_plot(tmp_path):
    out, plot = tmp_path / 'backbones.json', tmp_path / 'backbones.png'
    own = 'configs/mmpretrain/autonl-s-modern_32xb128_in1k.py'
    text = run_tool(
        SCRIPT, '--networks', 'autonl-s', 'mobilenet-v2', own, '--input-size',
        '64', '--batch-size', '2', '--rounds', '2', '--channels-last', '--out',
        out, '--plot', plot).stdout
    record = json.loads(out.read_text())
    rows = {row['config']: row for row in record['rows']}
    assert list(rows) == ['autonl-s', 'mobilenet-v2', own]
    row = rows['autonl-s']
    assert row['macs'] == count_macs(AUTONL_S, 64).total
    assert row['parameters'] == 4389350 and row['top1'] == 76.5
    assert rows[own]['top1'] is None
    for row in rows.values():
        for values in row['seconds'].values():
            assert len(values) == 2 and min(values) > 0
    lines = [line for line in text.splitlines() if line.startswith('| ')]
    assert len(lines) == 5
    assert lines[2].startswith('| AutoNL-S | ')
    assert '| 76.5 | Li et al. 2020' in lines[2]
    assert lines[4].endswith('| - | - |')
    image = cv2.imread(str(plot))
    assert image.std() > 5


def test_every_network_has_a_config_and_a_source():
    for config, (name, top1, source) in tool.NETWORKS.items():
        assert (ROOT / tool.CONFIG.format(config)).is_file()
        assert name and 60 < top1 < 80 and 'arXiv' in source


@pytest.mark.parametrize('arguments,words', [
    (['--networks', 'mobilenet-v9'], 'mobilenet-v9 is neither'),
    (['--networks', 'configs/mmpretrain/autonl-supernet_1xb32_cifar10.py'],
     'compare_backbones.py: the config is a search'),
    (['--input-size', '16'], 'at least 32'),
])
def test_bad_input(arguments, words):
    result = run_tool(SCRIPT, *arguments, check=False)
    assert result.returncode and words in result.stdout
