# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Train a classifier, detector or segmentor; ``default_scope`` says which."""
import argparse
import sys

import autonl_mm  # noqa: F401
from autonl_mm.checkpoint import BrokenCheckpointError, UnsafeCheckpointError
from autonl_mm.cli import launch
from autonl_mm.cli.checks import check_datasets
from autonl_mm.datasets.settings import check_data


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_common_args(parser)
    launch.add_amp_arg(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='continue from this checkpoint; without a file, from the newest '
        'complete one in the work dir')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='multiply the learning rate by the batch size divided by '
        'auto_scale_lr.base_batch_size')
    parser.add_argument(
        '--no-validate', action='store_true', help='train without evaluation')
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        cfg = launch.load_config(args)
        if args.no_validate:
            cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        if args.amp:
            launch.use_amp(cfg)
        if args.auto_scale_lr:
            if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
                raise ValueError('--auto-scale-lr needs '
                                 'auto_scale_lr.base_batch_size in the config, '
                                 'which does not have it')
            cfg.auto_scale_lr.enable = True
        launch.check_search(cfg)
        launch.set_resume(cfg, args.resume)
        check_data(cfg, ['train_dataloader', 'val_dataloader'])
    except (FileNotFoundError, ValueError) as e:
        sys.exit(f'train.py: {e}')
    runner = launch.build_runner(cfg)
    check_datasets(runner, train=True)
    try:
        runner.train()
    except (BrokenCheckpointError, UnsafeCheckpointError) as e:
        sys.exit(f'train.py: {e}')


if __name__ == '__main__':
    main()
