# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Files and folders that are written whole or not at all."""
import glob
import os
import os.path as osp
import re
import shutil
import socket
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

from mmengine.fileio import LocalBackend


def process_lives(pid: int) -> bool:
    """Whether a process of this machine exists.

    Args:
        pid (int): Its id.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _partial_name(path: str) -> str:
    """A name of this writer's own, of which others can tell whether it lives."""
    return f'{path}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp'


def _remove_left(path: str) -> None:
    """Remove partial files whose writers were killed."""
    host = re.escape(socket.gethostname())
    for partial in glob.glob(glob.escape(path) + '.*.tmp'):
        match = re.fullmatch(
            rf'\.{host}-(\d+)-[0-9a-f]{{8}}\.tmp', partial[len(path):])
        if match and not process_lives(int(match[1])):
            Path(partial).unlink(missing_ok=True)


def write_whole(path: Union[str, Path], content: Union[bytes, str]) -> None:
    """Write a file completely, or leave it as it was.

    This holds whatever ends the process, and for several writers of one file: the
    last one wins. A kill leaves at most a ``.tmp`` file beside the file, which the
    next call on the same machine removes.

    Args:
        path (str or Path): The file. Missing folders are made. If it is a link, the
            file that it points to is written.
        content (bytes or str): The content; text is written as UTF-8.

    Raises:
        OSError: If the file cannot be written; names it.
    """
    path = osp.realpath(path)
    if isinstance(content, str):
        content = content.encode()
    os.makedirs(osp.dirname(path), exist_ok=True)
    _remove_left(path)
    partial = _partial_name(path)
    try:
        with open(partial, 'xb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as e:
        Path(partial).unlink(missing_ok=True)
        if isinstance(e, OSError) and e.errno:
            # errors of writing do not name the file, others name the partial one
            raise type(e)(e.errno, os.strerror(e.errno), path) from None
        raise


@contextmanager
def whole_folder(path: Union[str, Path]) -> Iterator[Path]:
    """Write a folder completely, or leave it as it was.

    This holds for errors in the ``with`` block and for a kill, which leaves at most
    hidden folders beside it, such as ``.NAME.tmp``. The next call removes them, or
    renames ``.NAME.old`` back if the kill came between the two renames. Only one
    process may write the same folder at a time.

    Args:
        path (str or Path): The folder. An existing one is replaced.

    Yields:
        Path: An empty folder beside it, to be filled.

    Raises:
        OSError: If the folder cannot be made or renamed.
    """
    path = Path(path)
    partial, old = (path.with_name(f'.{path.name}.{end}') for end in ('tmp', 'old'))
    if old.exists() and not path.exists():
        old.rename(path)
    for left in partial, old:
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            path.rename(old)
        try:
            partial.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
    finally:
        for left in partial, old:
            shutil.rmtree(left, ignore_errors=True)


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, written by :func:`write_whole`."""

    name = LocalBackend.__name__  # some callers compare the name

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        if osp.exists(filepath) and not osp.isfile(filepath):
            return super().put(obj, filepath)  # /dev/stdout, a pipe
        write_whole(filepath, obj)

    def put_text(self,
                 obj: str,
                 filepath: Union[str, Path],
                 encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)
