# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy
import io
import pickle
from datetime import timedelta
from functools import cache

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import get_state_dict, load_checkpoint
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from scripts import server

from autonl_mm.models import LightNL, PluginBackbone

for codebase in ('mmpretrain', 'mmdet', 'mmseg'):
    pytest.importorskip(codebase)

# Name: base, target, number of places.
BASES = {
    'mobilenet_v2':
    (dict(type='mmpretrain.MobileNetV2'), r'layer\d\.\d+\.conv', 17),
    'mobilenet_v3': (dict(type='mmpretrain.MobileNetV3', arch='small'),
                     r'layer\d+\.linear_conv', 11),
    'resnet18': (dict(type='mmpretrain.ResNet', depth=18), r'layer[234]', 3),
    'resnet50': (dict(type='mmpretrain.ResNet', depth=50),
                 r'layer[234]\.\d\.bn3', 13),
    'efficientnet': (dict(type='mmpretrain.EfficientNet', arch='b0'),
                     r'layers\.\d\.\d+\.linear_conv', 16),
    'convnext': (dict(type='mmpretrain.ConvNeXt', arch='atto'),
                 r'stages\.\d', 4),
    'mnasnet': (dict(
        type='mmpretrain.TIMMBackbone',
        model_name='mnasnet_100',
        features_only=True), r'timm_model\.blocks\.\d\.\d', 17),
    'fbnetc': (dict(
        type='mmseg.TIMMBackbone',
        model_name='fbnetc_100',
        pretrained=False,
        features_only=True), r'timm_model\.blocks\.\d\.\d', 21),
    'mmdet_resnet': (dict(type='mmdet.ResNet', depth=18),
                     r'layer\d\.\d\.conv2', 8),
    'mmseg_mobilenet_v2': (dict(type='mmseg.MobileNetV2', out_indices=(1, 2, 4, 6)),
                           r'layer\d\.\d+\.conv', 17),
}
TIMM = ('mnasnet', 'fbnetc')
# The two of mmdet and mmseg are networks that mmpretrain also has.
NETWORKS = [name for name in BASES if not name.startswith('mm')]
# Tracing takes up to 10 seconds each.
TRACED = [name if name == 'resnet18' else pytest.param(name, marks=pytest.mark.slow)
          for name in NETWORKS]


def plugin(target, type='autonl_mm.LightNL', **cfg):
    return dict(cfg=dict(type=type, **cfg), target=target)


@cache
def _built(name):
    if name in TIMM:
        pytest.importorskip('timm')
    cfg, target, _ = BASES[name]
    torch.manual_seed(0)
    base = MODELS.build(cfg)
    torch.manual_seed(0)
    return base, PluginBackbone(cfg, [plugin(target)])


def build(name):
    """The base, and a copy with new plug-ins and the same weights."""
    return copy.deepcopy(_built(name))


def awake(net, weight=0.1):
    """Set every LightNL's BN weight, so that it changes the features."""
    for module in net.modules():
        if isinstance(module, LightNL):
            nn.init.constant_(module.norm.weight, weight)
    return net


def settled(name):
    """A network with active LightNLs and with statistics of real features.

    LightNL's output grows with the cube of its input: with initial statistics,
    or where a channel hardly varies, a deep network of random weights overflows.
    """
    net = awake(build(name)[1], 0.03).train()
    momenta = {m: m.momentum for m in net.modules() if isinstance(m, _BatchNorm)}
    for module in momenta:
        module.momentum = 1.
    net(image())
    for module, momentum in momenta.items():
        module.momentum = momentum
        variance = module.running_var
        variance.clamp_(min=variance.mean().item())
    return net.eval()


def image(n=2, h=64, w=96):
    return torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(1))


def assert_equal(got, want):
    assert len(got) == len(want) > 0
    for a, b in zip(got, want):
        assert torch.equal(a, b)


def assert_close(got, want, tolerance=1e-3):
    assert len(got) == len(want) > 0
    for a, b in zip(got, want):
        assert a.shape == b.shape
        assert (a - b).norm() <= tolerance * b.norm()


