# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from autonl_mm.nas.supernet.export import export_subnet
from autonl_mm.nas.supernet.gates import GateState, indicator
from autonl_mm.nas.supernet.space import BlockSpace, SearchSpace
from autonl_mm.nas.supernet.superkernel import SearchableMBConv
from autonl_mm.nas.supernet.supernet import AutoNLSuperNet
from autonl_mm.nas.training.cost_aware_model import CostAwareModel, load_search
from autonl_mm.nas.training.gate_search_hook import GateSearchHook
from autonl_mm.nas.training.sandwich_search_hook import SandwichSearchHook

__all__ = [
    'AutoNLSuperNet', 'BlockSpace', 'CostAwareModel', 'GateSearchHook', 'GateState',
    'SandwichSearchHook', 'SearchSpace', 'SearchableMBConv', 'export_subnet',
    'indicator', 'load_search',
]
