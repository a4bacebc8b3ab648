# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy
import random
import sys

import pytest
import torch
import torch.nn as nn
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from search_spaces import TINY_SPACE

from autonl_mm import ArchSpec, BlockSpec
from autonl_mm.deploy import switch_to_deploy
from autonl_mm.fold import fold_norms
from autonl_mm.measure.comparison_blocks import SharedNL
from autonl_mm.models import AutoNL, LightNL, MBConv, PluginBackbone
from autonl_mm.models.layers.light_nl import RMS_MARK
from autonl_mm.nas import CostAwareModel

TINY = ['r1_k3_s11_e1_i8_o8', 'r1_k3_s22_e3_i8_o16_nonlocal0.25-1',
        'r2_k5_s22_e3_i16_o24_se0.5_nonlocal0.25-2']


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def norms(model):
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def trained(model, run):
    """Norms with weights, and statistics of what passes through."""
    for norm in norms(model):
        nn.init.uniform_(norm.weight, 0.1, 0.5)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        run(model)
    for norm in norms(model):
        norm.momentum = 0.1
        # LightNL is cubic: where a channel hardly varied in a few images
        # of noise, others would make a deep network overflow
        norm.running_var.clamp_(min=norm.running_var.mean().item())
    model.eval()  # mmpretrain's RepVGG does not return itself
    return model


def image(h=64, w=64, n=2):
    return torch.randn(n, 3, h, w)


def check(model, run, left=0):
    """Check that the deploy form gives the same outputs, and its other properties.

    Args:
        model (nn.Module): In eval mode, with random weights.
        run (Callable): From a model to a tuple of tensors.
        left (int): Number of norms that do not come after a convolution.

    Returns:
        nn.Module: The deploy form.
    """
    with torch.no_grad():
        want = run(model)
        deployed = copy.deepcopy(model)
        assert switch_to_deploy(deployed) is deployed
        got = run(deployed)
        assert len(got) == len(want) > 0
        fused = switch_to_deploy(copy.deepcopy(model), fused=True)
        for a, b, c in zip(got, want, run(fused)):
            assert b.abs().max() > 1e-3
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()
            assert (c - b).abs().max() <= 1e-5 * b.abs().max()
        assert list(fused.state_dict()) == list(deployed.state_dict())
        assert len(norms(deployed)) == left < len(norms(model))
        # idempotent
        names = list(deployed.state_dict())
        switch_to_deploy(deployed)
        assert list(deployed.state_dict()) == names
        for a, b in zip(run(deployed), got):
            assert torch.equal(a, b)
        # a deployed one's weights load into a deployed one
        other = copy.deepcopy(model)
        for param in other.parameters():
            nn.init.normal_(param)
        switch_to_deploy(other).load_state_dict(deployed.state_dict())
        for a, b in zip(run(other), got):
            assert torch.equal(a, b)
    return deployed


# ------------------------------------------------------------------ our layers
@pytest.mark.parametrize('layer', [
    LightNL(8, stride=2, zero_init=False),
    LightNL(8, dilation=3, zero_init=False),
    LightNL(8, stride=2, normalize='rms', zero_init=False),
    LightNL(8, order='spatial', normalize='rms', zero_init=False),
    LightNL(8, norm_cfg=dict(type='SyncBN'), zero_init=False),
    SharedNL(8, zero_init=False),
    MBConv(BlockSpec(8, 8, 1, 5, 3, 0.25, 0.5)),
    MBConv(BlockSpec(8, 8, 1, 5, 3, 0.25, 0.5, normalize='size')),
], ids=['light_nl', 'dilated', 'rms', 'rms_spatial', 'sync_bn', 'shared_nl', 'mbconv',
        'mbconv_rms'])
