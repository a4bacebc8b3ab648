# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .cpu_amp import CpuAmpOptimWrapper
from .rmsprop_tf import RMSpropTF

__all__ = ['CpuAmpOptimWrapper', 'RMSpropTF']
