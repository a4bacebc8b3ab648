# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import platform
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT, call_main, load_tool, main_error, run_tool
from mmengine.config import Config

from autonl_mm.runs.allocator import SWITCH

TOOL = 'tools/benchmarks/benchmark_allocator.py'


@pytest.mark.skipif(
    platform.libc_ver()[0] != 'glibc', reason='about glibc on Linux')
@pytest.mark.parametrize('processes', [
    False, pytest.param(True, marks=pytest.mark.slow)])
def test_both_settings(processes, tiny_arch, tmp_path, monkeypatch, capsys, scope):
    """Without processes of their own, which take 10 seconds each to start, both are
    measured in this process, where freed memory is kept from the second on."""
    cfg = Config.fromfile(ROOT / 'configs/demo/autonl-s_1xb32_demo-cls.py')
    cfg.model.backbone.update(arch=str(tiny_arch), out_indices=(-1, ))
    cfg.model.head.in_channels = 64
    path, out = tmp_path / 'tiny.py', tmp_path / 'allocator.json'
    cfg.dump(path)
    arguments = [path, '--batch-size', '2', '--input-shape', '32', '--rounds', '1',
                 '--steps', '2', '--out', out]
    if processes:
        printed = run_tool(TOOL, *arguments).stdout
    else:
        tool = load_tool(TOOL)
        monkeypatch.setenv(SWITCH, '1')
        monkeypatch.setattr(tool, 'ProcessPoolExecutor',
                            lambda workers, context: ThreadPoolExecutor(workers))
        call_main(monkeypatch, tool, *arguments)
        printed = capsys.readouterr().out
    times = re.findall(r'\| tiny \| ([\w ]+) \| [^|]+ \| [^|]+ \| ([\d.]+) \|',
                       printed)
    assert [kind for kind, _ in times] == ['training step', 'prediction']
    seconds = json.loads(out.read_text())['seconds'][str(path)]
    for kind, ratio in times:
        before, after = seconds[kind]['0'][0], seconds[kind]['1'][0]
        assert float(ratio) == pytest.approx(before / after, abs=0.006)


@pytest.mark.parametrize('args, words', [
    (['nowhere.py'], "config 'nowhere.py' does not exist"),
    (['--input-shape', '8', '8'], '--input-shape is [8, 8]'),
    (['--steps', '0'], 'at least 1')])
def test_bad_settings(args, words, monkeypatch):
    assert words in main_error(monkeypatch, load_tool(TOOL), *args)
