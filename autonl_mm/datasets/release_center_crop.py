# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The evaluation crops of the authors' two releases, pixel by pixel."""
from typing import Tuple

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform

from autonl_mm.registry import TRANSFORMS


def _tf_bicubic_weights(in_size: int,
                        out_size: int) -> Tuple[np.ndarray, np.ndarray]:
    """The four input pixels of each output pixel, and their weights.

    Returns:
        tuple[ndarray, ndarray]: Indices and weights, both ``(out_size, 4)``.
    """
    position = np.arange(out_size) * (in_size / out_size)
    first = np.floor(position).astype(int) - 1
    distance = np.abs(position[:, None] - first[:, None] - np.arange(4))
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    weights = np.where(distance <= 1, near, far).astype(np.float32)
    # outside of the image the nearest pixel at the border is used
    return np.clip(first[:, None] + np.arange(4), 0, in_size - 1), weights


def tf_bicubic(img: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
    """Resize as TensorFlow 1's ``tf.image.resize_bicubic`` does.

    Cubic convolution with a = -0.75 at source positions ``i * scale``: the top
    left corners are aligned, pixel centres are not shifted by a half, and
    there is no smoothing when the image gets smaller. TensorFlow takes the
    weights from a table of 1024 steps; here they are exact.

    Args:
        img (ndarray): ``(H, W, ...)``.
        size (tuple[int, int]): ``(H', W')``.

    Returns:
        ndarray: ``(H', W', ...)`` in float32, neither rounded nor clipped:
        near edges in the image, values may be below 0 or above 255.
    """
    rows, weights = _tf_bicubic_weights(img.shape[0], size[0])
    img = np.einsum('yk,yk...->y...', weights, img.astype(np.float32)[rows])
    columns, weights = _tf_bicubic_weights(img.shape[1], size[1])
    return np.einsum('xk,yxk...->yx...', weights, img[:, columns])


@TRANSFORMS.register_module()
class ReleaseCenterCrop(BaseTransform):
    """Centre crop and resize, as in the evaluation of a release.

    Crops a square with sides of ``int(size / (size + padding) * shorter side)``
    from the centre and resizes it to ``size``.

    Required Keys: ``img``. Modified Keys: ``img``, ``img_shape``.

    Args:
        release (str): ``'tf'``: offsets of ``(length - crop + 1) // 2``,
            resized by :func:`tf_bicubic` to float32. ``'torch'``: offsets as
            in torchvision, ``round((length - crop) / 2)`` with halves rounded
            to even, resized by Pillow's bicubic filter to uint8.
        size (int): Height and width of the result. Defaults to 224.
        padding (int): Pixels by which the result would be larger without the
            crop. Defaults to 32.

    Raises:
        ValueError: If an argument is out of range, or an image is too small
            to crop.
    """

    def __init__(self, release: str, size: int = 224, padding: int = 32):
        if release not in ('tf', 'torch'):
            raise ValueError(f"release is {release!r}, expected 'tf' or "
                             "'torch'")
        if not isinstance(size, int) or size < 1:
            raise ValueError(f'size is {size!r}, expected a positive integer')
        if not isinstance(padding, int) or padding < 0:
            raise ValueError(f'padding is {padding!r}, expected an integer of '
                             'at least 0')
        self.release = release
        self.size = size
        self.padding = padding

    def _offset(self, length: int, crop: int) -> int:
        if self.release == 'tf':
            return (length - crop + 1) // 2
        return round((length - crop) / 2)

    def transform(self, results: dict) -> dict:
        """Crop and resize ``results['img']``, ``(H, W, C)``."""
        img = results['img']
        height, width = img.shape[:2]
        crop = int(self.size / (self.size + self.padding) * min(height, width))
        if crop < 1:
            raise ValueError(
                f'{results.get("img_path", "an image")} of {height}x{width} '
                'is too small to crop')
        top, left = self._offset(height, crop), self._offset(width, crop)
        img = img[top:top + crop, left:left + crop]
        size = (self.size, self.size)
        if self.release == 'tf':
            img = tf_bicubic(img, size)
        else:
            img = mmcv.imresize(
                img, size, interpolation='bicubic', backend='pillow')
        results['img'] = img
        results['img_shape'] = img.shape[:2]
        return results

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(release={self.release!r}, '
                f'size={self.size}, padding={self.padding})')
