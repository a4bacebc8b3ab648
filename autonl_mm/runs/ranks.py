# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""What all ranks of a distributed run must have in common."""
import hashlib
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list
from mmengine.runner import Runner


def shared_seed(runner: Runner) -> int:
    """The first rank's seed, for random numbers on which all ranks must agree.

    With ``randomness=dict(diff_rank_seed=True)`` each rank has another seed.

    Args:
        runner (Runner): The runner. All ranks call this.
    """
    seeds = [runner.seed]
    broadcast_object_list(seeds)
    return seeds[0]


def check_ranks_agree(name: str, value: Any) -> None:
    """Compare a value between ranks.

    Args:
        name (str): What it is, in the plural, for the message.
        value (Any): The value, by its ``repr``. All ranks call this.

    Raises:
        RuntimeError: If ranks differ; on all ranks.
    """
    digests = all_gather_object(hashlib.sha256(repr(value).encode()).hexdigest())
    others = [rank for rank, d in enumerate(digests) if d != digests[0]]
    if others:
        raise RuntimeError(
            f'{name} of rank {others[0]} differ from those of rank 0, expected the '
            'same on all ranks: give all ranks the same config, code and data')
