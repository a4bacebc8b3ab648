# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Mixed precision: the CPU's wrapper, and what training under --amp does."""
from itertools import combinations, cycle, islice

import numpy as np
import pytest
import torch
import torch.nn as nn
from conftest import ROOT, run_tool
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed

from autonl_mm.engine.optimizers import CpuAmpOptimWrapper
from autonl_mm.runs.launch import use_amp

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
DEMO = dict(
    cls='autonl-s_1xb32_demo-cls',
    det='retinanet_autonl-s_1xb8_demo-det',
    seg='semantic-fpn_autonl-s_1xb8_demo-seg')
# The images' size, where a config depends on it.
SMALL = dict(
    cls={'train_dataloader.dataset.pipeline.1.crop_size': 32},
    det={},
    seg={'model.data_preprocessor.size': (80, 80)})
# What fits TINY_ARCH, in place of what fits AutoNL-S.
TINY = dict(
    cls={'model.backbone.out_indices': (-1, ), 'model.head.in_channels': 64},
    det={'model.backbone.out_indices': (2, 3),
         'model.neck.in_channels': [16, 24],
         'model.neck.out_channels': 16,
         'model.bbox_head.in_channels': 16,
         'model.bbox_head.feat_channels': 16,
         'model.bbox_head.anchor_generator.strides': [4, 8, 16]},
    seg={'model.backbone.out_indices': (1, 2, 3),
         'model.neck.in_channels': [8, 16, 24],
         'model.neck.out_channels': 16,
         'model.decode_head.in_channels': [16, 16, 16],
         'model.decode_head.channels': 16})


def build(model, **kwargs):
    return build_optim_wrapper(
        model,
        dict(
            type='autonl_mm.CpuAmpOptimWrapper',
            optimizer=dict(type='SGD', lr=0.1),
            **kwargs))


def test_forward_is_bfloat16_and_the_rest_is_not():
    model = nn.Linear(4, 2)
    wrapper = build(model)
    assert type(wrapper) is CpuAmpOptimWrapper
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        out = model(torch.randn(3, 4))
    assert out.dtype == torch.bfloat16
    assert model(torch.randn(3, 4)).dtype == torch.float32
    wrapper.update_params(out.float().sum())
    assert model.weight.dtype == torch.float32
    assert not torch.equal(model.weight, before)


def test_keeps_what_mmengines_wrapper_does():
    model = nn.Linear(4, 2)
    wrapper = build(model, accumulative_counts=2, clip_grad=dict(max_norm=1e-3))
    wrapper.initialize_count_status(model, 0, 4)
    before = model.weight.detach().clone()
    for i in range(2):
        with wrapper.optim_context(model):
            loss = model(torch.randn(3, 4)).float().sum()
        wrapper.update_params(loss)
        # the first of two only accumulates
        assert torch.equal(model.weight, before) == (i == 0)
    change = (model.weight - before).norm()
    assert 0 < change <= 1.01e-4


def test_leaves_autocast_after_an_error():
    model = nn.Linear(4, 2)
    wrapper = build(model)
    try:
        with wrapper.optim_context(model):
            raise KeyError
    except KeyError:
        pass
    assert model(torch.randn(3, 4)).dtype == torch.float32


# ------------------------------------------------------------- training curves
def loss_curve(task, root, amp, seed, steps, window, options):
    """Losses of a short training at a constant rate, in means of a window."""
    cfg = Config.fromfile(ROOT / f'configs/demo/{DEMO[task]}.py')
    cfg.merge_from_dict({
        'train_dataloader.dataset.data_root': f'{root / task}/',
        'train_dataloader.batch_size': 4,
        'optim_wrapper.optimizer.lr': 1e-3, **SMALL[task], **options})
    if amp:
        use_amp(cfg)
    init_default_scope(cfg.default_scope)
    set_random_seed(seed)
    if cfg.get('data_preprocessor'):
        cfg.model.data_preprocessor = cfg.data_preprocessor
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.to(DEVICE, memory_format=torch.channels_last).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=seed)
    losses = [
        model.train_step(batch, optim_wrapper)['loss'].item()
        for batch in islice(cycle(loader), steps)
    ]
    assert np.isfinite(losses).all()
    return np.reshape(losses, (-1, window)).mean(1)


def check_curves(task, root, steps, window, seeds, options={}):
    """Mixed precision changes the loss curve no more than another seed does.

    The distance between the mean curves of float32 and mixed precision, with the
    same seeds, is compared with that of two float32 runs; both are means over the
    windows. (After some tens of steps a mixed run differs from the float32 run of
    its seed, as with any change of rounding.)
    """
    full, mixed = (
        [loss_curve(task, root, amp, seed, steps, window, options)
         for seed in range(seeds)] for amp in (False, True))
    noise = np.mean([abs(a - b) for a, b in combinations(full, 2)])
    full, mixed = np.mean(full, 0), np.mean(mixed, 0)
    distance = np.mean(abs(full - mixed))
    print(f'{task}, {DEVICE}: float32 {full.round(3)}, mixed '
          f'{mixed.round(3)}; distance {distance:.4f}, of seeds {noise:.4f}')
    assert 0 < distance <= noise
    return full, mixed


@pytest.fixture(scope='module')
def demo_data(tmp_path_factory):
    """Some images of each of the demo's sets."""
    root = tmp_path_factory.mktemp('demo')
    run_tool('tools/dataset_converters/make_demo_data.py', '--out', root,
             *(f'--{task}-{part}={n}' for task in DEMO
               for part, n in (('train', 32), ('val', 1))),
             '--cls-size=32', '--det-size=80', '--seg-size=80')
    return root


@pytest.mark.long
@pytest.mark.parametrize('task', [
    'cls', *(pytest.param(task, marks=pytest.mark.slow) for task in ('det', 'seg'))])
def test_mixed_precision_trains_like_float32(task, demo_data, tiny_arch, scope):
    check_curves(task, demo_data, 6, 2, 2, {
        'model.backbone.arch': str(tiny_arch), **TINY[task]})


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('task', DEMO)
def test_autonl_s_over_200_steps(task, demo_data, scope):
    """On a GPU, where there is one, in float16 with loss scaling."""
    for curve in check_curves(task, demo_data, 200, 20, 3):
        assert curve[-1] < curve[0]
