# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compare a supernet's training step with that of its largest network.

Prints time and memory of both, on the default search space. Times are medians
of alternating steps in one process. Memory is the peak of a training step
beyond the memory before it: on a GPU as torch's allocator counts it, on a CPU
the resident memory of a separate process.
"""
import argparse
import json
import sys

import torch

from autonl_mm.measure.timing import Spread, interleaved, peak_memory
from autonl_mm.models import AutoNL
from autonl_mm.nas import AutoNLSuperNet
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.atomic_files import atomic_write

KINDS = ('largest network', 'supernet')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--batch-size', type=int, default=16, help='images, default 16')
    configs.add_input_shape(parser, (224, 224), 'default 224')
    parser.add_argument(
        '--rounds', type=int, default=9, help='steps of both, in turns')
    configs.add_device(parser)
    parser.add_argument('--out', help='file for the measurements, .json')
    return parser.parse_args()


def make_step(kind, batch_size, input_shape, device):
    """A training step of one of the two networks on the default space.

    Args:
        kind (str): One of :data:`KINDS`.
        batch_size (int): Images.
        input_shape (tuple[int, int]): Height and width of the images.
        device (str): Where to run.

    Returns:
        Callable: Forward pass, backward pass and optimiser step; the loss of
        the supernet has its cost too.
    """
    net = AutoNLSuperNet(input_shape=input_shape)
    if kind == KINDS[0]:
        net = AutoNL(net.space.largest)
    net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    x = torch.randn(batch_size, 3, *input_shape, device=device)
    seeds = iter(range(10**9))

    def step():
        optimizer.zero_grad()
        if kind == KINDS[1]:
            net.sample_gates(0.25, next(seeds))
        loss = net(x)[0].square().mean()
        if kind == KINDS[1]:
            loss = loss + 0.1 * net.cost().log()
        loss.backward()
        optimizer.step()

    return step


def main():
    args = parse_args()
    try:
        outputs.check_file('--out', args.out)
        if min(args.batch_size, args.rounds) < 1:
            raise ValueError('--batch-size and --rounds must be at least 1')
        args.input_shape = configs.parse_shape(args.input_shape, minimum=32)
    except ValueError as e:
        sys.exit(f'benchmark_search.py: {e}')
    step_args = (args.batch_size, args.input_shape, args.device)
    try:
        memory = {kind: peak_memory(make_step, (kind, *step_args), args.device)
                  for kind in KINDS}
    except MemoryError as e:
        sys.exit(f'benchmark_search.py: {e}: lower --batch-size')
    if args.device == 'cpu':
        print(keep_freed_memory())
    times = interleaved({kind: make_step(kind, *step_args) for kind in KINDS},
                     args.rounds, args.device)
    seconds = {kind: Spread.of(t) for kind, t in times.items()}

    height, width = args.input_shape
    print(f'batch {args.batch_size}, {height}x{width}, {args.device}, '
          f'{torch.get_num_threads()} threads, median of {args.rounds} '
          'alternating steps')
    print('| | step, s | fastest to slowest | peak memory, MiB |')
    print('|---|---|---|---|')
    for kind in KINDS:
        spread = seconds[kind]
        print(f'| {kind} | {spread.median:.3f} | {spread.low:.3f} to '
              f'{spread.high:.3f} | {memory[kind]:.0f} |')
    base, search = KINDS
    ratios = (seconds[search].median / seconds[base].median,
              memory[search] / memory[base])
    print(f'| ratio | {ratios[0]:.2f} | | {ratios[1]:.2f} |')
    if args.out:
        record = dict(vars(args), times=times,
                      seconds={k: s.median for k, s in seconds.items()},
                      memory_mib=memory, ratio_of_time=ratios[0],
                      ratio_of_memory=ratios[1])
        atomic_write(args.out, json.dumps(record, indent=1))


if __name__ == '__main__':
    main()
