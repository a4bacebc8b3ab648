# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Checksums of files and configs."""
import hashlib
import json
from pathlib import Path

from mmengine.config import Config


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


def config_digest(cfg: Config) -> str:
    """SHA-256 of a config, without the folder and the launcher of the run.

    Args:
        cfg (Config): The config.
    """
    settings = {key: value for key, value in cfg.to_dict().items()
                if key not in ('work_dir', 'launcher')}
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
