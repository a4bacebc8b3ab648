# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure the peak memory of a segmentor's prediction for one image, by size.

The weights of the model are included. On a CPU it is the memory of a separate
process, on a GPU the memory that torch's allocator counts. If memory grows
linearly, each additional pixel needs the same number of bytes. A non-local
block that forms its affinity needs bytes per pixel in proportion to the number
of pixels.
"""
import argparse
import sys

import torch
from mmengine.config import Config

from autonl_mm.measure.timing import peak_memory
from autonl_mm.models import input_channels
from autonl_mm.runs import configs

CONFIG = ('configs/mmseg/autonl-l-d16_deeplabv3plus_4xb2-80k_'
          'cityscapes-512x1024.py')
INPUT_SHAPES = ('256x512', '512x1024', '1024x2048')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'config',
        nargs='?',
        default=CONFIG,
        help=f'config of a segmentor, default {CONFIG}')
    parser.add_argument(
        '--input-shapes',
        nargs='+',
        default=INPUT_SHAPES,
        metavar='HxW',
        help=f'default {" ".join(INPUT_SHAPES)}')
    configs.add_device(parser)
    return parser.parse_args()


def make_step(config, height, width, device):
    """Build a segmentor and its prediction for one image of noise.

    Args:
        config (str): Config of a segmentor.
        height (int): Height of the image.
        width (int): Width of the image.
        device (str): Where to run.

    Returns:
        Callable: The prediction, from the image to the labels.
    """
    model = configs.build_model(Config.fromfile(config)).to(device)
    image = torch.rand(1, input_channels(model), height, width, device=device)

    @torch.no_grad()
    def step():
        model(image, mode='predict')

    return step


def main():
    args = parse_args()
    try:
        shapes = configs.parse_shapes('--input-shapes', args.input_shapes,
                                      'HxW')
    except ValueError as e:
        sys.exit(f'benchmark_memory.py: {e}')
    print(f'{args.config}, one image, {args.device}\n')
    print('| image | peak memory, MiB | bytes per additional pixel |')
    print('|---|---|---|')
    last = None
    for height, width in shapes:
        try:
            mib = peak_memory(make_step,
                              (args.config, height, width, args.device),
                              args.device)
        except (MemoryError, RuntimeError) as e:
            sys.exit(f'benchmark_memory.py: the prediction at '
                     f'{height}x{width} failed: {e}')
        per_pixel = '-'
        pixels = height * width
        if last and pixels > last[0]:
            per_pixel = f'{(mib - last[1]) * 2**20 / (pixels - last[0]):,.0f}'
        last = pixels, mib
        print(f'| {height}x{width} | {mib:,.0f} | {per_pixel} |', flush=True)


if __name__ == '__main__':
    main()
