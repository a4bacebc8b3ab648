# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Every tool takes a config whose types are classes: written with ``read_base``, and as
mmengine dumps it, with import paths as types."""
import re

import pytest
import torch
from conftest import ROOT, call_main, load_tool
from mmengine.config import Config
from mmengine.registry import MODELS

from autonl_mm.config_checks import check_search
from autonl_mm.export import export
from autonl_mm.export.engines import ENGINES, Settings
from autonl_mm.models.layers.mbconv import fused_act_cfg
from autonl_mm.nas.search_configs import build_supernet, selection_options
from autonl_mm.runs import configs, launch
from autonl_mm.runs.config_parts import type_name

BASE = """\
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.hooks import CheckpointHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.datasets import CenterCrop, CustomDataset, PackInputs
from mmpretrain.engine import VisualizationHook
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ImageClassifier, LinearClsHead
from torch.optim import SGD

from autonl_mm.models import AutoNL, PoolDropout

default_scope = None
model = dict(
    type=ImageClassifier,
    data_preprocessor=dict(mean=[120] * 3, std=[60] * 3, to_rgb=True),
    backbone=dict(
        type=AutoNL, out_indices=(3, ),
        arch=['r1_k3_s22_e1_i8_o8_nonlocal0.25-1', 'r1_k3_s22_e2_i8_o16', 'head16']),
    neck=dict(type=PoolDropout),
    head=dict(type=LinearClsHead, num_classes=2, in_channels=16))
pipeline = [dict(type=LoadImageFromFile), dict(type=CenterCrop, crop_size=32),
            dict(type=PackInputs)]
train_dataloader = dict(
    batch_size=8, num_workers=0, collate_fn=dict(type=default_collate),
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(type=CustomDataset, data_root={root!r}, data_prefix='train',
                 pipeline=pipeline))
val_dataloader = dict(
    batch_size=8, num_workers=0, collate_fn=dict(type=default_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=CustomDataset, data_root={root!r}, data_prefix='val',
                 pipeline=pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type=Accuracy, topk=(1, ))
test_evaluator = val_evaluator
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01))
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=1),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, interval=1),
    visualization=dict(type=VisualizationHook))
"""
CLASSIFIER = """\
from mmengine.config import read_base

with read_base():
    from .base import *
"""
STEPS = CLASSIFIER + r"""
from autonl_mm.models import LightNL, PluginBackbone

model = dict(model, backbone=dict(
    type=PluginBackbone, backbone=dict(model['backbone']), plugins=[]))
steps = dict(none=[], one=[dict(cfg=dict(type=LightNL), target=r'layers\.2\.0')])
"""
SEARCH = """\
from mmengine.config import read_base

with read_base():
    from .base import *

from autonl_mm.datasets import HoldoutDataset
from autonl_mm.nas import AutoNLSuperNet, CostAwareModel, GateSearchHook

block = dict(channels=8, depth=1, stride=2, kernel_size=3, expand_ratio=1, se_ratio=0,
             nl_ratio=0)
space = dict(stem_channels=8, head_channels=16, stages=[
    block, dict(block, channels=16, depth=2, kernel_size=(3, 5), expand_ratio=(0, 2),
                nl_ratio=(0, 0.25))])
task = dict(model, backbone=dict(
    type=AutoNLSuperNet, space=space, input_shape=(32, 32), num_classes=2))
model = dict(type=CostAwareModel, model=task, cost_weight=0.05, target=1e5)
images = train_dataloader['dataset']
train_dataloader = dict(train_dataloader, dataset=dict(
    type=HoldoutDataset, dataset=images, holdout=8, split='train'))
custom_hooks = [dict(type=GateSearchHook, candidates=2, num_samples=8, held_out=dict(
    type=HoldoutDataset, dataset=images, holdout=8, split='val'))]