def test_layers(layer):
    x = torch.randn(2, 8, 9, 12)
    if not isinstance(getattr(layer, 'norm', None), nn.SyncBatchNorm):
        trained(layer, lambda m: m(x))
    else:  # trains on a GPU only
        layer.eval()
        layer.norm.running_var.uniform_(0.5, 1.5)
        layer.norm.running_mean.uniform_(-0.5, 0.5)
    fresh = copy.deepcopy(layer)
    deployed = check(layer, lambda m: (m(x), ))
    fresh.switch_to_deploy()
    assert torch.equal(fresh(x), deployed(x))
    if isinstance(layer, LightNL):
        mark = [RMS_MARK] * (layer.normalize == 'rms')
        assert list(deployed.state_dict()) == [*mark, 'conv.weight', 'conv.bias']
        assert deployed.conv.groups == layer.conv.groups


def test_light_nl_without_a_batch_norm_stays_as_it_is():
    for norm_cfg in None, dict(type='GN', num_groups=2):
        layer = LightNL(8, norm_cfg=norm_cfg, zero_init=False)
        before = list(layer.state_dict())
        x = torch.randn(2, 8, 6, 5)
        want = layer(x)
        layer.switch_to_deploy()
        assert list(layer.state_dict()) == before
        assert torch.equal(layer(x), want)


def test_deployed_weights_of_the_other_form_are_refused():
    layers = [LightNL(8, normalize=normalize) for normalize in ('size', 'rms')]
    for layer in layers:
        layer.switch_to_deploy()
    with pytest.raises(RuntimeError, match="was trained with normalize='rms'"):
        layers[0].load_state_dict(layers[1].state_dict(), strict=False)


def test_half_precision_keeps_the_branch_in_float32():
    layer = trained(LightNL(8, normalize='size'), lambda m: m(torch.randn(2, 8, 6, 5)))
    layer.switch_to_deploy()
    layer.half()
    assert layer.conv.bias.dtype == layer.conv.weight.dtype == torch.float32
    x = torch.randn(1, 8, 6, 5)
    torch.testing.assert_close(layer(x.half()).float(), layer(x), rtol=1e-2, atol=1e-2)


# --------------------------------------------------------- the fused operators
class Doubled(LightNL):
    """Computes something else than LightNL does."""

    def branch(self, x, weight=None):
        return 2 * super().branch(x, weight)


@pytest.fixture
def operator_calls(monkeypatch):
    """The feature maps that the fused operators are called with."""
    calls = []

    def record(layer, name):
        module = sys.modules[layer.__module__]
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda x, *args, **kwargs:
            calls.append(x.shape) or real(x, *args, **kwargs))

    record(LightNL, 'fused_light_nl')
    record(MBConv, 'fused_mbconv')
    return calls


def test_fused_in_float32_without_gradients_alone(operator_calls):
    layer = trained(LightNL(8, stride=2), lambda m: m(torch.randn(2, 8, 6, 5)))
    x = torch.randn(2, 8, 7, 5)
    want = layer(x)
    switch_to_deploy(layer, fused=True)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), want)
        assert operator_calls == [x.shape]
        for dtype in torch.float64, torch.float16, torch.bfloat16:
            other = layer.double() if dtype == torch.float64 else layer.float()
            assert other(x.to(dtype)).dtype == dtype
        assert len(operator_calls) == 1
    layer(x).sum().backward()
    assert layer.conv.weight.grad.abs().max() > 0
    assert len(operator_calls) == 1
    with torch.inference_mode():
        layer(x)
    assert len(operator_calls) == 2


@pytest.mark.parametrize('layer', [
    LightNL(8, norm_cfg=dict(type='GN', num_groups=2), zero_init=False),
    LightNL(8, norm_cfg=None, zero_init=False),
    SharedNL(8, zero_init=False),
    Doubled(8, zero_init=False),
], ids=['other_norm', 'no_norm', 'shared', 'subclass'])
def test_what_the_operator_cannot_do_is_not_fused(layer, operator_calls):
    x = torch.randn(2, 8, 6, 5)
    with torch.no_grad():
        want = layer.eval()(x)
        torch.testing.assert_close(switch_to_deploy(layer, fused=True)(x), want)
    assert not operator_calls


