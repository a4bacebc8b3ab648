# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest
import torch
from conftest import ROOT, call_main, load_tool, main_error, run_tool
from mmengine.config import Config
from search_spaces import TINY_SPACE, latencies

from autonl_mm.arch import ArchSpec
from autonl_mm.cost import LatencyTable
from autonl_mm.experiments.ranking import Correlation
from autonl_mm.export.bare import write_bare
from autonl_mm.nas import AutoNLSuperNet

SCRIPT = 'tools/analysis_tools/measure_latency.py'


@pytest.mark.long
def test_table_serves_the_search(tiny_search, tmp_path):
    path = tmp_path / 'latency.json'
    out = run_tool(
        SCRIPT, tiny_search, '--out', path, '--rounds', '1', '--force').stdout
    record = json.loads(path.read_text())
    assert record['input_shape'] == [32, 32] and record['batch_size'] == 1
    assert f'{len(record["latency_ms"])} entries' in out

    backbone = dict(Config.fromfile(tiny_search).model.model.backbone)
    backbone.pop('type')
    supernet = AutoNLSuperNet(**backbone)
    supernet.set_cost_model(LatencyTable.from_file(path))
    low, high = supernet.cost_range()
    assert 0 < low < high

    # search for a latency, as in the README
    target = (low * high)**0.5
    log = run_tool(
        'tools/train.py', tiny_search, '--work-dir', tmp_path / 'search',
        '--cfg-options', f'model.cost={path}', f'model.target={target}',
        'train_cfg.max_epochs=2').stdout
    record = json.loads((tmp_path / 'search/gates/epoch_2.json').read_text())
    assert record['unit'] == 'ms' and f'target {target:,g} ms' in log
    assert record['cost'] == pytest.approx(target, rel=0.05)


@pytest.mark.long
def test_in_an_engine(tiny_search, tmp_path, monkeypatch, scope, capsys):
    """Each block by its shape once, and whole networks that the table is fitted to."""
    tool, path = load_tool(SCRIPT), tmp_path / 'latency.json'
    cfg, config = Config.fromfile(tiny_search), tmp_path / 'search.py'
    for stage in cfg.model.model.backbone.space.stages[1:]:  # fewer files to write
        stage.update(expand_ratio=3, se_ratio=0)
    cfg.dump(config)
    threads = torch.get_num_threads()
    call_main(monkeypatch, tool, config, '--out', path, '--rounds', 2, '--engine',
              'onnxruntime', '--threads', 1, '--num-networks', 4, '--force')
    torch.set_num_threads(threads)
    record, out = json.loads(path.read_text()), capsys.readouterr().out
    assert record['engine'] == 'onnxruntime' and record['threads'] == 1
    assert len(record['networks']) == 4 and 'rank correlation' in out
    found = record['fit']
    for row in record['networks']:
        arch = ArchSpec.from_text(row['arch'])
        fitted = LatencyTable.from_file(path).network(arch, (32, 32))
        layers = len(arch.blocks) + 2
        assert fitted == pytest.approx(
            found['factor'] * row['sum_ms'] + layers * found['added_ms'])


@pytest.mark.long
def test_on_another_device(tiny_search, tmp_path, monkeypatch, scope, capsys):
    """A process of this machine that knows only the files stands for a phone."""
    tool, path = load_tool(SCRIPT), tmp_path / 'latency.json'
    cfg, config = Config.fromfile(tiny_search), tmp_path / 'search.py'
    for stage in cfg.model.model.backbone.space.stages[1:]:  # fewer files
        stage.update(kernel_size=[3, 5], expand_ratio=3, se_ratio=0, nl_ratio=0)
    cfg.dump(config)
    models = tmp_path / 'models'
    export = [config, '--engine', 'onnxruntime', '--num-networks', 4, '--for-device',
              models]

    def killed(engine, network, shape, file):
        if len([*models.glob('*/model.onnx')]) == 3:
            raise KeyboardInterrupt
        write_bare(engine, network, shape, file)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tool, 'write_bare', killed)
        call_main(patch, tool, *export)
    first = models / '0000/model.onnx'
    written = first.stat().st_mtime_ns
    call_main(monkeypatch, tool, *export)
    assert first.stat().st_mtime_ns == written and not path.exists()

    assert 'models of another space' in main_error(
        monkeypatch, tool, *export, '--num-networks', 3)
    call_main(monkeypatch, load_tool('tools/deployment/run_on_device.py'), models,
              '--runs', 3, '--rounds', 2)
    fit = [config, '--from-device', models / 'table.json', '--out', path]
    call_main(monkeypatch, tool, *fit, '--force')
    record, out = json.loads(path.read_text()), capsys.readouterr().out
    assert record['engine'] == 'onnxruntime' and record['rounds'] == 2
    assert len(record['networks']) == 4 and 'model.target=' in out

    # a device on which no block takes longer than another, but networks do
    table = json.loads((models / 'table.json').read_text())
    for i, row in enumerate(table['files']):
        row['ms'] = [1. + i * ('arch' in row)]
    (models / 'table.json').write_text(json.dumps(table))
    path.unlink()
    assert '--force writes the table' in main_error(monkeypatch, tool, *fit)
    assert not path.exists()
    assert 'another search space' in main_error(
        monkeypatch, tool, tiny_search, *fit[1:])


