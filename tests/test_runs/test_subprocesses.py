# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
import os

import pytest
import torch

from autonl_mm.runs.subprocesses import ProcessEndedError, call_in_process


class TwoArgumentsError(Exception):
    """Pickle cannot build it again."""

    def __init__(self, a, b):
        super().__init__(f'{a}\n{b}')


def fail(kind, *args):
    raise kind(*args)


def test_results_and_errors_come_back():
    assert call_in_process(os.getpid) != os.getpid()
    assert call_in_process(torch.get_num_threads) == torch.get_num_threads()
    with pytest.raises(ValueError, match=r'^no$'):
        call_in_process(fail, ValueError, 'no')
    with pytest.raises(RuntimeError, match=r'^TwoArgumentsError: a$'):
        call_in_process(fail, TwoArgumentsError, 'a', 'b')
    with pytest.raises(ProcessEndedError, match='ended with status 7'):
        call_in_process(os._exit, 7)
