# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""AutoNL and LightNL for OpenMMLab.

Importing it registers everything and changes nothing of mmengine;
:func:`autonl_mm.checkpoint.install` does that.
"""
from . import checkpoint, datasets, deploy, models, nas
from .arch import AUTONL_L, AUTONL_S, ArchSpec, BlockSpec
from .cost import count_macs
from .engine import hooks, optimizers
from .export import engine_model
from .version import __version__
from .zoo import get_model, list_models

__all__ = [
    'checkpoint', 'datasets', 'deploy', 'engine_model', 'hooks', 'models', 'nas',
    'optimizers', 'AUTONL_L', 'AUTONL_S', 'ArchSpec', 'BlockSpec', 'count_macs',
    'get_model', 'list_models', '__version__'
]
