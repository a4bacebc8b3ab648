# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What keeping freed memory gives on a CPU: training step and prediction of
some configs' models, of any codebase, with glibc's defaults and with what the
tools set.

The setting can't be undone in a process, so that every measurement has one of
its own, the two in turns. The images are noise: no data are needed.
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

from autonl_mm.benchmark.measure import Spread, device_name, in_turns
from autonl_mm.benchmark.synthetic import make_batch
from autonl_mm.cli import configs
from autonl_mm.cli.allocator import SWITCH, keep_freed_memory

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
        'configs', nargs='*', default=CONFIGS, help='default: one a codebase')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument(
        '--size', type=int, nargs=2, default=(256, 256), metavar=('H', 'W'))
    parser.add_argument(
        '--rounds',
        type=int,
        default=3,
        help='processes of each setting and config, in turns')
    parser.add_argument(
        '--steps', type=int, default=9, help='measured in each process')
    parser.add_argument('--out', type=Path, help='file for the figures, .json')
    return parser.parse_args()


def measure(config, batch_size, size, steps):
    """Time a config's model in a process of its own.

    Args:
        config (str): Path of the config.
        batch_size (int): Images.
        size (tuple[int, int]): Their height and width.
        steps (int): Measurements of each kind.

    Returns:
        tuple: What the allocator was told, and the median seconds of each of
        :data:`KINDS`.
    """
    told = keep_freed_memory()
    torch.manual_seed(0)
    cfg = Config.fromfile(config)
    model = configs.build_model(cfg)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    train_batch, test_batch = (
        make_batch(cfg, batch_size, size, part) for part in ('train', 'test'))

    def train():
        model.train()
        model.train_step(train_batch, optim_wrapper)

    def predict():
        model.eval()
        with torch.no_grad():
            model.test_step(test_batch)

    times = {
        kind: in_turns({kind: call}, steps)[kind]
        for kind, call in zip(KINDS, (train, predict))
    }
    return told, {kind: statistics.median(t) for kind, t in times.items()}


def compare(args):
    """Seconds by config, kind and setting, one value a process."""
    seconds = {config: {kind: {s: [] for s in SETTINGS} for kind in KINDS}
               for config in args.configs}
    jobs = [(config, setting) for config in args.configs
            for _ in range(args.rounds) for setting in SETTINGS]
    for config, setting in tqdm(jobs, desc='processes', leave=False):
        os.environ[SWITCH] = setting
        with ProcessPoolExecutor(1, get_context('spawn')) as pool:
            told, medians = pool.submit(measure, config, args.batch_size,
                                        args.size, args.steps).result()
        if ('is kept' in told) != (setting == '1'):
            raise RuntimeError(told)
        for kind, value in medians.items():
            seconds[config][kind][setting].append(value)
    return seconds


def table(seconds):
    """The comparison as Markdown."""
    head = ['config', '', *(f'{s}, ms' for s in SETTINGS.values()), 'times']
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
    if min(args.batch_size, args.rounds, args.steps) < 1 or \
            min(args.size) < 32:
        sys.exit('benchmark_allocator.py: expected a batch size, rounds and '
                 'steps of at least 1 and a size of at least 32')
    for config in args.configs:
        if not Path(config).is_file():
            sys.exit(f'benchmark_allocator.py: config {config!r} does not '
                     'exist')
    try:
        seconds = compare(args)
    except (RuntimeError, ValueError) as e:
        sys.exit(f'benchmark_allocator.py: {e}')
    print(f'batch {args.batch_size}, {args.size[0]}x{args.size[1]}, '
          f'{device_name("cpu")}, torch {torch.__version__}; median (lowest '
          f'to highest) of {args.rounds} alternating processes, of each the '
          f'median of {args.steps}\n')
    print(table(seconds))
    if args.out:
        args.out.write_text(
            json.dumps(
                dict(vars(args), out=str(args.out), torch=torch.__version__,
                     device_name=device_name('cpu'), seconds=seconds),
                indent=1))


if __name__ == '__main__':
    main()
