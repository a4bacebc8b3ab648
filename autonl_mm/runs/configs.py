# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Functions with which tools read configs and build their models."""
import argparse
import os.path as osp
import re
from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from .cfg_options import check_options
from .checkpoints import install
from .config_parts import config_parts, leaf_datasets, type_name

# Settings of transforms that give the size of their results: of crops, of
# resizing, and of ReleaseCenterCrop and padding
SIZE_SETTINGS = ('crop_size', 'scale', 'size')
# Visualizer of each codebase
VISUALIZERS = dict(mmpretrain='UniversalVisualizer', mmdet='DetLocalVisualizer',
                   mmseg='SegLocalVisualizer')


def add_config_args(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``config`` and ``--cfg-options``.

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

    This also calls :func:`autonl_mm.checkpoint.install`: from then on
    checkpoints load safely and files are written whole, whatever the config
    imports.

    Args:
        args (Namespace): Arguments from a parser with :func:`add_config_args`.

    Returns:
        Config: The config.

    Raises:
        FileNotFoundError: If the config does not exist.
        ValueError: If nothing reads an overridden setting.
    """
    if not osp.isfile(args.config):
        raise FileNotFoundError(f'config {args.config!r} does not exist')
    install()
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        enter_scope(cfg)
        check_options(cfg, args.cfg_options)
    cfg.merge_from_dict(args.cfg_options)
    return cfg


def build_model(cfg: Config) -> nn.Module:
    """Build the config's model outside of a runner.

    Args:
        cfg (Config): The config.

    Returns:
        nn.Module: On the CPU, in eval mode, with BN in place of SyncBN.

    Raises:
        ValueError: If the model's attribute ``unfinished`` says why it is not for
            use, as that of a search does.
    """
    enter_scope(cfg)
    model = cfg.model.copy()
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(model)
    reason = getattr(model, 'unfinished', None)
    if reason:
        raise ValueError(reason)
    return revert_sync_batchnorm(model).eval()


def input_size(cfg: Config) -> Tuple[int, int]:
    """Size to which a config's test pipeline resizes or crops.

    Where several transforms change the size, the last one counts.

    Args:
        cfg (Config): The config.

    Returns:
        tuple[int, int]: ``(H, W)``. For a resize that keeps the aspect ratio,
        the largest height and width.

    Raises:
        ValueError: If the pipeline leaves the size of images as it is.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    _, dataset = next(leaf_datasets('', dataset), ('', {}))
    for transform in reversed(dataset.get('pipeline', [])):
        for key in SIZE_SETTINGS:
            size = transform.get(key)
            if isinstance(size, int):
                return size, size
            if size and len(size) == 2 and all(isinstance(n, int) for n in size):
                return tuple(size)[::-1]  # pipelines give the width first
    raise ValueError("the config's test pipeline does not set the size of images: "
                     'give --input-shape')


def add_device(parser: argparse.ArgumentParser, condition: str = '') -> None:
    """Add ``--device``.

    Args:
        parser (ArgumentParser): The tool's parser.
        condition (str): A further condition of the GPU, for the help.
    """
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help=f'default: the GPU if there is one{condition}, else the CPU')


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """Check options that count something.

    Args:
        args (Namespace): The tool's arguments.
        *names (str): Names of the options in it.

    Raises:
        ValueError: If one is below 1; names it.
    """
    for name in names:
        if getattr(args, name) < 1:
            raise ValueError(f'--{name.replace("_", "-")} is {getattr(args, name)}, '
                             'expected at least 1')


def add_input_shape(parser: argparse.ArgumentParser,
                    default: Optional[Sequence[int]] = None,
                    help: str = "default: the test pipeline's size") -> None:
    """Add ``--input-shape``, which :func:`parse_shape` reads.

    Args:
        parser (ArgumentParser): The tool's parser.
        default (Sequence[int], optional): Height and width. Defaults to None.
        help (str): What the default is, or what the shape is for. Defaults to
            a sentence about the config.
    """
    parser.add_argument(
        '--input-shape',
        nargs='+',
        type=int,
        default=default,
        metavar=('H', 'W'),
        help=f'height and width, or one number for both; {help}')


