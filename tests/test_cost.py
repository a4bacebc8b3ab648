# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.analysis import FlopAnalyzer
from mmengine.registry import MODELS

from autonl_mm import AUTONL_L, AUTONL_S, ArchSpec, BlockSpec, count_macs
from autonl_mm.arch import resolve_arch
from autonl_mm.cost import (
    LatencyTable,
    MacsModel,
    block_macs,
    iter_blocks,
    light_nl_macs,
    light_nl_order,
    strided,
)

torch.set_num_threads(1)  # small tensors; other processes use the cores


papers_networks = pytest.mark.parametrize(
    'arch', [AUTONL_S.with_normalize('size'), AUTONL_L.with_normalize('size')],
    ids=['s', 'l'])


def build_classifier(arch, num_classes=1000, normalize=None, **kwargs):
    return MODELS.build(
        dict(
            _scope_='mmpretrain',
            type='ImageClassifier',
            backbone=dict(
                type='autonl_mm.AutoNL', arch=arch, out_indices=(-1, ),
                normalize=normalize, **kwargs),
            neck=dict(type='autonl_mm.PoolDropout'),
            head=dict(
                type='LinearClsHead',
                num_classes=num_classes,
                in_channels=resolve_arch(arch).head_channels))).eval()


def measured_rows(model, input_shape):
    """mmengine's count, named as the rows of count_macs."""
    channels = model.backbone.in_channels
    analyzer = FlopAnalyzer(model, torch.zeros(1, channels, *input_shape))
    # Not None: mmengine 0.10.7 would then use its default handle.
    analyzer.set_op_handle('aten::batch_norm', lambda inputs, outputs: 0)
    analyzer.unsupported_ops_warnings(False)
    analyzer.uncalled_modules_warnings(False)
    macs = analyzer.by_module()
    modules = dict(model.named_modules())
    rows = {}
    for name, module in modules.items():
        if name.endswith('.light_nl'):
            rows[name] = macs[name] - macs[f'{name}.conv']
        elif not list(module.children()) and macs[name]:
            rows[name] = macs[name]
    assert sum(rows.values()) == analyzer.total()
    return {k.replace('backbone.', ''): v for k, v in rows.items()}


def counted_rows(cost):
    rows = {row.name: row.macs for row in cost.rows}
    assert len(rows) == len(cost.rows)
    return rows


def output_shapes(model, input_shape):
    shapes = {}

    def hook(name):

        def keep(module, args, out):
            out = out[0] if isinstance(out, tuple) else out
            shapes[name.replace('backbone.', '')] = tuple(out.shape[1:])

        return keep

    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules()]
    with torch.no_grad():
        model(torch.zeros(1, 3, *input_shape))
    for handle in handles:
        handle.remove()
    return shapes


# --------------------------------------------------------------------- totals
@pytest.mark.parametrize('arch,total', [
    (AUTONL_S, 266_974_944),
    (AUTONL_S.with_normalize('size'), 266_878_784),
    (AUTONL_L.with_normalize('size'), 352_829_728),
])
def test_totals(arch, total):
    assert count_macs(arch).total == total
    assert count_macs(arch, 224).total == total
    assert count_macs(arch, (224, 224), num_classes=1000).total == total


@pytest.mark.parametrize('arch,without', [(AUTONL_S, 266.2), (AUTONL_L, 352.1)])
def test_totals_without_pooling(arch, without):
    macs = sum(row.macs for row in count_macs(arch.with_normalize('size')).rows
               if not row.name.endswith(('se.pool', 'neck.gap')))
    assert round(macs / 1e6, 1) == without


@pytest.mark.parametrize('arch,millions', [(AUTONL_S, 4.39), (AUTONL_L, 5.58)])
def test_parameters_of_the_paper(arch, millions):
    model = build_classifier(arch)
    params = sum(p.numel() for p in model.parameters())
    assert round(params / 1e6, 2) == millions


# ---------------------------------------------- against mmengine's counter
@pytest.mark.parametrize('name, spec, normalize, input_shape', [
    ('s', AUTONL_S, 'size', (224, 224)), ('s', AUTONL_S, 'rms', (225, 161)),
    ('l', AUTONL_L, 'rms', (224, 224)), ('l', AUTONL_L, 'size', (225, 161))])
