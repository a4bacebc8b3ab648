# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Checksums of files."""
import hashlib
from pathlib import Path


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder, in hexadecimal digits.

    Args:
        path (Path): The file or folder.
    """
    total = hashlib.sha256()
    for part in sorted(path.rglob('*')) if path.is_dir() else [path]:
        if part.is_dir():
            continue
        with open(part, 'rb') as file:
            for block in iter(lambda file=file: file.read(2**20), b''):
                total.update(block)
    return total.hexdigest()
