# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Files and folders are written completely, or stay as they were."""
import errno
import os
import pathlib
import socket
import stat
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from autonl_mm.runs.atomic_files import atomic_dir, atomic_write


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('content, stored', [
    (b'\x00\xff', b'\x00\xff'), ('größer\n', 'größer\n'.encode()), ('', b''),
], ids=['bytes', 'text', 'empty'])
def test_write_whole(content, stored, tmp_path):
    path = tmp_path / 'new' / 'folder' / 'file'
    for _ in range(2):  # new, then replaced
        atomic_write(path, content)
        assert path.read_bytes() == stored
        assert names(path.parent) == ['file']
    atomic_write(str(path), b'other')
    assert path.read_bytes() == b'other'


def test_write_whole_follows_links(tmp_path):
    (tmp_path / 'target').write_bytes(b'old')
    (tmp_path / 'link').symlink_to('target')
    atomic_write(tmp_path / 'link', 'new')
    assert (tmp_path / 'link').is_symlink()
    assert (tmp_path / 'target').read_bytes() == b'new'


@pytest.fixture
def umask():
    """Nothing for others and writing for the group, to tell it from 0o777."""
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.parametrize('before', [0o600, 0o400, 0o640, 0o666, 0o755, 0o777])
def test_the_mode_of_a_file(before, umask, tmp_path, monkeypatch):
    """What is replaced keeps its mode, at every moment; what is new has the umask's."""
    atomic_write(tmp_path / 'new', b'')
    assert mode(tmp_path / 'new') == 0o640
    (tmp_path / 'file').touch()
    (tmp_path / 'file').chmod(before)
    (tmp_path / 'link').symlink_to('file')
    fsync, seen = os.fsync, []
    monkeypatch.setattr(os, 'fsync', lambda file: (seen.append(mode(file)),
                                                   fsync(file)))
    for name in ('file', 'link'):
        atomic_write(tmp_path / name, name)
        assert mode(tmp_path / 'file') == before
        assert (tmp_path / 'file').read_text() == name
    assert seen == [before, before] and (tmp_path / 'link').is_symlink()


def test_a_file_is_private_from_the_start(tmp_path, monkeypatch):
    """Whoever opens it before its mode is set could read it later."""
    path = tmp_path / 'file'
    path.touch()
    path.chmod(0o600)
    chmod, seen = os.chmod, []
    monkeypatch.setattr(os, 'chmod', lambda file, *args: (seen.append(mode(file)),
                                                          chmod(file, *args)))
    atomic_write(path, 'secret')
    assert seen == [0o600]


