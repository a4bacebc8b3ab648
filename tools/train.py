# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Train a classifier, detector or segmentor of the config's ``default_scope``."""
import argparse
import sys
from contextlib import ExitStack

import autonl_mm  # noqa: F401
from autonl_mm.config_checks import check_archs, check_donors, check_search
from autonl_mm.runs import exit_codes, launch, outputs
from autonl_mm.runs.configs import check_checkpoints, check_learning_rates
from autonl_mm.runs.data_checks import check_datasets, check_loaders
from autonl_mm.runs.dataset_configs import check_data, check_evaluator
from autonl_mm.runs.lock import lock


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_common_args(parser)
    launch.add_amp_arg(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='continue from this checkpoint; without a file, from the newest '
        'complete checkpoint in the work dir')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='multiply the learning rate by the batch size divided by '
        'auto_scale_lr.base_batch_size')
    parser.add_argument(
        '--no-validate', action='store_true', help='train without evaluation')
    return parser.parse_args()


def prepare(args):
    """The config of a run, with all options applied and checked.

    Args:
        args (Namespace): The tool's arguments.

    Raises:
        BrokenCheckpointError, FileNotFoundError, ImportError, ValueError: If
            something is missing or does not fit.
    """
    cfg = launch.load_config(args)
    check_archs(cfg.get('model'))
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        launch.use_amp(cfg)
    scaling = cfg.get('auto_scale_lr') or {}
    if args.auto_scale_lr or scaling.get('enable'):
        if not scaling.get('base_batch_size'):
            raise ValueError('--auto-scale-lr and auto_scale_lr.enable need '
                             'auto_scale_lr.base_batch_size in the config, '
                             'which does not have it')
        scaling.enable = True
    check_search(cfg)
    outputs.check_folder('--work-dir', cfg.work_dir)
    launch.set_resume(cfg, args.resume)
    if not cfg.get('resume'):
        check_donors(cfg)
    check_checkpoints(cfg)
    check_learning_rates(cfg)
    loaders = ['train_dataloader', 'val_dataloader']
    check_loaders(cfg, loaders)
    check_data(cfg, loaders)
    check_evaluator(cfg, 'val')
    return cfg


def main():
    args = parse_args()
    with exit_codes.exit_on_error('train.py'), ExitStack() as stack:
        try:
            cfg = prepare(args)
            stack.enter_context(lock(cfg.work_dir))
            runner = launch.build_runner(cfg)
        except (FileNotFoundError, ImportError, ValueError) as e:
            sys.exit(f'train.py: {e}')
        try:
            check_datasets(runner, train=True)
        except ValueError as e:
            sys.exit(f'train.py: {e}')
        runner.train()


if __name__ == '__main__':
    main()
