# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Reading of small text and JSON files with any content."""
import json
import os.path as osp
import reprlib
import sys
from os import PathLike
from pathlib import Path
from typing import Any, Optional, Union

# In bytes. A search's records and tables have less than one megabyte. Parsed JSON takes
# twenty times its size.
MAX_SIZE = 2**25

# Values of broken files may be of any length, and have line ends
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_WORDS = {str: 'text', bool: 'true or false', int: 'an integer', float: 'a number',
          None: 'null'}


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
        source (str | PathLike): Source of the JSON, for the message.

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


def check_json(value: Any, form: Any, what: str, advice: str) -> None:
    """Compare a value that was parsed from JSON with an expected form.

    Args:
        value (Any): The value.
        form (Any): The expected form: ``str``, ``bool``, ``int``, ``float`` (any
            number that a float can be, NaN too), ``None``, ``object`` for anything, a
            range of integers, a set of texts, ``[form]`` for a list of any length,
            ``[form, form, ...]`` for a list of this length, or a dict of forms by key.
            A key that may be missing ends in ``?``. The key ``str`` stands for all
            other keys. A tuple has alternatives.
        what (str): The file and its fault, for the message.
        advice (str): The remedy, for the message.

    Raises:
        ValueError: If the value has another form; a line with the first wrong key.
    """
    wrong = _find_wrong(value, form, '')
    if wrong:
        raise ValueError(f'{what}: {wrong}: {advice}')


def _find_wrong(value: Any, form: Any, key: str) -> Optional[str]:
    forms = form if isinstance(form, tuple) else (form, )
    fitting = [f for f in forms if _fits(value, f)]
    if not fitting:
        return (f'{key or "it"} is {_SHORT.repr(value)}, expected '
                f'{" or ".join(map(_describe, forms))}')
    form, parts = fitting[0], []
    if isinstance(form, list):
        parts = [(item, form[i % len(form)], f'{key}[{i}]')
                 for i, item in enumerate(value)]
    elif isinstance(form, dict):
        known = {k.rstrip('?'): f for k, f in form.items() if k is not str}
        for name in known:
            if name in form and name not in value:
                return f'{_inside(key, name)} is missing'
        for name, item in value.items():
            if name not in known and str not in form:
                return f'{_inside(key, name)} is unknown, expected {", ".join(known)}'
            parts.append((item, known.get(name, form.get(str)), _inside(key, name)))
    return next(filter(None, (_find_wrong(*part) for part in parts)), None)


def _fits(value: Any, form: Any) -> bool:
    """Whether a value is of a form, without a look at its items."""
    if isinstance(form, set):
        return isinstance(value, str) and value in form
    if isinstance(form, range):
        return type(value) is int and value in form
    if isinstance(form, list):
        return isinstance(value, list) and len(form) in (1, len(value))
    if isinstance(form, dict):
        return isinstance(value, dict)
    if form is float:
        return type(value) is float or (
            type(value) is int and abs(value) <= sys.float_info.max)
    return form is object or value is form or type(value) is form


def _describe(form: Any) -> str:
    if isinstance(form, set):
        return f'one of {", ".join(sorted(form))}'
    if isinstance(form, range):
        return f'an integer from {form[0]} to {form[-1]}'
    if isinstance(form, list):
        return 'a list' if len(form) == 1 else f'a list of {len(form)}'
    return 'a dict' if isinstance(form, dict) else _WORDS[form]


def _inside(key: str, name: str) -> str:
    if name.isidentifier() and len(name) < 80:
        return f'{key}.{name}' if key else name
    return f'{key}[{_SHORT.repr(name)}]'
