# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Evaluate a classifier, detector or segmentor; ``default_scope`` says which."""
import argparse
import os.path as osp
import sys

import mmengine
import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import DumpResults

import autonl_mm  # noqa: F401
from autonl_mm.checkpoint import BrokenCheckpointError, UnsafeCheckpointError
from autonl_mm.cli import launch
from autonl_mm.cli.checks import check_datasets
from autonl_mm.datasets.settings import check_data, leaf_datasets
from autonl_mm.half import use_half


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_common_args(parser)
    launch.add_amp_arg(parser)
    parser.add_argument(
        'checkpoint',
        help='checkpoint file, or an ONNX file of tools/deployment')
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
        '--tta', action='store_true', help='test-time augmentation')
    return parser.parse_args()


def check_options(args):
    """Refuse options that contradict each other or would have no effect.

    Args:
        args (Namespace): The tool's arguments.

    Raises:
        ValueError: If there is such an option; names it.
    """
    if args.checkpoint.endswith('.onnx'):
        for option, given in ((f'--dtype {args.dtype}', args.dtype != 'float32'),
                              ('--amp', args.amp)):
            if given:
                raise ValueError(
                    f'{option} does not apply to {args.checkpoint}: the precision '
                    'of an ONNX file is fixed when it is written. Remove the '
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


def use_tta(cfg):
    """Wrap model and pipeline in the config's ``tta_model``, ``tta_pipeline``."""
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise ValueError('--tta needs tta_model and tta_pipeline in the config, '
                         'which does not have both')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for _, dataset in leaf_datasets('', cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline


def visualise_predictions(cfg, show_dir):
    """Turn on the visualisation hook of the codebase."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError('--show-dir needs default_hooks.visualization in the '
                         'config, which does not have it')
    hook.interval = 1
    scope = cfg.get('default_scope')
    if scope == 'mmpretrain':
        hook.update(enable=True, out_dir=show_dir)
    elif scope == 'mmdet':
        hook.update(draw=True, test_out_dir=osp.abspath(show_dir))
    else:
        hook.draw = True
        cfg.visualizer.save_dir = show_dir


def main():
    args = parse_args()
    try:
        check_options(args)
        cfg = launch.load_config(args)
        if not osp.isfile(args.checkpoint):
            raise FileNotFoundError(
                f'checkpoint {args.checkpoint!r} does not exist')
        if args.checkpoint.endswith('.onnx'):
            launch.use_onnx(cfg, args.checkpoint)
        else:
            cfg.load_from = args.checkpoint
        if args.amp:
            cfg.test_cfg.fp16 = True
        if args.show_dir:
            visualise_predictions(cfg, args.show_dir)
        if args.tta:
            use_tta(cfg)
        check_data(cfg, ['test_dataloader'])
    except (FileNotFoundError, ImportError, ValueError) as e:
        sys.exit(f'test.py: {e}')
    runner = launch.build_runner(cfg)
    check_datasets(runner, train=False)
    if args.dtype != 'float32':
        use_half(runner.model, getattr(torch, args.dtype))
    if args.out and args.out_item == 'pred':
        runner.test_evaluator.metrics.append(
            DumpResults(out_file_path=args.out))
    try:
        metrics = runner.test()
    except (BrokenCheckpointError, UnsafeCheckpointError) as e:
        sys.exit(f'test.py: {e}')
    if args.out and args.out_item == 'metrics':
        mmengine.dump(metrics, args.out)


if __name__ == '__main__':
    main()
