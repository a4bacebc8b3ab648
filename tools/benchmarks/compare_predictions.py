# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Count the equal labels in two outputs of tools/test.py --out.

For classifiers the top-1 labels of the images are compared, for segmentors the
labels of the pixels; for example of a run in float32 and one in half precision.
Detectors are not supported: compare their metrics.
"""
import argparse
import sys
from pathlib import Path

import mmengine


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('first', type=Path, help='.pkl file of tools/test.py --out')
    parser.add_argument('second', type=Path, help='.pkl file for the same images')
    return parser.parse_args()


def labels(sample):
    """The predicted label or labels of an image.

    Args:
        sample (dict): A prediction as ``tools/test.py --out`` writes it.

    Returns:
        Tensor: ``(1, )`` of a classifier, ``(1, H, W)`` of a segmentor.

    Raises:
        ValueError: If the model was neither a classifier nor a segmentor.
    """
    if 'pred_label' in sample:
        return sample['pred_label']
    if 'pred_sem_seg' in sample:
        return sample['pred_sem_seg']['data']
    raise ValueError('expected predictions of a classifier or a segmentor, '
                     f'not {sorted(sample)}')


def agreement(first, second):
    """Count the equal labels of two lists of predictions.

    Args:
        first (list[dict]): Predictions.
        second (list[dict]): Predictions for the same images, in the same order.

    Returns:
        tuple[int, int]: Number of equal labels, number of all labels.

    Raises:
        ValueError: If the images differ.
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