class Shifted(MBConv):
    """Computes something else than MBConv does."""

    def _inner_forward(self, x):
        return super()._inner_forward(x) + 1


def block(in_channels=8, out_channels=8, nl_ratio=0.25, se_ratio=0.5, cls=MBConv,
          **kwargs):
    spec = BlockSpec(in_channels, out_channels, stride=1, kernel_size=5,
                     expand_ratio=3, se_ratio=se_ratio, nl_ratio=nl_ratio)
    layer = cls(spec, **kwargs)
    layer.init_weights()
    x = torch.randn(8, in_channels, 9, 7)
    return trained(layer, lambda m: m(x)) if norms(layer) else layer.eval()


def with_hook(layer):
    layer.depthwise.register_forward_hook(lambda module, args, out: out + 1)
    return layer


def test_blocks_are_fused_in_float32_without_gradients_alone(operator_calls):
    layer, x = block(), torch.randn(2, 8, 6, 5)
    want = layer(x)
    switch_to_deploy(layer, fused=True)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), want)
        assert operator_calls == [x.shape]  # LightNL is a part of it
        layer.double()(x.double())
    layer.float()(x).sum().backward()
    assert layer.expand.conv.weight.grad.abs().max() > 0
    assert len(operator_calls) == 1


@pytest.mark.parametrize('act_cfg, se_act_cfg', [
    (dict(type='ReLU6'), None), (dict(type='ReLU'), dict(type='Swish')),
    (dict(type='HSwish'), dict(type='ReLU6'))])
def test_blocks_of_other_activations_are_fused(act_cfg, se_act_cfg, operator_calls):
    layer, x = block(act_cfg=act_cfg, se_act_cfg=se_act_cfg), torch.randn(2, 8, 6, 5)
    with torch.no_grad():
        want = layer(x)
        torch.testing.assert_close(switch_to_deploy(layer, fused=True)(x), want)
    assert operator_calls == [x.shape]


@pytest.mark.parametrize('layer', [
    block(nl_ratio=0, norm_cfg=dict(type='GN', num_groups=2)),
    block(nl_ratio=0, se_act_cfg=dict(type='GELU')),
    block(nl_ratio=0, conv_cfg=dict(type='Conv2dAdaptivePadding')),
    *(block(nl_ratio=0, conv_cfg=dict(type='Conv2d', padding_mode=mode))
      for mode in ('reflect', 'replicate', 'circular')),
    block(nl_ratio=0, norm_cfg=dict(type='IN', affine=True)),
    *(block(nl_ratio=0, act_cfg=dict(type=act))
      for act in ('GELU', 'LeakyReLU', 'ELU')),
    block(nl_ratio=0, se_ratio=0, act_cfg=None),
    block(nl_ratio=0, in_channels=12),
    block(nl_ratio=0, out_channels=12),
    block(nl_ratio=0, cls=Shifted),
    with_hook(block(nl_ratio=0)),
], ids=['other_norm', 'other_se_activation', 'other_convolution', 'reflect',
        'replicate', 'circular', 'instance_norm', 'gelu', 'leaky_relu', 'elu',
        'no_activation', 'channels_in', 'channels_out', 'subclass', 'hook'])
def test_blocks_that_the_operator_cannot_do_are_not_fused(layer, operator_calls):
    x = torch.randn(2, layer.spec.in_channels, 6, 5)
    with torch.no_grad():
        want = layer(x)
        torch.testing.assert_close(switch_to_deploy(layer, fused=True)(x), want)
    assert not operator_calls


def test_block_with_a_light_nl_that_is_not_fused(operator_calls):
    layer, x = block(norm_cfg=None), torch.randn(2, 8, 6, 5)
    nn.init.normal_(layer.light_nl.conv.weight)
    with torch.no_grad():
        want = layer(x)
        torch.testing.assert_close(switch_to_deploy(layer, fused=True)(x), want)
    assert operator_calls == [x.shape]


