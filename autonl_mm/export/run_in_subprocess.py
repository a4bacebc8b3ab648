# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Calls in a subprocess, which a crash of an engine may end."""
from typing import Any, Callable

from autonl_mm.runs.subprocesses import ProcessEndedError, call_in_process

from .engines.base import ExportError, first_line


def run_in_subprocess(function: Callable, *args: Any) -> Any:
    """Call a function in a subprocess, as :func:`call_in_process`.

    Raises:
        ExportError: If the function raises an error, or if the subprocess ends before
            the function returns.
    """
    try:
        return call_in_process(function, *args)
    except ExportError:
        raise
    except ProcessEndedError as e:
        raise ExportError(str(e)) from None
    except Exception as e:  # engines' errors have no common class
        raise ExportError(first_line(e)) from None
