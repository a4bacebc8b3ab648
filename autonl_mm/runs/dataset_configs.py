# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Dataset settings of a config: checks of their paths and files."""
import os.path as osp
from typing import Sequence

from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS

from .coco_files import check_coco, class_names
from .config_parts import config_parts, leaf_datasets

IMAGE_ENDINGS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff',
                 '.webp')


def check_data(cfg: Config, loaders: Sequence[str]) -> None:
    """Check that all data exist, before anything is built.

    Args:
        cfg (Config): The config.
        loaders (Sequence[str]): Names of the dataloaders to be used.

    Raises:
        FileNotFoundError: If a folder or file is missing. Names the setting,
            the path, and the option that changes it.
        ValueError: If names of classes are a string, or a COCO file lacks a key.
    """
    for loader in loaders:
        dataset = (cfg.get(loader) or {}).get('dataset')
        for key, node in leaf_datasets(f'{loader}.dataset', dataset):
            _check_names(key, node)
            root = node.get('data_root') or ''
            if not isinstance(root, str) or '://' in root:
                continue
            paths = {'data_root': root}
            if isinstance(node.get('ann_file'), str) and node['ann_file']:
                paths['ann_file'] = osp.join(root, node['ann_file'])
            prefix = node.get('data_prefix') or {}
            if isinstance(prefix, str):
                paths['data_prefix'] = osp.join(root, prefix)
            else:
                for name, value in prefix.items():
                    if isinstance(value, str):
                        paths[f'data_prefix.{name}'] = osp.join(root, value)
            for name, path in paths.items():
                if path and '://' not in path and not osp.exists(path):
                    raise FileNotFoundError(
                        f'{key}.{name}: {path!r} does not exist. Put the data '
                        f'there, or give their path with --cfg-options '
                        f'{key}.{name}=PATH')
            path = paths.get('ann_file', '')
            if path.endswith('.json') and '://' not in path and 'CocoDataset' in (
                    class_names(DATASETS, node.get('type'), cfg.get('default_scope'))):
                check_coco(f'{key}.ann_file', path)


def _check_names(key: str, node: dict) -> None:
    """A string of classes is a file, or else would be taken for letters."""
    for name, parent in (('metainfo.classes', node.get('metainfo')), ('classes', node)):
        classes = (parent or {}).get('classes')
        if isinstance(classes, str) and '://' not in classes and not osp.isfile(
                osp.expanduser(classes)):
            raise ValueError(
                f'{key}.{name} is the string {classes!r}, and no such file exists: '
                f'names of classes are a tuple, of one class ({classes!r}, ) with a '
                'comma, or a file with a name a line')


def check_evaluator(cfg: Config, name: str) -> None:
    """Check the COCO files that predictions will be compared with.

    Args:
        cfg (Config): The config.
        name (str): ``'val'`` or ``'test'``.

    Raises:
        FileNotFoundError: If one is missing; names the setting and the path.
        ValueError: If one lacks a key; names file and key.
    """
    key = f'{name}_evaluator'
    for place, metric in config_parts(key, cfg.get(key)):
        path = metric.get('ann_file')
        if not isinstance(path, str) or '://' in path or metric.get('format_only'):
            continue
        bases = class_names(METRICS, metric.get('type'), cfg.get('default_scope'))
        if 'CocoMetric' in bases and 'LVISMetric' not in bases:
            place += '.ann_file'
            if not osp.exists(path):
                raise FileNotFoundError(f'{place}: {path!r} does not exist. Give its '
                                        f'path with --cfg-options {place}=PATH')
            check_coco(place, path, evaluates=True)
