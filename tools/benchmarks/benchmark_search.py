# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What searching costs: a supernet's training step against the step of the
largest network of its space, in time and in memory.

Times are medians of alternating steps in one process. Memory is the peak of a
training step beyond what the process had before: on a GPU as the allocator
counts it, on a CPU the peak resident size of a process of its own.
"""
import argparse
import json
import sys

import torch

from autonl_mm.benchmark.measure import Spread, in_turns, peak_memory
from autonl_mm.cli.allocator import keep_freed_memory
from autonl_mm.models import AutoNL
from autonl_mm.nas import AutoNLSuperNet

KINDS = ('largest network', 'supernet')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--input-size', type=int, default=224)
    parser.add_argument(
        '--rounds', type=int, default=9, help='steps of each, in turns')
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', help='file for the figures, .json')
    return parser.parse_args()


def make_step(kind, batch_size, size, device):
    """A training step of one of the two networks on the default space.

    Args:
        kind (str): One of :data:`KINDS`.
        batch_size (int): Images.
        size (int): Their side.
        device (str): Where to run.

    Returns:
        Callable: Forward pass, cost where there is one, backward pass and
        optimiser step.
    """
    net = AutoNLSuperNet(input_shape=size)
    if kind == KINDS[0]:
        net = AutoNL(net.space.largest)
    net.to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    x = torch.randn(batch_size, 3, size, size, device=device)
    seeds = iter(range(10**9))

    def step():
        optimizer.zero_grad()
        if kind == KINDS[1]:
            net.explore(0.25, next(seeds))
        loss = net(x)[0].square().mean()
        if kind == KINDS[1]:
            loss = loss + 0.1 * net.cost().log()
        loss.backward()
        optimizer.step()

    return step


def main():
    args = parse_args()
    if min(args.batch_size, args.rounds) < 1 or args.input_size < 32:
        sys.exit('benchmark_search.py: expected a batch size and rounds of at '
                 'least 1 and an input size of at least 32')
    step_args = (args.batch_size, args.input_size, args.device)
    try:
        memory = {kind: peak_memory(make_step, (kind, *step_args), args.device)
                  for kind in KINDS}
    except MemoryError as e:
        sys.exit(f'benchmark_search.py: {e}: lower --batch-size')
    if args.device == 'cpu':
        print(keep_freed_memory())
    times = in_turns({kind: make_step(kind, *step_args) for kind in KINDS},
                     args.rounds, args.device)
    seconds = {kind: Spread.of(t) for kind, t in times.items()}

    print(f'batch {args.batch_size}, {args.input_size}x{args.input_size}, '
          f'{args.device}, {torch.get_num_threads()} threads, median of '
          f'{args.rounds} alternating steps')
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
        with open(args.out, 'w') as f:
            json.dump(
                dict(vars(args), times=times,
                     seconds={k: s.median for k, s in seconds.items()},
                     memory_mib=memory, ratio_of_time=ratios[0],
                     ratio_of_memory=ratios[1]), f, indent=1)


if __name__ == '__main__':
    main()
