# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The lock of a work dir, among processes that start at once, stop and die."""
import json
import multiprocessing
import os
import signal
import socket
import subprocess
from contextlib import contextmanager

import pytest
from conftest import is_running
from torch.utils.data import DataLoader

from autonl_mm.runs import lock as locks
from autonl_mm.runs.lock import lock

FORK = multiprocessing.get_context('fork')
HERE = socket.gethostname()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, 'MOMENT', 0)


def take(folder, start, end, results):
    """Try to take the lock together with others, and hold it until all have tried."""
    start.wait()
    try:
        with lock(str(folder)):
            results.put('held')
            end.wait()
    except ValueError as e:
        results.put(str(e))
        end.wait()


@pytest.mark.parametrize('count, runs', [(2, 10), (8, 4)])
def test_taking_over_at_once(count, runs, tmp_path):
    """What a dead process left has one new holder, and the others are told."""
    for run in range(runs):
        folder = tmp_path / str(run)
        folder.mkdir()
        (folder / 'train.lock').write_text(json.dumps(dict(host=HERE, process=2**22)))
        start, end = FORK.Barrier(count), FORK.Barrier(count)
        results = FORK.SimpleQueue()
        processes = [FORK.Process(target=take, args=(folder, start, end, results))
                     for _ in range(count)]
        for process in processes:
            process.start()
        found = sorted(results.get() for _ in processes)
        for process in processes:
            process.join()
        assert found.count('held') == 1
        assert all('is in use by another run' in message
                   for message in found if message != 'held')


def hold(folder, leave, pipe):
    with lock(str(folder)):
        pipe.send(leave())
        signal.pause()


@contextmanager
def holder(folder, leave=lambda: None):
    """A process that holds the lock, and what ``leave`` returned in it."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=hold, args=(folder, leave, theirs))
    process.start()
    try:
        yield process, ours.recv()
    finally:
        process.kill()
        process.join()


def is_free(folder):
    try:
        with lock(str(folder)):
            return True
    except ValueError as e:
        assert f'of {HERE}): stop that run' in str(e)
        return False


def test_a_holder_that_is_killed(tmp_path):
    with holder(tmp_path) as (process, _):
        with pytest.raises(ValueError, match=f'process {process.pid} of {HERE}'):
            with lock(str(tmp_path)):
                pass
        process.kill()
        process.join()
        assert (tmp_path / 'train.lock').exists() and is_free(tmp_path)
    assert not (tmp_path / 'train.lock').exists()


def test_a_holder_that_is_suspended(tmp_path):
    """It may go on, however long it has not touched its note."""
    with holder(tmp_path) as (process, _):
        os.kill(process.pid, signal.SIGSTOP)
        os.utime(tmp_path / 'train.lock', (1, 1))
        assert not is_free(tmp_path)
        os.kill(process.pid, signal.SIGCONT)
        assert not is_free(tmp_path)


def load_in_a_worker():
    batches = iter(DataLoader(range(9), num_workers=1))
    next(batches)
    load_in_a_worker.batches = batches  # its end would end the worker
    return batches._workers[0].pid


def start_a_program():
    return subprocess.Popen(['sleep', '60']).pid


@pytest.mark.parametrize('leave', [load_in_a_worker, start_a_program])
def test_processes_that_outlive_their_holder(leave, tmp_path):
    """A worker of a dataloader sees some seconds later that its run was killed. It
    writes nothing to the work dir, so the run may start again at once."""
    with holder(tmp_path, leave) as (process, left):
        assert not is_free(tmp_path)
        process.kill()
        process.join()
        try:
            assert is_running(left) and is_free(tmp_path) and is_running(left)
        finally:
            os.kill(left, signal.SIGKILL)