def test_ranks_are_checked():
    tool = load_tool(SCRIPT)
    tool.check_ranks(Correlation(0.8, 0.1, 0.9))
    for bad in ((0.79, 0.5, 0.9), (0.9, 0., 1.), (float('nan'), ) * 3):
        with pytest.raises(ValueError, match=r'expected at least 0\.8 and'):
            tool.check_ranks(Correlation(*bad))


def test_every_block_is_measured_as_it_is_built():
    """Dilated, and the stem with the channels of the image."""
    supernet = AutoNLSuperNet(dict(TINY_SPACE, stages=[
        *TINY_SPACE['stages'], dict(channels=32, depth=1, stride=2, kernel_size=3,
                                    expand_ratio=2, se_ratio=0, nl_ratio=0.25)]),
        input_shape=32, in_channels=1, output_stride=8)
    layers = load_tool(SCRIPT).candidates(supernet)
    assert layers.keys() == latencies(supernet).keys()
    key = next(key for key in layers if key.endswith(' stride1-dilation1-2'))
    block, shape = layers[key]
    assert block(torch.zeros(1, *shape)).shape == (1, 32, *shape[1:])
    assert block.light_nl.conv.dilation == (2, 2)


def test_without_networks(tiny_search, tmp_path, monkeypatch, scope, capsys):
    path = tmp_path / 'latency.json'
    call_main(monkeypatch, load_tool(SCRIPT), tiny_search, '--out', path, '--rounds', 1,
              '--num-networks', 0)
    record = json.loads(path.read_text())
    assert record['latency_ms'] and 'fit' not in record
    assert 'random networks' not in capsys.readouterr().out


def test_fit():
    """It finds what was put in, and does not make an entry negative."""
    tool = load_tool(SCRIPT)
    sums, counts = np.array([3., 5., 4., 7., 6.]), np.array([4., 5., 6., 7., 8.])
    table, found = tool.fit_table(dict(a=1.), sums, counts, 0.9 * sums - 0.1 * counts)
    assert found['factor'] == pytest.approx(0.9)
    assert found['added_ms'] == pytest.approx(-0.1)
    assert found['error'] < 1e-9 < 0.1 < found['error_of_sums']
    assert table['a'] == pytest.approx(0.8)
    table, found = tool.fit_table(dict(a=0.1), sums, counts, 0.9 * sums - 0.1 * counts)
    assert found['added_ms'] == 0 and table['a'] > 0


@pytest.mark.parametrize('options, words', [
    (['--engine', 'onnxruntime', '--device', 'cuda'], 'onnxruntime runs on the CPU'),
    (['--threads', 0], '--threads is 0, expected at least 1'),
    (['--num-networks', 2], 'expected at least 3, or 0 for none'),
    (['--for-device', 'x'], '--for-device needs --engine NAME'),
    (['--from-device', 'x', '--threads', 1], 'leave --engine and --threads out'),
])
def test_bad_options(options, words, tiny_search, monkeypatch, scope):
    assert words in main_error(monkeypatch, load_tool(SCRIPT), tiny_search, *options)


def test_an_engine_needs_no_device(monkeypatch):
    """Also where there is a GPU."""
    pytest.importorskip('onnxruntime')
    tool = load_tool(SCRIPT)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for options, device in ([], 'cuda'), (['--engine', 'onnxruntime'], 'cpu'):
        monkeypatch.setattr('sys.argv', [SCRIPT, 'a.py', *options])
        args = tool.parse_args()
        tool.check(args)
        assert args.device == device


def test_bad_input(tmp_path, monkeypatch, scope):
    out = tmp_path / 'latency.json'
    message = main_error(
        monkeypatch, load_tool(SCRIPT),
        ROOT / 'configs/mmpretrain/autonl-s_2xb128_cifar10.py', '--out', out)
    assert 'no AutoNLSuperNet' in message
    assert not out.exists()
