# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .autonl import AutoNL

__all__ = ['AutoNL']
