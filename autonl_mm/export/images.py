# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Images for check and calibration."""
from itertools import islice
from pathlib import Path
from typing import List, Optional, Tuple

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import Tensor

from autonl_mm.runs.config_parts import leaf_datasets
from autonl_mm.runs.data_checks import is_unlabelled
from autonl_mm.runs.dataset_configs import IMAGE_ENDINGS, check_data
from autonl_mm.runs.pipelines import remove_annotations


def config_images(cfg: Config, loader: str, count: int) -> List[Tensor]:
    """Images of a config's dataset, processed by its test pipeline.

    Args:
        cfg (Config): The config.
        loader (str): The dataset's dataloader, ``'train_dataloader'`` or
            ``'test_dataloader'``.
        count (int): Number of images, in a fixed random order. Fewer are returned if
            the dataset has fewer.

    Returns:
        list[Tensor]: Images of ``(3, H, W)``, not normalised.

    Raises:
        FileNotFoundError: If the data or the dataloader is missing.
    """
    if not cfg.get(loader) or not cfg.get('test_dataloader'):
        raise FileNotFoundError(
            f'the config needs {loader} and test_dataloader to give images')
    check_data(cfg, [loader])
    (_, node), = islice(leaf_datasets(loader, cfg[loader].dataset), 1)
    (_, test), = islice(
        leaf_datasets('test', cfg.test_dataloader.dataset), 1)
    dataset = DATASETS.build(dict(node, pipeline=test.pipeline))
    if is_unlabelled(dataset):
        remove_annotations(dataset.pipeline)
    order = np.random.RandomState(0).permutation(len(dataset))
    return [dataset[int(i)]['inputs'].float() for i in order[:count]]


def check_images(cfg: Config, folder: Optional[str], count: int,
                 channels: int = 3) -> Tuple[List[Tensor], str]:
    """Images for the check: of a folder, else of the config's test data, else noise.

    Args:
        cfg (Config): The config.
        folder (str, optional): A folder of images.
        count (int): Largest number of images.
        channels (int): Input channels of the model, C. Defaults to 3.

    Returns:
        tuple[list[Tensor], str]: Images of ``(C, H, W)``, and a description of
        their source.

    Raises:
        FileNotFoundError: If a folder is given and has no image.
        ValueError: If a folder is given and C is neither 1 nor 3.
    """
    if folder:
        if channels not in (1, 3):
            raise ValueError(
                f'--images reads images of 1 or 3 channels, but the model takes '
                f"{channels}: leave --images out to use the config's test data")
        images = []
        for path in sorted(Path(folder).rglob('*')):
            if len(images) == count:
                break
            if path.suffix.lower() in IMAGE_ENDINGS:
                image = mmcv.imread(
                    str(path), 'color' if channels == 3 else 'grayscale')
                images.append(torch.from_numpy(image).float().view(
                    *image.shape[:2], channels).permute(2, 0, 1))
        if not images:
            raise FileNotFoundError(f'--images: {folder!r} has no image '
                                    f'({", ".join(IMAGE_ENDINGS)})')
        return images, folder
    try:
        return (config_images(cfg, 'test_dataloader', count),
                "the config's test data")
    except FileNotFoundError:
        generator = torch.Generator().manual_seed(0)
        return [
            torch.rand(channels, 224, 224, generator=generator) * 255
            for _ in range(count)
        ], 'noise'


def to_batch(images: List[Tensor], count: int, size: Tuple[int, int],
             start: int = 0) -> Tensor:
    """Resize some of the images and stack them.

    Args:
        images (list[Tensor]): Images of ``(C, h, w)``.
        count (int): Number of images, N. The first image follows the last image.
        size (tuple[int, int]): Height and width of the batch, H and W.
        start (int): Index of the first image. Defaults to 0.

    Returns:
        Tensor: ``(N, C, H, W)``.
    """
    return torch.cat([
        F.interpolate(
            images[i % len(images)][None], size, mode='bilinear')
        for i in range(start, start + count)
    ])