@pytest.mark.parametrize('number', [errno.EPERM, errno.EOPNOTSUPP])
def test_file_systems_without_modes(number, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    for name in ('file', 'set/file'):
        atomic_write(tmp_path / name, 'old')
    for name in ('chmod', 'chown'):
        monkeypatch.setattr(os, name, fail)
    atomic_write(tmp_path / 'file', 'new')
    with atomic_dir(tmp_path / 'set') as partial:
        (partial / 'file').write_text('new')
    assert (tmp_path / 'file').read_text() == 'new'
    assert (tmp_path / 'set/file').read_text() == 'new'


def test_files_of_another_user():
    """Root leaves them to the user; another user can only keep the mode. Without
    root's rights all are the same user."""
    is_root = os.geteuid() == 0
    first, second = (1001, 1002) if is_root else (os.geteuid(), ) * 2
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        path = pathlib.Path(folder, 'file')
        path.touch()
        path.chmod(0o664)
        os.chown(path, first, -1)
        atomic_write(path, 'new')
        assert os.stat(path).st_uid == first and mode(path) == 0o664
        if is_root:
            os.seteuid(second)
        try:
            atomic_write(path, 'newer')
        finally:
            if is_root:
                os.seteuid(0)
        assert os.stat(path).st_uid == second and mode(path) == 0o664
        assert path.read_text() == 'newer'


@pytest.mark.parametrize('before', [0o700, 0o750, 0o2775, 0o777])
def test_the_mode_of_a_folder(before, umask, tmp_path):
    path = tmp_path / 'set'
    with atomic_dir(path):
        pass
    assert mode(path) == 0o750
    path.chmod(before)
    (tmp_path / 'link').symlink_to('set')
    for name in ('set', 'link'):
        with atomic_dir(tmp_path / name) as partial:
            assert mode(partial) == 0o700
            (partial / name).touch()
        assert mode(path) == before and names(path) == [name]
        assert names(tmp_path) == ['link', 'set'] and (tmp_path / 'link').is_symlink()


def test_write_whole_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atomic_write('file', 'text')
    assert names(tmp_path) == ['file']


@pytest.mark.parametrize('function', ['fsync', 'replace'])
@pytest.mark.parametrize('error', [OSError('disk full'), KeyboardInterrupt()],
                         ids=['OSError', 'KeyboardInterrupt'])
@pytest.mark.parametrize('before', [None, b'old'], ids=['new', 'replaced'])
def test_error_keeps_the_old_file(function, error, before, tmp_path, monkeypatch):
    def fail(*args):
        assert names(tmp_path)[-1].endswith('.tmp')
        raise error

    path = tmp_path / 'file'
    if before:
        path.write_bytes(before)
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        atomic_write(path, b'new')
    assert names(tmp_path) == (['file'] if before else [])
    if before:
        assert path.read_bytes() == before


def test_several_writers_of_one_file(tmp_path):
    """A reader never meets a part of a file, nor a mixture of two."""
    path = tmp_path / 'file'
    contents = [bytes([i]) * 200_000 for i in range(4)]
    path.write_bytes(contents[0])

    def write(content):
        for _ in range(10):
            atomic_write(path, content)

    writers = [threading.Thread(target=write, args=(c, )) for c in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in contents
    assert names(tmp_path) == ['file']


def test_partial_files_that_a_kill_left(tmp_path):
    """They go with the next call, but not those of a living writer."""
    host = os.uname().nodename
    process = os.fork()
    if not process:
        os._exit(0)
    os.waitpid(process, 0)
    for owner in (f'{host}-{process}', f'{host}-{os.getpid()}', f'other-{process}'):
        (tmp_path / f'file.{owner}-0123abcd.tmp').touch()
    atomic_write(tmp_path / 'file', 'text')
    assert names(tmp_path) == sorted([
        'file', f'file.{host}-{os.getpid()}-0123abcd.tmp',
        f'file.other-{process}-0123abcd.tmp'])


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match=f"No space left .*'{tmp_path}/file'"):
        atomic_write(tmp_path / 'file', 'text')


def test_whole_folder(tmp_path):
    path = tmp_path / 'new' / 'set'
    for name in ('first', 'second'):  # new, then replaced
        with atomic_dir(path) as partial:
            assert names(partial) == [] and partial.parent == path.parent
            (partial / name).touch()
            assert path.exists() == (name == 'second')
        assert names(path.parent) == ['set'] and names(path) == [name]


@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
@pytest.mark.parametrize('before', [False, True], ids=['new', 'replaced'])
def test_error_keeps_the_old_folder(error, before, tmp_path):
    path = tmp_path / 'set'
    if before:
        path.mkdir()
        (path / 'old').touch()
    with pytest.raises(error):
        with atomic_dir(path) as partial:
            (partial / 'new').touch()
            raise error
    assert names(tmp_path) == (['set'] if before else [])
    if before:
        assert names(path) == ['old']


def test_failed_rename_restores_the_old_folder(tmp_path, monkeypatch):
    path = tmp_path / 'set'
    path.mkdir()
    (path / 'old').touch()
    rename = pathlib.Path.rename

    def fail(self, target):
        if '.new.' in self.name:
            raise OSError('no permission')
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, 'rename', fail)
    with pytest.raises(OSError, match='no permission'):
        with atomic_dir(path) as partial:
            (partial / 'new').touch()
    assert names(tmp_path) == ['set'] and names(path) == ['old']


@pytest.mark.parametrize('replaced', [False, True])
def test_folders_that_a_kill_left(replaced, tmp_path):
    """The old folder comes back if the new one did not take its place."""
    path = tmp_path / 'set'
    process = subprocess.Popen(['true'])
    process.wait()
    writer = f'{socket.gethostname()}-{process.pid}-0123abcd.tmp'
    new, old = f'.set.new.{writer}', f'.set.old.{writer}'
    others = f'.set.new.{socket.gethostname()}-{os.getpid()}-0123abcd.tmp'
    for name in (new, old, others) + ('set', ) * replaced:
        (tmp_path / name).mkdir()
        (tmp_path / name / f'of {name}').touch()
    with pytest.raises(OSError):
        with atomic_dir(path) as partial:
            assert names(partial) == []
            raise OSError
    assert names(tmp_path) == [others, 'set']  # of a writer that lives
    assert names(path) == ['of set' if replaced else f'of {old}']


def test_two_writers_of_a_folder(tmp_path):
    """One of both wins, whole, and nothing is left; again and again."""
    path = tmp_path / 'set'

    def write(writer):
        for _ in range(50):
            with atomic_dir(path) as partial:
                for i in range(3):
                    (partial / f'{writer}{i}').touch()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, 'abc'))
    assert names(tmp_path) == ['set']
    assert names(path) in [[f'{writer}{i}' for i in range(3)] for writer in 'abc']
