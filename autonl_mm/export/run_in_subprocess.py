# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""A call in a subprocess, which a crash of an engine may end."""
import multiprocessing
from typing import Any, Callable

import torch

from .engines.base import ExportError, first_line


def run_in_subprocess(function: Callable, *args: Any) -> Any:
    """Call a function in a subprocess, with as many threads as torch has here.

    Args:
        function (Callable): The function; pickle must find it by its name.
        *args (Any): Its arguments, with NumPy arrays instead of tensors.

    Returns:
        Any: Its result.

    Raises:
        ExportError: If it raises an error, or the subprocess ends before it returns.
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
        raise ExportError(
            f'its subprocess ended with status {process.exitcode}') from None
    finally:
        process.join()
    if error:
        raise ExportError(error)
    return result


def _send_result(sender, threads: int, function: Callable, args: tuple) -> None:
    torch.set_num_threads(threads)
    try:
        result, error = function(*args), None
    except ExportError as e:
        result, error = None, str(e)
    except Exception as e:  # engines' errors have no common class
        result, error = None, first_line(e)
    sender.send((result, error))
