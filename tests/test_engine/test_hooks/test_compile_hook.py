# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compiling and channels_last, as switches of the demo's three configs."""
import copy

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from torch._dynamo.utils import counters
from torch.testing import assert_close

from autonl_mm.engine.hooks import CompileHook
from autonl_mm.measure.synthetic import make_batch

DEMO = dict(
    cls='autonl-s_1xb32_demo-cls',
    det='retinanet_autonl-s_1xb8_demo-det',
    seg='semantic-fpn_autonl-s_1xb8_demo-seg')
# As in `--cfg-options default_hooks.compile.type=autonl_mm.CompileHook`
SWITCHES = dict(
    compile=dict(type='autonl_mm.CompileHook', backend='eager'),
    channels_last=dict(type='autonl_mm.ChannelsLastHook'))


class Runner:
    """The attributes of a runner that the hooks read."""

    def __init__(self, model):
        self.model = model
        self.logger = MMLogger.get_current_instance()


@pytest.fixture
def make(tiny_arch, scope):
    """Builds config, tiny model and a batch of a task."""

    def build(task):
        cfg = Config.fromfile(ROOT / f'configs/demo/{DEMO[task]}.py')
        cfg.model.backbone.arch = str(tiny_arch)
        if task == 'cls':
            cfg.model.backbone.out_indices = (-1, )
            cfg.model.head.in_channels = 64
            cfg.model.data_preprocessor = cfg.data_preprocessor
            cfg.model.neck.dropout = 0.
        else:
            cfg.model.backbone.out_indices = (1, 2, 3)[-len(
                cfg.model.neck.in_channels):]
            cfg.model.neck.in_channels = [8, 16, 24][-len(cfg.model.neck.in_channels):]
        if task == 'det':
            cfg.model.bbox_head.anchor_generator.strides = [4, 8, 16]
        if task == 'seg':
            cfg.model.data_preprocessor.size = (64, 64)
            cfg.model.decode_head.dropout_ratio = 0.
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
        return cfg, model, make_batch(cfg, 2, (64, 64))

    yield build
    torch._dynamo.reset()


# Compiling takes up to 10 seconds each.
@pytest.mark.long
@pytest.mark.parametrize('task', [
    'cls', *(pytest.param(task, marks=pytest.mark.slow) for task in ('det', 'seg'))])
def test_one_graph_per_part(task, make):
    """A training step and a prediction, unchanged, each part one graph."""
    cfg, model, batch = make(task)
    plain = copy.deepcopy(model)
    for hook in SWITCHES.values():
        HOOKS.build(hook).before_run(Runner(model))
    # each part would raise an error at the first break, fullgraph=True
    counters.clear()
    losses = [m.train_step(copy.deepcopy(batch),
                           build_optim_wrapper(m, cfg.optim_wrapper))['loss']
              for m in (plain, model)]
    parts = 2 if task == 'seg' else 3
    assert counters['stats']['unique_graphs'] == parts
    assert not counters['graph_break']
    assert_close(*losses, rtol=1e-4, atol=1e-5)
    assert plain.state_dict().keys() == model.state_dict().keys()
    features = []
    for m in (plain, model):
        m.eval()
        # the step's last bits, which channels_last has others of
        m.load_state_dict(plain.state_dict())
        with torch.no_grad():
            features.append(m.extract_feat(
                m.data_preprocessor(copy.deepcopy(batch))['inputs']))
    for a, b in zip(*features):
        assert_close(a, b, rtol=1e-4, atol=1e-5)
        if task != 'cls':  # whose feature maps are pooled
            assert b.is_contiguous(memory_format=torch.channels_last)
    assert counters['stats']['unique_graphs'] >= 2 * 2  # evaluation is compiled


def test_copies_are_not_compiled(make):
    """The copies of an EMA would run the graph of the original."""
    _, model, _ = make('cls')
    CompileHook(backend='eager').before_run(Runner(model))
    assert model.backbone._compiled_call_impl is not None
    assert copy.deepcopy(model).backbone._compiled_call_impl is None


def test_chosen_parts(make):
    _, model, _ = make('seg')
    CompileHook(['decode_head.conv_seg'], backend='eager').before_run(Runner(model))
    assert model.decode_head.conv_seg._compiled_call_impl is not None
    assert model.backbone._compiled_call_impl is None
    with pytest.raises(ValueError, match=r"no part 'bbox_head'.*'backbone'"):
        CompileHook(['bbox_head']).before_run(Runner(model))


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['inductor'])
def test_a_detector_of_many_sizes(backend, make):
    """Trains at several sizes, compiled for real, as without the hook."""
    cfg, model, _ = make('det')
    plain = copy.deepcopy(model)
    HOOKS.build(dict(type='autonl_mm.ChannelsLastHook')).before_run(Runner(model))
    CompileHook(backend=backend).before_run(Runner(model))
    steps = [(m, build_optim_wrapper(m, cfg.optim_wrapper)) for m in (plain, model)]
    for size in ((64, 96), (96, 128), (128, 64), (64, 64), (96, 160)):
        batch = make_batch(cfg, 2, size)
        one, two = (m.train_step(copy.deepcopy(batch), wrapper)['loss']
                    for m, wrapper in steps)
        assert_close(one, two, rtol=1e-3, atol=1e-4)
