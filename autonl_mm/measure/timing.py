# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Times of functions in seconds, measured in the same way by all tools.

Compared functions run alternately, round after round. If the machine is slow for a
while, it is slow for all functions, and their medians stay comparable.
"""
import platform
import statistics
import time
from typing import Callable, Dict, List, NamedTuple, Sequence

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

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
        """The spread of a sequence that is not empty."""
        return cls(statistics.median(values), min(values), max(values))

    def __format__(self, spec: str) -> str:
        """A text such as ``'3.1 (3.0 to 3.4)'``, for the format ``'.1f'``."""
        return f'{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})'


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
    """Measure functions in seconds, alternately, round after round.

    Args:
        calls (dict[str, Callable]): The functions, called without arguments.
        rounds (int): Number of measurements per function.
        device (str): The device of the functions. Defaults to ``'cpu'``.
        warmup (bool): Whether to make one call that is not measured before
            every measurement. This is for short functions: without it, the
            caches hold data of the function before. If False, there is only
            one such call of each function, before the first round. Defaults
            to False.
        clock (Callable): Function that returns the time in seconds. Defaults to
            ``time.perf_counter``. ``time.process_time`` counts the CPU time
            of all threads, for a machine that also does other work.

    Returns:
        dict[str, list[float]]: ``rounds`` measurements per function, in order.
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


def operator_times(call: Callable, rounds: int, device: str = 'cpu'
                   ) -> Dict[str, float]:
    """Mean time of each operator of a function in seconds, without operators it calls.

    Args:
        call (Callable): The function, called without arguments.
        rounds (int): Number of calls.
        device (str): The device of the function; on a GPU, the times are of the kernels
            that an operator starts. Defaults to ``'cpu'``.

    Returns:
        dict[str, float]: Seconds of a call by operator.
    """
    activities = [ProfilerActivity.CPU]
    if torch.device(device).type == 'cuda':
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as measured:
        for _ in range(rounds):
            call()
        synchronize(device)
    kind = 'self_device_time_total' if len(activities) > 1 else 'self_cpu_time_total'
    # On a GPU the kernels are listed once more, beside the operators.
    return {event.key: getattr(event, kind) / 1e6 / rounds
            for event in measured.key_averages() if event.device_type == DeviceType.CPU}


def without_drift(times: Dict[str, List[float]]) -> Dict[str, List[float]]:
    """Scale each round to the median round.

    A machine may change its speed after half of the rounds, in the middle of a round.
    Without scaling, the functions before the change would have medians of the first
    speed, and the functions after the change medians of the second speed.

    Args:
        times (dict[str, list[float]]): As :func:`interleaved` returns them.

    Returns:
        dict[str, list[float]]: The times, divided by the sum over their round, in units
        of the median sum.
    """
    if not times:
        return {}
    sums = [sum(of_round) for of_round in zip(*times.values())]
    typical = statistics.median(sums)
    return {key: [typical * t / total for t, total in zip(values, sums)]
            for key, values in times.items()}


def median_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """Median of the ratios within the rounds of :func:`interleaved`."""
    return statistics.median(a / b for a, b in zip(times, base))
