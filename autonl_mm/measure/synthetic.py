# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Synthetic batches for measurements, for models of all codebases."""
from typing import Tuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import TRANSFORMS

from autonl_mm.runs.config_parts import leaf_datasets

NUM_OBJECTS = 4  # per image, for detectors


def make_batch(cfg: Config,
               batch_size: int,
               size: Tuple[int, int],
               phase: str = 'train') -> dict:
    """Make noise images with annotations, packed as in the config's pipeline.

    They are always the same.

    Args:
        cfg (Config): Config of a classifier, detector or segmentor, with
            ``default_scope`` set.
        batch_size (int): Number of images.
        size (tuple[int, int]): Height and width of the images.
        phase (str): The pipeline whose packing is used: ``'train'``, ``'val'``
            or ``'test'``. Defaults to ``'train'``.

    Returns:
        dict: A batch for ``model.train_step`` and ``model.test_step``:
        ``inputs``, a list of ``batch_size`` images of ``(C, H, W)`` in uint8,
        and ``data_samples``. Labels are 0 and 1.
    """
    rng = np.random.default_rng(0)
    dataset = cfg[f'{phase}_dataloader'].dataset
    _, dataset = next(leaf_datasets('', dataset))
    pack = TRANSFORMS.build(dataset.pipeline[-1])
    masks = 'mask_head' in cfg.model.get('roi_head', {})
    channels = cfg.model.get('backbone', {}).get('in_channels', 3)
    return pseudo_collate(
        [pack(_image(rng, *size, channels, masks)) for _ in range(batch_size)])


def _image(rng: np.random.Generator, h: int, w: int, channels: int,
           masks: bool) -> dict:
    """The results dict of a pipeline for one image, before packing."""
    corners = rng.uniform(0, 0.5, (NUM_OBJECTS, 2)) * (w, h)
    sides = rng.uniform(0.2, 0.5, (NUM_OBJECTS, 2)) * (w, h)
    results = dict(
        img=rng.integers(0, 256, (h, w, channels), dtype=np.uint8),
        img_path='noise',
        img_id=0,
        ori_shape=(h, w),
        img_shape=(h, w),
        scale_factor=(1., 1.),
        flip=False,
        flip_direction=None,
        gt_label=int(rng.integers(2)),
        gt_seg_map=rng.integers(0, 2, (h, w)),
        gt_bboxes=np.hstack([corners, corners + sides]).astype(np.float32),
        gt_bboxes_labels=rng.integers(0, 2, NUM_OBJECTS),
        gt_ignore_flags=np.zeros(NUM_OBJECTS, dtype=bool))
    if masks:
        from mmdet.structures.mask import BitmapMasks
        results['gt_masks'] = BitmapMasks(
            rng.integers(0, 2, (NUM_OBJECTS, h, w), dtype=np.uint8), h, w)
    return results
