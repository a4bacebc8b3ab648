# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Checks of a model that run before training or testing starts."""
import os.path as osp
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import torch.nn as nn
from mmengine.config import Config

from autonl_mm.runs.model_wrappers import task_model

# Necks whose first outputs have the strides of their inputs
STRIDE_KEEPING_NECKS = ('FPN', 'PAFPN', 'CSPNeXtPAFPN', 'YOLOXPAFPN', 'SSDNeck',
                        'DyHead', 'BFP')
# Necks that leave the number of channels of each feature map as it is
WIDTH_KEEPING_NECKS = ('GlobalAveragePooling', 'GeneralizedMeanPooling',
                       'PoolDropout', 'BFP')
# Necks whose in_channels and out_channels are one number: they take the last
# feature map and return one.
LAST_MAP_NECKS = ('LinearNeck', 'NonLinearNeck', 'DilatedEncoder')
# Necks that return feature maps of out_channels each, this many: num_outs, or one
# for each input where there is no such argument.
UNIFORM_NECKS = ('FPN', 'PAFPN', 'CSPNeXtPAFPN', 'YOLOXPAFPN', 'DyHead')
# Necks whose in_channels start with the last feature map
REVERSED_NECKS = ('YOLOV3Neck', )


def check_checkpoints(cfg: Config) -> None:
    """Look for the checkpoints that a training starts from, before it is built.

    Args:
        cfg (Config): The config. Only paths are looked at, no ``SCHEME://...``.

    Raises:
        FileNotFoundError: If one does not exist; names the setting and the file.
    """
    named = {f'{key}.checkpoint': part.get('checkpoint')
             for key, part in config_parts('model', cfg.get('model'))
             if type_name(part) == 'Pretrained'}
    for key, path in {'load_from': cfg.get('load_from'), **named}.items():
        if isinstance(path, str) and '://' not in path and not osp.exists(
                osp.expanduser(path)):
            raise FileNotFoundError(f'{key}: there is no checkpoint file {path!r}')


def config_parts(key: str, node: Any) -> Iterator[Tuple[str, dict]]:
    """All dicts in a part of a config, each with its place."""
    if isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from config_parts(f'{key}.{i}', item)
    elif isinstance(node, dict):
        yield key, node
        for name, part in node.items():
            yield from config_parts(f'{key}.{name}', part)


def check_channels(cfg: dict, model: nn.Module) -> None:
    """Check that neck and heads take what the backbone gives.

    A head behind a neck is compared with what the neck gives. Where that is
    not known, the head is not checked.

    Args:
        cfg (dict): The task model's config. ``neck`` may be a list of necks.
        model (nn.Module): The model built from it. Backbones without
            ``out_channels`` and ``out_strides`` are not checked.

    Raises:
        ValueError: If a setting does not fit; names the setting, its value,
            and the value that would fit.
    """
    backbone = getattr(task_model(model), 'backbone', None)
    channels = getattr(backbone, 'out_channels', None)
    strides = getattr(backbone, 'out_strides', None)
    if not isinstance(channels, tuple) or not isinstance(strides, tuple):
        return
    cfg = cfg.get('model', cfg)  # of a model that wraps a task model
    name = type(backbone).__name__
    gives = (f'{name} gives {len(channels)} feature maps of {list(channels)} '
             f'channels at strides {list(strides)} for out_indices '
             f'{tuple(backbone.out_indices)}')
    for key, value, fitting, neck in _channel_settings(cfg, channels):
        if value != fitting:
            source, other = gives, 'out_indices of the backbone'
            if neck:
                source = f'the neck in front of it gives {neck} channels'
                other = 'out_channels of the neck'
            if fitting is None:
                raise ValueError(f'model.{key} is {value}, but {source}')
            raise ValueError(
                f'model.{key} is {value}, but {source}: set model.{key}='
                f'{fitting}, or change {other}')
    for key, value, fitting in _stride_settings(cfg, strides):
        if value != fitting:
            raise ValueError(
                f'model.{key} starts with {value}, but {gives}: the feature maps '
                f'that are used have strides {fitting}. Change out_indices or '
                f'output_stride of the backbone, or model.{key}')


def _named(cfg: dict, key: str) -> List[Tuple[str, dict]]:
    """Configs of a part of a model, one or a list, each with its place."""
    part = cfg.get(key) or []
    if isinstance(part, (list, tuple)):
        return [(f'{key}.{i}', item) for i, item in enumerate(part)]
    return [(key, part)]


