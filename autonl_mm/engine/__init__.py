# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .allocator import keep_freed_memory
from .batch_scaled_ema_hook import BatchScaledEMAHook
from .channels_last_hook import ChannelsLastHook
from .compile_hook import CompileHook
from .cpu_amp import CpuAmpOptimWrapper
from .data_time_hook import DataTimeHook
from .model_checks import LabelCheckHook
from .rmsprop_tf import RMSpropTF
from .search_hook import SearchHook

__all__ = [
    'keep_freed_memory', 'BatchScaledEMAHook', 'ChannelsLastHook',
    'CompileHook', 'CpuAmpOptimWrapper', 'DataTimeHook', 'LabelCheckHook',
    'RMSpropTF', 'SearchHook'
]
