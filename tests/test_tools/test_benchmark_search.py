# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json

from conftest import run_tool

SCRIPT = 'tools/benchmarks/benchmark_search.py'


def test_figures(tmp_path):
    path = tmp_path / 'figures.json'
    out = run_tool(SCRIPT, '--batch-size', '2', '--input-size', '32',
                   '--rounds', '2', '--out', path).stdout
    figures = json.loads(path.read_text())
    for kind in ('largest network', 'supernet'):
        assert f'| {kind} | ' in out
        assert len(figures['times'][kind]) == 2
        assert figures['memory_mib'][kind] > 0
    assert figures['ratio_of_time'] > 0
    assert f'| ratio | {figures["ratio_of_time"]:.2f} |' in out


def test_bad_input():
    result = run_tool(SCRIPT, '--input-size', '16', check=False)
    assert result.returncode and 'at least 32' in result.stdout
