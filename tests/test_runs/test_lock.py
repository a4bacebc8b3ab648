# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The lock of a work dir; tests/robustness/test_locks.py has processes that die."""
import errno
import fcntl
import json
import os
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from autonl_mm.runs import lock as locks

HERE = socket.gethostname()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, 'MOMENT', 0)


@pytest.fixture
def shared():
    """A folder for all users, and a function that makes this process another one's.

    Without root's rights it stays the same one's.
    """
    is_root = os.geteuid() == 0

    def become(user):
        if is_root:
            os.seteuid(0)
            os.seteuid(user)

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder), become
        become(0)


def write_note(folder, **holder):
    path = folder / 'train.lock'
    path.write_text(json.dumps(holder))
    return path


def dead_process():
    process = subprocess.Popen(['true'])
    process.wait()
    return process.pid


def refused(folder):
    """The message with which a run in a folder is refused."""
    with pytest.raises(ValueError) as error:
        with locks.lock(str(folder)):
            pass
    assert '\n' not in str(error.value)
    return str(error.value)


def is_free(folder):
    with locks.lock(str(folder)):
        return (folder / 'train.lock').exists()


def test_one_run_at_a_time(tmp_path):
    with locks.lock(str(tmp_path)):
        note = json.loads((tmp_path / 'train.lock').read_text())
        assert note == dict(host=HERE, process=os.getpid())
        # nor in this process
        message = refused(tmp_path)
        for words in (str(tmp_path), f'process {os.getpid()} of {HERE}', '--work-dir'):
            assert words in message
        assert (tmp_path / 'train.lock').is_file()
    assert [path.name for path in tmp_path.iterdir()] == ['.train.lock']
    assert is_free(tmp_path)


def test_notes_of_this_machine_that_were_left(tmp_path):
    """The kernel knows that nobody holds it, whoever has the process's number now."""
    for process in dead_process(), os.getpid(), os.getppid():
        write_note(tmp_path, host=HERE, process=process)
        assert is_free(tmp_path)


def test_other_machines(tmp_path):
    """Of them only their silence can be seen."""
    path = write_note(tmp_path, host='elsewhere', process=1)
    message = refused(tmp_path)
    assert 'process 1 of elsewhere' in message and f'remove {path}' in message
    os.utime(path, (1, 1))
    assert is_free(tmp_path)
    for text in 'half of a no', '[' * 100_000:
        path.write_text(text)
        assert f'remove {path}' in refused(tmp_path)
        os.utime(path, (1, 1))
        assert is_free(tmp_path)


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_without_locks(number, tmp_path, monkeypatch):
    """The note counts alone."""
    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, 'flock', fail)
    said = []
    monkeypatch.setattr(locks, 'print_log', said.append)
    with locks.lock(str(tmp_path)):
        assert (tmp_path / 'train.lock').is_file()
    assert 'without locks' in said[0] and os.strerror(number) in said[0]
    write_note(tmp_path, host=HERE, process=os.getppid())
    assert f'process {os.getppid()} of {HERE}' in refused(tmp_path)
    write_note(tmp_path, host=HERE, process=dead_process())
    assert is_free(tmp_path)


def test_a_note_is_kept_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, 'BEAT', 0.01)
    touched = threading.Event()
    utime = os.utime
    monkeypatch.setattr(os, 'utime', lambda *args: (utime(*args), touched.set()))
    with locks.lock(str(tmp_path)):
        assert touched.wait(5)


@pytest.mark.parametrize('name', ['RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'])
def test_only_the_first_rank_takes_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv(name, '1')
    with locks.lock(str(tmp_path)):
        assert not list(tmp_path.iterdir())


def test_a_folder_of_several_users(shared):
    """One takes over what another one left, whatever the umask of that one was."""
    folder, become = shared
    become(1001)
    before = os.umask(0o077)
    assert is_free(folder)
    os.umask(before)
    write_note(folder, host=HERE, process=1)
    become(1002)
    with locks.lock(str(folder)):
        become(1003)
        assert f'process {os.getpid()} of {HERE}' in refused(folder)
        become(1002)
    assert is_free(folder)


def test_what_cannot_be_locked(shared):
    folder, become = shared
    path = folder / '.train.lock'
    path.touch()
    path.chmod(0o444)
    become(1001)
    assert f'{path} cannot be opened (Permission denied)' in refused(folder)
    become(0)
    path.unlink()
    path.mkdir()
    assert f'{path} cannot be opened (Is a directory)' in refused(folder)
