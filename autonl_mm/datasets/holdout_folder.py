# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A folder of images, split at random into training and validation."""
from typing import List

import numpy as np
from mmpretrain.datasets import CustomDataset

from autonl_mm.registry import DATASETS


@DATASETS.register_module()
class HoldoutFolder(CustomDataset):
    """mmpretrain's folder dataset, split by a fixed shuffle.

    For data without a validation set. The files, sorted by class and name, are
    shuffled with ``seed``. The last ``holdout`` images are held out for
    validation.

    Args:
        holdout (int): Number of images to hold out.
        split (str): ``'train'`` for the images that are not held out,
            ``'val'`` for those that are.
        seed (int): Seed of the shuffle. Defaults to 0.
        **kwargs: Arguments of :class:`mmpretrain.datasets.CustomDataset`.

    Raises:
        ValueError: If ``split`` is unknown, or the folder does not have more
            images than are to be held out.
    """

    def __init__(self, holdout: int, split: str, seed: int = 0, **kwargs):
        if split not in ('train', 'val'):
            raise ValueError(f"split is {split!r}, expected 'train' or 'val'")
        if not isinstance(holdout, int) or holdout < 1:
            raise ValueError(f'holdout is {holdout!r}, expected a positive '
                             'number of images')
        self.holdout = holdout
        self.split = split
        self.seed = seed
        super().__init__(**kwargs)

    def load_data_list(self) -> List[dict]:
        """List the images of the split: dicts of ``img_path``, ``gt_label``."""
        data_list = super().load_data_list()
        if len(data_list) <= self.holdout:
            raise ValueError(
                f'{self.img_prefix} has {len(data_list)} images, expected '
                f'more than the {self.holdout} that are held out: complete '
                'the folder or set a smaller holdout')
        order = np.random.RandomState(self.seed).permutation(len(data_list))
        keep = (
            order[:-self.holdout]
            if self.split == 'train' else order[-self.holdout:])
        return [data_list[i] for i in keep]
