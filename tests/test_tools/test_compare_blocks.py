# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import re

import pytest
from conftest import run_tool

from autonl_mm.cost import light_nl_macs

SCRIPT = 'tools/benchmarks/compare_blocks.py'


@pytest.fixture(scope='module')
def macs_only(tmp_path_factory):
    path = tmp_path_factory.mktemp('blocks') / 'blocks.json'
    out = run_tool(SCRIPT, '--macs-only', '--sizes', '7:320', '128:24',
                   '--out', path).stdout
    return out, json.loads(path.read_text())


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
    rows = {(r['side'], r['block']): r for r in macs_only[1]['rows']}
    for side, c in ((7, 320), (128, 24)):
        n = side * side
        assert rows[side, 'none']['macs'] == 0
        assert rows[side, 'NonLocal2d']['macs'] == 4 * n * c * c + 2 * n * n * c
        assert rows[side, 'NonLocal2d, reduction 2']['macs'] == \
            2 * n * c * c + n * n * c
        # pooling, and two layers of a quarter
        assert rows[side, 'squeeze-excite, ratio 1/4']['macs'] == \
            n * c + c * c // 2
        for ratio, k in (('1', c), ('1/4', c // 4), ('1/8', c // 8)):
            for stride, suffix in ((1, ''), (2, ', stride 2')):
                sampled = (-(-side // stride))**2
                want = 9 * n * c + min(
                    light_nl_macs(c, k, n, sampled).values())
                row = rows[side, f'LightNL, ratio {ratio}{suffix}']
                assert row['macs'] == want
                assert row['parameters'] == 9 * c + 2 * c
        assert 'forward_ms' not in rows[side, 'none']


def test_measures(tmp_path):
    path = tmp_path / 'blocks.json'
    names = ['none', 'NonLocal2d', 'LightNL, ratio 1/4']
    out = run_tool(SCRIPT, '--sizes', '48:8', '--rounds', '2', '--blocks',
                   *names, '--memory-limit', '2000', '--out', path).stdout
    rows = {r['block']: r for r in json.loads(path.read_text())['rows']}
    assert list(rows) == names
    for row in rows.values():
        for kind in ('forward_ms', 'training_ms'):
            assert len(row[kind]) == 2 and min(row[kind]) > 0
    # an affinity of 48**4 float32 is 20 MiB
    assert rows['NonLocal2d']['memory_mib'] > 20 + \
        rows['LightNL, ratio 1/4']['memory_mib']
    assert re.search(r'\| 48x48x8 \| NonLocal2d \| 85\.\d+ M \| 296 \| \d', out)


def test_what_does_not_fit_is_said(tmp_path):
    out = run_tool(SCRIPT, '--sizes', '128:8', '--rounds', '1', '--blocks',
                   'NonLocal2d', 'LightNL, ratio 1/4', '--memory-limit',
                   '600').stdout
    assert 'NonLocal2d' in out and 'needs more than 600 MiB' in out
    row, = re.findall(r'\| 128x128x8 \| LightNL, ratio 1/4 \|.*', out)
    assert 'needs' not in row


@pytest.mark.parametrize('arguments,words', [
    (['--sizes', '7x320'], 'SIDE:CHANNELS'),
    (['--rounds', '0'], 'at least 1'),
])
def test_bad_input(arguments, words):
    result = run_tool(SCRIPT, *arguments, check=False)
    assert result.returncode and words in result.stdout
