# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .backbones import AutoNL, PluginBackbone
from .layers import LightNL, MBConv, SharedNL, SqueezeExcite, light_nl
from .necks import PoolDropout
from .search import AutoNLSuperNet, CostAwareModel, SearchSpace, export_subnet

__all__ = [
    'AutoNL', 'AutoNLSuperNet', 'CostAwareModel', 'LightNL', 'MBConv',
    'PluginBackbone', 'PoolDropout', 'SearchSpace', 'SharedNL', 'SqueezeExcite',
    'export_subnet', 'light_nl'
]
