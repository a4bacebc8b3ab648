# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import copy
from dataclasses import replace
from itertools import combinations

import pytest
import torch
import torch.nn as nn
from conftest import TINY_ARCH
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmengine.config import Config
from mmengine.registry import MODELS

from autonl_mm import AUTONL_S, ArchSpec, BlockSpec
from autonl_mm.models.backbones import AutoNL
from autonl_mm.models.layers import LightNL, MBConv, light_nl_scales

CHANNELS = (32, 16, 24, 40, 80, 96, 192, 320, 1280)
STRIDES = (2, 2, 4, 8, 16, 16, 32, 32, 32)
# every kind of block, 7 stages and stride 32 as in AutoNL, but narrow
TINY = ArchSpec.from_text("""
r1_k3_s11_e1_i8_o6
r2_k3_s22_e3_i6_o8_nonlocal0.5-1
r2_k5_s22_e3_i8_o10_nonlocal0.25-2
r2_k5_s22_e6_i10_o12_se0.25_nonlocal0.25-1
r2_k3_s11_e2_i12_o14_se0.5
r2_k5_s22_e3_i14_o16_se0.25_nonlocal0.25-1
r1_k5_s11_e2_i16_o20_se0.5_nonlocal0.25-1
head24
""")
# the same without squeeze-excite and LightNL, which see the whole feature map
LOCAL = ArchSpec.from_text('\n'.join(
    '_'.join(t for t in line.split('_')
             if not t.startswith(('se', 'nonlocal')))
    for line in TINY.to_text().splitlines()))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small tensors; other processes use the cores


def randomized(model):
    """As after training: norms that do something, LightNL switched on."""
    model.init_weights()
    for norm in norms(model):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        norm.momentum = 1.0
    with torch.no_grad():  # without statistics LightNL's output overflows
        out = model.train()(torch.randn(8, 3, 64, 64))[-1]
    assert out.isfinite().all() and out.std() > 0.01
    for norm in norms(model):
        norm.momentum = 0.01
    return model


def norms(module):
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