def test_weights_lie_as_the_operators_read_them():
    """In any state of the model; otherwise each call makes a copy."""
    layer = switch_to_deploy(block(), fused=True)
    x = torch.randn(2, 8, 6, 5)

    def check_layout(layer):
        for conv in (layer.expand.conv, layer.depthwise.conv, layer.se.expand,
                     layer.project.conv, layer.light_nl.conv):
            assert conv.weight.flatten(1).t().is_contiguous()

    with torch.no_grad():
        want = layer(x)
        for other in (layer, copy.deepcopy(layer),
                      copy.deepcopy(layer).to(memory_format=torch.channels_last),
                      copy.deepcopy(layer).double().float()):
            check_layout(other)
            torch.testing.assert_close(other(x), want)
        other = switch_to_deploy(block(), fused=True)
        assert (other(x) - want).abs().max() > 1e-2
        other.load_state_dict(layer.state_dict())
        check_layout(other)
        torch.testing.assert_close(other(x), want)
        other = copy.deepcopy(layer)
        nn.init.zeros_(other.project.conv.weight)
        assert (other(x) - want).abs().max() > 1e-2
        torch.testing.assert_close(layer(x), want)


def test_not_fused_unless_asked_for(operator_calls):
    layer = LightNL(8)
    with torch.no_grad():
        switch_to_deploy(layer)(torch.randn(1, 8, 6, 5))
        assert not operator_calls
        switch_to_deploy(layer, fused=True)(torch.randn(1, 8, 6, 5))
        assert operator_calls
        switch_to_deploy(layer)  # doing it again changes nothing
        layer(torch.randn(1, 8, 6, 5))
    assert len(operator_calls) == 2


def test_a_model_that_cannot_be_fused_is_unchanged(monkeypatch):
    def fail():
        raise RuntimeError('no compiler')

    monkeypatch.setattr('autonl_mm.fold.load_fused_operators', fail)
    layer = LightNL(8).train()
    before = list(layer.state_dict())
    with pytest.raises(RuntimeError, match='no compiler'):
        switch_to_deploy(layer, fused=True)
    assert list(layer.state_dict()) == before and layer.training


@pytest.mark.long
def test_fused_and_compiled_without_a_break():
    net = trained(AutoNL(TINY, out_indices=(-1, )), lambda m: m(image(n=4)))
    switch_to_deploy(net, fused=True)
    assert any(m.fused for m in net.modules() if isinstance(m, MBConv))
    compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
    for h, w in (64, 64), (64, 96), (96, 64), (80, 112):
        x = image(h, w).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            got, want = compiled(x)[0], net(x)[0]
        torch.testing.assert_close(got, want)
        assert got.stride() == want.stride()


# ------------------------------------------------------------------- backbones
def backbone(cfg, **kwargs):
    net = AutoNL(cfg, **kwargs)
    net.init_weights()
    return trained(net, lambda m: m(image(n=4)))


@pytest.mark.parametrize('arch,kwargs', [
    ('s', {}),
    ('l', dict(out_indices=(2, 3, 5, 7))),
    ('l', dict(normalize='rms')),
    (TINY, dict(out_indices=(1, 2, 3), output_stride=8)),
    (TINY, dict(out_indices=(-1, ), with_cp=True,
                conv_cfg=dict(type='Conv2dAdaptivePadding'))),
], ids=['s', 'l', 'rms', 'dilated', 'tensorflow'])
def test_backbones(arch, kwargs):
    net = backbone(arch, **kwargs)
    x = image(64, 96)
    deployed = check(net, lambda m: m(x))
    # what BN had is gone, and a bias came
    assert sum(p.numel() for p in deployed.parameters()) < sum(
        p.numel() for p in net.parameters())


