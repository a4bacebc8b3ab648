# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""How tools end: one line, and a status."""
import errno
import json
import os
import signal
import socket
import threading

import pytest

from autonl_mm.checkpoint import BrokenCheckpointError
from autonl_mm.cli import endings
from autonl_mm.cli import lock as locks
from autonl_mm.engine.hooks import MismatchError, Stopped


def ending(error):
    with pytest.raises(SystemExit) as end:
        with endings.in_one_line('train.py'):
            raise error
    return end.value.code


@pytest.mark.parametrize('error, words', [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), '/w/epoch_2.pth'),
     '/w/epoch_2.pth'),
    (OSError(errno.EROFS, os.strerror(errno.EROFS)), 'Read-only file system'),
    (BrokenCheckpointError('a is damaged'), 'a is damaged'),
    (MismatchError('resume: no'), 'resume: no'),
])
def test_errors_of_the_user(error, words):
    line = ending(error)
    assert line.startswith('train.py: ') and words in line and '\n' not in line


@pytest.mark.parametrize('error', [
    ValueError('a bug'), RuntimeError('Timed out, but there are no ranks'),
    FileNotFoundError(errno.ENOENT, 'no such file', 'x')])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)):
        with endings.in_one_line('train.py'):
            raise error


def test_a_silent_rank(monkeypatch):
    monkeypatch.setattr(endings.dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(endings.dist, 'get_rank', lambda: 1)
    line = ending(RuntimeError(
        '[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 9000ms for recv'))
    assert 'rank 1' in line and '--dist-timeout' in line and '9000ms' in line


@pytest.mark.parametrize('number, status', [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_stopped(number, status, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['tools/train.py', 'a b.py', '--amp'])
    assert ending(Stopped(number, 'w/iter_7.pth')) == status
    out = capsys.readouterr().err
    assert out.count('\n') == 1 and number.name in out and 'w/iter_7.pth' in out
    assert out.endswith("python tools/train.py 'a b.py' --amp --resume\n")
    assert ending(KeyboardInterrupt()) == 130


@pytest.mark.parametrize('arguments, command', [
    ('t.py c.py --resume', 't.py c.py --resume'),
    ('t.py c.py --resume a.pth --work-dir w', 't.py c.py --work-dir w --resume'),
    ('t.py c.py --resume=a.pth --cfg-options a=1', 't.py c.py --cfg-options a=1 '
     '--resume'),
    ('t.py c.py --resume --amp', 't.py c.py --amp --resume')])
def test_command_to_go_on(arguments, command):
    assert endings.resume_command(arguments.split()) == ['python', *command.split()]


# ----------------------------------------------------------------------- lock
def write_lock(folder, **holder):
    path = folder / 'train.lock'
    path.write_text(json.dumps(holder))
    return path


def dead_process():
    process = os.fork()
    if not process:
        os._exit(0)
    os.waitpid(process, 0)
    return process


def test_one_run_at_a_time(tmp_path):
    with locks.lock(str(tmp_path)):
        assert (tmp_path / 'train.lock').is_file()
        text = (tmp_path / 'train.lock').read_text()
        assert json.loads(text)['process'] == os.getpid()
    assert not list(tmp_path.iterdir())
    path = write_lock(tmp_path, host=socket.gethostname(), process=os.getppid())
    with pytest.raises(ValueError) as error:
        with locks.lock(str(tmp_path)):
            pass
    for words in (str(tmp_path), str(os.getppid()), '--work-dir', f'remove {path}'):
        assert words in str(error.value)
    assert path.is_file()


def test_locks_of_the_dead_are_taken_over(tmp_path):
    write_lock(tmp_path, host=socket.gethostname(), process=dead_process())
    with locks.lock(str(tmp_path)):
        pass
    # of another machine only its silence can be seen
    path = write_lock(tmp_path, host='elsewhere', process=1)
    with pytest.raises(ValueError, match='process 1 of elsewhere'):
        with locks.lock(str(tmp_path)):
            pass
    os.utime(path, (1, 1))
    with locks.lock(str(tmp_path)):
        pass
    path.write_text('half of a lo')
    os.utime(path, (1, 1))
    with locks.lock(str(tmp_path)):
        pass


def test_a_lock_is_kept_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, 'BEAT', 0.01)
    touched = threading.Event()
    utime = os.utime
    monkeypatch.setattr(os, 'utime',
                        lambda *args: (utime(*args), touched.set()))
    with locks.lock(str(tmp_path)):
        assert touched.wait(5)


def test_only_the_first_rank_takes_it(tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    with locks.lock(str(tmp_path)):
        assert not list(tmp_path.iterdir())
