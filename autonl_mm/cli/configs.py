# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What every tool reads from a config."""
import argparse
import os.path as osp
from typing import Optional, Sequence, Tuple

import torch.nn as nn
from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from autonl_mm.checkpoint import install
from autonl_mm.datasets.settings import leaf_datasets
from autonl_mm.nas import AutoNLSuperNet, CostAwareModel


def add_config_args(parser: argparse.ArgumentParser) -> None:
    """Add the config and the option that overrides its settings.

    Args:
        parser (ArgumentParser): The tool's parser.
    """
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='override settings of the config: key=value, lists as '
        'key="[a,b]" without white space')


def read_config(args: argparse.Namespace) -> Config:
    """Read the config and override its settings.

    From then on checkpoints load safely and files are written whole, whatever the
    config imports, see :func:`autonl_mm.checkpoint.install`.

    Args:
        args (Namespace): Of a parser with :func:`add_config_args`.

    Raises:
        FileNotFoundError: If there is no such config.
    """
    if not osp.isfile(args.config):
        raise FileNotFoundError(f'config {args.config!r} does not exist')
    install()
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    return cfg


def build_model(cfg: Config) -> nn.Module:
    """Build the config's model outside of a runner.

    Args:
        cfg (Config): The config.

    Returns:
        nn.Module: On the CPU, in eval mode, BN in the place of SyncBN.

    Raises:
        ValueError: If it is a search, which has no network yet.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = cfg.model.copy()
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(model)
    if isinstance(model, CostAwareModel):
        raise ValueError(
            'the config is a search, which has no network yet: export one '
            'with tools/export_arch.py and give the config of that')
    return revert_sync_batchnorm(model).eval()


def build_supernet(cfg: Config) -> AutoNLSuperNet:
    """Build the supernet alone of a search's config.

    Args:
        cfg (Config): The config.

    Raises:
        ValueError: If it is no config of a search.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    backbone = dict(cfg.model.get('model', {}).get('backbone', {}))
    if not backbone.pop('type', '').endswith('AutoNLSuperNet'):
        raise ValueError(f'{cfg.filename} is no config of a search, its model '
                         'has no AutoNLSuperNet')
    return AutoNLSuperNet(**backbone)


def input_size(cfg: Config) -> Tuple[int, int]:
    """``(H, W)`` that a config's test pipeline resizes or crops to.

    Args:
        cfg (Config): The config.

    Raises:
        ValueError: If it leaves images as they are.
    """
    dataset = cfg.get('test_dataloader', {}).get('dataset')
    _, dataset = next(leaf_datasets('', dataset), ('', {}))
    for transform in reversed(dataset.get('pipeline', [])):
        size = transform.get('crop_size') or transform.get('scale')
        if isinstance(size, int):
            return size, size
        if size:
            return tuple(size)[::-1]  # pipelines say width first
    raise ValueError("the config's test pipeline has no size: give --shape")


def parse_shape(shape: Optional[Sequence[int]], cfg: Config) -> Tuple[int, int]:
    """``(H, W)`` that ``--shape`` says, or the config where it does not.

    Args:
        shape (Sequence[int], optional): Height and width, or both in one.
        cfg (Config): The config.

    Raises:
        ValueError: If it is no size, or neither says any.
    """
    if not shape:
        return input_size(cfg)
    size = tuple(shape) * 2 if len(shape) == 1 else tuple(shape)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f'--shape is {shape}, expected a positive height and '
                         'width')
    return size
