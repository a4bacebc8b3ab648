# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""How far two runs of tools/test.py --out agree: of classifiers, on how many
images in top-1; of segmentors, on how many pixels.

Such as in float32 and in half precision. Of detectors compare the metrics.
"""
import argparse
import sys
from pathlib import Path

import mmengine


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('first', type=Path, help='.pkl of tools/test.py --out')
    parser.add_argument('second', type=Path, help='of the same images')
    return parser.parse_args()


def labels(sample):
    """The labels that were predicted for an image.

    Args:
        sample (dict): A prediction as ``tools/test.py --out`` writes it.

    Returns:
        Tensor: One label, or ``(1, H, W)``.

    Raises:
        ValueError: If it is of neither a classifier nor a segmentor.
    """
    if 'pred_label' in sample:
        return sample['pred_label']
    if 'pred_sem_seg' in sample:
        return sample['pred_sem_seg']['data']
    raise ValueError('expected predictions of a classifier or a segmentor, '
                     f'not {sorted(sample)}')


def agreement(first, second):
    """Equal labels of two lists of predictions.

    Args:
        first (list[dict]): Predictions.
        second (list[dict]): Of the same images, in the same order.

    Returns:
        tuple[int, int]: Equal labels, all labels.

    Raises:
        ValueError: If they are of different images.
    """
    if len(first) != len(second):
        raise ValueError(f'{len(first)} predictions against {len(second)}: '
                         'expected two runs on the same images')
    equal = total = 0
    for a, b in zip(first, second):
        if a.get('img_path') != b.get('img_path'):
            raise ValueError(f'{a.get("img_path")} against '
                             f'{b.get("img_path")}: expected two runs on the '
                             'same images in the same order')
        equal += int((labels(a) == labels(b)).sum())
        total += labels(a).numel()
    return equal, total


def main():
    args = parse_args()
    try:
        equal, total = agreement(*(mmengine.load(path)
                                   for path in (args.first, args.second)))
    except (OSError, TypeError, ValueError) as e:
        sys.exit(f'compare_predictions.py: {e}')
    print(f'{equal} of {total} labels agree, {100 * equal / total:.2f} %')


if __name__ == '__main__':
    main()
