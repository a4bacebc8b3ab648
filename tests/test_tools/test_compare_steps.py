# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
import re

import pytest
from conftest import ROOT, call_main, load_tool, main_error
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from autonl_mm import AUTONL_S, count_macs
from autonl_mm.arch import NORMALIZE
from autonl_mm.models.layers import LightNL, light_nl_scales

SCRIPT = 'tools/benchmarks/compare_steps.py'
CONFIG = 'configs/mmpretrain/light-nl-steps_1xb32_cifar10.py'
STEPS = ('none', 'conventional', 'shared_features', 'depthwise_output',
         'channel_compaction', 'spatial_compaction', 'bounded',
         'bounded_depthwise_output', 'squeeze_excite_equal_macs')


def added_macs():
    """By the formulas of the paper: affinity formed, cheaper order."""
    # channels, side of the feature map, stride of a strided LightNL
    places = [(16, 16, 2), (24, 16, 2), (24, 16, 2), (40, 8, 2), (40, 8, 2),
              (80, 4, 1), (80, 4, 1), (80, 4, 1)]
    hidden = {16: 1672, 24: 2002, 40: 706, 80: 224}  # units of squeeze-excite
    totals = {step: [0, 0] for step in STEPS}
    for c, side, stride in places:
        n, k = side * side, c // 4
        ns = (side // stride)**2

        def products(k, ns, c=c, n=n, gram=0):
            spatial = n * ns * (k + c)
            return spatial, min(spatial, (n + ns) * k * c + gram * k * k * c)

        conventional = 4 * n * c * c + 2 * n * n * c
        added = dict(
            none=(0, 0),
            conventional=(conventional, conventional),
            shared_features=[p + n * c * c for p in products(c, n)],
            depthwise_output=[p + 9 * n * c for p in products(c, n)],
            channel_compaction=[p + 9 * n * c for p in products(k, n)],
            spatial_compaction=[p + 9 * n * c for p in products(k, ns)],
            bounded=[p + 9 * n * c for p in products(k, ns, gram=1)],
            bounded_depthwise_output=[p + 9 * n * c for p in products(c, n, gram=1)],
            squeeze_excite_equal_macs=[n * c + 2 * hidden[c] * c] * 2)
        for step, macs in added.items():
            totals[step] = [a + b for a, b in zip(totals[step], macs)]
    return totals


def rows_of(text):
    rows = [[c.strip() for c in line.strip('|').split('|')]
            for line in text.splitlines()
            if line.startswith('| ') and '---' not in line]
    return rows[0], {row[0].replace(' ', '_'): row[1:] for row in rows[1:]}


@pytest.mark.long
def test_costs(tmp_path, monkeypatch, capsys, scope):
    call_main(monkeypatch, load_tool(SCRIPT), ROOT / CONFIG, '--work-dir', tmp_path,
              '--no-train')
    head, rows = rows_of(capsys.readouterr().out)
    assert tuple(rows) == STEPS
    for step, macs in added_macs().items():
        assert rows[step][:2] == [f'{m / 1e6:.3f} M' for m in macs]
    costs = [float(rows[step][0].split()[0]) for step in STEPS[1:7]]
    assert costs == sorted(costs, reverse=True)
    assert rows['squeeze_excite_equal_macs'][1] == rows['bounded'][1]
    assert rows['channel_compaction'][2] == rows['spatial_compaction'][2]
    assert not any('seed' in name for name in head)
    assert not list(tmp_path.glob('*-seed0'))


@pytest.fixture(scope='module')
def small_config(image_folder, tmp_path_factory):
    cfg = Config.fromfile(CONFIG)
    cfg.steps = {k: cfg.steps[k] for k in ('none', 'spatial_compaction')}
    cfg.model.head.num_classes = cfg.data_preprocessor.num_classes = 2
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.batch_size = 8
        loader.dataset.update(data_root=str(image_folder), holdout=8)
    cfg.train_dataloader.dataset.indices = 16
    path = tmp_path_factory.mktemp('steps') / 'steps.py'
    cfg.dump(path)
    return path


@pytest.mark.long
def test_trains_each_once(small_config, tmp_path, monkeypatch, capsys, scope,
                          forked_trials):
    arguments = [
        SCRIPT, small_config, '--work-dir', tmp_path, '--seeds', '2',
        '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
        'param_scheduler.total_steps=1'
    ]
    call_main(monkeypatch, load_tool(SCRIPT), *arguments[1:])
    out = capsys.readouterr().out
    head, rows = rows_of(out)
    assert head[-5:] == ['seed 0', 'seed 1', 'mean', 'standard deviation',
                         'difference from none, 95% interval']
    assert tuple(rows) == ('none', 'spatial_compaction')
    assert '4 training runs' in out and 'accuracy/top1' in out
    for step, row in rows.items():
        values = []
        for seed in (0, 1):
            folder = tmp_path / f'{step}-seed{seed}'
            result = json.loads((folder / 'result.json').read_text())
            values.append(result['value'])
            config, = folder.glob('*.py')
            assert Config.fromfile(config).randomness.seed == seed
            log = (folder / 'train.log').read_text()
            assert ('LightNL' in log) == (step != 'none')
        assert row[3:5] == [f'{v:.2f}' for v in values]
        assert float(row[5]) == pytest.approx(sum(values) / 2, abs=0.01)
    assert rows['none'][-1] == '' and '±' in rows['spatial_compaction'][-1]
    # finished runs are not repeated
    logs = {p: p.stat().st_mtime for p in tmp_path.glob('*/train.log')}
    capsys.readouterr()
    call_main(monkeypatch, load_tool(SCRIPT), *arguments[1:])
    assert '4 training runs' in capsys.readouterr().out
    assert len(logs) == 4
    assert logs == {p: p.stat().st_mtime for p in logs}


@pytest.mark.long
def test_starts_with_the_backbones_of_another_comparison(
        small_config, tmp_path, monkeypatch, capsys, scope, forked_trials):
    """Of the same step and seed, wherever the folder is now."""
    short = ['--seeds', 1, '--steps', 'spatial_compaction', '--cfg-options',
             'train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
             'param_scheduler.total_steps=1']
    tool = load_tool(SCRIPT)
    call_main(monkeypatch, tool, small_config, '--work-dir', tmp_path / 'a', *short)
    (tmp_path / 'a').rename(tmp_path / 'b')
    capsys.readouterr()
    call_main(monkeypatch, tool, small_config, '--work-dir', tmp_path / 'c',
              '--pretrained', tmp_path / 'b', *short)
    _, rows = rows_of(capsys.readouterr().out)
    assert set(rows) - {'step'} == {'spatial_compaction'}  # in two tables
    run = 'spatial_compaction-seed0'
    log = (tmp_path / 'c' / run / 'train.log').read_text()
    assert re.search(rf"load backbone\. in model from: .*b/{run}/epoch_1\.pth", log)
    message = main_error(monkeypatch, tool, small_config, '--work-dir',
                         tmp_path / 'd', '--pretrained', tmp_path / 'b')
    assert 'none-seed0/last_checkpoint does not exist' in message


def test_paired_difference():
    tool = load_tool(SCRIPT)
    mean, half = tool.paired_difference([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])
    # differences 2, 3, 1; t of two degrees of freedom is 4.303
    assert mean == pytest.approx(2)
    assert half == pytest.approx(4.303 / 3**0.5, rel=1e-3)


@pytest.mark.long
@pytest.mark.parametrize('config, shape, places', [
    ('configs/mmpretrain/autonl-s-steps_1xb64_imagenette-128.py', 128, 7),
    pytest.param('configs/mmseg/autonl-s-steps_fpn_1xb8-2400i_cityscapes-256x256.py',
                 256, 7, marks=pytest.mark.slow),
])
def test_steps_of_autonl_s(config, shape, places, tmp_path, monkeypatch, capsys, scope):
    """With LightNL they are AutoNL-S, and squeeze-excite costs as much."""
    call_main(monkeypatch, load_tool(SCRIPT), ROOT / config, '--work-dir', tmp_path,
              '--no-train', '--input-shape', shape)
    _, rows = rows_of(capsys.readouterr().out)
    macs = {name: float(row[1].split()[0]) for name, row in rows.items()}
    assert macs['paper'] <= macs['bounded'] <= 1.1 * macs['paper']
    assert macs['squeeze_excite'] < macs['paper'] < macs['conventional']
    cfg = Config.fromfile(ROOT / config)
    init_default_scope(cfg.default_scope)
    for name, normalize in dict(paper='size', bounded='rms').items():
        backbone = load_tool(SCRIPT).with_step(cfg, name).model.backbone
        if shape == 128:
            arch = AUTONL_S.with_normalize(normalize)
            added = (count_macs(arch, shape, None).total
                     - count_macs(arch.without_light_nl(), shape, None).total)
            assert macs[name] == pytest.approx(added / 1e6, abs=1e-3)
        net = MODELS.build(backbone)
        assert light_nl_scales(net) == [NORMALIZE[normalize]]
        assert sum(isinstance(m, LightNL) for m in net.modules()) == places
    if shape == 128:
        assert macs['squeeze_excite_equal_macs'] == pytest.approx(
            macs['paper'], rel=1e-3)


@pytest.mark.parametrize('arguments, words', [
    ([CONFIG, '--steps', 'none', 'all'], "--steps has 'all', expected some of none"),
    (['configs/mmpretrain/autonl-s_2xb128_cifar10.py'], 'has no steps'),
    ([CONFIG, '--seeds', '0'], '--seeds and --jobs must be at least 1'),
])
def test_bad_input(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert words in main_error(monkeypatch, load_tool(SCRIPT), *arguments,
                               '--work-dir', tmp_path)
