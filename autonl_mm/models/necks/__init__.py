# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .pool_dropout import PoolDropout

__all__ = ['PoolDropout']
