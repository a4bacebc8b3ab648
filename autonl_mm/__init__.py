# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""AutoNL and LightNL for OpenMMLab. Importing it registers everything."""
from . import checkpoint, datasets, engine, models
from .arch import AUTONL_L, AUTONL_S, ArchSpec, BlockSpec
from .cost import count_macs
from .version import __version__

__all__ = [
    'checkpoint', 'datasets', 'engine', 'models', 'AUTONL_L', 'AUTONL_S',
    'ArchSpec', 'BlockSpec', 'count_macs', '__version__'
]
