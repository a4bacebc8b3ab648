# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Measure the forward pass of configs' models, as trained and in deploy form.

The forward pass goes from the normalised image to the output of the head, without
softmax, boxes and NMS. The weights are random. All models are measured alternately in
one process. The tool prints the median, fastest and slowest times.
"""
import argparse
import json
import sys
from pathlib import Path

import torch
from mmengine.config import Config

from autonl_mm.deploy import switch_to_deploy
from autonl_mm.measure.counting import count_parameters
from autonl_mm.measure.passes import without_grad
from autonl_mm.measure.timing import Spread, device_name, interleaved
from autonl_mm.models import input_channels
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.allocator import keep_freed_memory
from autonl_mm.runs.atomic_files import atomic_write
from autonl_mm.runs.tables import markdown_table

FORMS = ('as trained', 'deploy form')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', metavar='config', help='config file')
    parser.add_argument(
        '--input-shapes', nargs='+', metavar='HxW',
        help='one image size for each config, or one for all; default: the size of the '
        "config's test pipeline")
    parser.add_argument(
        '--batch-size', type=int, default=1, help='images in a pass, default 1')
    parser.add_argument(
        '--rounds', type=int, default=15, help='measurements per model, default 15')
    configs.add_device(parser)
    parser.add_argument('--out', help='file for the measurements, .json')
    return parser.parse_args()


def forward_pass(cfg, shape, form, args):
    """A forward pass of a model in channels_last, in one of :data:`FORMS`, and the
    number of its parameters."""
    model = configs.build_model(cfg)
    parameters = count_parameters(model)
    if form == 'deploy form':
        switch_to_deploy(model)
    model.to(args.device).to(memory_format=torch.channels_last)
    images = torch.randn(args.batch_size, input_channels(model), *shape).to(
        args.device, memory_format=torch.channels_last)
    return without_grad(model, images), parameters


def measure(args):
    """Measure all configs.

    Raises:
        FileNotFoundError: If a config does not exist.
        ValueError: If an option is out of range, or a config is for a search.
    """
    configs.check_positive(args, 'rounds', 'batch_size')
    shapes = configs.parse_shapes('--input-shapes', args.input_shapes or [], 'HxW')
    if len(shapes) not in (0, 1, len(args.configs)):
        raise ValueError(f'--input-shapes has {len(shapes)} shapes for '
                         f'{len(args.configs)} configs')
    shapes = shapes * len(args.configs) if len(shapes) == 1 else shapes
    calls, models = {}, []
    for i, path in enumerate(args.configs):
        if not Path(path).is_file():
            raise FileNotFoundError(f'config {path!r} does not exist')
        cfg = Config.fromfile(path)
        shape = configs.parse_shape(shapes[i] if shapes else None, cfg)
        for form in FORMS:
            calls[i, form], parameters = forward_pass(cfg, shape, form, args)
        models.append(dict(name=Path(path).stem, input_shape=list(shape),
                           parameters=parameters, seconds={}))
    for (i, form), times in interleaved(
            calls, args.rounds, args.device, warmup=True).items():
        models[i]['seconds'][form] = times
    return dict(device=device_name(args.device), batch_size=args.batch_size,
                models=models)


def main():
    args = parse_args()
    print(keep_freed_memory())
    try:
        outputs.check_file('--out', args.out)
        results = measure(args)
    except (FileNotFoundError, ValueError) as e:
        sys.exit(f'benchmark_forward.py: {e}')
    print(f'\nForward pass, batch {args.batch_size}, channels_last, '
          f'{results["device"]}, ms: median (fastest to slowest)\n')
    print(markdown_table(['model', 'image', *FORMS], [
        [model['name'], 'x'.join(map(str, model['input_shape'])),
         *(f'{Spread.of([1e3 * t for t in model["seconds"][form]]):.1f}'
           for form in FORMS)] for model in results['models']]))
    if args.out:
        atomic_write(args.out, json.dumps(results, indent=1))


if __name__ == '__main__':
    main()
