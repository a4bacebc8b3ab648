# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""How tools end: one line, and a status."""
import errno
import os
import signal

import pytest

from autonl_mm.runs import exit_codes
from autonl_mm.runs.checkpoints import BrokenCheckpointError, MismatchError
from autonl_mm.runs.hooks import Stopped


def ending(error):
    with pytest.raises(SystemExit) as end:
        with exit_codes.exit_on_error('train.py'):
            raise error
    return end.value.code


@pytest.mark.parametrize('error, words', [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), '/w/epoch_2.pth'),
     '/w/epoch_2.pth'),
    (PermissionError(errno.EACCES, os.strerror(errno.EACCES), '/d/train.json'),
     'Permission denied: /d/train.json could not be read or written'),
    (OSError(errno.EROFS, os.strerror(errno.EROFS)), 'Read-only file system'),
    (BrokenCheckpointError('a is damaged'), 'a is damaged'),
    (MismatchError('resume: no'), 'resume: no'),
    (FileNotFoundError('There is no checkpoint file a.pth'), 'file a.pth'),
    (RuntimeError('class `LVISMetric` in mmdet/metrics.py: Package lvis is not '
                  'installed'), 'lvis is not installed'),
    (ImportError('Please run "pip install\nwandb"'), 'pip install wandb'),
    (AssertionError('DeepSpeed is not installed.'), 'DeepSpeed is not installed'),
])
def test_errors_of_the_user(error, words):
    line = ending(error)
    assert line.startswith('train.py: ') and words in line and '\n' not in line


@pytest.mark.parametrize('error', [
    ValueError('a bug'), ImportError('cannot import name a'),
    RuntimeError('Timed out, but there are no ranks'),
    FileNotFoundError(errno.ENOENT, 'no such file', 'x')])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)):
        with exit_codes.exit_on_error('train.py'):
            raise error


def test_a_silent_rank(monkeypatch):
    monkeypatch.setattr(exit_codes.dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(exit_codes.dist, 'get_rank', lambda: 1)
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
    assert exit_codes.resume_command(arguments.split()) == ['python', *command.split()]