@pytest.mark.parametrize('number', range(8))
def test_random_archs(number):
    draw = random.Random(number)
    blocks, channels = [], 8
    for _ in range(draw.randint(1, 5)):
        wider = draw.choice((8, 12, 16))
        blocks.append(
            BlockSpec(channels, wider, draw.choice((1, 2)),
                      draw.choice((3, 5, 7)), draw.choice((1, 2, 3)),
                      draw.choice((0, 0.5)), draw.choice((0, 0.25, 1)),
                      draw.choice((1, 2, 3))))
        channels = wider
    arch = ArchSpec(blocks, 8, 32).with_normalize(draw.choice(('size', 'rms')))
    net = backbone(arch, out_indices=(-1, ), output_stride=draw.choice((8, 32)))
    x = image(64, 80)
    check(net, lambda m: m(x))


def test_reversible_by_reloading(tmp_path):
    net = backbone(TINY, out_indices=(-1, ))
    path = str(tmp_path / 'trained.pth')
    torch.save(dict(state_dict=net.state_dict()), path)
    x = image()
    want = net(x)[0]
    net.switch_to_deploy()
    again = AutoNL(TINY, out_indices=(-1, ))
    load_checkpoint(again, path, strict=True)
    assert torch.equal(again.eval()(x)[0], want)
    # but not into what has lost its norms, however lenient
    for load in (lambda: load_checkpoint(net, path),
                 lambda: net.load_state_dict(again.state_dict())):
        with pytest.raises(RuntimeError, match=r'not in deploy form.*first'):
            load()


def test_convolutions_with_a_bias_refuse_weights_with_norms():
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=True), nn.BatchNorm2d(4)).eval()
    state, x = net.state_dict(), torch.randn(2, 3, 5, 5)
    want = net(x)
    fold_norms(net)
    torch.testing.assert_close(net(x), want)
    with pytest.raises(RuntimeError, match=r'1\.running_var comes from a network that '
                                           'is not in deploy form'):
        net.load_state_dict(state, strict=False)


def test_frozen_stays_frozen_and_eval_stays():
    net = AutoNL(TINY, out_indices=(-1, ), frozen_stages=1, norm_eval=True)
    switch_to_deploy(net)
    assert not net.training
    net.train()  # as a hook that goes back to training after validation does
    frozen = [p.requires_grad for p in net.layers[:2].parameters()]
    assert frozen and not any(frozen)
    assert all(p.requires_grad for p in net.layers[2:].parameters())
    x = image()
    train = net(x)[0]
    assert torch.equal(net.eval()(x)[0], train)


def test_a_supernet_is_exported_first():
    supernet = dict(type='autonl_mm.AutoNLSuperNet', space=TINY_SPACE, input_shape=32)
    searched = CostAwareModel(
        dict(
            _scope_='mmpretrain',
            type='ImageClassifier',
            backbone=supernet,
            neck=dict(type='autonl_mm.PoolDropout'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=32)),
        cost_weight=0.05)
    for model in (searched, searched.model, searched.supernet):
        before = list(model.state_dict())
        with pytest.raises(TypeError, match='export_arch'):
            switch_to_deploy(model)
        assert list(model.state_dict()) == before


# ---------------------------------------------------- what the libraries have
# Between a convolution and its norm nothing can be folded, and a norm that a
# layer hangs on stays.
@pytest.mark.parametrize('target,left', [('conv1', 1), ('bn1', 1),
                                         (r'layer2\.0\.conv1', 1),
                                         (r'layer[12]\.\d', 0)])
def test_plugins_of_any_base(target, left):
    net = PluginBackbone(
        dict(type='mmpretrain.ResNet', depth=18, base_channels=8,
             stem_channels=8, num_stages=2, out_indices=(0, 1),
             strides=(1, 2), dilations=(1, 1)),
        [dict(cfg=dict(type='LightNL'), target=target)])
    trained(net, lambda m: m(image(n=4)))
    x = image()
    check(net, lambda m: m(x), left=left)


