# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json

import pytest
from conftest import call_main, known_to_forks, load_tool, main_error

SCRIPT = 'tools/benchmarks/benchmark_search.py'


def test_measurements(tmp_path, capsys, scope):
    path = tmp_path / 'measurements.json'
    tool = load_tool(SCRIPT)
    with known_to_forks(tool) as patch:
        call_main(patch, tool, '--batch-size', '2', '--input-shape', '32',
                  '--rounds', '2', '--out', path)
    out = capsys.readouterr().out
    record = json.loads(path.read_text())
    kinds = ('largest network', 'supernet')
    seconds = [sum(record['times'][kind]) / 2 for kind in kinds]
    memory = [record['memory_mib'][kind] for kind in kinds]
    for kind, s, mib in zip(kinds, seconds, memory):
        assert len(record['times'][kind]) == 2
        assert f'| {kind} | {s:.3f} | ' in out and f' | {mib:.0f} |' in out
    assert record['ratio_of_time'] == pytest.approx(seconds[1] / seconds[0])
    assert record['ratio_of_memory'] == pytest.approx(memory[1] / memory[0])
    assert f'| ratio | {record["ratio_of_time"]:.2f} |' in out
    # the supernet has all weights of the largest network, and its gates
    assert memory[1] > memory[0]


@pytest.mark.parametrize('arguments, words', [
    (['--input-shape', '16'], '--input-shape is [16]'),
    (['--rounds', '0'], 'at least 1')])
def test_bad_input(arguments, words, monkeypatch):
    assert words in main_error(monkeypatch, load_tool(SCRIPT), *arguments)
