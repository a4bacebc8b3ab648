# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Conversion of the authors' weights: dict in, dict out.

Each release has a module with two functions. ``select(source, ema)`` picks the
weights of a checkpoint and reports the tensors left out.
``convert(weights, arch)`` returns the state dict of an ``ImageClassifier`` with
an AutoNL backbone. ``tools/model_converters/autonl_to_mm.py`` reads and writes
the files.
"""
from . import tf_release, torch_release
from .layout import ConversionError

__all__ = ['ConversionError', 'tf_release', 'torch_release']