# -------------------------------------------------------------------- outputs
@pytest.mark.parametrize('arch', ['s', 'l'])
def test_feature_maps_of_the_released_networks(arch):
    model = AutoNL(arch, out_indices=tuple(range(9))).eval()
    assert model.out_channels == CHANNELS
    assert model.out_strides == STRIDES
    for size in (64, 64), (65, 100):
        with torch.no_grad():
            outs = model(torch.randn(2, 3, *size))
        assert isinstance(outs, tuple)
        assert [tuple(out.shape) for out in outs] == [
            (2, c, -(-size[0] // s), -(-size[1] // s))
            for c, s in zip(CHANNELS, STRIDES)
        ]


def test_default_is_the_head_of_autonl_s():
    model = AutoNL().eval()
    assert model.arch() == AUTONL_S
    assert model.out_channels == (1280, ) and model.out_strides == (32, )
    outs = model(torch.randn(1, 3, 32, 32))
    assert len(outs) == 1 and outs[0].shape == (1, 1280, 1, 1)


def test_out_indices_select_the_same_feature_maps():
    full = randomized(AutoNL(TINY, out_indices=range(9))).eval()
    x = torch.randn(1, 3, 64, 50)
    with torch.no_grad():
        want = full(x)
    picks = [(i, ) for i in range(9)] + [(-1, ), (-9, ), (-2, ), (3, -1), 5]
    picks += list(combinations((0, 3, 4, 6, 8), 3)) + [[1, 2], (2, 4, 5, 7)]
    for pick in picks:
        model = AutoNL(TINY, out_indices=pick)
        pick = (pick, ) if isinstance(pick, int) else pick
        pick = [i % 9 for i in pick]
        # layers after the largest index are not built
        assert len(model.layers) == max(pick) + 1
        keys = {
            k
            for k in full.state_dict()
            if int(k.split('.')[1]) <= max(pick)
        }
        assert set(model.state_dict()) == keys
        model.load_state_dict(full.state_dict(), strict=False)
        with torch.no_grad():
            outs = model.eval()(x)
        assert len(outs) == len(pick)
        for i, out, c, s in zip(pick, outs, model.out_channels,
                                model.out_strides):
            assert torch.equal(out, want[i])
            assert out.shape[1] == c == full.out_channels[i]
            assert s == STRIDES[i]


@pytest.mark.parametrize('out_indices', [
    (9, ), (-10, ), (0, 9), ('8', ), (1.0, ), (), (3, 3), (5, 2), (8, -1),
    (-1, 0)
])
def test_bad_out_indices(out_indices):
    with pytest.raises(ValueError, match='out_indices is') as info:
        AutoNL(TINY, out_indices=out_indices)
    assert not out_indices or str(out_indices) in str(info.value)


def test_error_lists_the_indices_of_a_short_arch():
    with pytest.raises(ValueError, match=r'1 to 1 \(stages\) and 2 \(head'):
        AutoNL(['r1_k3_s11_e1_i8_o8'])


# ------------------------------------------------------------------ arguments
def test_bad_arch():
    with pytest.raises(ValueError, match="arch 'm' is unknown"):
        AutoNL('m')
    with pytest.raises(ValueError, match='line 1'):
        AutoNL(['r1'])


def test_builds_from_a_config():
    cfg = Config(
        dict(
            model=dict(
                type='autonl_mm.AutoNL',
                arch=TINY.to_text().splitlines(),
                out_indices=[2, 4],
                norm_cfg=dict(type='BN', momentum=0.1))))
    cfg = Config.fromstring(cfg.pretty_text, '.py')
    model = MODELS.build(cfg.model)
    assert type(model) is AutoNL and model.arch() == TINY
    assert model.out_indices == (2, 4)
    assert {m.momentum for m in norms(model)} == {0.1}


def test_norms_and_activations_of_the_releases():
    model = AutoNL(TINY)
    assert {(m.momentum, m.eps) for m in norms(model)} == {(0.01, 1e-3)}
    acts = [m for m in model.modules() if isinstance(m, nn.SiLU)]
    # stem, expand and depthwise of each block but the first's expand, SE,
    # head
    blocks = TINY.blocks
    assert len(acts) == 2 + 2 * len(blocks) - 1 + sum(
        b.se_ratio > 0 for b in blocks)


@pytest.mark.parametrize('value', [4, 64, 0, 32.5, None, '32'])
def test_bad_output_stride(value):
    with pytest.raises(ValueError, match=f'output_stride is {value}'):
        AutoNL(TINY, output_stride=value)


@pytest.mark.parametrize('value', [-2, 9, 100, 1.5])
def test_bad_frozen_stages(value):
    with pytest.raises(ValueError, match=f'frozen_stages is {value}'):
        AutoNL(TINY, frozen_stages=value)
    with pytest.raises(ValueError, match=r'frozen_stages is 3.* 0 to 2'):
        AutoNL(TINY, frozen_stages=3, out_indices=(2, ))


def test_other_input_channels():
    model = AutoNL(TINY, in_channels=1).eval()
    assert model(torch.randn(1, 1, 32, 32))[0].shape == (1, 24, 1, 1)
    with pytest.raises(ValueError, match=r'\(1, 3, 32, 32\).*\(N, 1, H, W\)'):
        model(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize('shape', [(1, 4, 64, 64), (3, 64, 64), (1, 1, 64, 64)
                                   ])
def test_wrong_input_shape(shape):
    with pytest.raises(ValueError) as info:
        AutoNL(TINY)(torch.randn(shape))
    assert str(shape) in str(info.value) and 'in_channels' in str(info.value)


def test_image_smaller_than_the_stride():
    model = AutoNL(TINY).eval()
    assert model(torch.randn(1, 3, 32, 32))[0].shape[2:] == (1, 1)
    for size in (31, 64), (64, 31), (1, 1):
        with pytest.raises(ValueError) as info:
            model(torch.randn(1, 3, *size))
        message = str(info.value)
        assert f'{size[0]}x{size[1]}' in message and 'stride 32' in message
    # layers that are not built require nothing
    AutoNL(TINY, out_indices=(2, )).eval()(torch.randn(1, 3, 4, 4))
    AutoNL(TINY, output_stride=8).eval()(torch.randn(1, 3, 8, 8))


def test_tensorflow_padding():
    model = AutoNL(
        TINY,
        out_indices=range(9),
        conv_cfg=dict(type='Conv2dAdaptivePadding')).eval()
    plain = AutoNL(TINY, out_indices=range(9)).eval()
    assert isinstance(model.layers[0].conv, Conv2dAdaptivePadding)
    model.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for size in (64, 64), (65, 51):
            x = torch.randn(1, 3, *size)
            outs, want = model(x), plain(x)
            for out, other in zip(outs, want):
                assert out.shape == other.shape
    # an even image is padded at the right and below only: the kernel's
    # first tap lies on the first pixel
    x = torch.randn(1, 3, 32, 32)
    conv = model.layers[0].conv
    torch.testing.assert_close(
        conv(x)[0, :, 0, 0],
        torch.einsum('oikl,ikl->o', conv.weight, x[0, :, :3, :3]))


# ------------------------------------------------- frozen layers and norm_eval
@pytest.mark.parametrize('frozen', range(-1, 9))
def test_frozen_stages(frozen):
    model = AutoNL(TINY, frozen_stages=frozen)
    for _ in range(2):
        assert model.train() is model
        assert model.training
        for i, layer in enumerate(model.layers):
            for param in layer.parameters():
                assert param.requires_grad == (i > frozen)
            for module in layer.modules():
                assert module.training == (i > frozen)
        model.eval()
        assert not any(m.training for m in model.modules())
    before = copy.deepcopy(model.state_dict())
    model.train()
    out = model(torch.randn(2, 3, 64, 64))[0]
    if frozen < 8:
        out.sum().backward()
    for name, param in model.named_parameters():
        assert (param.grad is not None) == (
            int(name.split('.')[1]) > frozen), name
    for key, value in model.state_dict().items():
        if 'num_batches' in key:
            moved = int(key.split('.')[1]) > frozen
            assert torch.equal(value, before[key]) != moved


def test_init_weights_keeps_frozen_layers_frozen():
    model = AutoNL(TINY, frozen_stages=2)
    model.init_weights()
    assert not model.layers[2][0].project.conv.weight.requires_grad
    assert model.layers[3][0].project.conv.weight.requires_grad


def test_norm_eval():
    model = AutoNL(TINY, norm_eval=True)
    model.train()
    assert norms(model) and not any(m.training for m in norms(model))
    assert model.layers[3][0].training
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in norms(AutoNL(TINY).train()))


def test_norm_eval_reaches_sync_bn():
    model = AutoNL(TINY, norm_eval=True, norm_cfg=dict(type='SyncBN'))
    model.train()
    synced = [
        m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)
    ]
    assert len(synced) == len(norms(AutoNL(TINY)))
    assert not any(m.training for m in synced)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(
        AutoNL(TINY, norm_eval=True)).train()
    assert not any(m.training for m in converted.modules()
                   if isinstance(m, nn.SyncBatchNorm))


# ------------------------------------------------------------------- gradients
@pytest.mark.parametrize('with_cp', [False, True])
def test_every_parameter_gets_a_gradient(with_cp):
    model = AutoNL(TINY, with_cp=with_cp)
    model.init_weights()
    out = model.train()(torch.randn(4, 3, 64, 64))[0]
    (out * torch.randn_like(out)).sum().backward()
    zero_norms = {
        f'{name}.conv.weight'
        for name, m in model.named_modules() if isinstance(m, LightNL)
    }
    assert zero_norms
    assert {m.with_cp for m in model.modules() if isinstance(m, MBConv)} == {with_cp}
    for name, param in model.named_parameters():
        assert param.grad is not None, name
        assert param.grad.isfinite().all(), name
        # under LightNL's zero gamma no gradient reaches its kernel yet
        assert param.grad.any() == (name not in zero_norms), name
    # one step makes gamma non-zero, then a gradient does
    with torch.no_grad():
        for param in model.parameters():
            param -= 0.01 * param.grad
    model.zero_grad()
    out = model(torch.randn(4, 3, 64, 64))[0]
    (out * torch.randn_like(out)).sum().backward()
    assert all(param.grad.any() for param in model.parameters())


def test_deepcopy():
    model = randomized(AutoNL(TINY, frozen_stages=1)).eval()
    x = torch.randn(1, 3, 33, 40)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x)[0], model(x)[0])
    twin.train()
    assert not twin.layers[1].training and twin.layers[2].training


