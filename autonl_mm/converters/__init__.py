# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The authors' weights as ours: dict in, dict out.

Each release has a module with two functions: ``select(source, ema)`` picks
the weights out of a checkpoint's content and says what it leaves out,
``convert(weights, arch)`` gives the state dict of an ``ImageClassifier``
whose backbone is AutoNL. ``tools/model_converters/autonl_to_mm.py`` puts files
around them.
"""
from . import tf_release, torch_release
from .layout import ConversionError

__all__ = ['ConversionError', 'tf_release', 'torch_release']
