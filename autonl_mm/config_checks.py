# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Checks of what a config says of AutoNL and of a search, before anything is built."""
import warnings
from typing import Optional

from mmengine.config import Config

from .arch import resolve_arch
from .converters import load_donor
from .runs.configs import config_parts, type_name


def check_archs(model: Optional[dict]) -> None:
    """Read every ``arch`` of an AutoNL in a config, before anything is built.

    Args:
        model (dict, optional): Config of the model.

    Raises:
        ValueError: If one is no network; names the setting and the file.
    """
    for key, part in config_parts('model', model):
        if type_name(part) == 'AutoNL' and 'arch' in part:
            try:
                resolve_arch(part['arch'], part.get('normalize'))
            except (OSError, ValueError) as e:
                raise ValueError(f'{key}.arch: {e}') from None


def check_donors(cfg: Config) -> None:
    """Read the donor of every ``Remap`` in a config, before anything is built.

    It warns if the images are normalised otherwise than in the donor's training.

    Args:
        cfg (Config): The config.

    Raises:
        ValueError: If a donor does not fit; see
            :func:`~autonl_mm.converters.load_donor`.
    """
    model = cfg.get('model') or {}
    images = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    for key, part in config_parts('model', model):
        if type_name(part) != 'Remap':
            continue
        family = load_donor(part['checkpoint'], part.get('donor')).family
        for name in ('mean', 'std'):
            given, right = images.get(name), getattr(family, name)
            if given is not None and max(
                    abs(a - b) for a, b in zip(given, right)) > 1:
                warnings.warn(
                    f'data_preprocessor.{name} is {list(given)}, but {key}.checkpoint='
                    f'{part["checkpoint"]!r} was trained with {list(right)}',
                    stacklevel=2)


def check_search(cfg: Config) -> None:
    """Refuse a search that could not work.

    Args:
        cfg (Config): The config.

    Raises:
        ValueError: If the model has a supernet as its backbone but is not a
            CostAwareModel, or if an iteration-based loop recalibrates BN after each
            iteration, or with the batches that it trains on.
    """
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    if type_name(backbone) == 'AutoNLSuperNet':
        raise ValueError(
            'model.backbone is an AutoNLSuperNet outside of a CostAwareModel, '
            'so nothing would train its gates: wrap the model, '
            "model=dict(type='autonl_mm.CostAwareModel', model=dict(...), "
            'cost_weight=...)')
    train = cfg.get('train_cfg') or {}
    if train.get('by_epoch', True) and train.get('type') != 'IterBasedTrainLoop':
        return
    for i, hook in enumerate(cfg.get('custom_hooks') or ()):
        if type_name(hook) != 'PreciseBNHook':
            continue
        if hook.get('interval', 1) == 1:
            raise ValueError(
                f'custom_hooks[{i}], PreciseBNHook, would recalibrate BN after each '
                'iteration: set its interval to that of the evaluations, '
                f'train_cfg.val_interval={train.get("val_interval", 1000)}')
        sampler = cfg.train_dataloader.get('sampler') or {}
        if type_name(sampler) == 'InfiniteSampler':
            raise ValueError(
                f'custom_hooks[{i}], PreciseBNHook, loads by the sampler of '
                'train_dataloader, which an InfiniteSampler does not survive: use '
                "sampler=dict(type='DefaultSampler', shuffle=True)")
