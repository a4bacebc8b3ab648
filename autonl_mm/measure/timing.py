# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Time, memory and MACs, measured in the same way by all tools.

Functions to be compared run in turns, round after round. If the machine is slow
for a while, it is slow for all of them, and their medians stay comparable.
"""
import itertools
import math
import multiprocessing
import platform
import resource
import statistics
import time
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import torch
import torch.nn as nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

try:
    from tqdm import tqdm
except ImportError:  # no requirement only for a progress bar

    def tqdm(items, **kwargs):
        return items


class Spread(NamedTuple):
    """Median, fastest and slowest of some measurements."""
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> 'Spread':
        """Compute them from a sequence that is not empty."""
        return cls(statistics.median(values), min(values), max(values))


def synchronize(device: str) -> None:
    """Wait until a device has finished all its work."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def device_name(device: str) -> str:
    """Name of a device for a table; for a CPU with the number of threads."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return (f'{platform.processor() or platform.machine()}, {threads} '
            f'thread{"s" * (threads > 1)}')


def interleaved(calls: Dict[str, Callable],
             rounds: int,
             device: str = 'cpu',
             warmup: bool = False,
             clock: Callable[[], float] = time.perf_counter
             ) -> Dict[str, List[float]]:
    """Measure the seconds that functions take, in turns, round after round.

    Args:
        calls (dict[str, Callable]): The functions, called without arguments.
        rounds (int): Number of measurements of each.
        device (str): The device they run on. Defaults to ``'cpu'``.
        warmup (bool): Whether to make one call that is not measured before
            every measurement. This is for short functions: without it, the
            caches hold data of the function before. If False, there is only
            one such call of each function, before the first round. Defaults
            to False.
        clock (Callable): Function that returns the time in seconds. Defaults to
            ``time.perf_counter``. ``time.process_time`` counts the CPU time
            of all threads, for a machine that also does other work.

    Returns:
        dict[str, list[float]]: ``rounds`` measurements of each, in order.
    """
    times = {key: [] for key in calls}
    if not warmup:
        for call in calls.values():
            call()
    for _ in tqdm(range(rounds), desc='rounds', leave=False):
        for key, call in calls.items():
            if warmup:
                call()
            synchronize(device)
            start = clock()
            call()
            synchronize(device)
            times[key].append(clock() - start)
    return times


def without_drift(times: Dict[str, List[float]]) -> Dict[str, List[float]]:
    """Scale each round to the median round.

    Where a machine changes its speed after half of the rounds, the change divides
    one of them. The medians of the functions before it are then of the one speed and
    those of the functions behind it of the other.

    Args:
        times (dict[str, list[float]]): As :func:`interleaved` returns them.

    Returns:
        dict[str, list[float]]: The same, each divided by the sum over its round, in
        units of the median sum.
    """
    if not times:
        return {}
    sums = [sum(of_round) for of_round in zip(*times.values())]
    typical = statistics.median(sums)
    return {key: [typical * t / total for t, total in zip(values, sums)]
            for key, values in times.items()}


def peak_memory(make_step: Callable,
                args: tuple,
                device: str = 'cpu',
                limit: Optional[float] = None) -> float:
    """Peak memory of a step beyond what the process used before, in MiB.

    On a GPU, the allocator's count. On a CPU, the peak resident size of a separate
    process, which does all imports before it starts to count. That process does
    not keep freed memory: its fragmentation differs between runs, and changes the
    peak by up to a third.

    Args:
        make_step (Callable): Function that returns the step, a function
            without arguments. On a CPU, pickle must find it by its name.
        args (tuple): Arguments of ``make_step``.
        device (str): The device the step runs on. Defaults to ``'cpu'``.
        limit (float, optional): Memory that the step may use on a CPU, in MiB.
            Defaults to None, no limit.

    Returns:
        float: MiB for making the step and running it twice.

    Raises:
        MemoryError: If the step needs more memory than is available.
        RuntimeError: If it fails in another way.
    """
    if torch.device(device).type == 'cuda':
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _make_and_run(make_step, args)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # Each process is a fork of one that has done the imports and nothing else.
    context = multiprocessing.get_context('forkserver')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_send_peak, args=(sender, make_step, args, limit))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:  # the kernel kills processes that use too much memory
        result = MemoryError('the process of the measurement was ended before '
                             'it could report the memory of its step')
    finally:
        process.join()
    if isinstance(result, Exception):
        raise result
    return result


def peak_of_tensors(make_step: Callable, args: tuple) -> float:
    """Peak memory of tensors on a CPU beyond what they used before, in MiB.

    Counted as by a GPU's allocator: without the buffers of oneDNN and without
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
    step()  # with what the first run keeps, such as an optimiser's state


def _send_peak(sender, make_step: Callable, args: tuple,
               limit: Optional[float]) -> None:
    if limit is not None:
        maximum = int(_status('VmSize') + limit * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (maximum, maximum))
    before = _status('VmRSS')
    try:
        _make_and_run(make_step, args)
    except Exception as e:
        kind = MemoryError if 'allocate memory' in str(e) else RuntimeError
        sender.send(kind(f'{type(e).__name__}: {e}'))
        return
    sender.send((_status('VmHWM') - before) / 2**20)


def _status(field: str) -> int:
    """An entry of this process's ``/proc`` status, in bytes."""
    # getrusage would include the memory of the parent when it started this one.
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{field}:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'/proc/self/status has no {field}: memory can only be '
                       'measured on Linux')


def built_macs(model: nn.Module, *input_shape: int) -> int:
    """MACs of a network for one input, counted by torch from its operators.

    Convolutions, linear layers, matrix products and the sums of global average
    pooling count, as in :mod:`autonl_mm.cost`. Normalisation, activation and
    elementwise arithmetic do not. Nothing is computed: the tensors have no data,
    so an affinity matrix of any size can be counted.

    Args:
        model (nn.Module): The network. It is put into eval mode.
        *input_shape (int): ``C, H, W`` of the input.

    Returns:
        int: The number of multiply-accumulates.
    """
    model.eval()
    counter = FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.aten.mean: _operations_of_mean})
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), fake, counter:
        model(torch.empty(1, *input_shape))
    return counter.get_total_flops() // 2


def _operations_of_mean(shape, *args, out_shape=None, **kwargs) -> int:
    return 2 * math.prod(shape)  # torch counts two operations per MAC


def count_parameters(model: nn.Module) -> int:
    """Number of parameters of a network."""
    return sum(p.numel() for p in model.parameters())
