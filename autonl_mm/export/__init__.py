# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Task models as ONNX files; nothing of it is imported by the package itself."""
