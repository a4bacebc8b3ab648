# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure AutoNL's speed and memory on a GPU: training and inference, in one call.

Training is under autocast. Inference is in deploy form with weights of the precision.
Both are in channels_last. The first values of --batch-sizes, --dtypes and --forms are
measured first. Each row is printed and written to --out as soon as it is measured, so
the results of an interrupted run can be used. For the first rows, the profiler gives
LightNL's time by operator: the difference from the same network without LightNL. The
data pipeline (decode, resize, crop, flip) is measured alone, so that each row of a
training tells whether data or network limits it. benchmark_loader.py measures the
pipeline of a config. The tool needs torch, timm, mmengine and mmcv or mmcv-lite.
"""
import argparse
import gc
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from mmcv.transforms import (
    CenterCrop,
    Compose,
    LoadImageFromFile,
    RandomFlip,
    RandomResize,
)
from torch.utils.data import DataLoader, Dataset

from autonl_mm.measure.classifiers import (
    NAMES,
    NETWORK_HELP,
    NO_LIGHT_NL,
    build_classifier,
    network_by_name,
    without_light_nl,
)
from autonl_mm.measure.memory import peak_memory, peak_of_tensors
from autonl_mm.measure.passes import inference, noise, training
from autonl_mm.measure.timing import device_name, interleaved, operator_times
from autonl_mm.named_networks import NAMED_NETWORKS
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.atomic_files import atomic_write

# The network without LightNL comes first, for the ratio
NETWORKS = (*(name + variant for name in NAMES for variant in (NO_LIGHT_NL, '')),
            'mnasnet_100', 'mobilenetv3_large_100', 'efficientnet_b0')
PASSES = dict(training=training, inference=inference)
DTYPES = ('bfloat16', 'float16')
FORMS = ('eager', 'graph', 'compile')
KEY = ('network', 'pass', 'batch', 'dtype', 'form')
COLUMNS = (*KEY, 'images/s', 'MiB', 'time to no LightNL', 'limited by')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--networks', nargs='+', default=list(NETWORKS), metavar='NETWORK',
        help=f'default: {" ".join(NETWORKS)}; {NETWORK_HELP}; or a network of '
        'timm')
    parser.add_argument('--batch-sizes', nargs='+', type=int, default=[256, 1024],
                        help='default 256 1024')
    parser.add_argument(
        '--dtypes', nargs='+', choices=DTYPES, default=DTYPES,
        help='precisions on a GPU, default both; on a CPU everything is float32')
    parser.add_argument(
        '--forms', nargs='+', choices=FORMS,
        help='graph is a CUDA graph, compile is torch.compile; default: all on a GPU, '
        'eager on a CPU')
    configs.add_input_shape(parser, [224, 224], 'default 224')
    parser.add_argument('--rounds', type=int, default=10,
                        help='measurements per row, default 10')
    parser.add_argument('--minutes', type=float, default=8,
                        help='time after which no row begins, default 8')
    parser.add_argument('--workers', type=int, default=os.cpu_count(),
                        help='processes of the data pipeline, default: all cores')
    configs.add_device(parser)
    parser.add_argument('--out', default='gpu.json',
                        help='file for the measurements, default gpu.json')
    return parser.parse_args()


class Photographs(Dataset):
    """A JPEG file with the size of ImageNet's, 500x375 and 110 KB, read each time."""

    def __init__(self, file, shape, count):
        rng = np.random.default_rng(0)
        image = cv2.resize(rng.uniform(0, 255, (12, 16, 3)), (500, 375))
        image += rng.normal(0, 11, image.shape)
        jpeg = cv2.imencode('.jpg', image.clip(0, 255).astype(np.uint8))[1]
        Path(file).write_bytes(jpeg)
        self.file, self.count, (h, w) = file, count, shape
        self.pipeline = Compose([
            LoadImageFromFile(),
            RandomResize((w * 8 // 7, h * 8 // 7), ratio_range=(1, 1.5)),
            CenterCrop((w, h)), RandomFlip(0.5)])

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = self.pipeline(dict(img_path=self.file))['img']
        return np.ascontiguousarray(image.transpose(2, 0, 1))


def pipeline_speed(args):
    """Images a second of the data pipeline alone."""
    cv2.setNumThreads(0)  # one thread per process, as in a training run
    count = 8 * args.batch_sizes[0]
    with tempfile.TemporaryDirectory() as folder:
        loader = DataLoader(
            Photographs(f'{folder}/image.jpg', args.shape, count), args.batch_sizes[0],
            num_workers=args.workers, persistent_workers=args.workers > 0)
        seconds, = interleaved(dict(load=lambda: sum(1 for _ in loader)), 1)['load']
    return count / seconds


def build(name):
    """A classifier by its name: ours if ours can be that network, else timm's."""
    return build_classifier(name) if name in NAMED_NETWORKS else network_by_name(name)


def keys_of_rows(args):
    """The key of each row, the most important first."""
    settings = itertools.product(*map(
        enumerate, (args.batch_sizes, args.dtypes, args.forms)))
    for setting in sorted(settings, key=lambda s: sum(i for i, _ in s)):
        for kind, name in itertools.product(PASSES, args.networks):
            yield name, kind, *(value for _, value in setting)


def measure(key, args):
    """A row of the table. MiB are for making the step and running it twice."""
    name, kind, batch_size, dtype, form = key
    row, steps = dict(zip(KEY, key)), []

    def make():
        x = noise(batch_size, *args.shape, args.device)
        steps.append(PASSES[kind](build(name), x, form, getattr(torch, dtype)))
        return steps[0]

    if form == 'compile':
        torch.compiler.reset()  # torch compiles the same code eight times at most
    try:
        row['MiB'] = (peak_memory(make, (), args.device) if args.gpu else
                      peak_of_tensors(make, ()))
        seconds = interleaved(dict(step=steps[0]), args.rounds, args.device)['step']
        if key[2:] == (args.batch_sizes[0], args.dtypes[0], 'eager'):
            row['operators'] = operator_times(steps[0], 3, args.device)
        row.update({'seconds': seconds,
                    'images/s': batch_size / statistics.median(seconds)})
    except RuntimeError as e:  # too little memory, or a compiler that fails
        row['error'] = f'{type(e).__name__}: {e}'.splitlines()[0]
    steps.clear()
    gc.collect()
    return row


def compare(row, rows, pipeline):
    """Add the comparisons with the pipeline and the network without LightNL."""
    if row['pass'] == 'training':
        row['limited by'] = 'data' if pipeline < row['images/s'] else 'network'
    key = (without_light_nl(row['network']), *(row[k] for k in KEY[1:]))
    for base in rows:
        if tuple(base[k] for k in KEY) == key and 'error' not in base:
            row['time to no LightNL'] = base['images/s'] / row['images/s']
            if 'operators' in row:
                row['LightNL'] = {
                    o: row['operators'].get(o, 0) - base['operators'].get(o, 0)
                    for o in {*row['operators'], *base['operators']}}


def print_row(row):
    """Print a row of the table, and LightNL's time by operator."""
    cells = (row.get(column, '') for column in COLUMNS)
    print('|', ' | '.join(f'{c:,.4g}' if isinstance(c, float) else str(c)
                          for c in cells), '|', row.get('error', ''), flush=True)
    for operator, seconds in sorted(row.get('LightNL', {}).items(),
                                    key=lambda item: -abs(item[1]))[:8]:
        print(f'    LightNL: {1e3 * seconds:+.3f} ms in {operator}')


def run(args):
    """Measure, print and write one row after another."""
    start, longest = time.monotonic(), dict.fromkeys(args.forms, 0)
    record = dict(vars(args), device_name=device_name(args.device),
                  torch=torch.__version__, pipeline=pipeline_speed(args), rows=[])
    print(f'{record["device_name"]}, torch {torch.__version__}, channels_last\n'
          f'data pipeline: {record["pipeline"]:,.0f} images/s, {args.workers} workers\n'
          f'\n| {" | ".join(COLUMNS)} |\n{"|---" * len(COLUMNS)}|')
    keys = list(keys_of_rows(args))
    for key in keys:
        begin, form = time.monotonic(), key[-1]
        if begin + longest[form] > start + 60 * args.minutes:
            continue
        row = measure(key, args)
        if 'error' not in row:
            compare(row, record['rows'], record['pipeline'])
        print_row(row)
        record['rows'].append(row)
        atomic_write(args.out, json.dumps(record, indent=1))
        longest[form] = max(longest[form], time.monotonic() - begin)
    print(f'\n{len(record["rows"])} of {len(keys)} rows in {args.minutes:g} minutes')


def main():
    args = parse_args()
    try:
        args.gpu = torch.device(args.device).type == 'cuda'
        args.forms = args.forms or (FORMS if args.gpu else FORMS[:1])
        if not args.gpu:
            args.dtypes = ['float32']
        args.shape = configs.parse_shape(args.input_shape, minimum=32)
        configs.check_positive(args, 'rounds')
        outputs.check_file('--out', args.out)
        if min(args.batch_sizes) < 1:
            raise ValueError(f'--batch-sizes has {min(args.batch_sizes)}, '
                             'expected at least 1 each')
        if args.gpu and not torch.cuda.is_available():
            raise ValueError('--device is cuda, but torch finds no GPU')
        if 'graph' in args.forms and not args.gpu:
            raise ValueError('--forms has graph, which needs a GPU')
        for name in args.networks:
            build(name)
    except (OSError, RuntimeError, ValueError) as e:
        sys.exit(f'gpu.py: {e}')
    torch.backends.cudnn.benchmark = True
    try:
        run(args)
    except KeyboardInterrupt:
        sys.exit(f'gpu.py: interrupted, {args.out} has the rows above')


if __name__ == '__main__':
    main()
