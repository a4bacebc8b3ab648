# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .backbones import AutoNL
from .layers import LightNL, MBConv, SqueezeExcite, light_nl
from .necks import PoolDropout

__all__ = [
    'AutoNL', 'LightNL', 'MBConv', 'PoolDropout', 'SqueezeExcite', 'light_nl'
]
