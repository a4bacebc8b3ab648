# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import platform
import re

import pytest
from conftest import ROOT, load_tool, main_error, run_tool
from mmengine.config import Config

TOOL = 'tools/benchmarks/benchmark_allocator.py'


@pytest.mark.skipif(
    platform.libc_ver()[0] != 'glibc', reason='about glibc on Linux')
def test_both_settings(tiny_arch, tmp_path):
    cfg = Config.fromfile(ROOT / 'configs/demo/autonl-s_1xb32_demo-cls.py')
    cfg.model.backbone.update(arch=str(tiny_arch), out_indices=(-1, ))
    cfg.model.head.in_channels = 64
    path, out = tmp_path / 'tiny.py', tmp_path / 'allocator.json'
    cfg.dump(path)
    printed = run_tool(TOOL, path, '--batch-size', '2', '--input-shape', '32',
                       '--rounds', '1', '--steps', '2', '--out', out).stdout
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