def type_name(cfg: dict) -> str:
    """Name of the class that a config builds, without its scope."""
    kind = cfg.get('type', '')
    return getattr(kind, '__name__', str(kind)).split('.')[-1]


def _channel_settings(
    cfg: dict, channels: Tuple[int, ...]
) -> Iterator[Tuple[str, Any, Any, Optional[List[int]]]]:
    """Settings that must agree with the feature maps they are for.

    Yields:
        tuple: Name, value, fitting value (None if there is none), and the
        channels that the neck gives (None for those of the backbone).
    """
    from_neck = None
    given: Optional[Tuple[int, ...]] = channels
    for place, neck in _named(cfg, 'neck'):
        value, kind = neck.get('in_channels'), type_name(neck)
        if given is None:
            return  # of what the neck before gives nothing is known
        if isinstance(value, (list, tuple)):
            fitting = list(given[::-1] if kind in REVERSED_NECKS else given)
            yield f'{place}.in_channels', list(value), fitting, from_neck
        elif value is not None and kind in LAST_MAP_NECKS:
            yield f'{place}.in_channels', value, given[-1], from_neck
        elif value is not None and kind in UNIFORM_NECKS and len(set(given)) == 1:
            yield f'{place}.in_channels', value, given[0], from_neck
        given = _neck_channels(neck, given)
        if given != channels:
            from_neck = given and list(given)
    if given is None:
        return
    for key in ('head', 'bbox_head', 'rpn_head', 'decode_head', 'auxiliary_head'):
        for place, head in _named(cfg, key):
            value = head.get('in_channels')
            if value is None:
                continue
            # mmpretrain's and mmseg's heads take the last feature map by default.
            index = head.get('in_index', -1)
            if isinstance(value, (list, tuple)):
                if 'in_index' not in head:
                    index = range(len(given))
                fitting = _select(given, index)
                value = list(value)
            else:
                fitting = _select(given, [index])
                fitting = fitting and fitting[0]
            yield f'{place}.in_channels', value, fitting, from_neck
            if head.get('c1_in_channels'):
                yield (f'{place}.c1_in_channels', head['c1_in_channels'], given[0],
                       from_neck)


def _neck_channels(neck: dict,
                   given: Tuple[int, ...]) -> Optional[Tuple[int, ...]]:
    """Channels of a neck's outputs, or None if they are not known.

    Args:
        neck (dict): The neck's config.
        given (tuple[int, ...]): Channels of its inputs.
    """
    kind, out = type_name(neck), neck.get('out_channels')
    if kind in WIDTH_KEEPING_NECKS:
        return given
    if kind == 'SSDNeck' and isinstance(out, (list, tuple)):
        return tuple(out)
    if not isinstance(out, int):
        return None
    if kind in LAST_MAP_NECKS:
        return (out, )
    if kind in UNIFORM_NECKS:
        return (out, ) * neck.get('num_outs', len(given))
    return None


def _select(channels: Tuple[int, ...],
            indices: Sequence[int]) -> Optional[List[int]]:
    """The channels at the indices, or None if an index is out of range."""
    if any(not -len(channels) <= i < len(channels) for i in indices):
        return None
    return [channels[i] for i in indices]


def _stride_settings(cfg: dict, strides: Tuple[int, ...]
                     ) -> Iterator[Tuple[str, List[int], List[int]]]:
    """Name, first values and fitting values of strides in heads."""
    start = 0
    for _, neck in _named(cfg, 'neck'):
        if type_name(neck) not in STRIDE_KEEPING_NECKS:
            return
        start += neck.get('start_level', 0)
    for key in ('rpn_head', 'bbox_head'):
        for place, head in _named(cfg, key):
            prior = head.get('anchor_generator') or {}
            if isinstance(prior.get('strides'), (list, tuple)):
                place = f'{place}.anchor_generator.strides'
                yield (place, *_compare(prior['strides'], strides[start:]))
    for place, head in _named(cfg, 'decode_head'):
        if head.get('feature_strides'):
            yield (f'{place}.feature_strides',
                   *_compare(head['feature_strides'], strides[start:]))


def _compare(values: Sequence, strides: Sequence[int]
             ) -> Tuple[List[int], List[int]]:
    """The first of the values and of the strides, the same number of both."""
    values = [v[0] if isinstance(v, (list, tuple)) else v for v in values]
    count = min(len(values), len(strides))
    return values[:count], list(strides[:count])
