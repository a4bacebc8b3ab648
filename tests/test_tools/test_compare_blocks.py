# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import contextlib
import io
import json
import re

import pytest
from conftest import call_main, known_to_forks, load_tool, main_error

from autonl_mm.cost import light_nl_macs

SCRIPT = 'tools/benchmarks/compare_blocks.py'
NAMES = ['NonLocal2d', 'LightNL, ratio 1/4']
tool = load_tool(SCRIPT)


@pytest.fixture(scope='module')
def macs_only(tmp_path_factory):
    """Output and JSON of a run without measurements, in this process."""
    path = tmp_path_factory.mktemp('blocks') / 'blocks.json'
    printed = io.StringIO()
    in_mobilenet = tool.in_mobilenet
    with pytest.MonkeyPatch.context() as patch, \
            contextlib.redirect_stdout(printed):
        patch.setenv('AUTONL_KEEP_MEMORY', '0')
        # a second per block, and the other table has all of them
        patch.setattr(tool, 'in_mobilenet', lambda names: in_mobilenet(
            [n for n in names if n in ('none', 'NonLocal2d', tool.PAPERS)]))
        call_main(patch, tool, '--macs-only', '--device', 'cpu',
                  '--input-shapes', '7x7x320', '128x128x24', '--out', path)
    return printed.getvalue(), json.loads(path.read_text())


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """Output and JSON of a run with measurements."""
    path = tmp_path_factory.mktemp('blocks') / 'blocks.json'
    printed = io.StringIO()
    with known_to_forks(tool) as patch, contextlib.redirect_stdout(printed):
        patch.setattr(tool, 'BLOCKS', {name: tool.BLOCKS[name] for name in NAMES})
        patch.setattr(tool, 'free_memory', lambda: 1200 * 2**20)
        call_main(patch, tool, '--input-shapes', '48x48x8', '128x128x8', '--rounds',
                  '2', '--device', 'cpu', '--out', path)
    return printed.getvalue(), json.loads(path.read_text())


def test_the_papers_four_hundred_times(macs_only):
    """14.75 M against 6.25 G in MobileNetV2."""
    out, record = macs_only
    added = record['mobilenet_v2']
    light = added["LightNL, ratio 1/4, the paper's strides"]['macs']
    conventional = added['NonLocal2d']['macs']
    assert light == 14752136
    assert conventional == 6249599552
    assert 400 < conventional / light < 425
    assert '| NonLocal2d | 6,249.60 M | 424 times |' in out
    assert '| none | 0.00 M | 0 times | 0 |' in out


def test_macs_of_the_products(macs_only):
    rows = {(*r['input_shape'], r['block']): r for r in macs_only[1]['rows']}
    for shape in ((7, 7, 320), (128, 128, 24)):
        side, _, c = shape
        n = side * side
        assert rows[(*shape, 'none')]['macs'] == 0
        assert rows[(*shape, 'NonLocal2d')]['macs'] == \
            4 * n * c * c + 2 * n * n * c
        assert rows[(*shape, 'NonLocal2d, reduction 2')]['macs'] == \
            2 * n * c * c + n * n * c
        # pooling, and two layers of a quarter
        assert rows[(*shape, 'squeeze-excite, ratio 1/4')]['macs'] == \
            n * c + c * c // 2
        for ratio, k in (('1', c), ('1/4', c // 4), ('1/8', c // 8)):
            for stride, suffix in ((1, ''), (2, ', stride 2')):
                sampled = (-(-side // stride))**2
                want = 9 * n * c + min(light_nl_macs(c, k, n, sampled, 'size').values())
                row = rows[(*shape, f'LightNL, ratio {ratio}{suffix}')]
                assert row['macs'] == want
                assert row['parameters'] == 9 * c + 2 * c
        assert 'forward_ms' not in rows[(*shape, 'none')]


@pytest.mark.long
def test_measures(measured):
    out, record = measured
    rows = {r['block']: r for r in record['rows'] if r['input_shape'][0] == 48}
    assert list(rows) == NAMES
    for row in rows.values():
        for kind in ('forward_ms', 'training_ms'):
            assert len(row[kind]) == 2
    # an affinity of 48**4 float32 is 20 MiB
    assert rows['NonLocal2d']['memory_mib'] > 20 + \
        rows['LightNL, ratio 1/4']['memory_mib']
    assert re.search(r'\| 48x48x8 \| NonLocal2d \| 85\.\d+ M \| 296 \| \d', out)


@pytest.mark.long
def test_what_does_not_fit_is_said(measured):
    out, _ = measured
    row, = re.findall(r'\| 128x128x8 \| NonLocal2d \|.*', out)
    assert 'needs more than 600 MiB' in row
    row, = re.findall(r'\| 128x128x8 \| LightNL, ratio 1/4 \|.*', out)
    assert 'needs' not in row


@pytest.mark.parametrize('arguments,words', [
    (['--input-shapes', '7x320'], "'7x320', expected HxWxC"),
    (['--input-shapes', '7x7x4'], 'at least 8 channels'),
    (['--rounds', '0'], 'at least 1'),
])
def test_bad_input(arguments, words, monkeypatch):
    assert words in main_error(monkeypatch, tool, *arguments)
