# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The parts of a config: finding them, and the names of their classes."""
from typing import Any, Iterator, Tuple

# Classes, and what they are usually called in configs
REGISTERED = dict(MMSyncBN='SyncBN', PretrainedInit='Pretrained',
                  SyncBatchNorm='SyncBN')


def config_parts(key: str, node: Any) -> Iterator[Tuple[str, dict]]:
    """All dicts in a part of a config, each with its place."""
    if isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from config_parts(f'{key}.{i}', item)
    elif isinstance(node, dict):
        yield key, node
        for name, part in node.items():
            yield from config_parts(f'{key}.{name}', part)


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


def type_name(cfg: dict) -> str:
    """Name of the class that a config builds, without its scope.

    It is the same for a name, for the class itself as in pure Python configs, and for
    the import path as which such a config is dumped.

    Args:
        cfg (dict): The config.

    Returns:
        str: ``''`` if it has no type.
    """
    kind = cfg.get('type', '')
    name = getattr(kind, '__name__', str(kind)).split('.')[-1]
    return REGISTERED.get(name, name)
