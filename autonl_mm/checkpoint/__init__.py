# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Safe loading of checkpoints, and files that are never half-written."""
from .config_text import UnsafeCheckpointError
from .loading import BrokenCheckpointError, load_checkpoint
from .patches import install
from .writing import find_resumable, whole_folder, write_whole

__all__ = [
    'BrokenCheckpointError', 'UnsafeCheckpointError', 'find_resumable', 'install',
    'load_checkpoint', 'whole_folder', 'write_whole'
]