# ------------------------------------------------------------ for every base
@pytest.mark.parametrize('name', BASES)
def test_fresh_plugins_change_no_bit(name):
    base, net = build(name)
    assert len(net.plugins) == BASES[name][2]
    x = image()
    for mode in (False, True):
        base.train(mode)
        net.train(mode)
        assert_equal(net(x), base(x))
    awake(net)
    assert not all(torch.equal(a, b) for a, b in zip(net(x), base(x)))
    # also after the whole network is initialised
    base, net = build(name)
    for module in (base, awake(net)):
        torch.manual_seed(0)
        getattr(module, 'init_weights', lambda: None)()
        module.eval()
    assert_equal(net(x), base(x))


@pytest.mark.parametrize('name', BASES)
def test_finds_the_channels(name):
    net = build(name)[1].eval()
    seen = []
    for key, placed in net.plugins.items():
        layer = placed.light_nl
        net.backbone.get_submodule(key.replace('-', '.'))
        layer.register_forward_hook(
            lambda m, args, out: seen.append((m.in_channels, out.shape)))
    net(image())
    assert len(seen) == len(net.plugins)
    assert all(channels == shape[1] for channels, shape in seen)


@pytest.mark.parametrize('name', BASES)
def test_checkpoints_of_the_base_load(name, tmp_path):
    base, net = build(name)
    for module in base.modules():
        if isinstance(module, _BatchNorm):
            module.num_batches_tracked += 7
    own = base.state_dict()
    ours = net.state_dict()
    new = set(ours) - set(own)
    assert set(own) < set(ours)
    assert new and all(key.startswith('plugins.') for key in new)
    assert set(get_state_dict(net)) == set(ours)  # as the runner saves it

    path = str(tmp_path / 'base.pth')
    nn.init.constant_(next(base.parameters()), 3.)
    torch.save(base.state_dict(), path)
    x = image()
    base.eval(), net.eval()
    load_checkpoint(net, path, strict=False)  # by mmengine
    assert_equal(net(x), base(x))

    report = net.load_state_dict(own, strict=False)  # by torch
    counts = {k for k in new if k.endswith('num_batches_tracked')}
    assert new - counts <= set(report.missing_keys) <= new
    assert not report.unexpected_keys
    net.load_state_dict(dict(ours, **own))
    for key, value in net.state_dict().items():
        assert torch.equal(value, {**ours, **own}[key]), key
    with pytest.raises(RuntimeError, match='plugins'):
        net.load_state_dict(own)
    with pytest.raises(RuntimeError, match=r'extra\.weight'):
        net.load_state_dict(dict(ours, **{'extra.weight': torch.ones(1)}))
    # and in the other direction
    report = base.load_state_dict(net.state_dict(), strict=False)
    assert not report.missing_keys
    assert set(report.unexpected_keys) == new


@pytest.mark.parametrize('name', BASES)
def test_gradients_reach_everything(name):
    base, net = build(name)
    awake(net)
    for module in (base, net):
        module.train()
        sum(out.square().mean() for out in module(image())).backward()
    used = {key for key, p in base.named_parameters() if p.grad is not None}
    for key, param in net.named_parameters():
        if key.startswith('plugins.'):
            assert param.grad is not None and param.grad.any(), key
        else:
            key = key[len('backbone.'):]
            assert (param.grad is not None) == (key in used), key
        assert param.grad is None or param.grad.isfinite().all(), key


@pytest.mark.parametrize('name', TRACED)
def test_compiles_to_one_graph(name):
    torch._dynamo.reset()
    net = settled(name)
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend='eager')
    x = image()
    with torch.no_grad():
        assert_close(compiled(x), net(x))


@pytest.mark.parametrize('name', TRACED)
def test_exports_to_onnx(name):
    pytest.importorskip('onnx')
    runtime = pytest.importorskip('onnxruntime')
    net = settled(name)
    file = io.BytesIO()
    axes = {0: 'n', 2: 'h', 3: 'w'}
    torch.onnx.export(
        net, (image(), ),
        file,
        dynamo=False,
        input_names=['x'],
        dynamic_axes=dict(x=axes))
    session = runtime.InferenceSession(
        file.getvalue(), providers=['CPUExecutionProvider'])
    # the statistics fit these images only
    inputs = [image()[:1], image()[[0, 1, 0]].tile(2, 1)]
    if name == 'efficientnet':
        # Its padding depends on the size and is a constant in the graph.
        inputs[1] = image()[[0, 1, 0]]
    for x in inputs:
        got = session.run(None, dict(x=x.numpy()))
        with torch.no_grad():
            assert_close([torch.from_numpy(g) for g in got], net(x))