def test_rows_agree_with_mmengine(name, spec, normalize, input_shape):
    """The specs are the networks that are built by name."""
    model = build_classifier(name, normalize=normalize)
    spec = spec.with_normalize(normalize)
    assert model.backbone.arch() == spec
    cost = count_macs(spec, input_shape)
    measured = measured_rows(model, input_shape)
    assert counted_rows(cost) == measured
    assert [row.name for row in cost.rows] == list(measured)
    shapes = output_shapes(model, input_shape)
    for row in cost.rows:
        shape = shapes[row.name]
        assert row.output_shape == shape or row.output_shape == (*shape, 1, 1)


@st.composite
def small_archs(draw):
    stem = channels = draw(st.integers(1, 12))
    blocks = []
    for _ in range(draw(st.integers(1, 4))):
        out = draw(st.one_of(st.just(channels), st.integers(1, 12)))
        stride = draw(st.sampled_from([1, 1, 2]))
        blocks.append(
            BlockSpec(
                channels,
                out,
                stride,
                draw(st.sampled_from([1, 3, 5, 7])),
                draw(st.sampled_from([1, 1.5, 2, 3.3, 6])),
                se_ratio=draw(st.sampled_from([0, 0.01, 0.3, 0.5, 1])),
                nl_ratio=draw(st.sampled_from([0, 1 / out, 1])),
                nl_stride=draw(st.integers(1, 4)),
                skip=draw(st.booleans())))
        channels = out
    return ArchSpec(blocks, stem, draw(st.integers(1, 20))).with_normalize(
        draw(st.sampled_from(['size', 'rms'])))


@settings(max_examples=12)
@given(small_archs(), st.integers(32, 70), st.integers(32, 70), st.integers(2, 9),
       st.sampled_from([8, 16, 32]), st.integers(1, 6))
def test_rows_of_random_archs_agree_with_mmengine(
        arch, h, w, num_classes, output_stride, channels):
    model = build_classifier(
        arch, num_classes, output_stride=output_stride, in_channels=channels)
    cost = count_macs(arch, (h, w), num_classes, in_channels=channels,
                      output_stride=output_stride)
    assert counted_rows(cost) == measured_rows(model, (h, w))


@pytest.mark.parametrize('size,stride,expected', [
    ((7, 8), 1, (7, 8)),
    ((7, 8), 2, (4, 4)),
    ((1, 9), 4, (1, 3)),
])
def test_strided(size, stride, expected):
    assert strided(size, stride) == expected


# -------------------------------------------------------------------- LightNL
def mobilenet_v2_places():
    """Channels and sizes of the 17 blocks' outputs at 224."""
    for channels, size, repeats in ((16, 112, 1), (24, 56, 2), (32, 28, 3),
                                    (64, 14, 4), (96, 14, 3), (160, 7, 3),
                                    (320, 7, 1)):
        for _ in range(repeats):
            yield channels, size


