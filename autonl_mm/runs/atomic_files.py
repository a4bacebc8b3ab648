# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Files and folders that are written whole or not at all."""
import errno
import glob
import os
import os.path as osp
import re
import shutil
import socket
import stat
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Optional, Union

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


def temp_name(path: str) -> str:
    """A name for half of a file or folder, beside it and of this writer's own.

    Others can tell from it whether the writer lives.

    Args:
        path (str): The file or folder.
    """
    return f'{path}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp'


def remove_stale_temp(path: str) -> None:
    """Remove partial files and folders whose writers were killed.

    Args:
        path (str): The file or folder that they were parts of.
    """
    for partial in _left(path):
        if osp.isdir(partial):
            shutil.rmtree(partial, ignore_errors=True)
        else:
            Path(partial).unlink(missing_ok=True)


def _left(path: str) -> Iterator[str]:
    """Parts of a file or folder whose writers on this machine do not live."""
    host = re.escape(socket.gethostname())
    for partial in glob.glob(glob.escape(path) + '.*.tmp'):
        match = re.fullmatch(
            rf'\.{host}-(\d+)-[0-9a-f]{{8}}\.tmp', partial[len(path):])
        if match and not process_lives(int(match[1])):
            yield partial


def atomic_write(path: Union[str, Path], content: Union[bytes, str]) -> None:
    """Write a file completely, or leave it as it was.

    This holds whatever ends the process, and for several writers of one file: the
    last one wins. A kill leaves at most a ``.tmp`` file beside the file, which the
    next call on the same machine removes. A file that is replaced keeps its mode, and
    its owner if this process may set it; a new one follows the umask.

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
    remove_stale_temp(path)
    partial, before = temp_name(path), _stat(path)
    try:
        with open(partial, 'xb', opener=_open_private if before else None) as file:
            if before:
                _set_like(file.fileno(), before)
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


def _stat(path: Union[str, Path]) -> Optional[os.stat_result]:
    with suppress(FileNotFoundError):
        return os.stat(path)
    return None


def _open_private(path: str, flags: int) -> int:
    # Who may not read the file that is replaced shall not read the new one either, at
    # no moment.
    return os.open(path, flags, 0o600)


def _set_like(file: Union[int, Path], before: os.stat_result) -> None:
    """Give a file or folder owner and mode of another one, as far as possible."""
    with suppress(OSError):  # of another user; some file systems have neither
        os.chown(file, before.st_uid, before.st_gid)
    with suppress(OSError):
        os.chmod(file, stat.S_IMODE(before.st_mode))


@contextmanager
def atomic_dir(path: Union[str, Path]) -> Iterator[Path]:
    """Write a folder completely, or leave it as it was.

    This holds for errors in the ``with`` block, for a kill, and for several writers of
    one folder: the last one wins. A kill leaves at most hidden folders beside it, such
    as ``.NAME.new.HOST-PROCESS-NUMBER.tmp``. The next call on the same machine removes
    them, or renames the old folder back if the kill came between two renames. A folder
    that is replaced keeps its mode and owner as in :func:`atomic_write`.

    Args:
        path (str or Path): The folder. An existing one is replaced. If it is a link,
            the folder that it points to is written.

    Yields:
        Path: An empty folder beside it, to be filled.

    Raises:
        OSError: If the folder cannot be made or renamed.
    """
    path = Path(osp.realpath(path))
    new, old = (str(path.with_name(f'.{path.name}.{kind}')) for kind in ('new', 'old'))
    for left in _left(old):
        if not path.exists():
            Path(left).rename(path)
    partial, aside = Path(temp_name(new)), Path(temp_name(old))
    remove_stale_temp(new)
    remove_stale_temp(old)
    before = _stat(path)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir(0o700 if before else 0o777)
    try:
        yield partial
        if before:
            _set_like(partial, before)
        _exchange(partial, path, aside)
    finally:
        for left in partial, aside:
            shutil.rmtree(left, ignore_errors=True)


def _exchange(new: Path, path: Path, old: Path) -> None:
    """Rename ``new`` to ``path``, and what was there to ``old``."""
    while True:
        with suppress(FileNotFoundError):  # none yet, or another writer was faster
            path.rename(old)
        try:
            new.rename(path)
            return
        except OSError as e:
            if e.errno in (errno.ENOTEMPTY, errno.EEXIST):  # that of another writer
                shutil.rmtree(old, ignore_errors=True)
                continue
            if old.exists() and not path.exists():
                old.rename(path)
            raise


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, written by :func:`atomic_write`."""

    name = LocalBackend.__name__  # some callers compare the name

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        if osp.exists(filepath) and not osp.isfile(filepath):
            return super().put(obj, filepath)  # /dev/stdout, a pipe
        atomic_write(filepath, obj)

    def put_text(self,
                 obj: str,
                 filepath: Union[str, Path],
                 encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)
