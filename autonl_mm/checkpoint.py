# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Safe loading of checkpoints, see :mod:`autonl_mm.runs.checkpoints`."""
from .runs.checkpoints import (
    BrokenCheckpointError,
    UnsafeCheckpointError,
    check_file,
    find_resumable,
    install,
    load_checkpoint,
)

__all__ = [
    'BrokenCheckpointError', 'UnsafeCheckpointError', 'check_file', 'find_resumable',
    'install', 'load_checkpoint'
]
