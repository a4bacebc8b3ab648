# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn as nn
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (
    DATASETS,
    HOOKS,
    MODELS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    VISUALIZERS,
    init_default_scope,
)
from mmengine.structures import InstanceData, PixelData
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm

from autonl_mm import AUTONL_L, AUTONL_S, count_macs
from autonl_mm.config_checks import check_archs, check_search
from autonl_mm.cost import light_nl_macs
from autonl_mm.measure.counting import built_macs
from autonl_mm.models import AutoNL
from autonl_mm.nas import CostAwareModel
from autonl_mm.nas.search_configs import write_retrain_config
from autonl_mm.runs.config_parts import leaf_datasets
from autonl_mm.runs.configs import check_learning_rates, input_size

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(p for p in ROOT.glob('configs/*/*.py') if p.parent.name != '_base_')
IDS = [str(p.relative_to(ROOT / 'configs')) for p in CONFIGS]
# The models of the others are test_transfer_configs.py's.
OWN = [p for p in CONFIGS
       if p.parent.name in ('mmpretrain', 'demo') or 'supernet' in p.name]


def load(path):
    if 'TIMMBackbone' in path.read_text():
        pytest.importorskip('timm')
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    return cfg


def test_there_are_configs():
    assert len(CONFIGS) >= 6


def sample(scope, label):
    """The annotation of one 64x64 image."""
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample
        return DataSample().set_gt_label(label)
    if scope == 'mmdet':
        from mmdet.structures import DetDataSample
        return DetDataSample(
            metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64)),
            gt_instances=InstanceData(
                bboxes=torch.tensor([[8., 8., 40., 48.]]),
                labels=torch.tensor([label])))
    from mmseg.structures import SegDataSample
    return SegDataSample(
        metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64)),
        gt_sem_seg=PixelData(data=torch.full((1, 64, 64), label)))


def metafile_models():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    for name in index['Import']:
        for model in yaml.safe_load((ROOT / name).read_text())['Models']:
            if 'FLOPs' in model.get('Metadata', {}):
                yield ROOT / model['Config'], model


FIGURES = dict(metafile_models())


def check_figures(path, model, size):
    """The metafile's MACs and parameters are those of the network."""
    figures, backbone = FIGURES[path]['Metadata'], model.backbone
    if isinstance(backbone, AutoNL):  # whose count test_cost.py compares with mmengine
        macs = count_macs(backbone.arch(), (size, size)).total
    else:
        macs = built_macs(model, 3, size, size)
    assert figures['FLOPs'] == macs
    assert figures['Parameters'] == sum(p.numel() for p in model.parameters())
    if path.name.startswith('autonl'):
        arch = AUTONL_S if path.name.startswith('autonl-s') else AUTONL_L
        paper = path.name.startswith(('autonl-s_', 'autonl-l_'))
        assert backbone.arch() == arch.with_normalize('size' if paper else 'rms')


def check_thresholds(model, optim_wrapper, cfg):
    """Thresholds have no decay and, where gates search, a rate of their own."""
    base = cfg.optim_wrapper.optimizer.lr
    moved = any(hook.type.endswith('GateSearchHook') for hook in cfg.custom_hooks)
    rate = {id(g['params'][0]): (g['lr'], g['weight_decay'])
            for g in optim_wrapper.param_groups}
    thresholds = []
    for name, param in model.named_parameters():
        lr, decay = rate[id(param)]
        if name.endswith('threshold'):
            assert decay == 0 and (lr != base or not moved)
            thresholds.append(param)
        else:
            assert lr == base
    assert len(thresholds) == 1
    assert thresholds[0] is model.supernet.gate_state.threshold


def test_figures_are_of_models_that_are_built():
    assert len(FIGURES) > 15 and set(FIGURES) <= set(OWN)


@pytest.mark.parametrize('path', OWN, ids=lambda p: p.stem)
def test_model(path, scope):
    """Built once: its figures, its optimiser's groups, a step of training."""
    cfg = load(path)
    if 'data_preprocessor' in cfg:
        cfg.model.data_preprocessor = cfg.data_preprocessor
    if cfg.model.get('train_cfg') and cfg.default_scope == 'mmpretrain':
        cfg.model.data_preprocessor.to_onehot = True
    model = MODELS.build(cfg.model)
    if path in FIGURES:
        check_figures(path, model, input_size(cfg)[0])
    # One recipe for all of timm's networks, which test_named_networks.py compares, and
    # one for all widths of MobileNetV2.
    if (('3rdparty-timm' in path.name and 'mnasnet-100' not in path.name)
            or re.match(r'mobilenet-v2-\d', path.name)):
        return
    model.train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert isinstance(model, CostAwareModel) == ('supernet' in path.name)
    if 'supernet' in path.name:
        check_thresholds(model, optim_wrapper, cfg)
    batch = dict(
        inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
                for _ in range(2)],
        data_samples=[sample(cfg.default_scope, i) for i in range(2)])
    task = model.model if isinstance(model, CostAwareModel) else model
    stem = next(task.backbone.parameters())
    before = stem.detach().clone()
    losses = model.train_step(batch, optim_wrapper)
    assert math.isfinite(losses['loss'].item())
    assert ('loss_cost' in losses) == (task is not model)
    assert not torch.equal(before, stem)


