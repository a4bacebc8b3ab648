# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json

import pytest
import torch
from conftest import ROOT, call_main, load_tool, main_error
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (
    MODELS,
    PARAM_SCHEDULERS,
    DefaultScope,
    init_default_scope,
)

from autonl_mm import AUTONL_S, count_macs
from autonl_mm.arch import NORMALIZE
from autonl_mm.models.layers import LightNL, light_nl_scales
from autonl_mm.runs.digest import digest
from autonl_mm.runs.scalars import read_scalars

SCRIPT = 'tools/benchmarks/compare_steps.py'
CONFIG = 'configs/mmpretrain/light-nl-steps_1xb32_cifar10.py'
STEPS = ('none', 'conventional', 'shared_features', 'depthwise_output',
         'channel_compaction', 'spatial_compaction', 'bounded',
         'bounded_depthwise_output')


def added_macs():
    """By the formulas of the paper: affinity formed, cheaper order."""
    # channels, side of the feature map, stride of a strided LightNL
    places = [(16, 16, 2), (24, 16, 2), (24, 16, 2), (40, 8, 2), (40, 8, 2),
              (80, 4, 1), (80, 4, 1), (80, 4, 1)]
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
            bounded_depthwise_output=[p + 9 * n * c for p in products(c, n, gram=1)])
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


@pytest.fixture(scope='module')
def forms(image_folder, tmp_path_factory):
    """The config of forms with a tiny network, and two bases that were not trained."""
    cfg = Config.fromfile('configs/mmpretrain/light-nl-forms_1xb64-3e_cifar100.py')
    cfg.steps = {k: cfg.steps[k] for k in ('none', 'conv')}
    cfg.model.backbone.backbone.arch = [
        'r1_k3_s22_e1_i16_o16', 'r1_k3_s22_e2_i16_o16', 'head16']
    cfg.model.head.update(num_classes=2, in_channels=16)
    cfg.data_preprocessor.num_classes = 2
    for loader, part in ((cfg.train_dataloader, 'train'), (cfg.val_dataloader, 'val')):
        loader.batch_size = 8
        loader.dataset.update(data_root=str(image_folder), data_prefix=part)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.param_scheduler[1].end = 1
    cfg.custom_hooks[1].update(num_samples=16, interval=1)
    cfg.default_hooks.logger.interval = 1
    folder = tmp_path_factory.mktemp('forms')
    cfg.dump(folder / 'forms.py')
    cfg.model.backbone.plugins = []
    bases = [folder / f'base{i}.pth' for i in range(2)]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        for path in bases:
            net = MODELS.build(cfg.model)
            net.init_weights()
            torch.save(dict(state_dict=net.state_dict()), path)
    return folder / 'forms.py', bases


@pytest.mark.long
def test_forks(forms, tmp_path, monkeypatch, capsys, scope, forked_trials):
    """All start as the base and see the same batches; orders are averaged."""
    config, bases = forms
    names = ('none', 'conv')
    call_main(monkeypatch, load_tool(SCRIPT), config, '--work-dir', tmp_path, '--seeds',
              2, '--control', 'conv', '--steps', *names, '--fork', *bases)
    nll, accuracy = capsys.readouterr().out.split('\n\n')[:2]
    head, rows = rows_of(nll)
    assert head == ['NLL', 'base 0', 'base 1', 'mean', 'standard deviation',
                    'difference from none, 95% interval',
                    'difference from conv, 95% interval']
    assert rows['none'][-2] == rows['conv'][-1] == '' and '±' in rows['none'][-1]
    assert rows_of(accuracy)[0][4:6] == ['base 0', 'base 1']
    for i, path in enumerate(bases):
        losses, scores = [], []
        for name in names:
            runs = [tmp_path / f'{name}-base{digest(path)[:8]}-order{order}'
                    for order in range(2)]
            results = [json.loads((run / 'result.json').read_text()) for run in runs]
            scores.append(sum(r['nll'] for r in results) / 2)
            assert rows[name][i] == f'{scores[-1]:.4f}'
            # of the first batch, before the first step
            losses.append([read_scalars(run)[0][0]['loss'] for run in runs])
            assert 'BN found, run 2 iters' in (runs[0] / 'train.log').read_text()
        assert losses[0] == losses[1] and losses[0][0] != losses[0][1]
        assert scores[0] != scores[1]


