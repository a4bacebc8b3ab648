# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
# The registry imports holdout_folder when it is needed: it needs mmpretrain.
from .holdout_dataset import HoldoutDataset
from .release_center_crop import ReleaseCenterCrop, tf_bicubic
from .transforms import LoadImageOrSkip

__all__ = ['HoldoutDataset', 'LoadImageOrSkip', 'ReleaseCenterCrop', 'tf_bicubic']
