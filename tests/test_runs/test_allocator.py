# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import os
import platform
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from autonl_mm.runs import allocator

# Loads the module alone and says how much of a block stays after a free. The
# block is larger than the 256 MiB that M_TOP_PAD keeps by itself.
CODE = f"""
import ctypes, importlib.util, sys
spec = importlib.util.spec_from_file_location('a', {allocator.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.keep_freed_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def resident():
    return int(open('/proc/self/statm').read().split()[1]) * 4096
size = 320 << 20
before = resident()
# nothing in between, or it lies behind the block and holds it
libc.free(ctypes.memset(libc.malloc(size), 1, size))
print((resident() - before) / size)
"""


def run(**env):
    out = subprocess.run(
        [sys.executable, '-c', CODE],
        capture_output=True,
        text=True,
        env={k: v for k, v in dict(os.environ, **env).items() if v is not None},
        check=True).stdout
    line, kept = out.splitlines()
    return line, float(kept)


glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != 'glibc' or not os.path.exists('/proc/self/statm')
    or os.sysconf('SC_PAGE_SIZE') != 4096,
    reason='about glibc on Linux')


@glibc
def test_freed_memory_is_kept():
    for value in None, '1':
        line, kept = run(AUTONL_KEEP_MEMORY=value)
        assert 'freed memory is kept' in line
        assert kept > 0.9


@glibc
def test_switch():
    line, kept = run(AUTONL_KEEP_MEMORY='0')
    assert 'left as it is (AUTONL_KEEP_MEMORY=0)' in line
    assert kept < 0.1


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.delenv(allocator.SWITCH, raising=False)
    monkeypatch.setattr(platform, 'libc_ver', lambda: ('musl', '1.2'))
    monkeypatch.setattr(allocator.ctypes, 'CDLL', None)  # must not be called
    assert 'not glibc' in allocator.keep_freed_memory()


def test_refusal_is_reported(monkeypatch):

    class Libc:

        @staticmethod
        def mallopt(parameter, value):
            return 0

    monkeypatch.delenv(allocator.SWITCH, raising=False)
    monkeypatch.setattr(platform, 'libc_ver', lambda: ('glibc', '2.36'))
    monkeypatch.setattr(allocator.ctypes, 'CDLL', lambda name: Libc)
    assert 'mallopt refused' in allocator.keep_freed_memory()


def test_every_tool_that_runs_a_network_sets_it():
    """And says so: what the call returns is printed or logged."""
    network = re.compile(r'\.backward\(|(train|test)_step\(|no_grad\(|'
                         r'runner\.(train|val|test)\(')
    said = re.compile(r'print\(keep_freed_memory|launch\.load_config|'
                      r'setting = keep_freed_memory')
    tools = [p for p in ROOT.glob('tools/**/*.py') if network.search(p.read_text())]
    assert len(tools) >= 8
    silent = {p.name for p in tools if not said.search(p.read_text())}
    # counts in a single pass; measures peaks, which kept memory would blur
    assert silent == {'get_flops.py', 'benchmark_memory.py'}