@pytest.mark.parametrize(
    'path', [p for p in OWN if 'supernet' in p.name], ids=lambda p: p.stem)
def test_searched_network_can_be_retrained(path, tmp_path, scope):
    """In the config that ``export_arch.py --config`` makes of ``retrain_base``."""
    cfg = load(path)
    supernet = MODELS.build(cfg.model).supernet
    retrain = tmp_path / 'retrain.py'
    write_retrain_config(retrain, cfg.retrain_base, supernet.arch(), supernet.cfgs)
    cfg = load(retrain)
    assert cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters')) > 0
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        feats = model.extract_feat(torch.zeros(1, 3, 64, 64))
    assert all(torch.isfinite(f).all() for f in feats)


def test_papers_search():
    """8 epochs of batch 1024, lr 0.016 per 256, 6,255 of 10,008 steps."""
    cfg = Config.fromfile(ROOT / 'configs/mmpretrain/autonl-supernet_8xb128_in1k.py')
    assert cfg.train_cfg.max_epochs == 8
    assert cfg.train_dataloader.batch_size * 8 == 1024
    assert cfg.optim_wrapper.optimizer.lr == 0.016 * 1024 / 256
    hook = cfg.custom_hooks[0]
    assert hook.warmup == pytest.approx(6255 / 10008, abs=1e-4)
    backbone = dict(cfg.model.model.backbone)
    assert backbone == dict(type='autonl_mm.AutoNLSuperNet')


def check_input_size(path, cfg):
    """Pipelines that crop or resize give a size, the others an error."""
    _, dataset = next(leaf_datasets('', cfg.test_dataloader.dataset))
    names = [t.type.split('.')[-1] for t in dataset.pipeline]
    if any('Crop' in name or 'Resize' in name for name in names):
        size = input_size(cfg)
        assert len(size) == 2 and min(size) >= 32
        if '3rdparty' in path.name and '3rdparty-timm' not in path.name:
            assert size == (224, 224)
    else:
        with pytest.raises(ValueError, match='give --input-shape'):
            input_size(cfg)


@pytest.mark.parametrize('path', CONFIGS, ids=IDS)
def test_parts_build(path, scope):
    cfg = load(path)
    check_input_size(path, cfg)
    # what train.py refuses without a look at the data
    check_archs(cfg.model)
    check_search(cfg)
    check_learning_rates(cfg)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for _, dataset in leaf_datasets(loader, cfg[loader].dataset):
            with DATASETS.switch_scope_and_registry(None) as registry:
                assert registry.get(dataset.type) is not None
            for transform in dataset.pipeline:
                TRANSFORMS.build(transform)
    for transform in cfg.get('tta_pipeline', []):
        TRANSFORMS.build(transform)
    VISUALIZERS.build(dict(cfg.visualizer, name='test_parts_build'))
    for hook in [*cfg.default_hooks.values(), *cfg.get('custom_hooks', [])]:
        # the runner's, not the hook's
        HOOKS.build({k: v for k, v in hook.items() if k != 'priority'})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedulers = cfg.param_scheduler
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        kind = PARAM_SCHEDULERS.get(scheduler.type)
        scheduler = dict(scheduler, optimizer=optimizer)
        scheduler.pop('type')
        scheduler.pop('_scope_', None)
        if scheduler.pop('convert_to_iter_based', False):
            kind.build_iter_from_epoch(epoch_length=10, **scheduler)
        else:
            kind(**scheduler)


@pytest.mark.parametrize('folder', sorted({p.parent for p in CONFIGS}),
                         ids=lambda p: p.name)
def test_readme_and_metafile_name_all(folder):
    readme = (folder / 'README.md').read_text()
    paths = [path for path in CONFIGS if path.parent == folder]
    assert [path for path in paths if path.name not in readme] == []
    if folder.name != 'demo':
        metafile = yaml.safe_load((folder / 'metafile.yml').read_text())
        models = {m['Name']: ROOT / m['Config'] for m in metafile['Models']}
        assert {path.stem: path for path in paths}.items() <= models.items()


