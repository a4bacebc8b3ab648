# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A folder of images, split at random into training and validation."""
from typing import List

from mmpretrain.datasets import CustomDataset

from autonl_mm.registry import DATASETS

from .holdout_dataset import split_indices


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
        self.holdout = holdout
        self.split = split
        self.seed = seed
        super().__init__(**kwargs)

    def load_data_list(self) -> List[dict]:
        """List the images of the split: dicts of ``img_path``, ``gt_label``."""
        data_list = super().load_data_list()
        return [data_list[i] for i in split_indices(
            len(data_list), self.holdout, self.split, self.seed, self.img_prefix)]
