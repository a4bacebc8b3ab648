# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Reading of small text and JSON files, whatever is in them."""
import json
import os.path as osp
from os import PathLike
from pathlib import Path
from typing import Any, Union

# In bytes. A search's records and tables have less than one megabyte; parsed, JSON
# takes twenty times its size.
MAX_SIZE = 2**25


def read_text(path: Union[str, PathLike]) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Args:
        path (str | PathLike): The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a folder, too large or not text; names it.
    """
    if osp.isdir(path):
        raise ValueError(f'{path} is a folder, expected a text file')
    if osp.isfile(path) and osp.getsize(path) > MAX_SIZE:
        raise ValueError(f'{path} has {osp.getsize(path):,} bytes, expected a text '
                         f'file of at most {MAX_SIZE:,}')
    try:
        return Path(path).read_text(encoding='utf-8-sig')
    except UnicodeDecodeError:
        raise ValueError(f'{path} is not a text file in UTF-8') from None


def parse_json(text: str, source: Union[str, PathLike]) -> Any:
    """Parse JSON.

    Args:
        text (str): The JSON.
        source (str | PathLike): Where it is from, for the message.

    Raises:
        ValueError: If it is not JSON, nested too deeply, or has numbers of
            thousands of digits; names the source.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f'{source} is not JSON: {e}') from None


def read_json(path: Union[str, PathLike]) -> Any:
    """Read a JSON file.

    Args:
        path (str | PathLike): The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As :func:`read_text` and :func:`parse_json`.
    """
    return parse_json(read_text(path), path)
