# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Safe loading of checkpoints, and files that are never half-written."""
from .archive import BrokenCheckpointError, check_file, find_earlier
from .config_text import UnsafeCheckpointError
from .loading import load_checkpoint
from .own_paths import checkpoint_folders, own_path
from .patches import install
from .resumable import find_resumable
from .wrappers import MismatchError, fit_wrappers, weights_of
from .writing import (
    partial_name,
    process_lives,
    remove_left,
    whole_folder,
    write_whole,
)

__all__ = [
    'BrokenCheckpointError', 'MismatchError', 'UnsafeCheckpointError', 'check_file',
    'checkpoint_folders', 'find_earlier', 'find_resumable', 'fit_wrappers', 'install',
    'load_checkpoint', 'own_path', 'partial_name', 'process_lives', 'remove_left',
    'weights_of', 'whole_folder', 'write_whole'
]
