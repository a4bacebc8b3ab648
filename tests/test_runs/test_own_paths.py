# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Paths that a file names lead only to what is the run's own."""
import os

import pytest

from autonl_mm.runs.own_paths import checkpoint_folders, own_path


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folders ``run`` and ``run2``, with a file of one name and links."""
    monkeypatch.chdir(tmp_path)
    for name in ('run/sub', 'run2'):
        os.makedirs(name)
    for name in ('run/a.pth', 'run/sub/b.pth', 'run2/a.pth', 'run2/c.pth'):
        (tmp_path / name).touch()
    (tmp_path / 'run/out').symlink_to(tmp_path / 'run2')
    (tmp_path / 'run/c.pth').symlink_to(tmp_path / 'run2/c.pth')
    (tmp_path / 'link').symlink_to(tmp_path / 'run')
    return tmp_path / 'run'


@pytest.mark.parametrize('path', [
    'run/a.pth', '@/run/a.pth', '@/run/sub/b.pth', '@/run/gone.pth', '@/link/a.pth',
    '@/run2/../run/a.pth', '@/run/sub/../a.pth'])
@pytest.mark.parametrize('folder', ['@/run', 'run', '@/link', '@/run/'])
def test_own(path, folder, run):
    path, folder = (p.replace('@', str(run.parent)) for p in (path, folder))
    assert own_path(path, [folder]) == path


@pytest.mark.parametrize('path', [
    '@/run2/a.pth', '/gone/a.pth', 'a.pth', '@/run/../run2/a.pth', '@/run/out/a.pth'])
def test_moved(path, run):
    """The file of that name is the run's own, and not that of the link."""
    path = path.replace('@', str(run.parent))
    assert own_path(path, [str(run)]) == str(run / 'a.pth')


@pytest.mark.parametrize('path', [
    '@/run', '@/run/', '@/run/.', '@/run/sub/..', '@', '/', '.', '..', '', '@/run2',
    '@/run/out', '@/run/out/new.pth', '@/run/c.pth', '@/run/../new.pth', 'new.pth',
    '@/run/a\0.pth', 'x' * 5000, 's3://bucket/run/a', None, 3, ['@/run/a.pth'],
    b'run/a.pth'])
def test_foreign(path, run):
    if isinstance(path, str):
        path = path.replace('@', str(run.parent))
    assert own_path(path, [str(run)]) is None


def test_folders_of_a_run(run):
    """As CheckpointHook joins its out_dir, which may be remote, and the work dir."""
    assert checkpoint_folders('w/run') == ['w/run']
    assert checkpoint_folders('w/run/', 'out') == ['w/run/', 'out/run']
    folders = checkpoint_folders(run, 's3://bucket')
    for path in ('s3://bucket/run/a.pth', str(run / 'a.pth')):
        assert own_path(path, folders) == path
    for path in ('s3://bucket/b.pth', 's3://bucket/run/../b.pth', 's3://bucket/run',
                 's3://bucket/run2/b.pth', 's3://other/run/b.pth'):
        assert own_path(path, folders) is None
