# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Dataset settings of a config: finding them and checking their paths."""
import os.path as osp
from typing import Iterator, Sequence, Tuple

from mmengine.config import Config


def leaf_datasets(key: str, node) -> Iterator[Tuple[str, dict]]:
    """The innermost dataset configs, without their wrappers.

    Args:
        key (str): Name of the setting that holds ``node``.
        node (dict | list | None): Config of a dataset, or a list of them.

    Yields:
        tuple[str, dict]: Name of the setting and config of each dataset.
    """
    if isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from leaf_datasets(f'{key}.{i}', item)
    elif isinstance(node, dict):
        inner = [k for k in ('dataset', 'datasets') if k in node]
        for k in inner:
            yield from leaf_datasets(f'{key}.{k}', node[k])
        if not inner:
            yield key, node


def check_data(cfg: Config, loaders: Sequence[str]) -> None:
    """Check that all data exist, before anything is built.

    Args:
        cfg (Config): The config.
        loaders (Sequence[str]): Names of the dataloaders to be used.

    Raises:
        FileNotFoundError: If a folder or file is missing. Names the setting,
            the path, and the option that changes it.
    """
    for loader in loaders:
        dataset = (cfg.get(loader) or {}).get('dataset')
        for key, node in leaf_datasets(f'{loader}.dataset', dataset):
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