@pytest.mark.parametrize('path', [
    'mmpretrain/light-nl-forms_1xb64-3e_cifar100.py',
    'mmseg/tf-efficientnet-lite0-forms_fpn_1xb8-300i_camvid-160x160.py'])
def test_branches_have_the_same_larger_learning_rate(path, scope):
    """In all forms with a branch, to the end of the training, where it is small."""
    cfg = Config.fromfile(ROOT / 'configs' / path)
    init_default_scope(cfg.default_scope)
    backbone = cfg.model.backbone.backbone
    backbone.update(arch=['r1_k3_s11_e1_i16_o16', 'r1_k3_s22_e2_i16_o16'],
                    out_indices=(2, ), init_cfg=None)
    for name in cfg.steps:
        model = MODELS.build(load_tool(SCRIPT).with_step(cfg, name).model.backbone)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
        rates = {id(group['params'][0]): group for group in optimizer.param_groups}
        usual, larger = [], []
        for param, p in model.named_parameters():
            (larger if param.endswith('light_nl.norm.weight') else usual).append(
                rates[id(p)])
        assert len(larger) == 2 * (name not in ('none', 'squeeze_excite'))
        for _ in schedule(cfg, optimizer):
            lr, = {group['lr'] for group in usual}
            assert all(group['lr'] == pytest.approx(5 * lr) for group in larger)
        assert lr < 0.02 * cfg.optim_wrapper.optimizer.lr


def schedule(cfg, optimizer):
    """Step through a config's schedule; yields before each iteration and at the end."""
    length = 10  # iterations of an epoch
    schedulers = []
    for scheduler in cfg.param_scheduler:
        scheduler = dict(scheduler, optimizer=optimizer)
        kind = PARAM_SCHEDULERS.get(scheduler.pop('type'))
        schedulers.append(
            kind.build_iter_from_epoch(epoch_length=length, **scheduler)
            if scheduler.pop('convert_to_iter_based', False) else kind(**scheduler))
    total = cfg.train_cfg.get('max_iters') or length * cfg.train_cfg.max_epochs
    for _ in range(total):
        yield
        for scheduler in schedulers:
            scheduler.step()
    yield


def test_fork_of_another_network(forms, tmp_path, monkeypatch, scope):
    config, (base, _) = forms
    tool = load_tool(SCRIPT)
    arguments = [config, '--work-dir', tmp_path / 'runs', '--no-train', '--steps',
                 'none', '--fork']
    message = main_error(monkeypatch, tool, *arguments, tmp_path / 'no.pth')
    assert 'no.pth does not exist' in message
    state = torch.load(base)['state_dict']
    state['head.fc.bias'] = torch.zeros(3)
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    message = main_error(monkeypatch, tool, *arguments, tmp_path / 'other.pth')
    assert 'other.pth is (3,), expected (2,), as in the network of the step' in message
    message = main_error(monkeypatch, tool, *arguments, base, '--steps', 'conv', 'none')
    assert 'is no such weight, expected (16, 1, 3, 3), as in the network' in message
    message = main_error(monkeypatch, tool, *arguments, base, '--control', 'relu')
    assert "--control is 'relu', expected one of none" in message


@pytest.mark.long
@pytest.mark.parametrize('config, shape, places', [
    ('configs/mmpretrain/autonl-s-steps_1xb64_imagenette-128.py', 128, 7),
    pytest.param('configs/mmseg/autonl-s-steps_fpn_1xb8-2400i_cityscapes-256x256.py',
                 256, 7, marks=pytest.mark.slow),
])
def test_steps_of_autonl_s(config, shape, places, tmp_path, monkeypatch, capsys, scope):
    """With LightNL they are AutoNL-S."""
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


@pytest.mark.parametrize('arguments, words', [
    ([CONFIG, '--steps', 'none', 'all'], "--steps has 'all', expected some of none"),
    (['configs/mmpretrain/autonl-s_2xb128_cifar10.py'], 'has no steps'),
    ([CONFIG, '--seeds', '0'], '--seeds and --jobs must be at least 1'),
])
def test_bad_input(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert words in main_error(monkeypatch, load_tool(SCRIPT), *arguments,
                               '--work-dir', tmp_path)
