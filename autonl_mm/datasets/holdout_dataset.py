# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A dataset of any codebase, split at random into training and held-out images."""
import hashlib
import os
import os.path as osp
from typing import Any, List, Optional, Set, Tuple, Union

import numpy as np
from mmengine.dataset import BaseDataset

from autonl_mm.registry import DATASETS

# Images of a dataset that are looked at for others that have them too
MAX_COMPARED = 20000


def split_indices(count: int, holdout: int, split: str, seed: int,
                  source: str) -> List[int]:
    """Indices of one part of a fixed shuffle.

    Args:
        count (int): Number of images.
        holdout (int): Number of images that are held out, the last of the shuffle.
        split (str): ``'train'`` for the others, ``'val'`` for the held-out ones.
        seed (int): Seed of the shuffle.
        source (str): What has the images, for the message.

    Raises:
        ValueError: If ``split`` is unknown, or there are not more images than are to
            be held out.
    """
    if split not in ('train', 'val'):
        raise ValueError(f"split is {split!r}, expected 'train' or 'val'")
    if not isinstance(holdout, int) or holdout < 1:
        raise ValueError(f'holdout is {holdout!r}, expected a positive number of '
                         'images')
    if count <= holdout:
        raise ValueError(
            f'{source} has {count} images, expected more than the {holdout} that are '
            'held out: complete the data or set a smaller holdout')
    order = np.random.RandomState(seed).permutation(count)
    return (order[:-holdout] if split == 'train' else order[-holdout:]).tolist()


def image_key(info: dict) -> Optional[Tuple[str, str]]:
    """Identifies an image by its path or, without a path, by a digest of its pixels.

    Args:
        info (dict): From a dataset's ``get_data_info``.

    Returns:
        tuple[str, str]: ``'path'`` or ``'pixels'``, and the key. None if the dataset
        gives neither.
    """
    if info.get('img_path') is not None:
        return 'path', osp.abspath(info['img_path'])
    if info.get('img') is not None:
        return 'pixels', hashlib.sha256(np.asarray(info['img']).tobytes()).hexdigest()
    return None


def count_shared(one: Any, other: Any) -> Optional[int]:
    """How many images two datasets have in common, at least.

    Up to 20,000 of each are compared, evenly spread, which is enough to find two parts
    of a dataset that were not split. Pixels of up to 1% may be equal, because datasets
    have duplicates.

    Args:
        one (Dataset): A dataset, or a wrapper of one.
        other (Dataset): The other.

    Returns:
        int, optional: The number; None if the datasets give nothing to compare.
    """
    keys, others = _some_keys(one), _some_keys(other)
    if not {kind for kind, _ in keys} & {kind for kind, _ in others}:
        return None
    shared = keys & others
    if all(kind == 'pixels' for kind, _ in shared) and len(shared) <= len(keys) / 100:
        return 0
    return len(shared)


def _some_keys(dataset: Any) -> Set[Tuple[str, str]]:
    """Keys of images; none where a dataset does not give them."""
    if not hasattr(dataset, 'get_data_info'):
        return set()
    indices = np.linspace(0, len(dataset) - 1, min(MAX_COMPARED, len(dataset)))
    keys = (image_key(dataset.get_data_info(int(i))) for i in indices)
    return {_file_key(*key) for key in keys if key}


def _file_key(kind: str, key: str) -> Tuple[str, str]:
    """A key that all links to a file have."""
    if kind == 'path' and osp.exists(key):
        stat = os.stat(key)
        key = f'{stat.st_dev} {stat.st_ino}'
    return kind, key


@DATASETS.register_module()
class HoldoutDataset:
    """One part of a dataset, which is split by a fixed shuffle.

    For the images that the candidates of a search are tried on, which the weights
    must not have seen: the same settings with ``split='val'`` give them.

    The split is made inside of the dataset, not around it: a dataset replaces an
    image that it cannot use by another of its own, which must be of the same part.

    Args:
        dataset (dict): Config of a dataset of mmpretrain, mmdet or mmseg, without
            wrappers.
        holdout (int): Number of images to hold out.
        split (str): ``'train'`` for the images that are not held out, ``'val'`` for
            those that are.
        seed (int): Seed of the shuffle. Defaults to 0.

    Attributes:
        dataset (BaseDataset): The dataset with only these images.

    Raises:
        ValueError: If the dataset is none of mmengine's, ``split`` is unknown, or
            there are not more images than are to be held out.
    """

    def __init__(self,
                 dataset: Union[dict, BaseDataset],
                 holdout: int,
                 split: str,
                 seed: int = 0):
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        if not isinstance(dataset, BaseDataset):
            raise ValueError(
                f'HoldoutDataset got a {type(dataset).__name__}, expected a dataset '
                'without wrappers: put HoldoutDataset inside of them')
        dataset.full_init()
        dataset.get_subset_(split_indices(
            len(dataset), holdout, split, seed, dataset.ann_file or type(
                dataset).__name__))
        self.dataset = dataset

    @property
    def metainfo(self) -> dict:
        """That of the dataset."""
        return self.dataset.metainfo

    @property
    def pipeline(self) -> Any:
        """That of the dataset, for hooks that read or replace it while training."""
        return self.dataset.pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Any) -> None:
        self.dataset.pipeline = pipeline

    def full_init(self) -> None:
        """Nothing: the dataset was read when it was split."""

    def get_data_info(self, index: int) -> dict:
        """As of the dataset, by the index in this part."""
        return self.dataset.get_data_info(index)

    def get_cat_ids(self, index: int) -> List[int]:
        """As of the dataset, by the index in this part."""
        return self.dataset.get_cat_ids(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]
