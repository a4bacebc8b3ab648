# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Export a trained model as an ONNX file, checked against PyTorch.

Supported are classifiers of mmpretrain (logits), encoder-decoders of mmseg
(logits or label maps) and single-stage detectors of mmdet (boxes, scores and
labels after non-maximum suppression). The file takes images as they come from
the config's test pipeline, float32 from 0 to 255 in OpenCV's channel order;
conversion of the channel order, normalisation and padding are in the graph. The
file is only written if its outputs in onnxruntime agree with the model's.
"""
import argparse
import os.path as osp
import sys
from pathlib import Path

import torch
from mmengine.runner import load_checkpoint

import autonl_mm  # noqa: F401
from autonl_mm.benchmark.measure import Spread, device_name, in_turns
from autonl_mm.checkpoint import write_whole
from autonl_mm.cli import configs, outputs
from autonl_mm.cli.allocator import keep_freed_memory
from autonl_mm.export import export, onnx_file
from autonl_mm.export.images import check_images, to_batch
from autonl_mm.models import input_channels

# Added to the export size: sizes at which strides round in different ways
LARGER = ((0, 0), (21, 40), (64, 9))
# For models that take only multiples of their stride
LARGER_BY_STRIDE = ((0, 0), (32, 64), (64, 0))


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    configs.add_config_args(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out', help='file to write; default: CHECKPOINT with the ending .onnx')
    configs.add_input_shape(parser)
    parser.add_argument(
        '--batch-size', type=int, default=1, help='number of images per run')
    parser.add_argument(
        '--dynamic',
        nargs='+',
        default=[],
        choices=export.DYNAMIC,
        help='dimensions that may change between runs')
    parser.add_argument(
        '--labels',
        action='store_true',
        help='for segmentors: label maps instead of logits')
    parser.add_argument(
        '--opset', type=int, default=17, help='ONNX opset version')
    parser.add_argument(
        '--images',
        help="folder of images for the check; default: the config's test data, "
        'or noise if there are none')
    parser.add_argument(
        '--tolerance',
        type=float,
        default=1e-3,
        help='largest allowed difference, relative to the largest output')
    parser.add_argument(
        '--rounds', type=int, default=10, help='number of latency measurements')
    return parser.parse_args()


def check_batches(args, graph, model, images, shape):
    """Batches for the check, of several sizes and numbers if these are dynamic.

    Args:
        args (Namespace): The tool's arguments.
        graph (TaskGraph): The graph.
        model (nn.Module): The model.
        images (list[Tensor]): Images for the batches.
        shape (tuple[int, int]): Height and width of the export.

    Returns:
        tuple[list[Tensor], bool]: The batches, and whether height and width must
        be multiples of 32.
    """

    def batches(larger):
        sizes = [(shape[0] + h, shape[1] + w) for h, w in larger]
        if 'size' not in args.dynamic:
            sizes = sizes[:1]
        counts = [args.batch_size]
        if 'batch' in args.dynamic:
            counts += [n for n in (1, 2, 3) if n != args.batch_size]
        return [
            to_batch(images, counts[i % len(counts)], sizes[i % len(sizes)],
                     3 * i) for i in range(max(len(counts), len(sizes)))
        ]

    found = batches(LARGER)
    if 'size' in args.dynamic:
        try:
            with torch.no_grad():
                graph.reference(model, found[1][:1])
        except RuntimeError:  # feature maps do not fit together in the model
            return batches(LARGER_BY_STRIDE), True
    return found, False


def report(args, graph, session, opset, content, differences, source, strided):
    """Print what was written and the results of the check."""
    n = session.batch or 'N'
    h, w = (side or name for side, name in zip(session.size, 'HW'))
    nodes = sum(export.operators(
        onnx_file.require('onnx').load_from_string(content)).values())
    print(f'{args.out}: {graph.task}, {len(content) / 2**20:.1f} MiB, opset '
          f'{opset}, {nodes} nodes, no Einsum')
    print(f'input: images ({n}, 3, {h}, {w}), float32, 0 to 255, channels '
          "in the order of the config's pipeline; normalisation is in the graph")
    if strided:
        print('height and width must be multiples of 32, as for the model')
    print(f'outputs: {", ".join(graph.outputs)}; differences from PyTorch '
          f'on {source}:\n')
    print('| images | largest difference | relative to the largest output |\n'
          '|---|---|---|')
    for shape, absolute, relative in differences:
        print(f'| {"x".join(map(str, shape))} | {absolute:.2g} | '
              f'{relative:.2g} |')


def measure(graph, model, session, images, rounds):
    """Print latencies, measured in turns."""
    with torch.no_grad():
        times = in_turns(
            {
                'PyTorch': lambda: graph.reference(model, images),
                'PyTorch, deploy form': lambda: graph(images),
                'onnxruntime': lambda: session(images),
            },
            rounds,
            warmup=True)
    shape = 'x'.join(map(str, images.shape))
    print(f'\n| {shape} on {device_name("cpu")} | median, ms | fastest | '
          'slowest |\n|---|---|---|---|')
    for name, values in times.items():
        spread = Spread.of([1e3 * t for t in values])
        print(f'| {name} | {spread.median:.1f} | {spread.low:.1f} | '
              f'{spread.high:.1f} |')


def main():
    args = parse_args()
    args.out = args.out or str(Path(args.checkpoint).with_suffix('.onnx'))
    try:
        for name in ('onnx', 'onnxruntime'):
            onnx_file.require(name)
        if not osp.isfile(args.config):
            raise FileNotFoundError(f'config {args.config!r} does not exist')
        if not osp.isfile(args.checkpoint):
            raise FileNotFoundError(
                f'checkpoint {args.checkpoint!r} does not exist')
        if not osp.isdir(osp.dirname(args.out) or '.'):
            raise FileNotFoundError(
                f'--out: folder {osp.dirname(args.out)!r} does not exist')
        outputs.check_file('--out', args.out)
        configs.check_positive(args, 'batch_size', 'rounds')
        cfg = configs.read_config(args)
        print(keep_freed_memory())
        shape = configs.parse_shape(args.input_shape, cfg)
        model = configs.build_model(cfg)
        checkpoint = load_checkpoint(
            model, args.checkpoint, map_location='cpu', strict=True)
        graph = export.make_graph(model, args.dynamic, args.labels)
        images, source = check_images(
            cfg, args.images, 9, input_channels(model))
        batches, strided = check_batches(args, graph, model, images, shape)
        meta = checkpoint.get('meta', {}).get('dataset_meta') or {}
        info = dict(classes=list(meta['classes'])) if 'classes' in meta else {}
        content = export.to_onnx(graph, batches[0].shape, args.dynamic,
                                 args.opset, info)
        session = onnx_file.OnnxSession(content)
        differences = export.compare(session, graph, model, batches,
                                     args.tolerance)
    except (OSError, ImportError, ValueError, RuntimeError) as e:
        sys.exit(f'export_onnx.py: {" ".join(str(e).split())}')
    write_whole(args.out, content)
    report(args, graph, session, args.opset, content, differences, source,
           strided)
    measure(graph, model, session, batches[0], args.rounds)


if __name__ == '__main__':
    main()
