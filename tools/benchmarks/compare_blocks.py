# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compare attention blocks by MACs, parameters, time and memory.

The tool prints two tables. The first table has each block alone, for feature maps of
several shapes. Times are medians of alternating runs. Memory is the peak of training
steps beyond the memory before them. The second table has the MACs and parameters that
each block adds to MobileNetV2 when it follows each of its 17 blocks. MACs are counted
in convolutions, linear layers, pooling and matrix products.
"""
import argparse
import contextlib
import json
import sys

import torch
from mmcv.cnn import build_plugin_layer
from tqdm import tqdm

from autonl_mm.measure.counting import built_macs, count_parameters
from autonl_mm.measure.memory import free_memory, peak_memory
from autonl_mm.measure.timing import Spread, device_name, interleaved
from autonl_mm.models import PluginBackbone
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.tables import markdown_table

NORM = dict(type='BN')
# The paper's comparison is of the paper's form.
LIGHT_NL = dict(type='autonl_mm.LightNL', normalize='size')
# From the name to the config of the layer.
BLOCKS = {
    'none': None,
    'squeeze-excite, ratio 1/4': dict(type='autonl_mm.SqueezeExcitePlugin'),
    'NonLocal2d': dict(
        type='NonLocal2d', reduction=1, mode='dot_product', norm_cfg=NORM),
    'NonLocal2d, reduction 2': dict(
        type='NonLocal2d', reduction=2, mode='dot_product', norm_cfg=NORM),
    'ContextBlock, ratio 1/4': dict(type='ContextBlock', ratio=1 / 4),
    'shared features, 1x1 output': dict(type='autonl_mm.SharedNL', normalize='size'),
    'LightNL, ratio 1': dict(LIGHT_NL, channel_ratio=1),
    'LightNL, ratio 1/4': dict(LIGHT_NL, channel_ratio=1 / 4),
    'LightNL, ratio 1/8': dict(LIGHT_NL, channel_ratio=1 / 8),
    'LightNL, ratio 1, stride 2': dict(LIGHT_NL, channel_ratio=1, stride=2),
    'LightNL, ratio 1/4, stride 2': dict(LIGHT_NL, channel_ratio=1 / 4, stride=2),
    'LightNL, ratio 1/8, stride 2': dict(LIGHT_NL, channel_ratio=1 / 8, stride=2),
}
PAPERS = "LightNL, ratio 1/4, the paper's strides"
# Stages of MobileNetV2 at 224, and two of a dense task at 512.
INPUT_SHAPES = ('7x7x320', '14x14x96', '28x28x32', '56x56x24', '64x64x32',
                '128x128x24')
MOBILENET = dict(type='mmpretrain.MobileNetV2')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--input-shapes', nargs='+', default=INPUT_SHAPES, metavar='HxWxC',
        help=f'feature maps, default {" ".join(INPUT_SHAPES)}')
    parser.add_argument(
        '--rounds', type=int, default=15, help='measurements per block, default 15')
    configs.add_device(parser)
    parser.add_argument(
        '--macs-only', action='store_true',
        help='count MACs and parameters without measurements')
    parser.add_argument('--out', help='file for the measurements, .json')
    return parser.parse_args()


def build(name, channels):
    """Build a block for feature maps with this number of channels."""
    cfg = BLOCKS[name]
    if cfg is None:
        return torch.nn.Identity()
    return build_plugin_layer(cfg, in_channels=channels)[1]


def make_step(name, input_shape, device, train):
    """A forward pass of a block for ``(H, W, C)``; in training with the backward
    pass, also to the input."""
    height, width, channels = input_shape
    block = build(name, channels).to(device).train(train)
    x = torch.randn(1, channels, height, width, device=device, requires_grad=train)

    def step():
        with contextlib.nullcontext() if train else torch.no_grad():
            out = block(x)
        if train:
            block.zero_grad()
            x.grad = None
            out.sum().backward()

    return step


def in_mobilenet(names):
    """MACs and parameters that blocks add to MobileNetV2 at 224x224, by keys of
    :data:`BLOCKS` or :data:`PAPERS`."""

    def cost(plugins):
        net = PluginBackbone(MOBILENET, plugins)
        return built_macs(net, 3, 224, 224), count_parameters(net)

    base = cost([])
    added = {}
    for name in tqdm(names, desc='MobileNetV2', leave=False):
        cfg = BLOCKS['LightNL, ratio 1/4' if name == PAPERS else name]
        if name == PAPERS:
            plugins = [
                dict(cfg=dict(cfg, stride=2), target=r'layer[123]\.\d+\.conv'),
                dict(cfg=cfg, target=r'layer[4567]\.\d+\.conv')
            ]
        else:
            plugins = [dict(cfg=cfg, target=r'layer\d\.\d+\.conv')] if cfg else []
        macs, parameters = cost(plugins)
        added[name] = dict(macs=macs - base[0], parameters=parameters - base[1])
    return added


def compare(input_shape, args):
    """Rows of the first table for feature maps ``(H, W, C)``, without times if there
    is a ``failure``."""
    height, width, channels = input_shape
    limit = free_memory() / 2**21  # half of it, in MiB
    rows, calls = [], {}
    for name in tqdm(BLOCKS, desc=f'{height}x{width}', leave=False):
        block = build(name, channels)
        row = dict(
            input_shape=input_shape,
            block=name,
            macs=built_macs(block, channels, height, width),
            parameters=count_parameters(block))
        rows.append(row)
        if args.macs_only:
            continue
        step = (name, input_shape, args.device)
        try:
            row['memory_mib'] = peak_memory(
                make_step, (*step, True), args.device,
                limit if args.device == 'cpu' else None)
        except MemoryError:
            row['failure'] = f'needs more than {limit:,.0f} MiB'
            continue
        for kind in ('forward', 'training'):
            calls[name, kind] = make_step(*step, kind == 'training')
    times = interleaved(calls, args.rounds, args.device, warmup=True)
    for row in rows:
        for kind in ('forward', 'training'):
            if (row['block'], kind) in times:
                row[f'{kind}_ms'] = [
                    1e3 * t for t in times[row['block'], kind]]
    return rows


def cells_of(row):
    """Cells of a row of the first table."""
    cells = [
        'x'.join(map(str, row['input_shape'])), row['block'],
        f'{row["macs"] / 1e6:,.2f} M', f'{row["parameters"]:,}'
    ]
    if 'failure' in row:
        return cells + [row['failure'], '', '']
    if 'memory_mib' in row:
        for kind in ('forward', 'training'):
            cells.append(f'{Spread.of(row[f"{kind}_ms"]):.3g}')
        cells.append(f'{row["memory_mib"]:,.0f}')
    return cells


def main():
    args = parse_args()
    try:
        outputs.check_file('--out', args.out)
        configs.check_positive(args, 'rounds')
        shapes = configs.parse_shapes('--input-shapes', args.input_shapes,
                                      'HxWxC')
        if min(channels for _, _, channels in shapes) < 8:
            raise ValueError('--input-shapes needs at least 8 channels each, '
                             'such as 14x14x96')
    except ValueError as e:
        sys.exit(f'compare_blocks.py: {e}')
    if args.device == 'cpu':
        print(keep_freed_memory())
    rows = [row for shape in shapes for row in compare(shape, args)]
    head = ['feature map', 'block', 'MACs', 'parameters']
    if not args.macs_only:
        head += ['forward, ms', 'training, ms', 'peak memory, MiB']
        print(f'batch 1, {device_name(args.device)}, torch '
              f'{torch.__version__}; median (minimum to maximum) of '
              f'{args.rounds} alternating runs\n')
    print(markdown_table(head, map(cells_of, rows)))

    added = in_mobilenet([*BLOCKS, PAPERS])
    papers = added[PAPERS]['macs']
    print('\nadded to MobileNetV2 by a block after each of its 17 blocks, at '
          '224x224:\n')
    print(markdown_table(
        ['block', 'MACs added', "relative to the paper's LightNL",
         'parameters added'],
        [[name, f'{a["macs"] / 1e6:,.2f} M', f'{a["macs"] / papers:.3g} times',
          f'{a["parameters"]:,}'] for name, a in added.items()]))
    if args.out:
        record = dict(vars(args), torch=torch.__version__,
                      device_name=device_name(args.device), rows=rows,
                      mobilenet_v2=added)
        atomic_write(args.out, json.dumps(record, indent=1))


if __name__ == '__main__':
    main()
