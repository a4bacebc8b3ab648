# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .autonl import AutoNL
from .plugin_backbone import PluginBackbone

__all__ = ['AutoNL', 'PluginBackbone']
