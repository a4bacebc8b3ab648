# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .cost_aware_model import (
    CostAwareModel,
    load_search,
    task_model,
    unwrap_model,
)
from .export import export_subnet
from .gates import GateState, indicator
from .search_hook import SearchHook
from .space import BlockSpace, SearchSpace
from .superkernel import SearchableMBConv
from .supernet import AutoNLSuperNet

__all__ = [
    'AutoNLSuperNet', 'BlockSpace', 'CostAwareModel', 'GateState', 'SearchHook',
    'SearchSpace', 'SearchableMBConv', 'export_subnet', 'indicator', 'load_search',
    'task_model', 'unwrap_model'
]
