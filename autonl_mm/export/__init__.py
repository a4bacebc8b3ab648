# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Export of task models as ONNX files. ``import autonl_mm`` does not import this."""
