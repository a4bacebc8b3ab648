# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Compiling the fused operators, once for all processes of a machine."""
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator, List

import torch
from filelock import FileLock

from autonl_mm.runs.atomic_files import atomic_write, temp_name

SOURCES = tuple(
    Path(__file__).with_name(name) for name in ('light_nl.cpp', 'mbconv.cpp'))
HEADERS = tuple(
    Path(__file__).with_name(name) for name in ('light_nl.h', 'tile.h'))
FLAGS = ('-std=c++20', '-O3', '-ffp-contract=fast', '-fopenmp', '-fPIC')
LOCK = 'lock'  # the file that a process which compiles holds
DIGEST = 32  # bytes of SHA-256 after the library, which the loader ignores


def cache_folder() -> Path:
    """``autonl_mm`` inside of ``XDG_CACHE_HOME``, by default of ``~/.cache``."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache',
                'autonl_mm')


@contextmanager
def compiled_library() -> Iterator[Path]:
    """The compiled library, to be loaded in the ``with`` block.

    It is compiled unless the cache has a complete library. A truncated library would
    end the process with SIGBUS, not with an error. Processes that need the library at
    the same time wait for the first process.

    Yields:
        Path: The library, a temporary file if the cache cannot be written.

    Raises:
        RuntimeError: If the C++ compiler does not start or fails.
    """
    library = cache_folder() / f'fused-{_key()}.so'
    with ExitStack() as stack:
        try:
            if not is_whole(library):
                _compile_into(library)
        except OSError as e:
            warnings.warn(
                f'{library.parent} cannot be written ({e.strerror or e}), so the fused '
                'operators are compiled for this process alone, half a minute each '
                'time: set XDG_CACHE_HOME to a folder that can be written',
                stacklevel=2)
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            library = Path(folder) / library.name
            _compile(library)
        yield library


def _key() -> str:
    """Hash of everything that the library depends on."""
    key = '\n'.join((*(path.read_text() for path in SOURCES + HEADERS), *FLAGS,
                     torch.__version__, platform.machine()))
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def is_whole(library: Path) -> bool:
    """Whether a library exists and is complete.

    Args:
        library (Path): Its path.
    """
    try:
        content = library.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def _compile_into(library: Path) -> None:
    """Compile the library into the cache, unless another process does."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(library.parent / LOCK, mode=0o666):
        if is_whole(library):
            return
        part = Path(temp_name(str(library)))
        part.mkdir()
        try:
            _compile(part / library.name)
            # No process ever loads half a library, and one that has loaded an older
            # file keeps it.
            atomic_write(library, (part / library.name).read_bytes())
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _compile(out: Path) -> None:
    """Compile each source in a separate process, link and sign the library."""
    root = Path(torch.__file__).parent
    abi = int(torch.compiled_with_cxx11_abi())
    flags = [*FLAGS, f'-D_GLIBCXX_USE_CXX11_ABI={abi}', '-isystem',
             str(root / 'include')]
    objects = [out.with_name(f'{source.stem}.o') for source in SOURCES]
    _call_compiler([flags + ['-c', str(source), '-o', str(file)]
                    for source, file in zip(SOURCES, objects)])
    _call_compiler([[*flags, '-shared', *map(str, objects), '-o', str(out),
                     f'-L{root / "lib"}', '-ltorch_cpu', '-lc10']])
    with open(out, 'r+b') as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(digest)


def _call_compiler(calls: List[List[str]]) -> None:
    """Run the compiler once for each list of arguments, at the same time.

    Raises:
        RuntimeError: If it does not start or fails.
    """
    compiler = os.environ.get('CXX') or 'c++'
    commands = [[*compiler.split(), *arguments] for arguments in calls]
    with _group_of_this_process() as group:
        try:
            processes = [
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                    text=True, preexec_fn=lambda: os.setpgid(0, group))
                for command in commands]
        except OSError as e:
            raise RuntimeError(
                f'the fused operators need a C++ compiler, but {compiler!r} does not '
                'start: install g++, or name another compiler in the environment '
                f'variable CXX ({e})') from e
        # all of them end before one is reported
        outputs = [process.communicate()[0] for process in processes]
    for process, command, output in zip(processes, commands, outputs):
        if process.returncode:
            raise RuntimeError('the fused operators did not compile: '
                               f'{" ".join(command)}\n{output[-2000:]}')


@contextmanager
def _group_of_this_process() -> Iterator[int]:
    """A process group that ends with the ``with`` block, or when this process ends.

    A shell in the group waits for the end of its input, which comes when this process
    ends. The shell starts before all other processes, so that none runs without it.

    Yields:
        int: Id of the group.
    """
    guard = subprocess.Popen(
        ['sh', '-c', 'read line; kill -s KILL 0'], stdin=subprocess.PIPE,
        preexec_fn=os.setpgrp)
    try:
        yield guard.pid
    finally:
        os.killpg(guard.pid, signal.SIGKILL)
        guard.communicate()