@pytest.mark.parametrize('name', ['resnet18', 'mnasnet'])
def test_copies_have_separate_plugins(name):
    net = settled(name)
    twin = copy.deepcopy(net)
    x = image(1)
    before = net(x)
    assert_equal(twin(x), before)
    for param in net.plugins.parameters():
        nn.init.zeros_(param)
    assert not all(torch.equal(a, b) for a, b in zip(net(x), before))
    assert_equal(twin(x), before)
    ids = {id(p) for p in net.parameters()}
    assert ids.isdisjoint(id(p) for p in twin.parameters())


# ------------------------------------------------------------- for any base
def test_plugins_are_in_one_list():
    with pytest.raises(ValueError, match='put all plug-ins into one list'):
        PluginBackbone(dict(type='autonl_mm.PluginBackbone',
                            backbone=BASES['resnet18'][0]))


def test_ema_follows_the_plugins():
    net = settled('resnet18')
    ema = ExponentialMovingAverage(net, momentum=0.5, update_buffers=True)
    ema.update_parameters(net)
    x = image(1)
    assert_equal(ema(x), net(x))
    layer, averaged = (n.plugins.layer3.light_nl for n in (net, ema.module))
    nn.init.constant_(layer.norm.weight, 0.13)
    ema.update_parameters(net)
    torch.testing.assert_close(averaged.norm.weight,
                               torch.full_like(layer.norm.weight, 0.08))
    assert not torch.equal(ema(x)[0], net(x)[0])


def test_pickles():
    net = settled('resnet18')
    before = net(image(1))
    loaded = pickle.loads(pickle.dumps(net))
    for param in net.plugins.parameters():
        nn.init.zeros_(param)
    assert_equal(loaded(image(1)), before)


@pytest.mark.slow
def test_onnx_by_torch_export():
    pytest.importorskip('onnxscript')
    runtime = pytest.importorskip('onnxruntime')
    net = settled('resnet18')
    auto = torch.export.Dim.AUTO
    program = torch.onnx.export(
        net, (image(), ),
        dynamo=True,
        dynamic_shapes=({0: auto, 2: auto, 3: auto}, ),
        verbose=False)
    file = io.BytesIO()
    program.save(file)
    session = runtime.InferenceSession(
        file.getvalue(), providers=['CPUExecutionProvider'])
    x = image().tile(2, 1)
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert_close([torch.from_numpy(g) for g in got], net(x))


def _train_in_parallel(rank, meeting, queue):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=meeting.as_uri(), rank=rank, world_size=2,
        timeout=timedelta(minutes=2))
    for name in ('mobilenet_v2', 'mmdet_resnet'):
        queue.put((name, *_same_and_moved(name, rank)))
    dist.barrier()  # neither leaves while the other still receives
    dist.destroy_process_group()


