# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure how much faster a CPU is when freed memory is kept.

Times a training step and a prediction of the models of some configs, of any
codebase: with glibc's defaults, and with the settings that the tools use.
The settings cannot be undone in a process, so every measurement runs in a
separate process, with the two settings in turns. The images are noise: no data
set is needed.
"""
import argparse
import json
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from tqdm import tqdm

from autonl_mm.measure.synthetic import make_batch
from autonl_mm.measure.timing import Spread, device_name, interleaved
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import SWITCH, keep_freed_memory
from autonl_mm.runs.atomic_files import atomic_write

CONFIGS = (
    'configs/mmpretrain/autonl-s_32xb128_in1k.py',
    'configs/mmdet/retinanet_autonl-s_fpn_1xb8-120e_coco128-384.py',
    'configs/mmseg/autonl-s_fpn_1xb8-2400i_cityscapes-256x256.py',
)
KINDS = ('training step', 'prediction')
SETTINGS = {'0': "glibc's defaults", '1': 'memory kept'}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'configs',
        nargs='*',
        default=CONFIGS,
        help='default: one config of each codebase')
    parser.add_argument(
        '--batch-size', type=int, default=8, help='images, default 8')
    configs.add_input_shape(parser, (256, 256), 'default 256')
    parser.add_argument(
        '--rounds',
        type=int,
        default=3,
        help='processes per setting and config, in turns')
    parser.add_argument(
        '--steps', type=int, default=9, help='steps measured in each process')
    parser.add_argument('--out', type=Path, help='file for the measurements, .json')
    return parser.parse_args()


def measure(config, batch_size, size, steps):
    """Time the model of a config in this process.

    Args:
        config (str): Path of the config.
        batch_size (int): Images.
        size (tuple[int, int]): Height and width of the images.
        steps (int): Measurements of each kind.

    Returns:
        tuple[str, dict[str, float]]: The setting of the allocator in words,
        and the median seconds of each of :data:`KINDS`.
    """
    setting = keep_freed_memory()
    torch.manual_seed(0)
    cfg = Config.fromfile(config)
    model = configs.build_model(cfg)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    train_batch, test_batch = (
        make_batch(cfg, batch_size, size, phase) for phase in ('train', 'test'))

    def train():
        model.train()
        model.train_step(train_batch, optim_wrapper)

    def predict():
        model.eval()
        with torch.no_grad():
            model.test_step(test_batch)

    times = {
        kind: interleaved({kind: call}, steps)[kind]
        for kind, call in zip(KINDS, (train, predict))
    }
    return setting, {kind: statistics.median(t) for kind, t in times.items()}


def compare(args):
    """Seconds by config, kind and setting, one value per process."""
    seconds = {config: {kind: {s: [] for s in SETTINGS} for kind in KINDS}
               for config in args.configs}
    jobs = [(config, setting) for config in args.configs
            for _ in range(args.rounds) for setting in SETTINGS]
    for config, setting in tqdm(jobs, desc='processes', leave=False):
        os.environ[SWITCH] = setting
        with ProcessPoolExecutor(1, get_context('spawn')) as pool:
            words, medians = pool.submit(
                measure, config, args.batch_size, args.input_shape,
                args.steps).result()
        if ('is kept' in words) != (setting == '1'):
            raise RuntimeError(words)
        for kind, value in medians.items():
            seconds[config][kind][setting].append(value)
    return seconds


def table(seconds):
    """The comparison as Markdown."""
    head = ['config', '', *(f'{s}, ms' for s in SETTINGS.values()), 'speedup']
    lines = [head, ['---'] * len(head)]
    for config, kinds in seconds.items():
        for kind, settings in kinds.items():
            before, after = (
                Spread.of([1e3 * t for t in settings[s]]) for s in SETTINGS)
            lines.append([Path(config).stem, kind] + [
                f'{s.median:.0f} ({s.low:.0f} to {s.high:.0f})'
                for s in (before, after)
            ] + [f'{before.median / after.median:.2f}'])
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def main():
    args = parse_args()
    try:
        outputs.check_file('--out', args.out)
        if min(args.batch_size, args.rounds, args.steps) < 1:
            raise ValueError('--batch-size, --rounds and --steps must be at '
                             'least 1')
        args.input_shape = configs.parse_shape(args.input_shape, minimum=32)
        for config in args.configs:
            if not Path(config).is_file():
                raise FileNotFoundError(f'config {config!r} does not exist')
        seconds = compare(args)
    except (FileNotFoundError, RuntimeError, ValueError) as e:
        sys.exit(f'benchmark_allocator.py: {e}')
    height, width = args.input_shape
    print(f'batch {args.batch_size}, {height}x{width}, {device_name("cpu")}, '
          f'torch {torch.__version__}; median (minimum to maximum) over '
          f'{args.rounds} alternating processes, of the median of {args.steps} '
          'steps in each\n')
    print(table(seconds))
    if args.out:
        atomic_write(
            args.out,
            json.dumps(
                dict(vars(args), out=str(args.out), torch=torch.__version__,
                     device_name=device_name('cpu'), seconds=seconds),
                indent=1))


if __name__ == '__main__':
    main()
