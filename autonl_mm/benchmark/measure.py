# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Time, memory and MACs, measured by all tools in the same way.

Times come from runs in turns: what slows the machine for a while then slows
nothing more than the rest, and medians of different things can be compared.
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
except ImportError:  # a bar is not worth a requirement

    def tqdm(items, **kwargs):
        return items


class Spread(NamedTuple):
    """Median, fastest and slowest of some measurements."""
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> 'Spread':
        """Of a sequence that is not empty."""
        return cls(statistics.median(values), min(values), max(values))


def synchronize(device: str) -> None:
    """Wait until a device has done what it was given."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def device_name(device: str) -> str:
    """What to call a device in a table, its threads included."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return (f'{platform.processor() or platform.machine()}, {threads} '
            f'thread{"s" * (threads > 1)}')


def in_turns(calls: Dict[str, Callable],
             rounds: int,
             device: str = 'cpu',
             settle: bool = False,
             clock: Callable[[], float] = time.perf_counter
             ) -> Dict[str, List[float]]:
    """Seconds that each of some functions takes, round after round.

    Args:
        calls (dict[str, Callable]): The functions, called without arguments.
        rounds (int): Measurements of each.
        device (str): What they run on. Defaults to ``'cpu'``.
        settle (bool): Whether each is called once, not measured, before each
            measurement: for short functions, that would else be measured with
            caches full of the last one's data. Otherwise each is called once
            before the first round. Defaults to False.
        clock (Callable): What gives the seconds. Defaults to
            ``time.perf_counter``; ``time.process_time`` counts the CPU time
            of all threads, for a machine that has other work to do.

    Returns:
        dict[str, list[float]]: ``rounds`` measurements of each, in order.
    """
    times = {key: [] for key in calls}
    if not settle:
        for call in calls.values():
            call()
    for _ in tqdm(range(rounds), desc='rounds', leave=False):
        for key, call in calls.items():
            if settle:
                call()
            synchronize(device)
            start = clock()
            call()
            synchronize(device)
            times[key].append(clock() - start)
    return times


def peak_memory(make_step: Callable,
                args: tuple,
                device: str = 'cpu',
                limit: Optional[float] = None) -> float:
    """Peak memory of a step beyond what the process had before, in MiB.

    On a GPU as the allocator counts it. On a CPU the peak resident size of a
    process of its own, which imports what it needs before it starts to count.
    Freed memory is not kept there: how it falls to pieces differs from run to
    run, and with it the peak by a third.

    Args:
        make_step (Callable): What returns the step, itself a function without
            arguments; on a CPU it must be one that pickle finds by name.
        args (tuple): Its arguments.
        device (str): What the step runs on. Defaults to ``'cpu'``.
        limit (float, optional): MiB that the step may take on a CPU. Defaults
            to None.

    Returns:
        float: MiB, of making the step and two runs of it.

    Raises:
        MemoryError: If the step needs more memory than there is.
        RuntimeError: If it fails in another way.
    """
    if torch.device(device).type == 'cuda':
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _make_and_run(make_step, args)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_send_peak, args=(sender, make_step, args, limit))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:  # the kernel ends what takes too much
        result = MemoryError('a process ended before it could tell the '
                             'memory of its step')
    finally:
        process.join()
    if isinstance(result, Exception):
        raise result
    return result


def peak_of_tensors(make_step: Callable, args: tuple) -> float:
    """Peak of what tensors take on a CPU beyond what they took before, in MiB.

    As a GPU's allocator counts it and, unlike :func:`peak_memory`, the same
    in every run: without the buffers of oneDNN, and without what is lost
    between pieces of freed memory.

    Args:
        make_step (Callable): As for :func:`peak_memory`.
        args (tuple): Its arguments.

    Returns:
        float: MiB, of making the step and two runs of it.
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
    step()  # beside what the first run made, such as an optimiser's state


def _send_peak(sender, make_step: Callable, args: tuple,
               limit: Optional[float]) -> None:
    if limit is not None:
        most = int(_status('VmSize') + limit * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    before = _status('VmRSS')
    try:
        _make_and_run(make_step, args)
    except Exception as e:
        kind = MemoryError if 'allocate memory' in str(e) else RuntimeError
        sender.send(kind(f'{type(e).__name__}: {e}'))
        return
    sender.send((_status('VmHWM') - before) / 2**20)


def _status(field: str) -> int:
    """Bytes of an entry of this process's status."""
    # getrusage would count what the parent had when it started this process.
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{field}:'):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'/proc/self/status has no {field}: memory is measured '
                       'on Linux')


def built_macs(model: nn.Module, *input_shape: int) -> int:
    """MACs of a network for one input, by torch's count of its operators.

    Counted are convolutions, linear layers, matrix products and the sums of
    global average pooling, as in :mod:`autonl_mm.cost`; not normalisation,
    activation and elementwise arithmetic. Nothing is computed: the tensors
    have no data, so that an affinity of any size can be counted.

    Args:
        model (nn.Module): The network; put into eval mode.
        *input_shape (int): ``C, H, W`` of the input.
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
    return 2 * math.prod(shape)  # torch counts two a MAC


def count_parameters(model: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(p.numel() for p in model.parameters())
