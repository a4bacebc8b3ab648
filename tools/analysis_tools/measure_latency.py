# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure the latency of every candidate block of a search space.

Writes the latency table that CostAwareModel(cost='latency.json') reads. Blocks
are measured on this machine in eval mode. Every round measures all of them in
turns, so a temporary slowdown of the machine affects all blocks alike. The
latency of a block is the median over the rounds.
"""
import argparse
import functools
import json
import sys
import time

import torch

from autonl_mm.benchmark.measure import Spread, device_name, in_turns
from autonl_mm.checkpoint import write_whole
from autonl_mm.cli import configs, outputs
from autonl_mm.cli.allocator import keep_freed_memory
from autonl_mm.cost import LatencyTable, iter_blocks, strided
from autonl_mm.models import AutoNL, MBConv


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    configs.add_config_args(parser)
    parser.add_argument(
        '--out',
        default='latency.json',
        help='file for the table, default latency.json')
    parser.add_argument(
        '--batch-size', type=int, default=1, help='images at a time, default 1')
    parser.add_argument(
        '--rounds', type=int, default=15, help='measurements of each block')
    configs.add_device(parser)
    return parser.parse_args()


def candidates(supernet):
    """The layers that the latency table of a supernet needs.

    Args:
        supernet (AutoNLSuperNet): The supernet.

    Returns:
        dict[str, tuple[nn.Module, tuple[int, int, int]]]: From a key of
        LatencyTable to the layer and the ``(C, H, W)`` of its input.
    """
    arch, shape = supernet.space.largest, supernet.input_shape
    kwargs = {k: v for k, v in supernet.kwargs.items()
              if k in ('conv_cfg', 'norm_cfg', 'act_cfg')}
    stem, *_, head = AutoNL(
        arch, out_indices=(-1, ), in_channels=supernet.in_channels,
        **kwargs).layers
    layers = {
        LatencyTable.stem_key(arch, shape):
        (stem, (supernet.in_channels, *shape))
    }
    size = strided(shape, 2)
    for block, (_, spec, in_size) in zip(supernet.space.blocks,
                                         iter_blocks(arch, shape)):
        for choice in block.choices():
            candidate = block.spec(choice)
            if candidate is None:
                continue
            key = LatencyTable.block_key(candidate, in_size, arch.scale)
            if key not in layers:
                layers[key] = (MBConv(candidate, scale=arch.scale, **kwargs),
                               (candidate.in_channels, *in_size))
        size = strided(in_size, spec.stride)
    layers[LatencyTable.head_key(arch, size)] = (
        head, (arch.blocks[-1].out_channels, *size))
    return layers


def measure(layers, batch_size, rounds, device):
    """Measure layers in turns.

    Args:
        layers (dict): As :func:`candidates` returns them.
        batch_size (int): Images at a time.
        rounds (int): Measurements of each layer.
        device (str): Where to run.

    Returns:
        dict[str, float]: Median milliseconds by key.
    """
    inputs = {shape: torch.randn(batch_size, *shape, device=device)
              for _, shape in layers.values()}
    for layer, _ in layers.values():
        layer.to(device).eval()
    with torch.no_grad():
        times = in_turns(
            {key: functools.partial(layer, inputs[shape])
             for key, (layer, shape) in layers.items()},
            rounds, device, warmup=True)
    return {key: 1e3 * Spread.of(t).median for key, t in times.items()}


def main():
    args = parse_args()
    if args.rounds < 1 or args.batch_size < 1:
        sys.exit('measure_latency.py: --rounds and --batch-size must be at '
                 'least 1')
    try:
        outputs.check_file('--out', args.out)
        supernet = configs.build_supernet(configs.read_config(args))
    except (FileNotFoundError, ValueError) as e:
        sys.exit(f'measure_latency.py: {e}')
    if args.device == 'cpu':
        print(keep_freed_memory())
    layers = candidates(supernet)
    start = time.time()
    latency = measure(layers, args.batch_size, args.rounds, args.device)
    record = dict(
        device=device_name(args.device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        batch_size=args.batch_size,
        rounds=args.rounds,
        input_shape=supernet.input_shape,
        latency_ms=latency)
    write_whole(args.out, json.dumps(record, indent=1))
    supernet.set_cost_model(LatencyTable(latency, args.out))
    low, high = supernet.cost_range()

    whole = AutoNL(supernet.space.largest, **supernet.kwargs)
    image = (supernet.in_channels, *supernet.input_shape)
    real = measure({'whole': (whole, image)}, args.batch_size, args.rounds,
                   args.device)['whole']
    print(f'{args.out}: {len(latency)} entries in '
          f'{time.time() - start:.0f} s; networks of the space take '
          f'{low:.4g} to {high:.4g} ms as the sum of their layers; the largest '
          f'network, measured as a whole, takes {real:.4g} ms')


if __name__ == '__main__':
    main()
