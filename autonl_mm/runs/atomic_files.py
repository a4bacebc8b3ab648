# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Atomic writing of files and folders: completely or not at all."""
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
        pid (int): Id of the process.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # a process of another user
    return True


def temp_name(path: str) -> str:
    """A unique name for a partial file or folder, in the folder of the final one.

    The name tells other processes whether the writer still exists.

    Args:
        path (str): The final file or folder.
    """
    return f'{path}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp'


def remove_stale_temp(path: str) -> None:
    """Remove partial files and folders whose writers were killed.

    Args:
        path (str): The final file or folder.
    """
    for partial in _left(path):
        if osp.isdir(partial):
            shutil.rmtree(partial, ignore_errors=True)
        else:
            Path(partial).unlink(missing_ok=True)


def _left(path: str) -> Iterator[str]:
    """Partial files and folders whose writers on this machine do not exist any more."""
    host = re.escape(socket.gethostname())
    for partial in glob.glob(glob.escape(path) + '.*.tmp'):
        match = re.fullmatch(
            rf'\.{host}-(\d+)-[0-9a-f]{{8}}\.tmp', partial[len(path):])
        if match and not process_lives(int(match[1])):
            yield partial


def atomic_write(path: Union[str, Path], content: Union[bytes, str]) -> None:
    """Write a file completely, or leave it as it was.

    This holds however the process ends. If several processes write one file, the last
    writer wins. A kill leaves at most a ``.tmp`` file beside the file, which the next
    call on the same machine removes. A replaced file keeps its mode, and its owner if
    this process may set it. A new file follows the umask.

    Args:
        path (str or Path): The file. Missing folders are made. If it is a link, the
            target of the link is written.
        content (bytes or str): The content; text is written as UTF-8.

    Raises:
        OSError: If the file cannot be written; names the file.
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
            # errors of writing name no file, all other errors name the partial file
            raise type(e)(e.errno, os.strerror(e.errno), path) from None
        raise


def _stat(path: Union[str, Path]) -> Optional[os.stat_result]:
    with suppress(FileNotFoundError):
        return os.stat(path)
    return None


def _open_private(path: str, flags: int) -> int:
    # A user who may not read the replaced file must not be able to read the new file at
    # any moment.
    return os.open(path, flags, 0o600)


def _set_like(file: Union[int, Path], before: os.stat_result) -> None:
    """Set owner and mode of a replaced file or folder, as far as possible."""
    with suppress(OSError):  # another user's; some file systems have neither
        os.chown(file, before.st_uid, before.st_gid)
    with suppress(OSError):
        os.chmod(file, stat.S_IMODE(before.st_mode))


@contextmanager
def atomic_dir(path: Union[str, Path]) -> Iterator[Path]:
    """Write a folder completely, or leave it as it was.

    This holds for errors in the ``with`` block and for a kill. If several processes
    write one folder, the last writer wins. A kill leaves at most hidden folders beside
    the folder, such as ``.NAME.new.HOST-PROCESS-NUMBER.tmp``. The next call on the same
    machine removes them, or renames the old folder back if the kill came between two
    renames. A replaced folder keeps its mode and owner as in :func:`atomic_write`.

    Args:
        path (str or Path): The folder. An existing folder is replaced. If it is a link,
            the target of the link is written.

    Yields:
        Path: An empty folder beside the final folder, to be filled.

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
    """Rename ``new`` to ``path``, and an existing ``path`` to ``old``."""
    while True:
        with suppress(FileNotFoundError):  # no folder yet, or a faster writer
            path.rename(old)
        try:
            new.rename(path)
            return
        except OSError as e:
            if e.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another writer's folder
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