@pytest.mark.long
@pytest.mark.parametrize('backend', [
    'eager', pytest.param('aot_eager', marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(backend):
    torch._dynamo.reset()
    model = randomized(AutoNL(TINY, out_indices=(3, 8))).eval()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        for got, want in zip(compiled(x), model(x)):
            torch.testing.assert_close(got, want)


@pytest.mark.long
@pytest.mark.parametrize('normalize', ['size', 'rms'])
def test_torch_export_at_any_size(normalize):
    """One program for all sizes and batch sizes, in the channel order."""
    model = randomized(
        AutoNL(TINY_ARCH.splitlines(), out_indices=(2, 4), normalize=normalize))
    for module in model.eval().modules():
        if isinstance(module, LightNL):
            module.order = 'channel'
    dynamic = torch.export.Dim.DYNAMIC  # an error where it would be fixed
    program = torch.export.export(
        model, (torch.randn(2, 3, 64, 96), ),
        dynamic_shapes=(dict.fromkeys((0, 2, 3), dynamic), )).module()
    for shape in ((3, 3, 33, 50), (5, 3, 97, 64), (2, 3, 64, 96)):
        x = torch.randn(shape)
        with torch.no_grad():
            for out, want in zip(program(x), model(x)):
                torch.testing.assert_close(out, want, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ normalize
def test_normalize_reaches_every_light_nl():
    for arch in 's', TINY.to_text().splitlines():
        for normalize, word in ('rms', 'rms'), ('size', 'paper'):
            model = AutoNL(arch, normalize=normalize)
            assert light_nl_scales(model) == [word]
            assert model.arch().normalize == normalize
            again = AutoNL(model.arch().to_text().splitlines())
            again.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="normalize is 'root'"):
        AutoNL(normalize='root')


@pytest.mark.parametrize('normalize', ['size', 'rms'])
def test_weights_of_the_other_form_are_refused(normalize, tmp_path):
    path = str(tmp_path / 'net.pth')
    arch = TINY.with_normalize(normalize)
    torch.save(AutoNL(arch).state_dict(), path)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    AutoNL(arch, init_cfg=init_cfg).init_weights()
    other = AutoNL(arch.with_normalize('rms' if normalize == 'size' else 'size'),
                   init_cfg=init_cfg)
    with pytest.raises(RuntimeError, match=f'was trained with normalize={normalize!r}'):
        other.init_weights()


@pytest.mark.parametrize('normalize, bounded', [('rms', True), ('size', False)])
def test_bounded_features_whatever_the_image(normalize, bounded):
    """Random weights, LightNL switched on, statistics of other images.

    Without squeeze-excite, whose gates grow with the features as well.
    """
    torch.manual_seed(0)
    arch = replace(TINY, blocks=[replace(b, se_ratio=0) for b in TINY.blocks])
    model = randomized(AutoNL(arch.with_normalize(normalize))).eval()
    x = torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        usual = model(x)[-1].abs().amax((1, 2, 3)).median()
        largest = max(
            model(other)[-1].abs().amax()
            for other in (3 * x, x + 3, torch.zeros_like(x), torch.full_like(x, 3),
                          torch.randn(8, 3, 128, 96)))
    assert (largest < 30 * usual) == bounded


# --------------------------------------------------------------------- init
def test_default_init():
    model = AutoNL(AUTONL_S)
    model.init_weights()
    for name, m in model.named_modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.weight.eq(0. if 'light_nl' in name else 1.).all()
            assert not m.bias.any()
        elif isinstance(m, nn.Conv2d):
            # releases: normal with fan-out, which is k * k where depthwise
            fan_out = m.kernel_size[0]**2 * m.out_channels // m.groups
            std = (2 / fan_out)**0.5
            slack = 6 * std / m.weight.numel()**0.5
            assert abs(m.weight.std().item() - std) < slack, name
            assert abs(m.weight.mean().item()) < slack, name
            if m.bias is not None:
                assert not m.bias.any()


# ------------------------------------------------------------- output stride
@pytest.mark.parametrize('output_stride', [8, 16])
def test_strides_and_shapes_of_output_stride(output_stride):
    model = AutoNL(
        TINY, out_indices=range(9), output_stride=output_stride).eval()
    strides = tuple(min(s, output_stride) for s in STRIDES)
    assert model.out_strides == strides
    for size in (64, 64), (65, 51):
        with torch.no_grad():
            outs = model(torch.randn(1, 3, *size))
        for out, s in zip(outs, strides):
            assert out.shape[2:] == (-(-size[0] // s), -(-size[1] // s))


@pytest.mark.parametrize('output_stride', [8, 16])
@pytest.mark.parametrize('arch', ['s', 'l'])
def test_weights_fit_every_output_stride(arch, output_stride):
    state = AutoNL(arch).state_dict()
    model = AutoNL(arch, output_stride=output_stride)
    assert {k: v.shape for k, v in model.state_dict().items()} == \
        {k: v.shape for k, v in state.items()}
    model.load_state_dict(state, strict=True)


@pytest.mark.parametrize('output_stride', [8, 16])
@pytest.mark.parametrize('size', [(64, 64), (65, 65), (96, 53), (33, 130)])
def test_dilated_network_sees_the_same_pixels(output_stride, size):
    # Symmetric padding makes this exact, borders included, for any size.
    plain = randomized(AutoNL(LOCAL, out_indices=range(9))).double().eval()
    model = AutoNL(
        LOCAL, out_indices=range(9), output_stride=output_stride).double()
    model.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for i, (out, want) in enumerate(zip(model.eval()(x), plain(x))):
            step = STRIDES[i] // model.out_strides[i]
            assert step == max(1, STRIDES[i] // output_stride)
            torch.testing.assert_close(
                out[:, :, ::step, ::step], want, rtol=1e-4, atol=1e-4)
            assert want.std() > 0.01  # there is something to compare


def test_light_nl_is_dilated_too():
    model = AutoNL(TINY, output_stride=8)
    for stage, dilation in ((3, 1), (4, 2), (6, 4), (7, 4)):
        conv = model.layers[stage][0].light_nl.conv
        assert conv.dilation == conv.padding == (dilation, dilation)
    # the block whose stride is replaced is not dilated itself
    assert model.layers[4][0].depthwise.conv.dilation == (1, 1)
    assert model.layers[4][1].depthwise.conv.dilation == (2, 2)


def test_trailing_stride_in_a_first_block():
    arch = ArchSpec((BlockSpec(8, 8, 2, 3, 1), BlockSpec(8, 8, 2, 3, 1)), 8, 8)
    model = AutoNL(arch, out_indices=range(4), output_stride=8)
    assert model.out_strides == (2, 4, 8, 8)