def test_mobilenet_v2_light_nl_of_the_paper():
    total = 0
    for channels, size in mobilenet_v2_places():
        positions = size**2
        sampled = (-(-size // 2))**2 if size > 14 else positions
        shape = channels, channels // 4, positions, sampled, 'size'
        products = light_nl_macs(*shape)
        order = light_nl_order(*shape)
        assert products[order] == min(products.values())
        total += products[order] + 9 * channels * positions
    assert round(total / 1e6, 2) == 14.75


def test_formulas_of_both_orders():
    macs = light_nl_macs(12, 3, positions=35, sampled=12, normalize='size')
    assert macs == dict(channel=(12 + 35) * 3 * 12, spatial=35 * 12 * (3 + 12))


def test_root_mean_square_costs_a_product_of_the_small_matrices():
    macs = light_nl_macs(12, 3, positions=35, sampled=12)
    assert macs == dict(
        channel=(12 + 35) * 3 * 12 + 3 * 3 * 12, spatial=35 * 12 * (3 + 12))
    # which can make the other order the cheaper one
    assert light_nl_order(8, 8, 8, 8, 'size') == 'channel'
    assert light_nl_order(8, 8, 8, 8) == 'spatial'
    for arch in AUTONL_S, AUTONL_L:
        paper = count_macs(arch.with_normalize('size')).total
        assert 1 < count_macs(arch).total / paper < 1.002


def test_tie_goes_to_the_channel_order():
    macs = light_nl_macs(2, 2, 2, 2, 'size')
    assert macs['channel'] == macs['spatial'] == 16
    assert light_nl_order(2, 2, 2, 2, 'size') == 'channel'


def orders(arch, input_shape):
    """(block, positions, order) of each LightNL in a network."""
    size = strided(input_shape, 2)
    for block in arch.blocks:
        size = strided(size, block.stride)
        if block.nl_ratio:
            sampled = strided(size, block.nl_stride)
            yield block, size, light_nl_order(
                block.out_channels, block.nl_channels, size[0] * size[1],
                sampled[0] * sampled[1], block.normalize)


@papers_networks
def test_cheaper_order_at_224(arch):
    found = list(orders(arch, (224, 224)))
    for block, size, order in found:
        spatial = size == (7, 7) and block.nl_ratio == 0.25
        assert order == ('spatial' if spatial else 'channel')
    assert [order for *_, order in found].count('spatial') == 2


@papers_networks
def test_large_feature_maps_use_the_channel_order_with_linear_cost(arch):

    def per_pixel(input_shape, order=None):
        total = 0
        for block, size, auto in orders(arch, input_shape):
            sampled = strided(size, block.nl_stride)
            total += light_nl_macs(block.out_channels, block.nl_channels,
                                   size[0] * size[1],
                                   sampled[0] * sampled[1],
                                   block.normalize)[order or auto]
        rows = count_macs(arch, input_shape).rows
        if order is None:
            assert total == sum(r.macs for r in rows if r.name.endswith('.light_nl'))
        return total / (input_shape[0] * input_shape[1])

    for input_shape in (512, 1024), (1024, 2048):
        assert {o for *_, o in orders(arch, input_shape)} == {'channel'}
    assert per_pixel((1024, 2048)) == per_pixel((512, 1024))
    # 224 is not compared in the 'auto' order: its last feature maps are so small
    # that the spatial order is cheaper than the channel order.
    assert per_pixel((512, 1024)) <= per_pixel((224, 224), 'channel')
    assert per_pixel((224, 224)) < per_pixel((224, 224), 'channel')
    assert per_pixel((1024, 2048), 'spatial') > \
        3.9 * per_pixel((512, 1024), 'spatial')


def test_tables_know_the_layers_that_were_measured(tmp_path):
    path = tmp_path / 'table.json'
    cfgs = dict(conv_cfg=None, act_cfg=dict(type='HSwish'), se_act_cfg=None)
    path.write_text(json.dumps(dict(latency_ms={'a': 1.}, cfgs=cfgs)))
    table = LatencyTable.from_file(path)
    table.check_layers(dict(cfgs, norm_cfg=dict(type='SyncBN')))
    with pytest.raises(ValueError, match=r"json was measured with act_cfg=.*HSwish.*, "
                                         r"but the network has .*'Swish'"):
        table.check_layers(dict(cfgs, act_cfg=dict(type='Swish')))
    path.write_text(json.dumps(dict(latency_ms={'a': 1.})))
    LatencyTable.from_file(path).check_layers(cfgs)


# --------------------------------------------------------------------- blocks
def test_block_macs_by_hand():
    spec = BlockSpec(4, 6, 2, 5, 2.5, 0.75, 0.4, 2, normalize='size')
    # 9x7 -> 5x4 -> 3x2, 10 hidden channels, 3 units, 2 compact channels
    assert block_macs(spec, (9, 7)) == {
        'expand.conv': 63 * 4 * 10,
        'depthwise.conv': 20 * 25 * 10,
        'se.pool': 20 * 10,
        'se.reduce': 10 * 3,
        'se.expand': 3 * 10,
        'project.conv': 20 * 10 * 6,
        'light_nl': min((6 + 20) * 2 * 6, 20 * 6 * (2 + 6)),
        'light_nl.conv': 20 * 9 * 6,
    }
    assert block_macs(replace(spec, normalize='rms'), (9, 7))['light_nl'] == min(
        (6 + 20) * 2 * 6 + 2 * 2 * 6, 20 * 6 * (2 + 6))
    assert list(block_macs(BlockSpec(4, 6, 1, 3, 1), (9, 7))) == [
        'depthwise.conv', 'project.conv'
    ]


@pytest.mark.parametrize('arch', [AUTONL_S, AUTONL_L], ids=['s', 'l'])
def test_network_is_the_sum_of_its_blocks(arch):
    model = MacsModel()
    blocks = sum(model.block(b, size) for _, b, size in iter_blocks(arch, (224, 224)))
    rows = count_macs(arch).rows
    rest = sum(r.macs for r in rows if r.name.count('.') < 3)
    assert model.network(arch, (224, 224)) == blocks + rest
    assert [name for name, *_ in iter_blocks(arch, (224, 224))][:3] == [
        'layers.1.0', 'layers.2.0', 'layers.2.1'
    ]


def test_without_classifier_and_head():
    everything = count_macs(AUTONL_S).rows
    assert count_macs(AUTONL_S, num_classes=None).rows == everything[:-2]
    assert everything[-3].name == 'layers.8.conv'
    rows = count_macs(AUTONL_S, with_head=False).rows
    assert rows == everything[:-3]
    assert MacsModel().network(
        AUTONL_S, (224, 224), with_head=False) == sum(r.macs for r in rows)


# -------------------------------------------------------------------- latency
ARCH = ArchSpec.from_text("""\
r1_k3_s11_e1_i8_o8
r1_k5_s22_e3_i8_o16_nonlocal0.25-1
head32
""")
LATENCY = {
    '32x24 stem8': 1.0,
    '16x12 r1_k3_s11_e1_i8_o8': 2.0,
    '16x12 r1_k5_s22_e3_i8_o16_nonlocal0.25-1': 4.0,
    '8x6 head16-32': 8.0,
}


def test_latency_of_a_network():
    table = LatencyTable(LATENCY)
    assert table.block(ARCH.blocks[0], (16, 12)) == 2
    assert table.network(ARCH, (32, 24)) == 15
    assert table.network(ARCH, (32, 24), with_head=False) == 7
    # the time of a block with LightNL is that of one normalisation
    bounded = ARCH.with_normalize('rms')
    assert table.block(bounded.blocks[0], (16, 12)) == 2
    with pytest.raises(ValueError, match=r'nonlocal0\.25-1 scale-rms'):
        table.network(bounded, (32, 24))


def test_latency_of_another_stem_and_of_dilated_blocks():
    arch = ArchSpec.from_text('\n'.join(
        f'r1_k3_s{stride}_e1_i8_o8' for stride in (22, 22, 22, 11)) + '\nhead32')
    table = LatencyTable({
        '32x32 stem8 in1': 1.0,
        '16x16 r1_k3_s22_e1_i8_o8': 2.0,
        '8x8 r1_k3_s22_e1_i8_o8': 4.0,
        '4x4 r1_k3_s22_e1_i8_o8 stride1-dilation1-2': 8.0,
        '4x4 r1_k3_s11_e1_i8_o8 stride1-dilation2-2': 16.0,
        '4x4 head8-32': 32.0})
    assert table.network(arch, (32, 32), in_channels=1, output_stride=8) == 63
    for channels, output_stride in (3, 8), (1, 32):
        with pytest.raises(ValueError, match='has no entry'):
            table.network(arch, (32, 32), in_channels=channels,
                          output_stride=output_stride)


def test_latency_table_file(tmp_path):
    path = tmp_path / 'latency.json'
    path.write_text(json.dumps(dict(device='x', latency_ms=LATENCY)))
    table = LatencyTable.from_file(path)
    assert table.entries == LATENCY
    with pytest.raises(ValueError) as error:
        table.network(ARCH, (64, 64))
    assert str(path) in str(error.value)
    assert '64x64 stem8' in str(error.value)
    assert 'measure_latency.py' in str(error.value)


def test_output_stride_is_checked():
    with pytest.raises(ValueError, match='output_stride is 4, expected 8, 16 or 32'):
        count_macs(AUTONL_S, output_stride=4)


@pytest.mark.parametrize('shape', [(3, 224, 224), (0, 224), (224, )])
def test_input_shape_is_checked(shape):
    with pytest.raises(ValueError, match='expected a positive height and'):
        count_macs(AUTONL_S, shape)
