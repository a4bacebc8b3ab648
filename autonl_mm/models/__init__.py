# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .backbones import AutoNL, PluginBackbone
from .inputs import input_channels
from .layers import LightNL, MBConv, SqueezeExcite, light_nl, light_nl_reference
from .necks import PoolDropout

__all__ = [
    'AutoNL', 'LightNL', 'MBConv', 'PluginBackbone', 'PoolDropout',
    'SqueezeExcite', 'input_channels', 'light_nl', 'light_nl_reference'
]
