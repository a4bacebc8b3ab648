# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .cost_aware_model import CostAwareModel
from .export import export_subnet
from .gates import CompactnessGates, NestedGates, WeightGates, indicator
from .space import BlockSpace, SearchSpace
from .superkernel import SearchableMBConv
from .supernet import AutoNLSuperNet

__all__ = [
    'AutoNLSuperNet', 'BlockSpace', 'CompactnessGates', 'CostAwareModel',
    'NestedGates', 'SearchSpace', 'SearchableMBConv', 'WeightGates',
    'export_subnet', 'indicator'
]
