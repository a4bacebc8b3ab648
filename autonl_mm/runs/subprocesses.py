# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Calls in separate processes, for functions that may crash or use up the memory."""
import multiprocessing
import pickle
from typing import Any, Callable

import torch


class ProcessEndedError(RuntimeError):
    """A process ended before its function returned."""


def run_in_subprocess(function: Callable, *args: Any) -> Any:
    """Call a function in a new process, with as many threads as torch has here.

    The process is a fork of a process that has only done the imports.

    Args:
        function (Callable): Pickle must find it by its name.
        *args (Any): Its arguments; NumPy arrays rather than tensors.

    Returns:
        Any: Its result.

    Raises:
        ProcessEndedError: If the process ends before the function returns; names the
            exit status.
        Exception: The error that the function raises; a RuntimeError with its class
            and first line if pickle cannot transfer it.
    """
    context = multiprocessing.get_context('forkserver')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_send_result, args=(sender, torch.get_num_threads(), function, args))
    process.start()
    sender.close()
    try:
        result, error = receiver.recv()
    except EOFError:
        process.join()
        raise ProcessEndedError(
            f'its process ended with status {process.exitcode}') from None
    finally:
        process.join()
    if error:
        raise error
    return result


def _send_result(sender, threads: int, function: Callable, args: tuple) -> None:
    torch.set_num_threads(threads)
    result, error = None, None
    try:
        result = function(*args)
    except Exception as e:
        try:
            error = pickle.loads(pickle.dumps(e))
        except Exception:
            error = RuntimeError(f'{type(e).__name__}: {e}'.splitlines()[0])
    sender.send((result, error))
