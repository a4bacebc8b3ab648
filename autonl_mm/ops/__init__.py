# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .light_nl import fused_light_nl, load_fused_light_nl

__all__ = ['fused_light_nl', 'load_fused_light_nl']
