# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compare a supernet's training step with a step of its largest network.

The tool prints time and memory of both, on the default search space at 224. Times are
medians of alternating steps in one process. Memory is the peak of a training step
beyond the memory before it: on a GPU as torch's allocator counts it, on a CPU the
resident memory of a separate process.
"""
import argparse

import torch

from autonl_mm.measure.memory import peak_memory
from autonl_mm.measure.timing import Spread, device_name, interleaved
from autonl_mm.models import AutoNL
from autonl_mm.nas import AutoNLSuperNet
from autonl_mm.runs import configs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.tables import markdown_table

KINDS = ('largest network', 'supernet')


def make_step(kind, batch_size, input_shape, device):
    """A training step of one of :data:`KINDS`; the supernet's loss has its cost."""
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--batch-size', type=int, default=16,
                        help='images in a step, default 16')
    configs.add_input_shape(parser, (224, 224), 'default 224')
    parser.add_argument('--rounds', type=int, default=9,
                        help='alternating steps of each, default 9')
    configs.add_device(parser)
    args = parser.parse_args()
    shape = configs.parse_shape(args.input_shape, minimum=32)
    step = args.batch_size, shape, args.device
    memory = {kind: peak_memory(make_step, (kind, *step), args.device)
              for kind in KINDS}
    print(keep_freed_memory())
    times = interleaved({kind: make_step(kind, *step) for kind in KINDS}, args.rounds,
                        args.device)
    seconds = {kind: Spread.of(t) for kind, t in times.items()}
    base, search = KINDS
    print(f'batch {args.batch_size}, {device_name(args.device)}, median (fastest to '
          f'slowest) of {args.rounds} alternating steps\n')
    print(markdown_table(['', 'step, s', 'peak memory, MiB'], [
        *([kind, f'{seconds[kind]:.3f}', f'{memory[kind]:.0f}'] for kind in KINDS),
        ['ratio', f'{seconds[search].median / seconds[base].median:.2f}',
         f'{memory[search] / memory[base]:.2f}']]))


if __name__ == '__main__':
    main()