def test_the_papers_complexity():
    """Section 3.1: 15 M added to MobileNetV2 against 6.2 G, 400 times."""
    folder = ROOT / 'configs/mmpretrain'
    macs = {name: FIGURES[folder / f'mobilenet-v2{name}_32xb128_in1k.py']['Metadata'][
        'FLOPs'] for name in ('', '-light-nl', '-nl')}
    assert macs['-light-nl'] - macs[''] == 14_752_136
    assert macs['-nl'] - macs[''] == 6_249_599_552
    # by the formulas: channels, side of the map, blocks
    stages = [(16, 112, 1), (24, 56, 2), (32, 28, 3), (64, 14, 4),
              (96, 14, 3), (160, 7, 3), (320, 7, 1)]
    light = conventional = 0
    for c, side, count in stages:
        n = side * side
        sampled = (side // 2)**2 if side > 14 else n
        light += count * (9 * n * c + min(
            light_nl_macs(c, c // 4, n, sampled, 'size').values()))
        conventional += count * (4 * n * c * c + 2 * n * n * c)
    assert (light, conventional) == (14_752_136, 6_249_599_552)


@pytest.mark.parametrize('name,widen_factor', [
    ('-050', 0.5), ('-075', 0.75), ('', 1.0), ('-140', 1.4)])
def test_mobilenet_v2_light_nl(name, widen_factor, scope):
    cfg = load(ROOT / 'configs/mmpretrain' /
               f'mobilenet-v2{name}-light-nl_32xb128_in1k.py')
    backbone = MODELS.build(cfg.model.backbone)
    assert backbone.backbone.widen_factor == widen_factor
    strides = [placed.light_nl.stride for placed in backbone.plugins.values()]
    assert strides == [2] * 6 + [1] * 11
    assert {placed.light_nl.channel_ratio
            for placed in backbone.plugins.values()} == {0.25}
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
    assert {(m.momentum, m.eps) for m in norms} == {(0.01, 1e-3)}
    with torch.no_grad():
        out, = backbone.eval()(torch.zeros(1, 3, 64, 64))
    assert out.shape[1] == cfg.model.head.in_channels


def test_imagenet_learning_rate():
    """0.256 after the warm-up's 5 epochs, times 0.97 every 2.4 epochs."""
    cfg = Config.fromfile(ROOT / 'configs/mmpretrain/autonl-s_32xb128_in1k.py')
    from mmengine.optim.scheduler import LinearLR, MultiStepLR
    epoch_length = 4
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)],
                                lr=cfg.optim_wrapper.optimizer.lr)
    warm_up, decay = [dict(s) for s in cfg.param_scheduler]
    for scheduler in (warm_up, decay):
        scheduler.pop('type')
    warm_up.pop('convert_to_iter_based')
    by_iter = LinearLR.build_iter_from_epoch(
        optimizer=optimizer, epoch_length=epoch_length, **warm_up)
    by_epoch = MultiStepLR(optimizer=optimizer, **decay)
    rates = []
    for _ in range(350):
        for _ in range(epoch_length):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            by_iter.step()
        by_epoch.step()
    assert rates[0] == pytest.approx(0.256e-6, rel=1e-3)
    assert rates == pytest.approx(
        [
            0.256 * 0.97**math.floor(i // epoch_length / 2.4) *
            min(1, 1e-6 + (1 - 1e-6) * i / (5 * epoch_length - 1))
            for i in range(len(rates))
        ],
        rel=1e-6)


def test_imagenet_recipe():
    """The figures of paper section 4, beside the learning rate."""
    cfg = Config.fromfile(ROOT / 'configs/mmpretrain/autonl-s_32xb128_in1k.py')
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert optimizer.pop('type') == 'timm.optim.RMSpropTF'
    assert optimizer == dict(
        lr=0.256, alpha=0.9, momentum=0.9, eps=1e-3, weight_decay=1e-5)
    assert cfg.optim_wrapper.optimizer.lr == 0.016 * 4096 / 256
    assert cfg.auto_scale_lr.base_batch_size == 4096
    assert cfg.train_dataloader.batch_size * 32 == 4096
    assert cfg.train_cfg.max_epochs == 350
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert cfg.model.neck.dropout == 0.2
    ema, = cfg.custom_hooks
    assert (ema.momentum, ema.base_batch_size) == (1e-4, 4096)


@pytest.mark.parametrize('name', ['autonl-s_32xb128', 'autonl-supernet_8xb128'])
def test_rmsprop_is_tensorflows(name):
    """TensorFlow's ApplyRMSProp: the mean square starts at one, ``eps`` is inside of
    the root and the learning rate of each step inside of the momentum. The L2 penalty
    of convolution and linear weights is part of the gradient."""
    cfg = Config.fromfile(ROOT / f'configs/mmpretrain/{name}_in1k.py')
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Flatten(),
                          nn.Linear(3, 2)).double()
    cfg.optim_wrapper.optimizer.weight_decay = decay = 0.1
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    want = {p: (p.detach().clone(), torch.ones_like(p), torch.zeros_like(p))
            for p in model.parameters()}
    weights = {model[0].weight, model[3].weight}
    for lr in (0.1, 0.02, 0.3):
        for group in optimizer.param_groups:
            group['lr'] = lr
        for p, (w, square, step) in want.items():
            p.grad = torch.randn_like(p)
            grad = p.grad + decay * w * (p in weights)
            square += (grad**2 - square) * (1 - 0.9)
            step.mul_(0.9).add_(lr * grad / (square + 1e-3).sqrt())
            w -= step
        optimizer.step()
        for p, (w, *_) in want.items():
            torch.testing.assert_close(p.detach(), w, rtol=1e-10, atol=1e-12)
