# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
from .depthwise import depthwise_conv2d
from .light_nl import (
    LightNL,
    affinity_rows,
    light_nl,
    light_nl_reference,
    light_nl_scales,
)
from .mbconv import MBConv, SqueezeExcite

__all__ = [
    'LightNL', 'affinity_rows', 'depthwise_conv2d', 'light_nl',
    'light_nl_reference', 'light_nl_scales', 'MBConv', 'SqueezeExcite'
]
