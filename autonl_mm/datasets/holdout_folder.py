# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A folder of images of which a fixed random part is held out."""
from typing import List

import numpy as np
from mmpretrain.datasets import CustomDataset

from autonl_mm.registry import DATASETS


@DATASETS.register_module()
class HoldoutFolder(CustomDataset):
    """mmpretrain's folder dataset, split by a fixed shuffle.

    For data that comes without a validation set: the files, sorted by class
    and name, are shuffled by ``seed``; the last ``holdout`` are held out.

    Args:
        holdout (int): How many images are held out.
        part (str): ``'train'`` for the images before, ``'val'`` for those
            held out.
        seed (int): Seed of the shuffle. Defaults to 0.
        **kwargs: As for :class:`mmpretrain.datasets.CustomDataset`.

    Raises:
        ValueError: If ``part`` is unknown or the folder has no more images
            than are held out.
    """

    def __init__(self, holdout: int, part: str, seed: int = 0, **kwargs):
        if part not in ('train', 'val'):
            raise ValueError(f"part is {part!r}, expected 'train' or 'val'")
        if not isinstance(holdout, int) or holdout < 1:
            raise ValueError(f'holdout is {holdout!r}, expected a positive '
                             'number of images')
        self.holdout = holdout
        self.part = part
        self.seed = seed
        super().__init__(**kwargs)

    def load_data_list(self) -> List[dict]:
        """List the part's images: dicts of ``img_path``, ``gt_label``."""
        data_list = super().load_data_list()
        if len(data_list) <= self.holdout:
            raise ValueError(
                f'{self.img_prefix} has {len(data_list)} images, expected '
                f'more than the {self.holdout} that are held out: complete '
                'the folder or set a smaller holdout')
        order = np.random.RandomState(self.seed).permutation(len(data_list))
        keep = (
            order[:-self.holdout]
            if self.part == 'train' else order[-self.holdout:])
        return [data_list[i] for i in keep]
