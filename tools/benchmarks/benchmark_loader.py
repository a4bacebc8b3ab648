# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure the data loader of a config alone, by decoder and number of workers.

The tool works for all codebases. It covers all work of a loader: reading, decoding,
augmenting, packing and collating. Without workers the loader runs in one thread, so the
first column is images per second and core. Workers share the cores with this process.
Every measurement is a pass over the same images. A first pass, which is not measured,
brings the images into the system's file cache, so a slow disk has no effect.
"""
import argparse
import copy
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.runner import Runner

from autonl_mm.datasets.transforms import start_decoder
from autonl_mm.measure.timing import Spread, interleaved
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.dataset_configs import check_data
from autonl_mm.runs.tables import markdown_table

DECODERS = ('cv2', 'pillow', 'turbojpeg')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    configs.add_config_args(parser)
    parser.add_argument(
        '--phase', choices=['train', 'val', 'test'], default='train',
        help='data loader of the config, default train')
    parser.add_argument(
        '--decoders', nargs='+', choices=DECODERS, default=DECODERS,
        help='imdecode_backend of mmcv; default: all installed decoders')
    parser.add_argument(
        '--workers', type=int, nargs='+', default=[0, os.cpu_count()],
        help='numbers of worker processes; default: 0 and the number of cores')
    parser.add_argument(
        '--num-samples', type=int, default=512,
        help='images in a pass, or all if the data set has fewer; default 512')
    parser.add_argument(
        '--rounds', type=int, default=5,
        help='alternating passes of each combination, default 5')
    parser.add_argument('--out', type=Path, help='file for the measurements, .json')
    return parser.parse_args()


def set_decoder(node, decoder):
    """Set the decoder of every transform in a config that loads images.

    Returns the number of these transforms. LoadImageOrSkip replaces mmcv's transform,
    which does not initialise turbojpeg."""
    if isinstance(node, (list, tuple)):
        return sum(set_decoder(item, decoder) for item in node)
    if not isinstance(node, dict):
        return 0
    count = sum(set_decoder(item, decoder) for item in node.values())
    kind = node.get('type')
    if isinstance(kind, str):
        kind = TRANSFORMS.get(kind)
    if isinstance(kind, type) and issubclass(kind, LoadImageFromFile):
        node.update(
            type='autonl_mm.LoadImageOrSkip', imdecode_backend=decoder)
        count += 1
    return count


def make_pass(cfg, dataset, indices, workers):
    """A pass over the images of these indices. Workers start with the first call."""
    loader = Runner.build_dataloader(dict(
        copy.deepcopy({k: v for k, v in cfg.items() if k != 'dataset'}),
        dataset=dataset, sampler=indices, batch_sampler=None, num_workers=workers,
        persistent_workers=workers > 0, pin_memory=False))

    def load():
        for _ in loader:
            pass

    return load


def main():
    args = parse_args()
    name = f'{args.phase}_dataloader'
    try:
        outputs.check_file('--out', args.out)
        configs.check_positive(args, 'num_samples', 'rounds')
        if min(args.workers) < 0:
            raise ValueError(f'--workers has {min(args.workers)}, expected at least 0')
        cfg = configs.read_config(args)
        check_data(cfg, [name])
        configs.enter_scope(cfg)
        loader = cfg[name]
        if not set_decoder(loader.dataset, 'cv2'):
            raise ValueError(f'{name} has no transform that decodes images')
    except (FileNotFoundError, ValueError) as e:
        sys.exit(f'benchmark_loader.py: {e}')
    if not torch.cuda.is_available():
        # as in a training run on a CPU; workers inherit the setting
        print(keep_freed_memory())
    # one thread per process, as in a training run
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    calls = {}
    for decoder in args.decoders:
        set_decoder(loader.dataset, decoder)
        try:
            start_decoder(decoder)
        except ValueError as e:
            print(f'{decoder} is left out: {e}')
            continue
        dataset = DATASETS.build(loader.dataset)
        indices = np.random.default_rng(0).permutation(
            len(dataset))[:args.num_samples].tolist()
        for workers in args.workers:
            calls[decoder, workers] = make_pass(loader, dataset, indices, workers)
    if not calls:
        sys.exit('benchmark_loader.py: no decoder of --decoders is installed')
    times = interleaved(calls, args.rounds)
    rates = {key: [len(indices) / t for t in values]
             for key, values in times.items()}
    print(f'{args.config}, {name}, {len(indices)} images, batch '
          f'{loader.batch_size}, {os.cpu_count()} cores; images per second, '
          f'median (minimum to maximum) of {args.rounds} alternating passes\n')
    print(markdown_table(
        ['decoder', *(f'{w} workers' if w else 'one core' for w in args.workers)],
        [[decoder, *(f'{Spread.of(rates[decoder, w]):.0f}' for w in args.workers)]
         for decoder in dict.fromkeys(d for d, _ in rates)]))
    if args.out:
        atomic_write(args.out, json.dumps(dict(
            vars(args), out=str(args.out), batch_size=loader.batch_size,
            cores=os.cpu_count(), rates=[
                dict(decoder=d, workers=w, images_per_second=values)
                for (d, w), values in rates.items()]), indent=1))


if __name__ == '__main__':
    main()