retrain_base = {retrain!r}
"""


class Files:
    """Configs of a classifier and of a search, and what their tools take besides."""

    def __init__(self, folder, root, dumped):
        self.folder = folder
        self.image = root / 'train/a/0.jpg'
        self.classifier, self.search, self.steps = (
            folder / f'{name}.py' for name in ('classifier', 'search', 'steps'))
        (folder / 'base.py').write_text(BASE.format(root=str(root)))
        self.classifier.write_text(CLASSIFIER)
        self.steps.write_text(STEPS)
        self.search.write_text(SEARCH.format(retrain=str(self.classifier)))
        if dumped:
            for path in self.classifier, self.search, self.steps:
                Config.fromfile(path).dump(path)
        torch.manual_seed(0)
        self.checkpoint = self._save(self.classifier)
        self.searched = self._save(self.search)
        self.onnx = folder / 'net.onnx'
        model = configs.build_model(Config.fromfile(self.classifier))
        export.write_file(ENGINES['onnxruntime'], export.make_graph(model, ('batch', )),
                          Settings((1, 3, 32, 32), dynamic=('batch', )), self.onnx)
        self.arch = folder / 'arch.txt'
        space = build_supernet(Config.fromfile(self.search)).space
        self.arch.write_text(space.largest.without_light_nl().to_text())

    def _save(self, path):
        cfg = Config.fromfile(path)
        configs.enter_scope(cfg)
        model = MODELS.build(cfg.model)
        model.init_weights()
        path = path.with_suffix('.pth')
        torch.save(dict(meta=dict(), state_dict=model.state_dict()), path)
        return path


@pytest.fixture(scope='module', params=['read_base', 'dumped'])
def files(request, image_folder, tmp_path_factory):
    return Files(tmp_path_factory.mktemp(request.param), image_folder,
                 request.param == 'dumped')


def train_all(tool, trials, jobs, where):
    """Stands for trainings, which test_train() has: what the tool makes of them."""
    for trial in trials:
        configs.build_model(Config.fromfile(trial.config))
    return [dict(trial.key, metric='accuracy/top1', value=float(i), seconds=1)
            for i, trial in enumerate(trials)]


COMPARE = ['--num-samples', 8, '--rounds', 1]
# Arguments of each tool that takes a config, by its path in tools/: from files and a
# folder for the results
TOOLS = {
    'analysis_tools/browse_dataset.py': lambda f, out: [
        f.classifier, '--out', out, '--show-number', 1],
    'analysis_tools/get_flops.py': lambda f, out: [f.classifier],
    'analysis_tools/measure_latency.py': lambda f, out: [
        f.search, '--out', out / 'x.json', '--rounds', 1, '--num-networks', 0],
    'analysis_tools/show_attention.py': lambda f, out: [
        f.image, f.classifier, f.checkpoint, '--layer',
        'backbone.layers.1.0.light_nl', '--points', '4,4', '--out', out / 'x.png'],
    'benchmarks/benchmark_forward.py': lambda f, out: [f.classifier, '--rounds', 1],
    'benchmarks/benchmark_loader.py': lambda f, out: [
        f.classifier, '--workers', 0, '--decoders', 'cv2', *COMPARE],
    'benchmarks/compare_backbones.py': lambda f, out: [
        '--networks', f.classifier, '--input-shape', 32, '--batch-size', 2,
        '--rounds', 1],
    'benchmarks/compare_random.py': lambda f, out: [
        f.search, '--arch', f.arch, '--work-dir', out, '--seeds', 1, '--num-random', 3,
        '--tolerance', 1, '--checkpoint', f.searched],
    'benchmarks/compare_steps.py': lambda f, out: [
        f.steps, '--input-shape', 32, '--work-dir', out, '--seeds', 2],
    'benchmarks/rank_correlation.py': lambda f, out: [
        f.search, f.searched, '--work-dir', out, '--num-networks', 3, '--sets', 'cost',
        '--tolerance', 0.9],
    'benchmarks/stability.py': lambda f, out: [
        f.classifier, f.checkpoint, '--num-samples', 2, '--batch-size', 2],
    'choose_arch.py': lambda f, out: [
        f.search, f.searched, '--max', 'macs=1e9', '--out', out, '--recalibrate', 8],
    'deployment/export.py': lambda f, out: [
        f.classifier, f.checkpoint, '--out', out / 'x.onnx', '--rounds', 1],
    'deployment/quantize_onnx.py': lambda f, out: [
        f.onnx, f.classifier, '--out', out / 'x.onnx', '--work-dir', out, *COMPARE],
    'export_arch.py': lambda f, out: [
        f.search, f.searched, '--out', out / 'arch.txt', '--config',
        out / 'retrain.py', '--weights', out / 'x.pth', '--work-dir', out, '--eval'],
    'research/benchmark_memory.py': lambda f, out: [
        f.classifier, '--input-shapes', '32x32'],
    'test.py': lambda f, out: [f.classifier, f.checkpoint, '--work-dir', out,
        '--show-dir', out / 'shown'],
    'train.py': lambda f, out: [f.search, '--amp', '--work-dir', out],
}
# Whole processes of these import all libraries, so that a part of them is called.
IN_PROCESS = {'research/benchmark_allocator.py'}


def test_no_tool_is_missing():
    takes_config = re.compile(
        r"add_config_args\(|add_common_args\(|add_argument\(\s*'configs?'|"
        r"Config\.fromfile\(path\)")
    found = {str(path.relative_to(ROOT / 'tools'))
             for path in (ROOT / 'tools').rglob('*.py')
             if takes_config.search(path.read_text())}
    # passes its configs to tools/train.py
    assert found - {'benchmarks/compare_configs.py'} == set(TOOLS) | IN_PROCESS


@pytest.mark.parametrize('path', [
    pytest.param(path, marks=pytest.mark.long) if path in (
        'deployment/export.py', 'deployment/quantize_onnx.py',
        'research/benchmark_memory.py') else path for path in TOOLS])
def test_tool(path, files, tmp_path, monkeypatch, capsys, scope):
    tool = load_tool(f'tools/{path}')
    if hasattr(tool, 'trials'):
        monkeypatch.setattr(tool.trials, 'train_all', train_all)
    if path == 'research/benchmark_memory.py':
        monkeypatch.setattr(
            tool, 'peak_memory', lambda make, args: make(*args)() or 1.)
    arguments = TOOLS[path](files, tmp_path)
    call_main(monkeypatch, tool, *arguments)
    out = capsys.readouterr().out
    if path == 'choose_arch.py':  # the hook's options count
        assert 'choosing: 2 candidates' in out
        assert 'on 1 batches of 8 held-out images' in out
    if path == 'test.py':
        assert list((tmp_path / 'shown').iterdir())
    retrained = list(tmp_path.rglob('retrain.py'))
    assert bool(retrained) == (path in ('choose_arch.py', 'export_arch.py'))
    for config in retrained:
        model = configs.build_model(Config.fromfile(config))
        arch, = config.parent.glob('arch.txt')
        assert model.backbone.arch().to_text() == arch.read_text()


def test_benchmark_allocator(files, monkeypatch, scope):
    tool = load_tool('tools/research/benchmark_allocator.py')
    monkeypatch.setattr(tool, 'STEPS', 1)
    monkeypatch.setattr(tool, 'SIZE', (32, 32))
    assert set(tool.measure(files.classifier)[1]) == set(tool.KINDS)


def test_types_are_found(files, scope):
    search = Config.fromfile(files.search)
    options = selection_options(search)
    assert type_name(options.pop('held_out')) == 'HoldoutDataset'
    assert options == dict(candidates=2, num_samples=8)
    search.model = search.model.model
    with pytest.raises(ValueError, match='outside of a CostAwareModel'):
        check_search(search)


def write(folder, text, dumped):
    path = folder / 'types.py'
    path.write_text(text)
    cfg = Config.fromfile(path)
    if dumped:
        cfg.dump(path)
        cfg = Config.fromfile(path)
    return cfg


@pytest.mark.parametrize('dumped', [False, True])
def test_classes_with_another_name(dumped, tmp_path):
    """SyncBN, Swish and Pretrained are registered under other names than their own."""
    cfg = write(tmp_path, (
        'from torch.nn import SyncBatchNorm\n'
        'from mmcv.cnn.bricks import Swish\n'
        'from mmcv.ops import SyncBatchNorm as OpsSyncBatchNorm\n'
        'from mmengine.model import PretrainedInit\n'
        'model = dict(norms=[dict(type=SyncBatchNorm), dict(type=OpsSyncBatchNorm)],\n'
        '             act_cfg=dict(type=Swish),\n'
        "             init_cfg=dict(type=PretrainedInit, checkpoint='/no.pth'))\n"),
        dumped)
    assert launch.replace_sync_bn(cfg.model) == 2
    assert cfg.model.norms == [dict(type='BN')] * 2
    assert fused_act_cfg(cfg.model.act_cfg) == dict(type='SiLU')
    with pytest.raises(FileNotFoundError, match=r'model\.init_cfg\.checkpoint'):
        configs.check_checkpoints(cfg)


def test_other_wrappers_are_still_refused(tmp_path):
    cfg = write(tmp_path, (
        'from mmengine.optim import ApexOptimWrapper\n'
        'optim_wrapper = dict(type=ApexOptimWrapper)\n'), False)
    with pytest.raises(ValueError, match="the config has 'ApexOptimWrapper'"):
        launch.use_amp(cfg)
