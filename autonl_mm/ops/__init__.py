# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .fused import (
    fused_light_nl,
    fused_mbconv,
    load_fused_operators,
    pack_weights,
    runs_fused,
)

__all__ = [
    'fused_light_nl', 'fused_mbconv', 'pack_weights', 'load_fused_operators',
    'runs_fused'
]
