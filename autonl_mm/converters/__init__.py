# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Trained weights for networks of ours: dict in, dict out.

:func:`load_donor` describes any trained network of inverted residuals, and
:func:`remap` gives its weights to any :class:`~autonl_mm.arch.ArchSpec`.

For the authors' own weights, each release has a module with two functions.
``select(source, ema)`` picks the weights of a checkpoint and reports the tensors left
out.
``convert(weights, arch)`` returns the state dict of an ``ImageClassifier`` with
an AutoNL backbone. ``tools/model_converters/autonl_to_mm.py`` reads and writes
the files.
"""
from . import tf_release, torch_release
from .donors import Donor, describe, load_donor
from .layout import ConversionError
from .remap import Remapped, remap

__all__ = [
    'ConversionError', 'Donor', 'Remapped', 'describe', 'load_donor', 'remap',
    'tf_release', 'torch_release'
]
