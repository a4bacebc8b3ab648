# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Peak memory of a segmentor's prediction for one image, by its size.

Of a process of its own on a CPU, of the allocator on a GPU, the model's
weights included. Memory that grows linearly takes the same for each further
pixel; a non-local block that formed its affinity would need as many bytes a
pixel as there are pixels.
"""
import argparse
import sys

import torch
from mmengine.config import Config

from autonl_mm.benchmark.measure import peak_memory
from autonl_mm.cli import configs

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


def make_step(config, height, width, device):
    """A prediction.

    Args:
        config (str): Config of a segmentor.
        height (int): Of the image.
        width (int): Of the image.
        device (str): Where to run.

    Returns:
        Callable: Forward pass up to the labels.
    """
    model = configs.build_model(Config.fromfile(config)).to(device)
    image = torch.rand(1, 3, height, width, device=device)

    @torch.no_grad()
    def step():
        model(image, mode='predict')

    return step


def main():
    args = parse_args()
    try:
        sizes = [tuple(map(int, size.split('x'))) for size in args.sizes]
        if any(len(s) != 2 or min(s) < 1 for s in sizes):
            raise ValueError
    except ValueError:
        sys.exit(f'benchmark_memory.py: --sizes is {args.sizes}, expected '
                 'heights and widths such as 512x1024')
    print(f'{args.config}, one image, {args.device}\n')
    print('| image | peak memory, MiB | bytes a further pixel |')
    print('|---|---|---|')
    last = None
    for height, width in sizes:
        try:
            mib = peak_memory(make_step,
                              (args.config, height, width, args.device),
                              args.device)
        except (MemoryError, RuntimeError) as e:
            sys.exit(f'benchmark_memory.py: the prediction at '
                     f'{height}x{width} failed: {e}')
        further = '-'
        pixels = height * width
        if last and pixels > last[0]:
            further = f'{(mib - last[1]) * 2**20 / (pixels - last[0]):,.0f}'
        last = pixels, mib
        print(f'| {height}x{width} | {mib:,.0f} | {further} |', flush=True)


if __name__ == '__main__':
    main()
