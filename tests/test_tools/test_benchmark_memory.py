# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import re

from conftest import run_tool

TOOL = 'tools/benchmarks/benchmark_memory.py'


def test_a_row_a_size():
    out = run_tool(TOOL, 'configs/mmseg/autonl-s_fpn_1xb8-2400i_cityscapes-'
                   '256x256.py', '--sizes', '128x256', '256x512', '--device',
                   'cpu').stdout
    assert re.search(r'\| 128x256 \| [\d,]+ \| - \|', out)
    mib, pixel = re.search(r'\| 256x512 \| ([\d,]+) \| ([\d,]+) \|',
                           out).groups()
    # the logits of 19 classes at full size alone are 9.5 MiB
    assert int(mib.replace(',', '')) >= 10
    assert int(pixel.replace(',', '')) >= 19 * 4
    failed = run_tool(TOOL, '--sizes', '256', check=False)
    assert failed.returncode == 1
    assert 'such as 512x1024' in failed.stdout