def _same_and_moved(name, rank):
    # The network lives in here: DDP must not be the last that holds the group. Its
    # destructor would end gloo's threads without releasing the interpreter's lock,
    # which one of them may wait for.
    torch.manual_seed(rank)  # DDP sends rank 0's weights to all
    net = awake(build(name)[1]).train()
    model = nn.parallel.DistributedDataParallel(net, broadcast_buffers=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x = torch.randn(2, 3, 64, 96)
    sum(out.square().mean() for out in model(x)).backward()
    optimizer.step()
    params = torch.cat([p.detach().flatten() for p in net.plugins.parameters()])
    grads = torch.cat([p.grad.flatten() for p in net.plugins.parameters()])
    others = [torch.empty_like(params) for _ in range(2)]
    dist.all_gather(others, params)
    return torch.equal(*others), grads.any().item()


def test_trains_with_ddp(tmp_path):
    # Not forks of this process: earlier tests have started threads, and a lock that
    # one of them holds would never be released in a fork.
    queue = server().SimpleQueue()
    mp.start_processes(_train_in_parallel, (tmp_path / 'meeting', queue), nprocs=2,
                       start_method='forkserver')
    results = [queue.get() for _ in range(4)]
    assert {name for name, *_ in results} == {'mobilenet_v2', 'mmdet_resnet'}
    assert all(same and moved for _, same, moved in results)


def light_nl_modes(net):
    return {m.training for p in net.plugins.values() for m in p.modules()}


@pytest.mark.parametrize('cfg', [
    dict(type='mmpretrain.ResNet', depth=18, frozen_stages=2, norm_eval=True),
    dict(type='mmdet.ResNet', depth=18, frozen_stages=2, norm_eval=True),
    dict(type='mmpretrain.MobileNetV2', frozen_stages=2, norm_eval=True),
    dict(type='mmseg.MobileNetV2', frozen_stages=2, norm_eval=True),
    dict(type='mmpretrain.EfficientNet', arch='b0', frozen_stages=2, norm_eval=True),
    dict(type='mmpretrain.ConvNeXt', arch='atto', frozen_stages=2),
], ids=lambda cfg: cfg['type'])
def test_the_base_stays_frozen(cfg):
    base = MODELS.build(cfg)
    base.train()
    target = dict(ResNet=r'layer\d', ConvNeXt=r'stages\.\d').get(
        type(base).__name__, r'layers?\.?[1-6]')
    net = PluginBackbone(cfg, [plugin(target)])
    assert len(net.plugins) >= 4
    for _ in range(2):
        net.eval()
        assert not any(m.training for m in net.modules())
        assert net.train() is net
        modes = {n: m.training for n, m in base.named_modules()}
        grads = {n: p.requires_grad for n, p in base.named_parameters()}
        assert {n: m.training for n, m in net.backbone.named_modules()} == modes
        assert {n: p.requires_grad for n, p in net.backbone.named_parameters()} == grads
        assert False in modes.values() and False in grads.values()
        # new layers train, in frozen stages too
        assert light_nl_modes(net) == {True}
        assert all(p.requires_grad for p in net.plugins.parameters())
    statistics = {k: v.clone() for k, v in base.state_dict().items() if 'running' in k}
    awake(net)
    sum(out.mean() for out in net(image())).backward()
    for placed in net.plugins.values():
        assert placed.light_nl.conv.weight.grad is not None
        assert placed.light_nl.norm.num_batches_tracked == 1
    if cfg.get('norm_eval'):
        state = net.state_dict()
        assert statistics
        for key, value in statistics.items():
            assert torch.equal(state[key], value)


def test_statistics_of_trained_plugins_can_be_kept():
    cfg, target, _ = BASES['resnet18']
    net = PluginBackbone(cfg, [plugin(target)], norm_eval=True)
    for _ in range(2):
        net.train()
        for placed in net.plugins.values():
            assert placed.light_nl.training
            assert not placed.light_nl.norm.training
        assert net.backbone.bn1.training
        net.eval()


def test_the_base_is_left_as_it_was():
    cfg = dict(type='mmpretrain.ResNet', depth=18, frozen_stages=1)
    base, net = MODELS.build(cfg), PluginBackbone(cfg, [plugin('layer2')])
    modes = {n: m.training for n, m in base.named_modules()}
    assert {n: m.training for n, m in net.backbone.named_modules()} == modes
    hooked = [n for n, m in net.backbone.named_modules() if m._forward_hooks]
    assert hooked == ['layer2']
    assert all((b == 0).all() for n, b in net.named_buffers()
               if n.endswith('num_batches_tracked'))


def test_without_plugins_it_is_the_base():
    base, _ = build('resnet18')
    net = PluginBackbone(BASES['resnet18'][0])
    net.load_state_dict(base.state_dict())
    base.eval()
    assert_equal(net.eval()(image()), base(image()))


def test_other_numbers_of_input_channels():
    net = PluginBackbone(
        dict(type='mmpretrain.ResNet', depth=18, in_channels=5),
        [plugin('layer2')])
    assert net.plugins.layer2.light_nl.in_channels == 128
    net(torch.zeros(2, 5, 64, 64))


@pytest.mark.parametrize('scope_name', ['mmpretrain', 'mmdet', 'mmseg'])
def test_bare_names_under_a_default_scope(scope_name, scope):
    init_default_scope(scope_name)
    net = MODELS.build(
        dict(
            type='PluginBackbone',
            backbone=dict(type='ResNet', depth=18),
            plugins=[plugin('layer3', 'LightNL', stride=2)]))
    assert type(net.backbone).__module__.startswith(f'{scope_name}.')
    assert net.plugins.layer3.light_nl.stride == 2


def test_in_a_classifier(tmp_path):
    """Weights of a classifier, and the base's own init_cfg."""
    cfg, target, _ = BASES['mobilenet_v2']
    head = dict(type='LinearClsHead', num_classes=3, in_channels=1280)
    plain = MODELS.build(
        dict(
            _scope_='mmpretrain', type='ImageClassifier', backbone=cfg,
            neck=dict(type='GlobalAveragePooling'), head=head))
    plain.init_weights()
    path = str(tmp_path / 'classifier.pth')
    torch.save(dict(state_dict=plain.state_dict()), path)
    pretrained = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    wrapped = dict(
        type='autonl_mm.PluginBackbone',
        backbone=cfg,
        plugins=[plugin(target)])
    plain.eval()
    want = plain.backbone(image())
    for backbone in (
            dict(wrapped, backbone=dict(cfg, init_cfg=pretrained)),
            dict(wrapped, init_cfg=pretrained)):
        model = MODELS.build(
            dict(
                _scope_='mmpretrain', type='ImageClassifier',
                backbone=backbone, neck=dict(type='GlobalAveragePooling'),
                head=head,
                init_cfg=dict(type='Constant', layer='BatchNorm2d', val=1)))
        model.init_weights()
        assert_equal(model.eval().backbone(image()), want)
        report = model.load_state_dict(plain.state_dict(), strict=False)
        assert not report.unexpected_keys
        assert all(key.startswith('backbone.plugins.') for key in report.missing_keys)
        load_checkpoint(model, path)
        assert_equal(model.extract_feat(image())[0], plain.extract_feat(image())[0])


# -------------------------------------------------------------- other layers
@pytest.mark.parametrize('name, cfg, abbr', [
    ('mobilenet_v2', dict(type='NonLocal2d', reduction=2, mode='dot_product'),
     'nonlocal_block'),
    ('mnasnet', dict(type='NonLocal2d', sub_sample=True, norm_cfg=dict(type='BN')),
     'nonlocal_block'),
    ('resnet50', dict(type='ContextBlock', ratio=1 / 4), 'context_block'),
], ids=['nonlocal', 'nonlocal_sub_sample', 'context'])
def test_mmcvs_plugins(name, cfg, abbr):
    base, net = build(name)
    net = PluginBackbone(BASES[name][0], [dict(cfg=cfg, target=BASES[name][1])])
    assert cfg['type'] in ('NonLocal2d', 'ContextBlock')  # not changed
    report = net.load_state_dict(base.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert {key.split('.')[2] for key in report.missing_keys} == {abbr}
    net.init_weights()
    net.load_state_dict(base.state_dict(), strict=False)
    base.eval(), net.eval()
    assert_equal(net(image()), base(image()))
    net.train()
    for param in net.plugins.parameters():
        nn.init.normal_(param, std=0.1)
    out = net(image())
    sum(o.square().mean() for o in out).backward()
    # the bias of theta and phi cancels in a softmax: its gradient may be 0
    assert all(p.grad is not None for p in net.plugins.parameters())
    assert all(any(p.grad.any() for p in placed.parameters())
               for placed in net.plugins.values())


def test_several_at_one_place_come_one_after_the_other():
    cfg = BASES['resnet18'][0]
    entries = [
        plugin('layer3'),
        plugin('layer[34]', 'ContextBlock', ratio=1 / 16),
        plugin('layer3', postfix='_2', stride=2)
    ]
    net = PluginBackbone(cfg, entries)
    assert entries[2]['cfg']['postfix'] == '_2'  # not changed
    assert {k: [n for n, _ in v.named_children()] for k, v in net.plugins.items()} == {
                'layer3': ['light_nl', 'context_block', 'light_nl_2'],
                'layer4': ['context_block']
            }
    order = []
    for layer in net.plugins.layer3:
        layer.register_forward_hook(lambda m, a, o: order.append(m))
    net(image())
    assert order == list(net.plugins.layer3)


def test_earlier_hooks_see_what_the_base_sees():
    """timm and visualisation tools collect features with hooks."""
    net = settled('resnet18')
    seen = []
    net.backbone.layer4.register_forward_hook(lambda m, args, out: seen.append(out))
    assert torch.equal(net(image())[0], seen[0])


# --------------------------------------------------------------------- errors
def refused(cfg, *plugins):
    with pytest.raises(ValueError) as info:
        PluginBackbone(cfg, plugins)
    return str(info.value)


RESNET = dict(type='mmpretrain.ResNet', depth=18)


def test_a_target_that_matches_nothing_lists_what_could():
    for target in ('layer9', 'layer', 'bn', r'layer1\.0\.conv', 'LAYER1'):
        text = refused(RESNET, plugin('layer1'), plugin(target))
        assert repr(target) in text and 'ResNet' in text
        lines = [line.strip() for line in text.splitlines()]
        assert 'layer4.1.conv2 (512 channels)' in lines
        assert 'layer1 (64 channels)' in lines
        assert not any(line.startswith('layer1.0.relu') for line in lines)


def test_unsuitable_places():
    text = refused(RESNET, plugin(r'layer1\.0\.relu'))
    assert "'layer1.0.relu' is called 2 times" in text
    assert 'layer1 (64 channels)' in text
    text = refused(RESNET, plugin(r'layer1.*'))  # some are suitable, some are not
    assert "'layer1.0.relu'" in text
    convnext = BASES['convnext'][0]
    text = refused(convnext, plugin('downsample_layers'))
    assert "'downsample_layers' is not called" in text
    # channels last
    text = refused(convnext, plugin(r'stages\.0\.0\.pointwise_conv1'))
    assert ("'stages.0.0.pointwise_conv1' returns (1, 16, 24, 160) for an "
            'image of 64x96') in text


def test_transformers():
    vit = dict(type='mmpretrain.VisionTransformer', arch='deit-tiny')
    text = refused(vit, plugin(r'layers\.\d+'))
    assert "'layers.0' returns (1, 25, 192)" in text
    assert 'not suitable' in text and '(N, C, H, W)' in text
    assert 'patch_embed.projection (192 channels)' in text
    swin = dict(type='mmdet.SwinTransformer', depths=(2, 2, 2, 2))
    text = refused(swin, plugin(r'stages\.\d\.blocks\.\d'))
    assert "'stages.0.blocks.0' returns (1, 384, 96)" in text
    text = refused(swin, plugin(r'stages\.\d'))
    assert "'stages.0' returns more than one tensor" in text


def test_a_base_with_a_fixed_input_size():
    pytest.importorskip('timm')
    vit = dict(type='mmpretrain.TIMMBackbone', model_name='vit_tiny_patch16_224')
    text = refused(vit, plugin('.*'))
    assert 'does not run on an image of 64x96' in text
    assert 'fixed input size' in text and '224' in text


@pytest.mark.parametrize('entry,words', [
    (dict(type='LightNL'), ('target', 'cfg')),
    ('layer1', ('layer1', 'target')),
    (dict(cfg=dict(type='LightNL'), target='layer1', stages=(True, )),
     ('stages', 'expected')),
    (dict(cfg=dict(stride=2), target='layer1'), ('stride', 'type')),
    (dict(cfg=None, target='layer1'), ('None', 'type')),
    (plugin('layer1', in_channels=64), ('in_channels', 'leave it out')),
    (plugin('layer(1'), ('layer(1', 'regular expression')),
    (plugin(None), ('None', 'regular expression')),
    (plugin('layer1', channel_ratio=2), ('channel_ratio', '2')),
    (plugin('layer1', reduction=2), ('reduction', 'LightNL')),
])
def test_bad_entries(entry, words):
    text = refused(RESNET, entry)
    for word in words:
        assert word in text


def test_two_of_one_name_at_one_place():
    text = refused(RESNET, plugin('layer1'), plugin('layer[12]'))
    assert "'light_nl' after 'layer1'" in text and 'postfix' in text


def test_layers_that_do_not_fit():
    for type in ('autonl_mm.LightNLL', 'LightNLL'):
        text = refused(RESNET, plugin('layer1', type))
        assert f"'{type}'" in text and "'layer1'" in text
    text = refused(RESNET, plugin('layer[12]', channel_ratio=0.01))
    assert 'channel_ratio 0.01 of 64 channels' in text
    assert "the 64 channels of 'layer1'" in text
    text = refused(RESNET, plugin('layer1', 'ContextBlock'))
    assert 'ratio' in text
    text = refused(
        RESNET,
        plugin('layer1', 'ConvModule', out_channels=8, kernel_size=3))
    assert '(1, 64, 6, 9) went in and (1, 8, 4, 7) came out' in text
