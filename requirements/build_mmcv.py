#!/usr/bin/env python3
# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Build a wheel of mmcv with its compiled ops, several times as fast as pip alone.

Every source file of mmcv's ops includes the same header, which draws in all of
torch's. It is compiled once, into a precompiled header, and debug information is
left out. For this the build gets this script as its C++ compiler: it sees the very
flags that the precompiled header needs, and calls the real compiler.
"""
import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HEADER = 'common/pytorch_cpp_helper.hpp'  # in mmcv/ops/csrc
FLAGS = ['-g0', '-O2']  # the last ones count
FOLDER = 'MMCV_PRECOMPILED_HEADER'  # environment variables of the compiler
COMPILER = 'MMCV_CXX'
BYTES_PER_JOB = 1.5e9  # what a compiler takes with the header loaded


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('package', choices=('mmcv', 'onedl-mmcv'))
    parser.add_argument('--out', type=Path, required=True, help='folder for the wheel')
    parser.add_argument('--log', type=Path, required=True, help='file for the output')
    parser.add_argument('-c', '--constraint', help="pip's file of versions")
    parser.add_argument(
        '--cuda', type=int, choices=(0, 1), default=0, help='whether for GPUs too')
    return parser.parse_args()


def build(args):
    """Run pip wheel with this script as its compiler.

    Returns:
        int: pip's exit status.
    """
    part = args.out.with_name(f'{args.out.name}.part{os.getpid()}')
    wrapper = part / 'bin/g++'  # torch knows a compiler by the name of its file
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -S "{Path(__file__).resolve()}" "$@"\n')
    wrapper.chmod(0o755)
    env = dict(
        os.environ,
        MMCV_WITH_OPS='1',
        FORCE_CUDA=str(args.cuda),
        MAX_JOBS=os.environ.get('MAX_JOBS', str(num_jobs())),
        CXX=str(wrapper))
    env[COMPILER] = os.environ.get('CXX', 'c++')
    env[FOLDER] = str(part / 'header')
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'wheel',
               '-v', '--no-cache-dir', '--no-binary', args.package,
               '--no-build-isolation', '--no-deps', '-w', str(part), args.package]
    if args.constraint:
        command += ['-c', args.constraint]
    try:
        with args.log.open('w') as log:
            pip = subprocess.Popen(
                command, env=env, text=True, errors='replace',
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            show = Progress()
            for line in pip.stdout:
                log.write(line)
                show(line)
            show.end()
        if pip.wait() == 0:
            args.out.mkdir(parents=True, exist_ok=True)
            for wheel in part.glob('*.whl'):
                wheel.replace(args.out / wheel.name)
        return pip.returncode
    finally:
        shutil.rmtree(part)


def num_jobs():
    """One more than there are cores, as far as memory lets."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_AVPHYS_PAGES')
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores + 1, int(memory / BYTES_PER_JOB)))


class Progress:
    """``ops 31/77``: in place on a terminal, elsewhere every tenth a line."""

    def __init__(self):
        self.tty = sys.stdout.isatty()
        self.last = 0

    def __call__(self, line):
        found = re.match(r'\s*\[(\d+)/(\d+)\] ', line)
        if not found:
            return
        done, total = map(int, found.groups())
        text = f'setup: ops {done}/{total}'
        if self.tty:
            print(f'\r{text}', end='', flush=True)
        elif done == total or done - self.last >= total / 10:
            print(text, flush=True)
            self.last = done

    def end(self):
        if self.tty:
            print()


def compile_file(arguments):
    """Be the compiler: add the flags and, for a source file of mmcv, the header."""
    command = os.environ[COMPILER].split()
    if '-c' in arguments:
        # torch gives -c twice, so the source is not what follows it
        source = next((a for a in arguments if a.endswith('.cpp')), '')
        folders = Path(source).resolve().parents
        root = next((p for p in folders if p.name == 'csrc'), None)
        arguments = arguments + FLAGS
        if root and (root / HEADER).exists():
            flags = [a for a in arguments if a not in ('-c', source)]
            header = precompiled(command, flags, root / HEADER)
            if header:
                arguments += ['-include', str(header)]
    os.execvp(command[0], command + arguments)


def precompiled(command, arguments, source):
    """Path to include, with the compiled header beside it; None if there is none."""
    # Without the output files of this call, the flags are those of all calls.
    flags, skip = [], False
    for argument in arguments:
        if skip or argument in ('-o', '-MF'):
            skip = not skip
        elif argument not in ('-MMD', '-MD'):
            flags.append(argument)
    key = hashlib.sha256('\n'.join(flags).encode()).hexdigest()[:16]
    folder = Path(os.environ[FOLDER]) / key
    folder.mkdir(parents=True, exist_ok=True)
    header = folder / source.name
    out = folder / f'{source.name}.gch'
    with open(folder / 'lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first call compiles, the others wait
        if not header.exists():
            subprocess.run([*command, *flags, '-x', 'c++-header', str(source),
                            '-o', str(out)])
            # Its own includes are relative to where it was.
            header.write_text(f'#include "{source}"\n')
    return header if out.exists() else None


if __name__ == '__main__':
    if FOLDER in os.environ:
        compile_file(sys.argv[1:])
    else:
        sys.exit(build(parse_args()))
