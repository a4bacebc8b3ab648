# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Packages that a config needs and whose absence its libraries tell late or not."""
from importlib.util import find_spec
from typing import Iterator, Tuple

from .config_parts import config_parts

# Scopes of types: mmengine only says that it fails to get the type.
SCOPES = {'mmpretrain': 'mmpretrain', 'mmdet': 'mmdet', 'mmseg': 'mmsegmentation',
          'timm': 'timm'}
# Decoders: mmcv fails at the first image, which may be one of the first validation.
# All other optional packages are asked for when the runner is built.
DECODERS = {'tifffile': 'tifffile', 'turbojpeg': "'PyTurboJPEG<2'"}


def check_packages(cfg: dict) -> None:
    """Refuse a config that names something whose package is missing.

    Args:
        cfg (dict): The config.

    Raises:
        ImportError: Names the setting and what to install.
    """
    for setting, module, distribution in _needed(dict(cfg)):  # of a Config
        if find_spec(module) is None:
            raise ImportError(f'{setting} needs the package {module}, which is not '
                              f'installed: pip install {distribution}')


def _needed(cfg: dict) -> Iterator[Tuple[str, str, str]]:
    """Settings that need a package: the setting, module and distribution."""
    for place, part in config_parts('', cfg):
        for name, value in part.items():
            setting = f'{place}.{name}={value!r}'.removeprefix('.')
            scope = str(value).split('.')[0]
            if name == 'imdecode_backend' and value in DECODERS:
                yield setting, value, DECODERS[value]
            elif (name == 'default_scope' and value in SCOPES) or (
                    name == 'type' and scope != value and scope in SCOPES):
                yield setting, scope, SCOPES[scope]
