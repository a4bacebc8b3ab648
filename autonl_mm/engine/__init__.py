# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .allocator import keep_freed_memory
from .batch_scaled_ema_hook import BatchScaledEMAHook
from .cpu_amp import CpuAmpOptimWrapper
from .rmsprop_tf import RMSpropTF

__all__ = [
    'keep_freed_memory', 'BatchScaledEMAHook', 'CpuAmpOptimWrapper',
    'RMSpropTF'
]
