# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Visualise the images of a config's data set, augmented and annotated.

The tool works for all codebases. Each library has a tool of this name for its own
codebase. The tool of mmpretrain 1.2.0 fails with matplotlib 3.11, and the tool of
mmsegmentation 1.2.2 fails with OpenCV 5.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
from mmengine.registry import DATASETS, VISUALIZERS
from tqdm import tqdm

import autonl_mm  # noqa: F401
from autonl_mm.runs import configs, outputs
from autonl_mm.runs.dataset_configs import check_data


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    configs.add_config_args(parser)
    parser.add_argument('--out', type=Path, required=True, help='folder for the images')
    parser.add_argument(
        '--phase',
        choices=['train', 'val', 'test'],
        default='train',
        help='data set of the config')
    parser.add_argument(
        '--show-number', type=int, default=20, help='number of images')
    return parser.parse_args()


def visualize(visualizer, scope: str, item: dict, out_file: str) -> None:
    """Write one image of a data set, with its annotation, into a file.

    Args:
        visualizer (Visualizer): The visualizer of the config.
        scope (str): The codebase.
        item (dict): ``inputs``, ``(3, H, W)`` in BGR, and ``data_samples``.
        out_file (str): The file.
    """
    # OpenCV draws into contiguous arrays only.
    image = np.ascontiguousarray(item['inputs'].numpy()[::-1].transpose(1, 2, 0))
    sample = item['data_samples']
    if scope == 'mmpretrain':
        visualizer.visualize_cls(
            image, sample, draw_pred=False, rescale_factor=4,
            out_file=out_file)
        return
    if scope == 'mmdet':
        instances = sample.gt_instances.numpy()
        boxes = instances.bboxes
        instances.bboxes = getattr(boxes, 'tensor', boxes)
        if 'masks' in instances:
            instances.masks = instances.masks.to_ndarray().astype(bool)
        sample.gt_instances = instances
    visualizer.add_datasample(
        'browse', image, sample, draw_pred=False, out_file=out_file)


def main():
    args = parse_args()
    try:
        cfg = configs.read_config(args)
        if args.show_number < 1:
            raise ValueError('--show-number must be at least 1')
        loader = f'{args.phase}_dataloader'
        outputs.check_folder('--out', args.out)
        check_data(cfg, [loader])
    except (FileNotFoundError, ValueError) as e:
        sys.exit(f'browse_dataset.py: {e}')
    scope = configs.enter_scope(cfg)
    dataset = DATASETS.build(cfg[loader].dataset)
    visualizer = VISUALIZERS.build(dict(configs.visualizer_of(cfg), name='browse'))
    visualizer.dataset_meta = dataset.metainfo
    count = min(args.show_number, len(dataset))
    for i in tqdm(range(count), leave=False):
        visualize(visualizer, scope, dataset[i], str(args.out / f'{i:05d}.png'))
    print(f'{args.out}: {count} of {len(dataset)} images of {loader}')


if __name__ == '__main__':
    main()
