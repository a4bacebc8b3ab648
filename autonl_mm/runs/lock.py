# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""One run at a time in a work dir."""
import errno
import json
import os
import os.path as osp
import socket
import threading
import time
from contextlib import contextmanager
from typing import Iterator

from filelock import FileLock, Timeout
from mmengine.logging import print_log

from .atomic_files import atomic_write, process_lives
from .text_files import read_json

# The first file names the holder of a work dir, as JSON, while it is held. The kernel
# locks the second file. It is never removed: two processes could then lock two files of
# the same name.
NAME, LOCKED = 'train.lock', '.train.lock'
# Seconds. A run touches the first file while it exists. This is the only sign of a run
# on another machine if the locks of the file system do not reach that machine.
BEAT, STALE = 30, 180
# Seconds in which a run that starts at the same time writes the first file
MOMENT = 1
# A run's rank, as torchrun, Slurm and Open MPI give it
RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
# Errors of file systems without locks
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextmanager
def lock(work_dir: str) -> Iterator[None]:
    """Hold a work dir for the time of a run.

    The kernel holds the lock for the process, not for its forks, and releases it when
    the process ends, however it ends. Locks reach other machines if the file system
    takes them to its server, as NFS does. Otherwise the file ``train.lock`` counts,
    which names machine and process. A work dir that a run on another machine holds is
    free if this file was not touched for three minutes. Only the first rank of a run
    takes the lock.

    Args:
        work_dir (str): The folder.

    Raises:
        ValueError: If another run holds the folder; names the process of that run and a
            remedy. If the lock cannot be opened.
    """
    ranks = (os.environ.get(name) for name in RANKS)
    if int(next(filter(None, ranks), 0)):
        yield
        return
    path = osp.join(work_dir, NAME)
    own = dict(host=socket.gethostname(), process=os.getpid())
    # any user of the folder may open it, or the first user would lock out all others
    kernel = FileLock(osp.join(work_dir, LOCKED), mode=0o666, fallback_to_soft=False)
    locked = _acquire(kernel, path)
    try:
        holder = _read(path)
        if _is_held(path, holder, locked):
            raise ValueError(_taken(path, holder) + '. If there is no such process, '
                             f'remove {path}')
        atomic_write(path, json.dumps(own))
        over = threading.Event()
        threading.Thread(target=_keep, args=(path, own, over), daemon=True).start()
        try:
            yield
        finally:
            over.set()
            if _read(path) == own:
                os.unlink(path)
    finally:
        kernel.release()


def _acquire(kernel: FileLock, path: str) -> bool:
    """Whether the kernel locks the file; False if the file system has no locks."""
    try:
        kernel.acquire(timeout=MOMENT)
        return True
    except Timeout:
        raise ValueError(_taken(path, _read(path))) from None
    except OSError as e:
        if e.errno not in NO_LOCKS:
            raise ValueError(f'{kernel.lock_file} cannot be opened ({e.strerror}): '
                             'remove it, or give another --work-dir') from None
        print_log(f'{osp.dirname(path)} is on a file system without locks '
                  f'({e.strerror}): do not start two runs there at the same time')
        return False


def _taken(path: str, holder: dict) -> str:
    return (f'{osp.dirname(path)} is in use by another run '
            f'(process {holder.get("process")} of {holder.get("host")}): stop that '
            'run, or give another --work-dir')


def _read(path: str) -> dict:
    try:
        holder = read_json(path)
        return holder if isinstance(holder, dict) else {}
    except (OSError, ValueError):
        return {}  # removed, or not readable


def _is_held(path: str, holder: dict, locked: bool) -> bool:
    """Whether a run holds the work dir without a lock of the kernel."""
    process = holder.get('process')
    if holder.get('host') == socket.gethostname() and isinstance(process, int):
        return not locked and process != os.getpid() and process_lives(process)
    try:
        return time.time() - osp.getmtime(path) < STALE
    except FileNotFoundError:
        return False


def _keep(path: str, own: dict, over: threading.Event) -> None:
    while not over.wait(BEAT):
        if _read(path) == own:
            os.utime(path)
