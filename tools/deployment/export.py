# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Export a trained model to an engine, with a check against PyTorch.

The tool supports classifiers of mmpretrain (logits), encoder-decoders of mmseg (logits
or label maps) and single-stage detectors of mmdet (boxes, scores and labels). The
exported model takes images as the config's test pipeline makes them, float32 from 0 to
255 in OpenCV's channel order. It includes the conversion of the channel order,
normalisation and padding. It is written only if the engine, in a subprocess, gives the
outputs of PyTorch.
"""
import argparse
import os.path as osp
import sys
from pathlib import Path

import torch
from mmengine.runner import load_checkpoint

import autonl_mm  # noqa: F401
from autonl_mm.deploy import load
from autonl_mm.export import export, quantize
from autonl_mm.export.check import size_text
from autonl_mm.export.engines import DYNAMIC, ENGINES, PRECISIONS, Settings
from autonl_mm.export.engines.base import info_file
from autonl_mm.export.images import check_images, config_images, to_batch
from autonl_mm.measure.timing import Spread, device_name, interleaved
from autonl_mm.models import input_channels
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.checkpoints import for_predictions
from autonl_mm.runs.checkpoints.config_text import inference_text
from autonl_mm.runs.tables import markdown_table

# Images for the check in float32, which compares numbers, and in lower precision, which
# counts predictions
FEW, MANY = 9, 200


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    configs.add_config_args(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--engine',
        choices=list(ENGINES),
        default='onnxruntime',
        help='engine that will run the exported model; default onnxruntime')
    parser.add_argument(
        '--out', help="file to write; default: CHECKPOINT with the engine's ending, "
        + ', '.join(e.ending for e in ENGINES.values()))
    configs.add_input_shape(parser)
    parser.add_argument(
        '--batch-size', type=int, default=1, help='number of images per run')
    parser.add_argument(
        '--dynamic',
        nargs='+',
        default=[],
        choices=DYNAMIC,
        help='dimensions that may change between runs')
    parser.add_argument(
        '--no-preprocess',
        action='store_true',
        help="export without the config's data preprocessor: the caller normalises")
    parser.add_argument(
        '--precision',
        choices=PRECISIONS,
        default='fp32',
        help='fp16: weights in 16 bits; int8: convolutions in 8 bits, calibrated on '
        'training images')
    parser.add_argument(
        '--calibrate',
        type=int,
        default=200,
        metavar='N',
        help='number of training images for the calibration of int8; default 200')
    parser.add_argument(
        '--labels',
        action='store_true',
        help='export label maps of a segmentor instead of logits')
    parser.add_argument(
        '--opset', type=int, default=17,
        help='ONNX opset; only for onnxruntime, openvino and mnn')
    parser.add_argument(
        '--images',
        help="folder of images for the check; default: the config's test data, "
        'or noise if there are none')
    parser.add_argument(
        '--tolerance',
        type=float,
        help='largest allowed difference in fp32, relative to the largest output; '
        "default: the engine's, "
        + ', '.join(f'{e.name} {e.tolerance:g}' for e in ENGINES.values() if e.runs))
    parser.add_argument(
        '--agreement',
        type=float,
        help='smallest allowed share of predictions that are the same as in float32; '
        'default: '
        + ', '.join(f'{k} {v:g}' for k, v in export.AGREEMENT.items()))
    parser.add_argument(
        '--rounds', type=int, default=10, help='number of latency measurements')
    return parser.parse_args()


def make_settings(args, shape, channels=3):
    """Settings of the export.

    Args:
        args (Namespace): The tool's arguments.
        shape (tuple[int, int]): Height and width.
        channels (int): Input channels. Defaults to 3.

    Returns:
        Settings: The settings, without calibration images and metadata.
    """
    return Settings((args.batch_size, channels, *shape), args.dynamic,
                    args.precision, [], args.opset)


def calibration(args, cfg, graph, settings):
    """Calibration images in the form that the graph takes, without outliers.

    Args:
        args (Namespace): The tool's arguments.
        cfg (Config): The config.
        graph (TaskGraph): The graph.
        settings (Settings): Settings of the export.

    Returns:
        list[Tensor]: Images ``(C, H, W)``; none unless the precision is int8.
    """
    if settings.precision != 'int8':
        return []
    size = settings.shape[2:]
    images = [
        graph.prepare(to_batch([image], 1, size))[0]
        for image in config_images(cfg, 'train_dataloader', args.calibrate)
    ]
    if not quantize.has_outliers(graph.outputs, export.describe(graph, settings)):
        return images
    usual = quantize.without_outliers(lambda batch: [graph(batch)], images)
    print(f'calibrated without {len(images) - len(usual)} outliers of '
          f'{len(images)} training images')
    return usual


def report(args, engine, session, settings, checked, source):
    """Print a description of the exported model and the result of the check.

    Args:
        args (Namespace): The tool's arguments.
        engine (Engine): The engine.
        session (Session, optional): The exported model; None if it cannot run here.
        settings (Settings): Settings of the export.
        checked (Checked): Result of the check.
        source (str): Source of the check's images.
    """
    files = engine.files(Path(args.out))
    size = sum(p.stat().st_size for f in files for p in ([*f.rglob('*')] or [f])
               if p.is_file())
    print(f'{", ".join(map(str, files))}: {engine.name}, {args.precision}, '
          f'{size / 2**20:.1f} MiB')
    shape = ', '.join(
        str(side or name) for side, name in zip(settings.sizes, 'NCHW'))
    if args.no_preprocess:
        print(f"input: output of the config's data_preprocessor ({shape}), float32")
    else:
        print(f'input: images ({shape}), float32 from 0 to 255, channels in the order '
              "of the config's pipeline; normalisation is in the exported model")
    if checked.strided:
        print('height and width must be multiples of 32, as in PyTorch')
    if session is None:
        print('The specification was checked. The exported model was not run, because '
              'this engine does not run here')
        return
    print(f'outputs: {", ".join(session.outputs)}; checked on {checked.count} images '
          f'of {source}')
    if checked.agreement is not None:
        print(f'{checked.agreement:.1%} of the predictions are the same as in PyTorch '
              'in float32')
        return
    print('\n' + markdown_table(
        ['images', 'largest difference from PyTorch', 'relative to the largest output'],
        [('x'.join(map(str, shape)), f'{absolute:.2g}', f'{relative:.2g}')
         for shape, absolute, relative in checked.differences]))


def measure(graph, model, engine, session, images, rounds):
    """Print latencies, measured alternately.

    Args:
        graph (TaskGraph): The exported graph.
        model (nn.Module): The task model.
        engine (Engine): The engine.
        session (Session): The exported model.
        images (Tensor): ``(N, C, H, W)``.
        rounds (int): Measurements of each.
    """
    inputs = graph.prepare(images)
    with torch.no_grad():
        times = interleaved(
            {
                'PyTorch': lambda: graph.reference(model, images),
                'PyTorch, deploy form': lambda: graph(inputs),
                engine.name: lambda: session(inputs),
            },
            rounds,
            warmup=True)
    print('\n' + markdown_table(
        [f'{size_text(images)} on {device_name("cpu")}', 'median, ms', 'fastest',
         'slowest'],
        [(name, *(f'{1e3 * t:.1f}' for t in Spread.of(values)))
         for name, values in times.items()]))


def check(args, engine):
    """Refuse bad arguments before anything is computed.

    Args:
        args (Namespace): The tool's arguments.
        engine (Engine): The engine.

    Raises:
        FileNotFoundError, ImportError, ValueError: If an argument is bad; names it.
    """
    engine.check(make_settings(args, (1, 1)))
    for name, path in (('config', args.config), ('checkpoint', args.checkpoint)):
        if not osp.isfile(path):
            raise FileNotFoundError(f'{name} {path!r} does not exist')
    if not osp.isdir(osp.dirname(args.out) or '.'):
        raise FileNotFoundError(
            f'--out: folder {osp.dirname(args.out)!r} does not exist')
    if not args.out.endswith(engine.ending):
        raise ValueError(f'--out is {args.out!r}, expected a name that ends in '
                         f'{engine.ending} for {engine.name}')
    if not osp.isdir(args.out):
        outputs.check_file('--out', args.out)
    for other in ENGINES.values():
        # x.param and x.xml both have their weights in x.bin
        sibling = Path(args.out).with_suffix(other.ending)
        shared = set(other.files(sibling)) & set(engine.files(Path(args.out)))
        if other is not engine and shared and info_file(sibling).exists():
            raise ValueError(f'--out {args.out!r} would replace {shared.pop()}, a part '
                             f'of {sibling}: give another name')
    configs.check_positive(args, 'batch_size', 'rounds', 'calibrate')
    if args.agreement is not None and not 0 <= args.agreement <= 1:
        raise ValueError(f'--agreement is {args.agreement}, expected a share from 0 '
                         'to 1')


def main():
    args = parse_args()
    engine = ENGINES[args.engine]
    args.out = args.out or str(Path(args.checkpoint).with_suffix(engine.ending))
    try:
        check(args, engine)
        cfg = configs.read_config(args)
        print(keep_freed_memory())
        args.shape = configs.parse_shape(args.input_shape, cfg)
        model = configs.build_model(cfg)
        channels = input_channels(model)
        with for_predictions(args.checkpoint):
            checkpoint = load_checkpoint(model, args.checkpoint, map_location='cpu')
        graph = export.make_graph(model, args.dynamic, args.labels,
                                  not args.no_preprocess, engine.selects_boxes)
        divisor = graph.preprocess.divisor
        if args.no_preprocess and any(side % divisor for side in args.shape):
            raise ValueError(
                f'--input-shape is {args.shape[0]} {args.shape[1]}, expected multiples '
                f'of {divisor}, to which the data preprocessor pads')
        meta = checkpoint.get('meta', {}).get('dataset_meta') or {}
        info = dict(classes=list(meta['classes'])) if 'classes' in meta else {}
        if isinstance(meta.get('palette'), (list, tuple)):  # or a word
            info['palette'] = [[*map(int, colour)] for colour in meta['palette']]
        text = inference_text(cfg)
        if text:
            info['cfg'] = text
        else:
            print("the config has settings that are not data, so the exported model is "
                  'without it: predictions from image files need the config too')
        settings = make_settings(args, args.shape, channels)._replace(info=info)
        settings = settings._replace(
            calibration=calibration(args, cfg, graph, settings))
        images, source = check_images(
            cfg, args.images, FEW if args.precision == 'fp32' else MANY, channels)
        tolerance = engine.tolerance if args.tolerance is None else args.tolerance
        agreement = export.AGREEMENT.get(
            args.precision, 1) if args.agreement is None else args.agreement
        checked = export.Exporter(engine, model, graph, settings, images, tolerance,
                                  agreement).export(Path(args.out))
    except (OSError, ImportError, ValueError, RuntimeError) as e:
        sys.exit(f'export.py: {" ".join(str(e).split())}')
    session = load(args.out) if engine.runs else None
    report(args, engine, session, settings, checked, source)
    if session is not None:
        measure(graph, model, engine, session,
                to_batch(images, args.batch_size, args.shape), args.rounds)


if __name__ == '__main__':
    main()
