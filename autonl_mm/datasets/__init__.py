# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
# The registry imports holdout_folder when it is needed: it needs mmpretrain.
from .release_center_crop import ReleaseCenterCrop, tf_bicubic
from .transforms import LoadImageOrSkip

__all__ = ['LoadImageOrSkip', 'ReleaseCenterCrop', 'tf_bicubic']
