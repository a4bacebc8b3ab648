# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .cpu_amp import CpuAmpOptimWrapper

__all__ = ['CpuAmpOptimWrapper']
