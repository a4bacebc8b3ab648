# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import re

from conftest import ROOT, call_main, known_to_forks, load_tool, main_error

TOOL = 'tools/benchmarks/benchmark_memory.py'


def test_one_row_per_size(capsys, scope):
    tool = load_tool(TOOL)
    with known_to_forks(tool) as patch:
        call_main(patch, tool, ROOT / 'configs/mmseg/autonl-s_fpn_1xb8-2400i_'
                  'cityscapes-256x256.py', '--input-shapes', '128x256', '256x512',
                  '--device', 'cpu')
    out = capsys.readouterr().out
    assert re.search(r'\| 128x256 \| [\d,]+ \| - \|', out)
    mib, pixel = re.search(r'\| 256x512 \| ([\d,]+) \| ([\d,]+) \|',
                           out).groups()
    # the logits of 19 classes at full size are 9.5 MiB
    assert int(mib.replace(',', '')) >= 10
    assert int(pixel.replace(',', '')) >= 19 * 4


def test_bad_input(monkeypatch):
    message = main_error(monkeypatch, load_tool(TOOL), '--input-shapes', '256')
    assert "--input-shapes has '256', expected HxW" in message
