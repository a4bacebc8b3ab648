# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import statistics

import pytest
from conftest import ROOT, call_main, load_tool, main_error, run_tool

SCRIPT = 'tools/benchmarks/benchmark.py'
tool = load_tool(SCRIPT)


@pytest.fixture
def names(tiny_arch):
    return [str(tiny_arch), f'{tiny_arch}:no-light-nl']


@pytest.fixture
def run(names, tmp_path, monkeypatch, capsys):
    """Runs the tool here; returns what it printed and what it wrote."""

    def run(*arguments, networks=names):
        out = tmp_path / 'measurements.json'
        monkeypatch.setenv('AUTONL_KEEP_MEMORY', '0')
        call_main(monkeypatch, tool, '--networks', *networks, '--rounds', '2',
                  '--batch-size', '2', '--input-shape', '32', '--device', 'cpu',
                  '--out', out, *arguments)
        return capsys.readouterr().out, json.loads(out.read_text())

    return run


def mean_ratio(times, base):
    return pytest.approx(statistics.mean(a / b for a, b in zip(times, base)))


def test_networks_with_and_without(run, names):
    text, record = run('--parts', 'networks')
    rows = {(r['form'], r['kind'], r['network']): r for r in record['networks']}
    assert list(rows) == [
        (form, kind, n) for form, kind in (('eager', 'forward'),
                                           ('eager', 'training'),
                                           ('fused', 'forward'))
        for n in names]
    for (_, _, network), row in rows.items():
        assert len(row['seconds']) == 2
        assert ('ratio' in row) == (network == names[0])
    with_, without = (rows['fused', 'forward', n]['seconds'] for n in names)
    assert rows['fused', 'forward', names[0]]['ratio'] == mean_ratio(with_, without)
    assert 'measured on the CPU' in text and '1 thread,' in text
    assert f'| {names[0]} | eager | forward | ' in text
    assert 'allocator: left as it is' in text
    assert record['forms'] == ['eager', 'fused']


@pytest.mark.long
def test_variants_in_onnxruntime_relative_to_one(run, tiny_arch):
    paper, bounded, add = (f'{tiny_arch}:{variant}'
                           for variant in ('size', 'rms', 'add-only'))
    text, record = run('--parts', 'networks', '--forms', 'onnxruntime', '--base', paper,
                       networks=[paper, bounded, add])
    rows = {r['network']: r for r in record['networks']}
    assert list(rows) == [paper, bounded, add]
    assert {(r['form'], r['kind']) for r in rows.values()} == {
        ('onnxruntime', 'forward')}
    assert 'ratio' not in rows[paper] and f'| ratio to {paper} |' in text
    assert rows[add]['ratio'] == mean_ratio(rows[add]['seconds'],
                                            rows[paper]['seconds'])


def test_depthwise(run):
    text, record = run('--parts', 'depthwise')
    rows = record['depthwise']
    assert len(rows) == text.count('| 5x5 |') + text.count('| 3x3 |') == 4
    for row in rows:
        assert row['ratio'] == mean_ratio(row['ours'], row['torch'])


def test_without_a_compiler(run, monkeypatch):
    def fail():
        raise RuntimeError('no compiler')

    monkeypatch.setattr(tool, 'load_fused_operators', fail)
    text, record = run('--parts', 'profile')
    assert 'left out: no compiler' in text and record['forms'] == ['eager']
    with pytest.raises(SystemExit, match='no compiler'):
        run('--parts', 'profile', '--forms', 'fused')


def test_layer(run, monkeypatch):
    monkeypatch.setattr(tool, 'LAYER_SHAPES', ((2, 8, 12, 12, 2), (1, 16, 6, 6, 1)))
    text, record = run('--parts', 'layer')
    rows = record['layer']
    assert [(r['shape'], r['stride'], r['kind']) for r in rows] == [
        (shape, stride, kind)
        for shape, stride in (([2, 8, 12, 12], 2), ([1, 16, 6, 6], 1))
        for kind in ('forward', 'fused', 'training')]
    for row in rows:
        assert set(row['seconds']) == {
            'einsum', 'LightNL', 'LightNL, NCHW', 'NonLocal2d'}
        assert set(row['speedup']) == {'einsum', 'NonLocal2d'}
    mean = (rows[0]['speedup']['einsum'] * rows[3]['speedup']['einsum'])**0.5
    assert f'| geometric mean |  | forward |  | {mean:.2f} | ' in text


