# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compiling the fused operators: once, whole, and without anything left over."""
import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import is_running

from autonl_mm.ops import build

QUICK = ('-O0', '-fPIC', '-shared')


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    """Lists the files in the cache of libraries, which is empty at first, without the
    one that is locked."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return lambda: [path for path in (tmp_path / 'cache/autonl_mm').iterdir()
                    if path.name != build.LOCK]


@pytest.fixture
def source(libraries, tmp_path, monkeypatch):
    """Another source, which compiles quickly."""
    source = tmp_path / 'source.cpp'
    source.write_text('extern "C" int answer() { return 42; }')
    monkeypatch.setattr(build, 'SOURCES', (source, ))
    monkeypatch.setattr(build, 'FLAGS', QUICK)
    return source


def compiled(*_):
    """Path of the library, and what it computes."""
    with build.compiled_library() as library:
        return library, ctypes.CDLL(str(library)).answer()


def test_compiled_once(source, libraries, monkeypatch):
    # two at the same time
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(compiled, range(2))
    library = first[0]
    assert first == second == (library, 42) and libraries() == [library]
    # no compiler is needed any more
    monkeypatch.setenv('CXX', 'no-such-compiler')
    assert compiled() == first and libraries() == [library]
    # other sources are compiled again
    monkeypatch.delenv('CXX')
    source.write_text('extern "C" int answer() { return 43; }')
    changed, answer = compiled()
    assert answer == 43 and set(libraries()) == {library, changed}


def test_broken_libraries_are_compiled_again(source, libraries):
    library, _ = compiled()
    data = library.read_bytes()
    library.unlink()  # this process has loaded it
    for broken in (b'', data[:len(data) // 2], data[:-1],
                   data[:1000] + b'\0' * 512 + data[1512:]):
        library.write_bytes(broken)
        assert not build.is_whole(library)
    assert compiled() == (library, 42)
    assert build.is_whole(library) and libraries() == [library]


def test_folder_that_cannot_be_written(source, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with pytest.warns(UserWarning, match=f'{tmp_path}/file/autonl_mm cannot be written'
                      '.* set XDG_CACHE_HOME'):
        library, answer = compiled()
    assert answer == 42 and not library.parent.exists()


@pytest.mark.long
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_killed_while_it_compiles(number, libraries, source, tmp_path, monkeypatch):
    """The compiler ends too, and the next call clears up."""
    compiler = tmp_path / 'compiler'
    compiler.write_text(textwrap.dedent(f"""\
        #!/bin/sh
        sleep 100 &
        echo $! > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/sleeper
        wait
        """))
    compiler.chmod(0o755)
    script = tmp_path / 'script.py'
    script.write_text('from autonl_mm.ops import build\n'
                      'with build.compiled_library():\n    pass\n')
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=dict(os.environ, CXX=str(compiler), PYTHONPATH=os.pathsep.join(sys.path)))
    pid = tmp_path / 'sleeper'
    wait_for(pid.exists)
    assert len(libraries()) == 1 and libraries()[0].suffix == '.tmp'
    process.send_signal(number)
    process.wait()
    wait_for(lambda: not is_running(int(pid.read_text())))
    monkeypatch.delenv('CXX', raising=False)
    # as if it had been the same operators
    left, = libraries()
    name = left.name.split('.')[0]
    monkeypatch.setattr(build, '_key', lambda: name[len('fused-'):])
    library, answer = compiled()
    assert answer == 42 and libraries() == [library]


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def load(**env):
    """Load the operators in another process."""
    return subprocess.run(
        [sys.executable, '-c',
         'import torch\nfrom autonl_mm import ops\n'
         'ops.load_fused_operators()\n'
         'x = torch.ones(1, 1, 1, 1)\n'
         'print(ops.fused_light_nl(x, torch.ones(1, 1, 3, 3), x[0, 0, 0], 1))'],
        env=dict(os.environ, **env), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow  # compiles the operators
def test_processes_share_the_library(libraries):
    first = load()
    assert first.returncode == 0 and 'tensor([[[[3.]]]])' in first.stdout, \
        first.stdout
    library, = libraries()
    again = load(CXX='no-such-compiler')
    assert again.returncode == 0 and 'tensor([[[[3.]]]])' in again.stdout, \
        again.stdout
    assert libraries() == [library]


@pytest.mark.parametrize('compiler, words', [
    ('no-such-compiler', "'no-such-compiler' does not start: install g[+][+]"),
    ('false', 'did not compile: false -std'),
])
def test_no_compiler(compiler, words, libraries, monkeypatch):
    monkeypatch.setenv('CXX', compiler)
    with pytest.raises(RuntimeError, match=words):
        compiled()
    assert not libraries()
