# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""``python -m autonl_mm.ops``: compile the fused operators ahead of their first use."""
import sys

from .fused import load_fused_operators

if __name__ == '__main__':
    try:
        load_fused_operators()
    except RuntimeError as e:
        sys.exit(f'autonl_mm.ops: {e}')
