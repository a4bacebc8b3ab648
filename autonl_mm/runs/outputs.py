# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Output files and folders of tools: checked early and written completely."""
import io
import os
import os.path as osp
import tempfile
from pathlib import Path
from typing import Any, Optional, Sequence, Union

from .atomic_files import atomic_write

PathLike = Union[str, Path]


def check_file(option: str, path: Optional[PathLike],
               endings: Sequence[str] = ()) -> None:
    """Refuse a file that could not be written. A missing folder is made.

    Args:
        option (str): The option that gives the file, for the message.
        path (str | Path, optional): The file; None is accepted.
        endings (Sequence[str]): Endings that the tool can write. Defaults to
            any.

    Raises:
        ValueError: If the file is a folder, has another ending, or lies in a folder
            that cannot be written to; names the option.
    """
    if path is None:
        return
    path = str(path)
    if endings and not path.endswith(tuple(endings)):
        raise ValueError(f'{option} is {path!r}, expected a file that ends in '
                         f'{" or ".join(endings)}')
    if osp.isdir(path) or path.endswith(os.sep):
        raise ValueError(f'{option} is {path!r}, which is a folder, expected the '
                         'name of a file')
    if osp.exists(path) and not osp.isfile(path):
        return  # /dev/stdout, a pipe
    check_folder(option, osp.dirname(path) or '.')


def check_folder(option: str, path: Optional[PathLike]) -> None:
    """Refuse a folder that could not be written to. A missing folder is made.

    Args:
        option (str): The option that gives the folder, for the message.
        path (str | Path, optional): The folder; None is accepted.

    Raises:
        ValueError: If the folder is a file, or cannot be made or written to; names the
            option.
    """
    if path is None:
        return
    try:
        os.makedirs(path, exist_ok=True)
        # Permissions do not show read-only file systems and full quotas.
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        raise ValueError(f'{option}: cannot write to the folder {str(path)!r} '
                         f'({e.strerror}): give another one') from None


def save_figure(figure: Any, path: PathLike, **kwargs) -> None:
    """Write a plot completely, or leave the file as it was.

    Args:
        figure (matplotlib.figure.Figure): The plot.
        path (str | Path): The file; its ending gives the format.
        **kwargs: Arguments of ``savefig``.

    Raises:
        ValueError: If matplotlib does not know the ending.
        OSError: If the file cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix[1:] or 'png', **kwargs)
    atomic_write(path, content.getvalue())
