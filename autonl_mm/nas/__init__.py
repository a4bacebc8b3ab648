# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from autonl_mm.nas.supernet.export import export_subnet
from autonl_mm.nas.supernet.gates import GateState, indicator
from autonl_mm.nas.supernet.space import BlockSpace, SearchSpace
from autonl_mm.nas.supernet.superkernel import SearchableMBConv
from autonl_mm.nas.supernet.supernet import AutoNLSuperNet
from autonl_mm.nas.training.cost_aware_model import CostAwareModel, load_search
from autonl_mm.nas.training.search_hook import SearchHook

__all__ = [
    'AutoNLSuperNet', 'BlockSpace', 'CostAwareModel', 'GateState', 'SearchHook',
    'SearchSpace', 'SearchableMBConv', 'export_subnet', 'indicator', 'load_search',
]
