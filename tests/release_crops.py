# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The evaluation crops of both releases, reimplemented, for RGB images."""
import math

import numpy as np
from PIL import Image
from torchvision import transforms

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def keys(x, a=-0.75):
    """Keys' cubic convolution kernel, from its definition."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.


def resize_matrix(n_in, n_out):
    matrix = np.zeros((n_out, n_in))
    for i in range(n_out):
        position = i * n_in / n_out
        for j in range(math.floor(position) - 1, math.floor(position) + 3):
            matrix[i, min(max(j, 0), n_in - 1)] += keys(position - j)
    return matrix


def tf_reference(img):
    """Crop and resize of the TensorFlow release, float64."""
    h, w = img.shape[:2]
    crop = int(224 / (224 + 32) * min(h, w))
    top, left = (h - crop + 1) // 2, (w - crop + 1) // 2
    img = img[top:top + crop, left:left + crop].astype(float)
    matrix = resize_matrix(crop, 224)
    return np.stack([matrix @ img[..., c] @ matrix.T for c in range(3)], -1)


def torch_reference(img):
    """torchvision's transforms of the PyTorch release's crop, uint8."""
    img = Image.fromarray(img)
    crop = int(224 / (224 + 32) * min(img.size))
    return np.array(transforms.Compose([
        transforms.CenterCrop(crop),
        transforms.Resize(224, transforms.InterpolationMode.BICUBIC),
    ])(img))


def normalize(img):
    """An image ``(H, W, 3)`` as a network's input ``(3, H, W)``."""
    return ((img / 255 - MEAN) / STD).transpose(2, 0, 1)