def test_timm_base():
    """Its norms contain an activation."""
    timm = pytest.importorskip('timm')
    net = timm.create_model('mnasnet_small')
    trained(net, lambda m: m(image(n=4)))
    x = image()
    check(net, lambda m: (m(x), ))


def test_classifier():
    model = MODELS.build(
        dict(
            _scope_='mmpretrain',
            type='ImageClassifier',
            backbone=dict(type='autonl_mm.AutoNL', arch=TINY, out_indices=(-1, )),
            neck=dict(type='autonl_mm.PoolDropout'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=1280)))
    trained(model, lambda m: m(image(n=4)))
    x = image()
    check(model, lambda m: (m(x), ))
    # by the name that mmpretrain's reparameterize_model.py calls
    model.backbone.switch_to_deploy()
    assert not norms(model.backbone)


def test_reparameterised_blocks_do_it_themselves():
    net = MODELS.build(dict(
        type='mmpretrain.RepVGG', out_indices=(0, ), arch=dict(
            num_blocks=[1, 1, 1, 1], width_factor=[.25] * 4,
            group_layer_map=None, se_cfg=None, stem_channels=8)))
    trained(net, lambda m: m(image(n=4)))
    x = image()
    check(net, lambda m: m(x))


def test_heads_that_share_a_convolution_between_norms(scope):
    init_default_scope('mmdet')
    head = MODELS.build(dict(
        type='mmdet.RTMDetSepBNHead', num_classes=3, in_channels=8,
        feat_channels=8, stacked_convs=1, share_conv=True,
        norm_cfg=dict(type='BN'),
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder')))
    maps = [torch.randn(2, 8, s, s) for s in (8, 4, 2)]
    trained(head, lambda m: m(maps))
    check(head, lambda m: tuple(o for level in m(maps) for o in level))


def test_segmentor_whose_sync_bn_was_reverted():
    model = revert_sync_batchnorm(MODELS.build(dict(
        _scope_='mmseg', type='EncoderDecoder',
        backbone=dict(type='autonl_mm.AutoNL', arch=TINY,
                      out_indices=(-1, ), output_stride=8),
        decode_head=dict(
            type='DepthwiseSeparableASPPHead', in_channels=1280,
            in_index=0, channels=8, dilations=(1, 2), c1_in_channels=0,
            c1_channels=0, num_classes=3, norm_cfg=dict(type='SyncBN')))))
    trained(model, lambda m: m(image(n=4)))
    x = image()
    check(model, lambda m: (m(x), ))


# --------------------------------------------------- what is not to be folded
class PreNorm(BaseModule):
    """A norm that comes before the convolution that is named before it."""

    def __init__(self):
        super().__init__()
        self.block = ConvModule(8, 8, 3, norm_cfg=dict(type='BN'),
                                act_cfg=None, order=('norm', 'conv', 'act'))
        self.standardised = ConvModule(
            8, 8, 3, conv_cfg=dict(type='ConvWS'), norm_cfg=dict(type='BN'))
        self.folded = ConvModule(8, 8, 3, norm_cfg=dict(type='BN'))

    def forward(self, x):
        return self.folded(self.standardised(self.block(x)))


def test_other_orders_and_other_convolutions_stay():
    x = torch.randn(2, 8, 12, 12)
    net = trained(PreNorm(), lambda m: m(x))
    check(net, lambda m: (m(x), ), left=2)


def test_what_is_bound_by_hooks_stays():
    x = torch.randn(2, 3, 12, 12)
    net = trained(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), lambda m: m(x))
    seen = []
    net[0].register_forward_hook(lambda m, args, out: seen.append(out))
    want = net(x)
    assert torch.equal(switch_to_deploy(net)(x), want)
    assert torch.equal(seen[0], seen[1])
