# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What all ranks have in common, with two real ranks."""
from argparse import Namespace

import pytest
from conftest import run_ranks

from autonl_mm.runs.ranks import check_ranks_agree, shared_seed

RANKS = """\
import os
from argparse import Namespace
import torch.distributed as dist
from autonl_mm.runs.ranks import check_ranks_agree, shared_seed

dist.init_process_group('gloo')
rank = int(os.environ['RANK'])
print('seed', shared_seed(Namespace(seed=5 + rank)))
check_ranks_agree('subnets', [1, 2])
try:
    check_ranks_agree('subnets', [1, rank])
except RuntimeError as e:
    print(e)
"""


def test_two_ranks(tmp_path):
    script = tmp_path / 'ranks.py'
    script.write_text(RANKS)
    for result in run_ranks(2, script):
        assert result.stdout.splitlines()[-2:] == [
            'seed 5', 'subnets of rank 1 differ from those of rank 0, expected the '
            'same on all ranks: give all ranks the same config, code and data']


@pytest.mark.parametrize('seed', [0, 7])
def test_one_rank(seed):
    assert shared_seed(Namespace(seed=seed)) == seed
    check_ranks_agree('subnets', [seed])
