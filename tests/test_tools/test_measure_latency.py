# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json

import pytest
from conftest import ROOT, load_tool, main_error, run_tool
from mmengine.config import Config

from autonl_mm.cost import LatencyTable
from autonl_mm.nas import AutoNLSuperNet

SCRIPT = 'tools/analysis_tools/measure_latency.py'


def test_table_serves_the_search(tiny_search, tmp_path):
    path = tmp_path / 'latency.json'
    out = run_tool(SCRIPT, tiny_search, '--out', path, '--rounds', '1').stdout
    record = json.loads(path.read_text())
    assert record['input_shape'] == [32, 32] and record['batch_size'] == 1
    assert f'{len(record["latency_ms"])} entries' in out

    backbone = dict(Config.fromfile(tiny_search).model.model.backbone)
    backbone.pop('type')
    supernet = AutoNLSuperNet(**backbone)
    supernet.set_cost_model(LatencyTable.from_file(path))
    low, high = supernet.cost_range()
    assert 0 < low < high

    # search for a latency, as in the README
    target = (low * high)**0.5
    log = run_tool(
        'tools/train.py', tiny_search, '--work-dir', tmp_path / 'search',
        '--cfg-options', f'model.cost={path}', f'model.target={target}',
        'train_cfg.max_epochs=2').stdout
    record = json.loads((tmp_path / 'search/gates/epoch_2.json').read_text())
    assert record['unit'] == 'ms' and f'target {target:,g} ms' in log
    assert record['cost'] == pytest.approx(target, rel=0.05)


def test_bad_input(tmp_path, monkeypatch, scope):
    out = tmp_path / 'latency.json'
    message = main_error(
        monkeypatch, load_tool(SCRIPT),
        ROOT / 'configs/mmpretrain/autonl-s_2xb128_cifar10.py', '--out', out)
    assert 'no AutoNLSuperNet' in message
    assert not out.exists()
