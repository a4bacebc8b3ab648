# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""One run at a time in a work dir."""
import json
import os
import os.path as osp
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from autonl_mm.checkpoint import process_lives

NAME = 'train.lock'
# Seconds. The lock is touched while the run lives; of another machine's process
# nothing else can be seen.
BEAT, STALE = 30, 180


@contextmanager
def lock(work_dir: str) -> Iterator[None]:
    """Hold a work dir for the time of a run.

    The lock is a file with the machine and the process. One whose process is dead
    is taken over; one of another machine when it was not touched for three minutes.
    Only the first rank of a run takes it.

    Args:
        work_dir (str): The folder.

    Raises:
        ValueError: If another run holds it; names that run's process, and what to
            do.
    """
    if int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))):
        yield
        return
    path = osp.join(work_dir, NAME)
    own = dict(host=socket.gethostname(), process=os.getpid())
    _take(path, own)
    over = threading.Event()
    threading.Thread(target=_keep, args=(path, own, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        if _read(path) == own:
            os.unlink(path)


def _take(path: str, own: dict) -> None:
    for _ in range(3):
        try:
            with open(path, 'x') as file:
                json.dump(own, file)
            return
        except FileExistsError:
            holder = _read(path)
        if _is_held(path, holder):
            raise ValueError(
                f'{osp.dirname(path)} is the work dir of a run that is still going '
                f'on (process {holder.get("process")} of {holder.get("host")}): '
                'stop that run, or give another --work-dir. If there is no such '
                f'process, remove {path}')
        Path(path).unlink(missing_ok=True)
    raise ValueError(f'several runs want the work dir {osp.dirname(path)} at the '
                     'same time: start one')


def _read(path: str) -> dict:
    try:
        holder = json.loads(Path(path).read_text())
        return holder if isinstance(holder, dict) else {}
    except (OSError, ValueError):
        return {}  # gone, or just being written


def _is_held(path: str, holder: dict) -> bool:
    process = holder.get('process')
    if holder.get('host') == socket.gethostname() and isinstance(process, int):
        return process != os.getpid() and process_lives(process)
    try:
        return time.time() - osp.getmtime(path) < STALE
    except FileNotFoundError:
        return False


def _keep(path: str, own: dict, over: threading.Event) -> None:
    while not over.wait(BEAT):
        if _read(path) == own:
            os.utime(path)
