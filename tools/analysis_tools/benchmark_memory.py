# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Peak memory of a segmentor's prediction for one picture, by its size.

On a CPU the peak resident size of a process of its own beyond what it had
with the model built, on a GPU what the allocator counts. Memory that grows
linearly has one figure a pixel; a non-local block that formed its affinity
would need as many bytes a pixel as there are pixels.
"""
import argparse
import multiprocessing
import resource
import sys

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from autonl_mm.engine import keep_freed_memory

CONFIG = ('configs/mmseg/autonl-l-d16_deeplabv3plus_4xb2-80k_'
          'cityscapes-512x1024.py')
SIZES = ('256x512', '512x1024', '1024x2048')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', default=CONFIG)
    parser.add_argument(
        '--sizes', nargs='+', default=SIZES, metavar='HxW')
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args()


def peak(config, height, width, device, queue):
    """Put the peak MiB of a prediction beyond those of the model.

    Args:
        config (str): Config of a segmentor.
        height (int): Of the picture.
        width (int): Of the picture.
        device (str): Where to run.
        queue (Queue): For the result.
    """
    if device == 'cpu':
        keep_freed_memory()
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval().to(device)
    picture = torch.rand(1, 3, height, width, device=device)
    if device == 'cpu':
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    else:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with torch.no_grad():
        model(picture, mode='predict')
    if device == 'cpu':
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    else:
        after = torch.cuda.max_memory_allocated()
    queue.put((after - before) / 2**20)


def main():
    args = parse_args()
    try:
        sizes = [tuple(map(int, size.split('x'))) for size in args.sizes]
        if any(len(s) != 2 or min(s) < 1 for s in sizes):
            raise ValueError
    except ValueError:
        sys.exit(f'benchmark_memory.py: --sizes is {args.sizes}, expected '
                 'heights and widths such as 512x1024')
    if args.device == 'cpu':
        print(keep_freed_memory())  # each process below does it for itself
    context = multiprocessing.get_context('spawn')
    print(f'{args.config}, one picture, {args.device}\n')
    print('| picture | peak memory, MiB | bytes a pixel |')
    print('|---|---|---|')
    for height, width in sizes:
        queue = context.Queue()
        process = context.Process(
            target=peak, args=(args.config, height, width, args.device, queue))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f'benchmark_memory.py: the prediction at '
                     f'{height}x{width} failed, see above')
        mib = queue.get()
        print(f'| {height}x{width} | {mib:,.0f} | '
              f'{mib * 2**20 / (height * width):,.0f} |', flush=True)


if __name__ == '__main__':
    main()