def test_what_does_not_fit_is_left_out(run, monkeypatch):
    monkeypatch.setattr(tool, 'free_memory', lambda device: 2**20)
    monkeypatch.setattr(tool, 'LAYER_SHAPES', ((1, 8, 32, 32, 1), ))
    text, record = run('--parts', 'layer')
    assert all('NonLocal2d' not in r['speedup'] for r in record['layer'])
    assert text.count('does not fit') == 3


def test_memory_and_growth(run, names, monkeypatch):
    # separate processes are measured in the tests of peak_memory
    asked = []

    def peak(make_step, args, device):
        make_step(*args)()
        asked.append(args)
        return 3.0 * args[3] * args[4] * (1.1 if args[1] == names[0] else 1)

    monkeypatch.setattr(tool, 'peak_memory', peak)
    monkeypatch.setattr(tool, 'SCALING_SHAPES', ((32, 32), (32, 64), (64, 64)))
    text, record = run('--parts', 'memory', 'scaling')
    with_it, without = record['memory']
    assert with_it['ratio']['peak'] == pytest.approx(1.1)
    assert '| 1.100 |' in text and without['ratio'] == {}
    tensors = [row['mib']['of tensors'] for row in (with_it, without)]
    assert tensors[0] > tensors[1] > 0
    assert with_it['ratio']['of tensors'] == tensors[0] / tensors[1]
    assert [(r['kind'], len(r['seconds'])) for r in record['scaling']] == [
        ('forward', 3), ('training', 3), ('fused', 3)] * 2
    for row in record['scaling']:
        assert row['slope_of_memory'] == pytest.approx(1)
        pixels = [32 * 32, 32 * 64, 64 * 64]
        assert row['slope_of_time'] == tool.slope(pixels, row['seconds'])
    assert ('training', names[0], 1, 32, 64, 'cpu') in asked
    text, record = run('--parts', 'scaling', '--forms', 'eager', networks=names[:1])
    assert [r['kind'] for r in record['scaling']] == ['forward', 'training']


def test_slope():
    assert tool.slope([10, 100, 1000], [3, 300, 30000]) == pytest.approx(2)


def test_profile_and_cpu_time(run):
    text, record = run('--parts', 'profile', '--cpu-time')
    with_, without = (row['ms'] for row in record['profile'])
    assert 'aten::bmm' in with_ and 'aten::bmm' not in without
    assert '| aten::bmm | ' in text and 'CPU time' in text


@pytest.mark.parametrize('arguments,words', [
    (['--rounds', '0'], 'at least 1'),
    (['--input-shape', '16'], 'at least 32'),
    (['--networks', 'nowhere.txt'], 'nowhere.txt'),
    (['--base', 's'], "--base is 's', which is not in --networks"),
])
def test_bad_input(arguments, words, monkeypatch):
    assert words in main_error(monkeypatch, tool, '--device', 'cpu', *arguments)


@pytest.mark.long
def test_with_torch_mmengine_and_mmcv_lite_alone(tiny_arch, tmp_path):
    bare = tmp_path / 'bare.py'
    bare.write_text(
        'import runpy, sys\n'
        'for name in ("mmpretrain", "mmdet", "mmseg", "mmcv._ext", "timm",\n'
        '             "tqdm", "onnx", "onnxruntime", "onnxscript"):\n'
        '    sys.modules[name] = None\n'
        'del sys.argv[0]\n'
        'runpy.run_path(sys.argv[0], run_name="__main__")\n')
    out = run_tool(bare, ROOT / SCRIPT, '--parts', 'networks', '--networks', tiny_arch,
                   '--rounds', '1', '--batch-size', '1', '--input-shape', '32',
                   '--device', 'cpu', fresh=True).stdout
    assert '| eager | training | ' in out
