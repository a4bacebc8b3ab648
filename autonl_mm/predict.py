# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Predict for photographs: ``python -m autonl_mm.predict FILE IMAGES... --out DIR``.

Boxes are in pixels of the photograph, turned as its EXIF data say. ``DIR/vis`` gets the
drawn predictions, ``DIR/preds`` JSON files, and a segmentor's label maps as images.
"""
import argparse
import sys

from .inference import load
from .runs import exit_codes, outputs
from .runs.checkpoints import install


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog='python -m autonl_mm.predict', description=__doc__)
    parser.add_argument(
        'file', metavar='CONFIG_OR_FILE',
        help='config, with --checkpoint; or a checkpoint or an exported model with its '
        'config in it')
    parser.add_argument('images', nargs='+', help='images and folders of images')
    parser.add_argument('--out', required=True, help='folder for the predictions')
    parser.add_argument(
        '--checkpoint', help='checkpoint or exported model of the config')
    parser.add_argument(
        '--batch-size', type=int, default=1, help='images per forward pass; default 1')
    parser.add_argument(
        '--device', help='default: the GPU if there is one, else the CPU; exported '
        'models run on the CPU')
    parser.add_argument(
        '--score-thr', type=float,
        help='least score of a box; default: all are written, and drawn above 0.3')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with exit_codes.exit_on_error('predict'):
        install()
        try:
            outputs.check_folder('--out', args.out)
            if args.checkpoint:
                network = load(args.checkpoint, args.file, args.device)
            elif args.file.endswith(('.py', '.yaml', '.yml')):
                raise ValueError(f'{args.file} is a config: give --checkpoint too')
            else:
                network = load(args.file, device=args.device)
            print(network)
            skipped = []
            for image, reason in network.write(
                    args.images, args.out, args.batch_size, args.score_thr):
                print(f'skipped: {reason}' if reason else image)
                if reason:
                    skipped.append(image)
        except (FileNotFoundError, ImportError, ValueError) as e:
            sys.exit(f'predict: {e}')
        if skipped:
            sys.exit(f'predict: {len(skipped)} images were skipped: '
                     f'{", ".join(skipped)}')


if __name__ == '__main__':
    main()
