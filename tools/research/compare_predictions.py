# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Count the equal labels in two outputs of tools/test.py --out.

For classifiers these are the labels of images, for segmentors the labels of pixels.
The outputs are, for example, of a run in float32 and a run in half precision.
"""
import argparse

import mmengine

from autonl_mm.export.graphs.classification import count_equal


def compare(a, b):
    """Numbers of equal labels and of all labels in two predictions for an image."""
    if 'pred_label' in a:
        return count_equal(a['pred_label'], b['pred_label'])
    same = a['pred_sem_seg']['data'] == b['pred_sem_seg']['data']
    return int(same.sum()), same.numel()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('first', help='.pkl file of tools/test.py --out')
    parser.add_argument('second', help='.pkl file for the same images')
    args = parser.parse_args()
    equal = total = 0
    for a, b in zip(mmengine.load(args.first), mmengine.load(args.second), strict=True):
        if a.get('img_path') != b.get('img_path'):
            raise ValueError(f'{a.get("img_path")} and {b.get("img_path")}: expected '
                             'the same images in the same order')
        counts = compare(a, b)
        equal += counts[0]
        total += counts[1]
    print(f'{equal} of {total} labels agree, {100 * equal / total:.2f} %')


if __name__ == '__main__':
    main()
