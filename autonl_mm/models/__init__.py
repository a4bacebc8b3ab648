# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .backbones import AutoNL, PluginBackbone
from .layers import LightNL, MBConv, SharedNL, SqueezeExcite, light_nl
from .necks import PoolDropout
from .onnx_model import OnnxModel
from .search import AutoNLSuperNet, CostAwareModel, SearchSpace, export_subnet

__all__ = [
    'AutoNL', 'AutoNLSuperNet', 'CostAwareModel', 'LightNL', 'MBConv',
    'OnnxModel', 'PluginBackbone', 'PoolDropout', 'SearchSpace', 'SharedNL',
    'SqueezeExcite', 'export_subnet', 'light_nl'
]
