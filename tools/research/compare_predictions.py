# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Count the equal labels in two outputs of tools/test.py --out.

For classifiers these are the top-1 labels of images, for segmentors the labels of
pixels. The outputs are, for example, of a run in float32 and a run in half precision.
"""
import argparse

import mmengine


def labels(sample):
    """The predicted labels of an image: ``(1, )`` of a classifier, ``(1, H, W)`` of a
    segmentor."""
    if 'pred_label' in sample:
        return sample['pred_label']
    return sample['pred_sem_seg']['data']


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
        equal += int((labels(a) == labels(b)).sum())
        total += labels(a).numel()
    print(f'{equal} of {total} labels agree, {100 * equal / total:.2f} %')


if __name__ == '__main__':
    main()
