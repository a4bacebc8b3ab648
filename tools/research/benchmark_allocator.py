# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure how much faster a CPU is when freed memory is kept.

The tool times a training step and a prediction of the models of some configs, of any
codebase: with glibc's defaults, and with the settings that the tools use. The settings
cannot be undone in a process. Therefore every measurement runs in a separate process,
and the two settings alternate. The images are noise, so no data set is needed.
"""
import argparse
import json
import os
import statistics
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
from autonl_mm.runs.tables import markdown_table

CONFIGS = (
    'configs/mmpretrain/autonl-s_32xb128_in1k.py',
    'configs/mmdet/retinanet_autonl-s_fpn_1xb8-120e_coco128-384.py',
    'configs/mmseg/autonl-s_fpn_1xb8-2400i_cityscapes-256x256.py',
)
KINDS = ('training step', 'prediction')
SETTINGS = {'0': "glibc's defaults", '1': 'memory kept'}
BATCH_SIZE, SIZE = 8, (256, 256)
PROCESSES, STEPS = 3, 9  # processes per setting, steps measured in each


def measure(config):
    """Median seconds of each of :data:`KINDS` in this process, and its setting."""
    setting = keep_freed_memory()
    torch.manual_seed(0)
    cfg = Config.fromfile(config)
    model = configs.build_model(cfg)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    train_batch, test_batch = (
        make_batch(cfg, BATCH_SIZE, SIZE, phase) for phase in ('train', 'test'))

    def train():
        model.train()
        model.train_step(train_batch, optim_wrapper)

    def predict():
        model.eval()
        with torch.no_grad():
            model.test_step(test_batch)

    return setting, {
        kind: statistics.median(interleaved({kind: call}, STEPS)[kind])
        for kind, call in zip(KINDS, (train, predict))}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', default=CONFIGS,
                        help='configs; default: one config of each codebase')
    parser.add_argument('--out', help='file for the measurements, .json')
    args = parser.parse_args()
    outputs.check_file('--out', args.out)
    seconds = {config: {kind: {s: [] for s in SETTINGS} for kind in KINDS}
               for config in args.configs}
    jobs = [(config, setting) for config in args.configs
            for _ in range(PROCESSES) for setting in SETTINGS]
    for config, setting in tqdm(jobs, desc='processes', leave=False):
        os.environ[SWITCH] = setting
        with ProcessPoolExecutor(1, get_context('spawn')) as pool:
            words, medians = pool.submit(measure, config).result()
        if ('is kept' in words) != (setting == '1'):
            raise RuntimeError(words)
        for kind, value in medians.items():
            seconds[config][kind][setting].append(value)
    print(f'batch {BATCH_SIZE}, {SIZE[0]}x{SIZE[1]}, {device_name("cpu")}, '
          f'torch {torch.__version__}; median (minimum to maximum) over {PROCESSES} '
          f'alternating processes, of the median of {STEPS} steps in each\n')
    rows = []
    for config, kinds in seconds.items():
        for kind, settings in kinds.items():
            before, after = (
                Spread.of([1e3 * t for t in settings[s]]) for s in SETTINGS)
            rows.append([Path(config).stem, kind, f'{before:.0f}', f'{after:.0f}',
                         f'{before.median / after.median:.2f}'])
    print(markdown_table(
        ['config', '', *(f'{s}, ms' for s in SETTINGS.values()), 'speedup'], rows))
    if args.out:
        atomic_write(args.out, json.dumps(dict(
            torch=torch.__version__, device_name=device_name('cpu'), seconds=seconds),
            indent=1))


if __name__ == '__main__':
    main()
