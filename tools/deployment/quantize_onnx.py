# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Quantise an exported ONNX model to INT8, and measure the effect.

The tool runs onnxruntime's static quantisation, calibrated on the config's training
images after its test pipeline. It prints size, latency and the metrics on the config's
test data, before and after quantisation.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import autonl_mm  # noqa: F401
from autonl_mm.export import quantize
from autonl_mm.export.check import size_text
from autonl_mm.export.engine_model import use_exported_model
from autonl_mm.export.engines import load
from autonl_mm.export.engines.onnx_int8 import (
    DEFAULT_METHOD,
    EXCLUDE,
    HISTOGRAMS,
    METHODS,
)
from autonl_mm.export.images import config_images, to_batch
from autonl_mm.measure.timing import Spread, device_name, interleaved
from autonl_mm.runs import configs, launch, outputs
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.dataset_configs import check_data
from autonl_mm.runs.scalars import format_metrics
from autonl_mm.runs.tables import markdown_table


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='exported ONNX model')
    launch.add_common_args(parser)
    parser.add_argument(
        '--out', help='file to write; default: MODEL with the ending -int8.onnx')
    parser.add_argument(
        '--num-samples',
        type=int,
        default=200,
        help='number of training images for calibration')
    parser.add_argument(
        '--method',
        choices=list(METHODS),
        default=DEFAULT_METHOD,
        help='how to find the ranges of activations; '
        f'{" and ".join(HISTOGRAMS)} resize all images to the first image\'s size')
    parser.add_argument(
        '--exclude',
        nargs='*',
        metavar='REGEX',
        help='keep nodes in float whose names match; default: '
        f"{' '.join(EXCLUDE)} if LightNL has normalize 'size', else none")
    parser.add_argument(
        '--full-range',
        action='store_true',
        help='use all eight bits for weights, which gives other predictions on x86 '
        'processors without VNNI')
    parser.add_argument(
        '--no-eval', action='store_true', help='do not compute metrics')
    parser.add_argument(
        '--rounds', type=int, default=10, help='number of latency measurements')
    return parser.parse_args()


def evaluate(cfg, file):
    """Metrics of an exported model, computed by the config's evaluator.

    Args:
        cfg (Config): The config.
        file (str): Main file of the exported model.

    Returns:
        str: Names and values of the metrics.
    """
    cfg = cfg.copy()
    cfg.default_hooks = dict(checkpoint=None, logger=None)
    cfg.custom_hooks = []
    cfg.log_level = 'WARNING'
    cfg.experiment_name = Path(file).name
    use_exported_model(cfg, file)
    return format_metrics(launch.build_runner(cfg).test())


def main():
    args = parse_args()
    model = Path(args.model)
    args.out = args.out or str(model.with_name(f'{model.stem}-int8.onnx'))
    try:
        configs.check_positive(args, 'num_samples', 'rounds')
        outputs.check_file('--out', args.out)
        before = load(args.model)
        cfg = launch.load_config(args)
        loaders = ['train_dataloader']
        if not args.no_eval:
            loaders.append('test_dataloader')
        check_data(cfg, loaders)
        configs.enter_scope(cfg)
        images = config_images(cfg, 'train_dataloader', args.num_samples)
        for image in {image.shape: image for image in images}.values():
            before(image[None])  # raises if the model does not take this size
        usual = quantize.usual_images(before, images)
        content = quantize.quantize(args.model, usual, args.method, args.exclude,
                                    not args.full_range)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / 'int8.onnx'
            file.write_bytes(content)
            after = load(file)
    except (OSError, ImportError, ValueError) as e:
        sys.exit(f'quantize_onnx.py: {" ".join(str(e).split())}')
    atomic_write(args.out, content)

    batch = to_batch(images, before.batch or 1,
                     tuple(images[0].shape[1:]))
    times = interleaved(
        dict(before=lambda: before(batch), after=lambda: after(batch)),
        args.rounds,
        warmup=True)
    print(f'{args.out}: {after.info["quantised"]} nodes quantised, calibrated '
          f'({args.method}) on {len(usual)} training images, '
          f'{len(images) - len(usual)} outliers left out; latency of '
          f'{size_text(batch)} on {device_name("cpu")}')
    rows = [(Path(file).name, f'{Path(file).stat().st_size / 2**20:.1f}',
             *(f'{1e3 * t:.1f}' for t in Spread.of(values)),
             '-' if args.no_eval else evaluate(cfg, file))
            for file, values in zip((args.model, args.out), times.values())]
    print('\n' + markdown_table(
        ['file', 'MiB', 'ms, median', 'fastest', 'slowest', 'metrics'], rows))


if __name__ == '__main__':
    main()
