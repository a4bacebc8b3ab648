# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What does not fit together in a task model and its data, found early."""
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import torch.nn as nn
from mmengine.runner import Runner

from autonl_mm.datasets.settings import leaf_datasets
from autonl_mm.nas import task_model

# Necks whose first maps have the strides of the maps that they are given.
STRIDE_KEEPING_NECKS = ('FPN', 'PAFPN', 'CSPNeXtPAFPN', 'YOLOXPAFPN', 'SSDNeck')


def check_channels(cfg: dict, model: nn.Module) -> None:
    """Check that neck and heads take what the backbone gives.

    Args:
        cfg (dict): The task model's config.
        model (nn.Module): The model built from it. Backbones that do not
            tell their ``out_channels`` and ``out_strides`` are not checked.

    Raises:
        ValueError: Names setting, value, and what would fit.
    """
    backbone = getattr(task_model(model), 'backbone', None)
    channels = getattr(backbone, 'out_channels', None)
    strides = getattr(backbone, 'out_strides', None)
    if not isinstance(channels, tuple) or not isinstance(strides, tuple):
        return
    cfg = cfg.get('model', cfg)  # of a CostAwareModel
    name = type(backbone).__name__
    gives = (f'{name} gives {len(channels)} maps of {list(channels)} channels '
             f'at strides {list(strides)} for out_indices '
             f'{tuple(backbone.out_indices)}')
    for key, value, fitting in _channel_settings(cfg, channels):
        if value != fitting:
            if fitting is None:
                raise ValueError(f'model.{key} is {value}, but {gives}')
            raise ValueError(
                f'model.{key} is {value}, but {gives}: set model.{key}='
                f'{fitting}, or out_indices of the backbone that fit')
    for key, value, fitting in _stride_settings(cfg, strides):
        if value != fitting:
            raise ValueError(
                f'model.{key} starts with {value}, but {gives}: the maps that '
                f'are used have strides {fitting}. Set out_indices or '
                f'output_stride of the backbone, or model.{key}, so that '
                'they agree')


def _channel_settings(cfg: dict, channels: Tuple[int, ...]
                      ) -> Iterator[Tuple[str, Any, Any]]:
    """Name, value and fitting value of what takes the backbone's maps."""
    neck = cfg.get('neck')
    if isinstance(neck, dict):
        if isinstance(neck.get('in_channels'), (list, tuple)):
            yield 'neck.in_channels', list(neck['in_channels']), list(channels)
        if 'head' not in cfg:
            return  # the heads take the neck's maps
    for key in ('head', 'bbox_head', 'rpn_head', 'decode_head',
                'auxiliary_head'):
        heads = cfg.get(key) or []
        many = isinstance(heads, (list, tuple))
        for i, head in enumerate(heads if many else [heads]):
            place = f'{key}.{i}' if many else key
            value = head.get('in_channels')
            if value is None:
                continue
            # mmpretrain's and mmseg's heads take the last map by default.
            index = head.get('in_index', -1)
            if isinstance(value, (list, tuple)):
                if 'in_index' not in head:
                    index = range(len(channels))
                fitting = _select(channels, index)
                value = list(value)
            else:
                fitting = _select(channels, [index])
                fitting = fitting and fitting[0]
            yield f'{place}.in_channels', value, fitting
            if head.get('c1_in_channels'):
                yield (f'{place}.c1_in_channels', head['c1_in_channels'],
                       channels[0])


def _select(channels: Tuple[int, ...],
            indices: Sequence[int]) -> Optional[List[int]]:
    """The channels at indices, None where there are not so many maps."""
    if any(not -len(channels) <= i < len(channels) for i in indices):
        return None
    return [channels[i] for i in indices]


def _stride_settings(cfg: dict, strides: Tuple[int, ...]
                     ) -> Iterator[Tuple[str, List[int], List[int]]]:
    """Name, first values and fitting values of strides in heads."""
    neck = cfg.get('neck') or {}
    if neck and neck.get('type', '').split('.')[-1] not in STRIDE_KEEPING_NECKS:
        return
    start = neck.get('start_level', 0)
    for key in ('rpn_head', 'bbox_head'):
        prior = (cfg.get(key) or {}).get('anchor_generator') or {}
        if isinstance(prior.get('strides'), (list, tuple)):
            key = f'{key}.anchor_generator.strides'
            yield (key, *_compare(prior['strides'], strides[start:]))
    feature_strides = (cfg.get('decode_head') or {}).get('feature_strides')
    if feature_strides:
        yield ('decode_head.feature_strides',
               *_compare(feature_strides, strides[start:]))


def _compare(values: Sequence, strides: Sequence[int]
             ) -> Tuple[List[int], List[int]]:
    """As many values and strides as there are of both."""
    values = [v[0] if isinstance(v, (list, tuple)) else v for v in values]
    count = min(len(values), len(strides))
    return values[:count], list(strides[:count])


def check_datasets(runner: Runner, train: bool) -> None:
    """Check that there is something to train on and to evaluate with.

    Args:
        runner (Runner): The runner; its datasets are built.
        train (bool): Whether it is to train, not to test.

    Raises:
        ValueError: If a dataset has no image, or a detector's no box; names
            the annotation file.
    """
    names = ['test']
    if train:
        names = ['train', 'val'] if runner.val_loop else ['train']
    for name in names:
        evaluator = runner.cfg.get(f'{name}_evaluator') or {}
        if isinstance(evaluator, dict) and evaluator.get('format_only'):
            continue  # of images whose boxes only a server knows
        name = f'{name}_dataloader'
        source = _describe(runner.cfg[name]['dataset'])
        try:
            dataset = getattr(runner, name).dataset
        except ValueError as e:
            # what mmengine's dataset says that has filtered out everything
            if 'need at least one array' not in str(e):
                raise
            raise ValueError(
                f'{name}.dataset is empty: {source} names no image, or none '
                'that has a box of a known class. Check the annotations and '
                'metainfo.classes') from e
        if hasattr(dataset, 'get_data_info') and not any(
                dataset.get_data_info(i).get('instances', True)
                for i in range(len(dataset))):
            raise ValueError(
                f'{name}.dataset has {len(dataset)} images but no box: '
                f'{source} has no annotation of a known class. Give an '
                'annotation file with boxes, and check that metainfo.classes '
                'are its categories')


def _describe(cfg: dict) -> str:
    """Annotation file and data root, also of a dataset inside of wrappers."""
    _, cfg = next(leaf_datasets('', cfg))
    return (f'ann_file {cfg.get("ann_file", "")!r} of data_root '
            f'{cfg.get("data_root", "")!r}')
