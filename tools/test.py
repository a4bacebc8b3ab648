# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Evaluate a classifier, detector or segmentor; ``default_scope`` says which."""
import argparse
import os.path as osp
import sys

import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.fileio import dump

import autonl_mm  # noqa: F401
from autonl_mm.config_checks import check_archs
from autonl_mm.export.engine_model import use_exported_model
from autonl_mm.export.engines import is_exported_model
from autonl_mm.half import use_half
from autonl_mm.runs import configs, exit_codes, launch, outputs
from autonl_mm.runs.checkpoints import for_predictions
from autonl_mm.runs.classes import built_leaves
from autonl_mm.runs.config_parts import leaf_datasets
from autonl_mm.runs.data_checks import (
    check_datasets,
    check_loaders,
    is_unlabelled,
)
from autonl_mm.runs.dataset_configs import check_data, check_evaluator
from autonl_mm.runs.pipelines import remove_annotations


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_common_args(parser)
    launch.add_amp_arg(parser)
    parser.add_argument(
        'checkpoint',
        help='checkpoint file, or an exported model')
    parser.add_argument(
        '--dtype',
        choices=['float32', 'float16', 'bfloat16'],
        default='float32',
        help='precision of all weights and feature maps; --amp chooses by '
        'operation instead')
    parser.add_argument(
        '--out', help='file for the results: .pkl, or .json for metrics')
    parser.add_argument(
        '--out-item',
        choices=['pred', 'metrics'],
        default='pred',
        help='what to write to --out')
    parser.add_argument('--show-dir', help='folder for visualised predictions')
    parser.add_argument(
        '--interval', type=int, default=1,
        help='with --show-dir, visualise every so many batches; default 1')
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation')
    return parser.parse_args()


def check_options(args):
    """Refuse options that contradict each other or would have no effect.

    Args:
        args (Namespace): The tool's arguments.

    Raises:
        ValueError: If there is such an option; names it.
    """
    if is_exported_model(args.checkpoint):
        for option, given in ((f'--dtype {args.dtype}', args.dtype != 'float32'),
                              ('--amp', args.amp)):
            if given:
                raise ValueError(
                    f'{option} does not apply to {args.checkpoint}: the precision '
                    'of an exported model is fixed when it is written. Remove the '
                    'option, or evaluate the checkpoint')
    if args.amp and args.dtype != 'float32':
        raise ValueError(f'--amp and --dtype {args.dtype} exclude each other: '
                         'give one of them')
    if args.out_item == 'metrics':
        if not args.out:
            raise ValueError('--out-item metrics needs --out, the file to write')
        if not args.out.endswith(('.json', '.pkl', '.pickle')):
            raise ValueError(f'--out is {args.out!r}, expected a .json or .pkl file '
                             'for metrics')
    elif args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out is {args.out!r}, expected a .pkl file for '
                         'predictions')
    outputs.check_file('--out', args.out)
    outputs.check_folder('--show-dir', args.show_dir)
    configs.check_positive(args, 'interval')


def use_tta(cfg):
    """Wrap model and pipeline in the config's ``tta_model``, ``tta_pipeline``."""
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise ValueError('--tta needs tta_model and tta_pipeline in the config, '
                         'which does not have both')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for _, dataset in leaf_datasets('', cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline


def visualise_predictions(cfg, show_dir, interval):
    """Turn on the visualisation hook of the codebase."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError('--show-dir needs default_hooks.visualization in the '
                         'config, which does not have it')
    hook.interval = interval
    scope = configs.scope_of(cfg)
    cfg.visualizer = configs.visualizer_of(cfg)
    if scope == 'mmpretrain':
        hook.update(enable=True, out_dir=show_dir)
    elif scope == 'mmdet':
        hook.update(draw=True, test_out_dir=osp.abspath(show_dir))
    else:
        hook.draw = True
        cfg.visualizer.save_dir = show_dir


def prepare(args):
    """The config of an evaluation, with all options applied and checked.

    Args:
        args (Namespace): The tool's arguments.

    Raises:
        FileNotFoundError, ImportError, ValueError: If something is missing or
            does not fit.
    """
    check_options(args)
    cfg = launch.load_config(args)
    check_archs(cfg.get('model'))
    if not osp.exists(args.checkpoint):
        raise FileNotFoundError(f'checkpoint {args.checkpoint!r} does not exist')
    if is_exported_model(args.checkpoint):
        use_exported_model(cfg, args.checkpoint)
    else:
        cfg.update(load_from=args.checkpoint, resume=False)
        # FlexibleRunner's: the checkpoint replaces the weights of init_cfg
        cfg.init_weights_for_test_or_val = False
    if args.amp:
        cfg.test_cfg.fp16 = True
    if args.show_dir:
        visualise_predictions(cfg, args.show_dir, args.interval)
    if args.tta:
        use_tta(cfg)
    outputs.check_folder('--work-dir', cfg.work_dir)
    check_loaders(cfg, ['test_dataloader'])
    check_data(cfg, ['test_dataloader'])
    check_evaluator(cfg, 'test')
    return cfg


def predict_only(runner):
    """Leave out metrics and annotations if the data have no labels.

    Args:
        runner (Runner): The runner.

    Returns:
        bool: Whether they have none.
    """
    datasets = [d for _, d in built_leaves('', runner.test_dataloader.dataset)]
    if not any(map(is_unlabelled, datasets)):
        return False
    runner.logger.warning('test_dataloader.dataset has no labels: only the '
                          'predictions are written, no metrics')
    runner.test_evaluator.metrics.clear()
    for dataset in datasets:
        remove_annotations(dataset.pipeline)
    return True


def main():
    args = parse_args()
    with exit_codes.exit_on_error('test.py'):
        try:
            cfg = prepare(args)
            runner = launch.build_runner(cfg, testing=True)
        except (FileNotFoundError, ImportError, ValueError) as e:
            sys.exit(f'test.py: {e}')
        dumps = args.out and args.out_item == 'pred'
        try:
            unlabelled = dumps and predict_only(runner)
            check_datasets(runner, train=False, labelled=not unlabelled)
        except ValueError as e:
            sys.exit(f'test.py: {e}')
        if args.dtype != 'float32':
            use_half(runner.model, getattr(torch, args.dtype))
        if dumps:
            runner.test_evaluator.metrics.append(
                DumpResults(out_file_path=args.out))
        with for_predictions(args.checkpoint):
            metrics = runner.test()
        if args.out and args.out_item == 'metrics':
            dump(metrics, args.out)


if __name__ == '__main__':
    main()
