# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""The random number generators of a process: their states, and seeds by iteration."""
import random
from contextlib import contextmanager
from typing import Any, Iterator, Optional, Sequence

import numpy as np
import torch
from mmengine.runner import Runner
from mmengine.runner.utils import set_random_seed


def get_random_state() -> dict:
    """States of the generators of Python, numpy and torch, for a checkpoint."""
    return dict(
        python=random.getstate(),
        numpy=np.random.get_state(),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])


def set_random_state(state: dict) -> None:
    """Set the generators.

    Args:
        state (dict): From :func:`get_random_state`, possibly read from a
            checkpoint.
    """
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'].cpu())
    if torch.cuda.is_available() and len(
            state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state['cuda']])


@contextmanager
def preserve_random_states(seed: Optional[int] = None,
                       devices: Optional[Sequence[int]] = None) -> Iterator[None]:
    """Restore the generators after the ``with`` block.

    Args:
        seed (int, optional): Seed inside the block. Defaults to None, which keeps the
            current states.
        devices (Sequence[int], optional): The GPUs whose generators are seeded and
            restored. Defaults to None, all.
    """
    states = random.getstate(), np.random.get_state()
    if devices is None:
        devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices):
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
            # torch.manual_seed would seed all GPUs
            torch.default_generator.manual_seed(seed)
            for device in devices:
                torch.cuda.default_generators[device].manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def set_seed(runner: Runner, seed: int) -> None:
    """Seed the generators.

    Args:
        runner (Runner): Its ``randomness`` says whether ranks differ.
        seed (int): The seed; if ranks differ, the seed of the first rank.
    """
    set_random_seed(
        seed, diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False))


def seed_iterations(runner: Runner) -> None:
    """Make the random numbers of an iteration depend on seed and iteration alone.

    This is for iteration-based loops. It includes the random numbers of loading. A
    resumed run, which loads the batches from the start, thus equals a run that never
    stopped.

    Args:
        runner (Runner): The runner, before its first iteration.
    """
    loop = runner.train_loop
    if not isinstance(loop.dataloader_iterator, _SeededBatches):
        loop.dataloader_iterator = _SeededBatches(runner, loop.dataloader_iterator)


class _SeededBatches:
    """The batches of a loop, each with a separate seed.

    Args:
        runner (Runner): Of the training.
        batches (Iterator): The batches from the start.
    """

    def __init__(self, runner: Runner, batches: Iterator):
        self.runner = runner
        self.batches = batches
        self.index = 0

    def __next__(self) -> Any:
        # a hash, so that neither seeds nor ranks that follow each other share numbers
        seed = np.random.SeedSequence((self.runner.seed, self.index))
        set_seed(self.runner, int(seed.generate_state(1)[0]) % 2**31)
        self.index += 1
        return next(self.batches)

    def skip_iter(self, count: int) -> None:
        """Newer loops call this to skip batches that were trained on.

        All of them are loaded, because a batch depends on the earlier batches of its
        worker.
        """
        for _ in range(count):
            next(self)
