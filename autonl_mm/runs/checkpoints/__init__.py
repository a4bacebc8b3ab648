# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Safe loading of checkpoints."""
from .archive import BrokenCheckpointError, check_file, find_earlier
from .completeness import for_predictions
from .config_text import UnsafeCheckpointError
from .loading import load_checkpoint
from .patches import install
from .resumable import find_resumable
from .wrappers import MismatchError, fit_wrappers, weights_of

__all__ = [
    'BrokenCheckpointError',
    'MismatchError',
    'UnsafeCheckpointError',
    'check_file',
    'find_earlier',
    'find_resumable',
    'fit_wrappers',
    'for_predictions',
    'install',
    'load_checkpoint',
    'weights_of',
]
