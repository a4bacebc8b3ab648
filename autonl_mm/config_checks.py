# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Checks of what a config says of AutoNL and of a search, before anything is built."""
import warnings
from typing import Optional

from mmengine.config import Config

from .arch import resolve_arch
from .converters import load_donor
from .runs.config_parts import config_parts, type_name


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

    It warns if the images are normalised otherwise than in the donor's training, or are
    BGR.

    Args:
        cfg (Config): The config.

    Raises:
        ValueError: If a donor does not fit; see
            :func:`~autonl_mm.converters.load_donor`.
    """
    model = cfg.get('model') or {}
    parts = dict(config_parts('model', model))
    # the model of a search is inside of another one
    images = next((part['data_preprocessor'] for part in parts.values()
                   if part.get('data_preprocessor')), cfg.get('data_preprocessor'))
    for key, part in parts.items():
        if type_name(part) != 'Remap':
            continue
        backbone = parts.get(key.rpartition('.init_cfg')[0], {})
        donor = load_donor(part['checkpoint'], part.get('donor'))
        kind, normalize = type_name(backbone), backbone.get('normalize')
        if kind == 'AutoNL':
            donor.check_normalize(
                resolve_arch(backbone.get('arch', 's'), normalize).normalize)
        elif kind == 'AutoNLSuperNet':
            donor.check_normalize(normalize or 'rms')
        family = donor.family
        if not images:
            continue
        for name in ('mean', 'std'):
            given, right = images.get(name), getattr(family, name)
            if given is None or (len(given) == len(right) and max(
                    abs(a - b) for a, b in zip(given, right)) > 1):
                warnings.warn(
                    f'data_preprocessor.{name} is {given and list(given)}, but {key}.'
                    f'checkpoint={part["checkpoint"]!r} was trained with {list(right)}',
                    stacklevel=2)
        if len(images.get('mean') or family.mean) == 3 and not (
                images.get('to_rgb') or images.get('bgr_to_rgb')):
            warnings.warn(
                f'data_preprocessor leaves images in BGR, but {key}.checkpoint='
                f'{part["checkpoint"]!r} was trained with RGB: set to_rgb=True in '
                'mmpretrain, bgr_to_rgb=True in mmdet and mmseg', stacklevel=2)


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
    if train.get('by_epoch', True) and type_name(train) != 'IterBasedTrainLoop':
        return
    for i, hook in enumerate(cfg.get('custom_hooks') or ()):
        if type_name(hook) != 'PreciseBNHook':
            continue
        if hook.get('interval', 1) == 1:
            raise ValueError(
                f'custom_hooks[{i}], PreciseBNHook, would recalibrate BN after each '
                'iteration: set its interval to the interval of the evaluations, '
                f'train_cfg.val_interval={train.get("val_interval", 1000)}')
        sampler = cfg.train_dataloader.get('sampler') or {}
        if type_name(sampler) == 'InfiniteSampler':
            raise ValueError(
                f'custom_hooks[{i}], PreciseBNHook, loads by the sampler of '
                'train_dataloader, which an InfiniteSampler does not survive: use '
                "sampler=dict(type='DefaultSampler', shuffle=True)")
