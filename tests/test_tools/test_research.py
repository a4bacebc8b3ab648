# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Each script runs and prints its table."""
import platform
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT, call_main, known_to_forks, load_tool
from mmengine.config import Config

from autonl_mm.runs.allocator import SWITCH


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='about glibc on Linux')
def test_allocator(tiny_arch, tmp_path, monkeypatch, capsys, scope):
    """In this process, where freed memory is kept from the second setting on: a
    process of its own takes 10 seconds to start."""
    tool = load_tool('tools/research/benchmark_allocator.py')
    cfg = Config.fromfile(ROOT / 'configs/demo/autonl-s_1xb32_demo-cls.py')
    cfg.model.backbone.update(arch=str(tiny_arch), out_indices=(-1, ))
    cfg.model.head.in_channels = 64
    cfg.dump(tmp_path / 'tiny.py')
    monkeypatch.setenv(SWITCH, '1')
    for name, value in dict(
            BATCH_SIZE=2, SIZE=(32, 32), PROCESSES=1, STEPS=2, ProcessPoolExecutor=
            lambda workers, context: ThreadPoolExecutor(workers)).items():
        monkeypatch.setattr(tool, name, value)
    call_main(monkeypatch, tool, tmp_path / 'tiny.py')
    found = re.findall(r'\| tiny \| ([\w ]+) (?:\| \d+ \([^|]+ ){2}\| [\d.]+ \|',
                       capsys.readouterr().out)
    assert found == ['training step', 'prediction']


def test_memory(capsys, scope):
    tool = load_tool('tools/research/benchmark_memory.py')
    with known_to_forks(tool) as patch:
        call_main(patch, tool, ROOT / 'configs/mmseg/autonl-s_fpn_1xb8-2400i_'
                  'cityscapes-256x256.py', '--input-shapes', '128x256', '256x512')
    out = capsys.readouterr().out
    assert re.search(r'\| 128x256 \| [\d,]+ \| - \|', out)
    pixel, = re.search(r'\| 256x512 \| [\d,]+ \| ([\d,]+) \|', out).groups()
    # the logits of 19 classes at full size
    assert int(pixel.replace(',', '')) >= 19 * 4


def test_search(capsys, scope):
    tool = load_tool('tools/research/benchmark_search.py')
    with known_to_forks(tool) as patch:
        call_main(patch, tool, '--batch-size', '2', '--input-shape', '32', '--rounds',
                  '2', '--device', 'cpu')
    memory = re.search(r'\| ratio \| [\d.]+ \| ([\d.]+) \|', capsys.readouterr().out)
    # the supernet has all weights of the largest network, and its gates
    assert float(memory[1]) > 1