def parse_shape(shape: Optional[Sequence[int]],
                cfg: Optional[Config] = None,
                minimum: int = 1) -> Tuple[int, int]:
    """``(H, W)`` from ``--input-shape``, or from the config without it.

    Args:
        shape (Sequence[int], optional): Height and width, or one number for
            both. None or empty to take them from ``cfg``.
        cfg (Config, optional): The config; needed if ``shape`` may be None.
            Defaults to None.
        minimum (int): Smallest height and width. Defaults to 1.

    Raises:
        ValueError: If it is not a height and a width, one is below the
            minimum, or neither option nor config gives them.
    """
    if not shape:
        return input_size(cfg)
    size = tuple(shape) * 2 if len(shape) == 1 else tuple(shape)
    if len(size) != 2 or min(size) < minimum:
        bound = f' of at least {minimum}' if minimum > 1 else ''
        raise ValueError(f'--input-shape is {list(shape)}, expected a positive '
                         f'height and width{bound}')
    return size


def parse_shapes(option: str, texts: Sequence[str], pattern: str,
                 minimum: int = 1) -> List[Tuple[int, ...]]:
    """Several shapes, such as ``224x224 320x320``.

    Args:
        option (str): The option that has them, for the message.
        texts (Sequence[str]): The shapes.
        pattern (str): What each looks like, such as ``'HxW'``; its numbers
            are separated by ``x`` or ``:``.
        minimum (int): Smallest number of a shape. Defaults to 1.

    Returns:
        list[tuple[int, ...]]: The numbers of each shape.

    Raises:
        ValueError: If a text does not match the pattern, or a number is below
            the minimum.
    """
    count = len(re.split('[x:]', pattern))
    shapes = []
    for text in texts:
        parts = re.split('[x:]', text)
        if len(parts) != count or not all(
                p.isdecimal() and int(p) >= minimum for p in parts):
            raise ValueError(f'{option} has {text!r}, expected {pattern}, each '
                             f'at least {minimum}')
        shapes.append(tuple(map(int, parts)))
    return shapes


def check_checkpoints(cfg: Config) -> None:
    """Look for the checkpoints that a training starts from, before it is built.

    Args:
        cfg (Config): The config. Only paths are looked at, no ``SCHEME://...``. A
            run that is resumed needs ``load_from`` only.

    Raises:
        FileNotFoundError: If one does not exist; names the setting and the file.
    """
    named = {f'{key}.checkpoint': part.get('checkpoint')
             for key, part in config_parts('model', cfg.get('model'))
             if type_name(part) == 'Pretrained' and not cfg.get('resume')}
    for key, path in {'load_from': cfg.get('load_from'), **named}.items():
        if isinstance(path, str) and '://' not in path and not osp.exists(
                osp.expanduser(path)):
            raise FileNotFoundError(f'{key}: there is no checkpoint file {path!r}')


def check_learning_rates(cfg: Config) -> None:
    """Refuse learning rates of parts that a OneCycleLR would overwrite.

    It gives its ``eta_max`` to all parameters, without a word.

    Args:
        cfg (Config): The config of a training.

    Raises:
        ValueError: If both are there; names both settings.
    """
    cycles = [key for key, part in config_parts(
        'param_scheduler', cfg.get('param_scheduler')) if part.get('type')
        and type_name(part) == 'OneCycleLR'
        and not isinstance(part.get('eta_max'), (list, tuple))]
    for key, part in config_parts('optim_wrapper', cfg.get('optim_wrapper')):
        for name, value in part.items():
            if cycles and name.endswith('lr_mult') and value != 1:
                raise ValueError(
                    f'{key}.{name} is {value}, but {cycles[0]} is OneCycleLR, which '
                    'gives all parameters the same learning rate: use LinearLR and '
                    f'CosineAnnealingLR, or leave {name} out')


def scope_of(cfg: Config) -> str:
    """Name of a config's codebase.

    Args:
        cfg (Config): The config. One in pure Python needs no ``default_scope``; then
            it is the package of the model's class.
    """
    if cfg.get('default_scope'):
        return cfg.default_scope
    for _, part in config_parts('model', cfg.get('model')):
        kind = part.get('type', '')
        package = getattr(kind, '__module__', str(kind)).split('.')[0]
        if package in VISUALIZERS:
            return package
    return 'mmengine'


def enter_scope(cfg: Config) -> str:
    """Let registries search in a config's codebase first; returns its name.

    Args:
        cfg (Config): The config.
    """
    scope = scope_of(cfg)
    init_default_scope(scope)
    return scope


def visualizer_of(cfg: Config) -> dict:
    """The config's visualizer or, if it has none, its codebase's.

    Args:
        cfg (Config): The config.
    """
    return cfg.get('visualizer') or dict(
        type=VISUALIZERS.get(scope_of(cfg), 'Visualizer'),
        vis_backends=[dict(type='LocalVisBackend')])
