# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import os

import pytest
import torch

from autonl_mm.runs.subprocesses import ProcessEndedError, run_in_subprocess


class TwoArgumentsError(Exception):
    """Pickle cannot build it again."""

    def __init__(self, a, b):
        super().__init__(f'{a}\n{b}')


def fail(kind, *args):
    raise kind(*args)


def test_results_and_errors_come_back():
    assert run_in_subprocess(os.getpid) != os.getpid()
    assert run_in_subprocess(torch.get_num_threads) == torch.get_num_threads()
    with pytest.raises(ValueError, match=r'^no$'):
        run_in_subprocess(fail, ValueError, 'no')
    with pytest.raises(RuntimeError, match=r'^TwoArgumentsError: a$'):
        run_in_subprocess(fail, TwoArgumentsError, 'a', 'b')
    with pytest.raises(ProcessEndedError, match='ended with status 7'):
        run_in_subprocess(os._exit, 7)
