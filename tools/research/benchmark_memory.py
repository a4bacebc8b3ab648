# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure the peak memory of a segmentor's prediction for one image, by size.

The memory of a separate process on the CPU is measured. It includes the weights of the
model. If memory grows linearly, each additional pixel needs the same number of bytes.
"""
import argparse

import torch
from mmengine.config import Config

from autonl_mm.measure.memory import peak_memory
from autonl_mm.models import input_channels
from autonl_mm.runs import configs
from autonl_mm.runs.tables import markdown_table

CONFIG = 'configs/mmseg/autonl-l-d16_deeplabv3plus_4xb2-80k_cityscapes-512x1024.py'
INPUT_SHAPES = ('256x512', '512x1024', '1024x2048')


def make_step(config, height, width):
    """The prediction of a config's segmentor for one image of noise."""
    model = configs.build_model(Config.fromfile(config))
    image = torch.rand(1, input_channels(model), height, width)

    @torch.no_grad()
    def step():
        model(image, mode='predict')

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', default=CONFIG,
                        help=f'config of a segmentor, default {CONFIG}')
    parser.add_argument('--input-shapes', nargs='+', default=INPUT_SHAPES,
                        metavar='HxW', help=f'default {" ".join(INPUT_SHAPES)}')
    args = parser.parse_args()
    rows, last = [], None
    for height, width in configs.parse_shapes(
            '--input-shapes', args.input_shapes, 'HxW'):
        mib = peak_memory(make_step, (args.config, height, width))
        pixels = height * width
        rows.append([f'{height}x{width}', f'{mib:,.0f}', '-' if not last else
                     f'{(mib - last[1]) * 2**20 / (pixels - last[0]):,.0f}'])
        last = pixels, mib
    print(f'{args.config}, one image\n')
    print(markdown_table(
        ['image', 'peak memory, MiB', 'bytes per additional pixel'], rows))


if __name__ == '__main__':
    main()
