# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Peak memory of a step, of a process or of tensors alone."""
import itertools
import resource
from pathlib import Path
from typing import Callable, Optional

import torch

from autonl_mm.runs.subprocesses import ProcessEndedError, run_in_subprocess


def peak_memory(make_step: Callable,
                args: tuple,
                device: str = 'cpu',
                limit: Optional[float] = None) -> float:
    """Peak memory of a step beyond the memory of the process before it, in MiB.

    On a GPU, this is the allocator's count. On a CPU, it is the peak resident size of a
    separate process, which does all imports before it starts to count. This process
    does not keep freed memory, whose fragmentation differs between runs and changes the
    peak by up to a third.

    Args:
        make_step (Callable): Function that returns the step, a function
            without arguments. On a CPU, pickle must find it by its name.
        args (tuple): Arguments of ``make_step``.
        device (str): The device of the step. Defaults to ``'cpu'``.
        limit (float, optional): Largest memory of the step on a CPU, in MiB. Defaults
            to None, no limit.

    Returns:
        float: MiB for making the step and running it twice.

    Raises:
        MemoryError: If the step needs more memory than is available.
        RuntimeError: If the step fails in another way.
    """
    if torch.device(device).type == 'cuda':
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _make_and_run(make_step, args)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        return run_in_subprocess(_peak, make_step, args, limit)
    except ProcessEndedError as e:  # the kernel kills processes with too much memory
        raise MemoryError(f'the memory of a step was not measured: {e}') from None


def peak_of_tensors(make_step: Callable, args: tuple) -> float:
    """Peak memory of tensors on a CPU beyond their memory before, in MiB.

    It is counted as by a GPU's allocator: without the buffers of oneDNN and without
    fragmentation. Unlike :func:`peak_memory` it is the same in every run.

    Args:
        make_step (Callable): As for :func:`peak_memory`.
        args (tuple): Arguments of ``make_step``.

    Returns:
        float: MiB for making the step and running it twice.
    """
    with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU],
            profile_memory=True) as profile:
        _make_and_run(make_step, args)
    taken = itertools.accumulate(
        event.nbytes() for event in profile.profiler.kineto_results.events()
        if event.name() == '[memory]')
    return max(taken, default=0) / 2**20


def _make_and_run(make_step: Callable, args: tuple) -> None:
    step = make_step(*args)
    step()
    step()  # with memory that the first run keeps, such as an optimiser's state


def _peak(make_step: Callable, args: tuple, limit: Optional[float]) -> float:
    if limit is not None:
        maximum = int(_status('VmSize') + limit * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (maximum, maximum))
    before = _status('VmRSS')
    try:
        _make_and_run(make_step, args)
    except Exception as e:
        kind = MemoryError if 'allocate memory' in str(e) else RuntimeError
        raise kind(f'{type(e).__name__}: {e}') from None
    return (_status('VmHWM') - before) / 2**20


def free_memory(device: str = 'cpu') -> int:
    """Memory that is available on a device, in bytes."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    return _entry('/proc/meminfo', 'MemAvailable')


def _status(field: str) -> int:
    """An entry of this process's ``/proc`` status, in bytes."""
    # getrusage would include the memory of the parent when it started this process.
    return _entry('/proc/self/status', field)


def _entry(file: str, field: str) -> int:
    for line in Path(file).read_text().splitlines():
        if line.startswith(f'{field}:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'{file} has no {field}: memory can only be measured on Linux')
