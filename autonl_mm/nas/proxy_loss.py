# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Training losses of a model on the same few images each time."""
import random
from contextlib import contextmanager
from itertools import islice
from typing import Iterator, List

import numpy as np
import torch
import torch.nn as nn
from mmengine.dataset import DefaultSampler
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.utils import set_random_seed
from torch.utils.data import DataLoader


class ProxyLoss:
    """Training losses on a few batches that are loaded once.

    They are batches of the training data, with its augmentation, and BN
    normalises by each batch; they stay in main memory as they were loaded.
    Neither loading nor measuring changes the run: running statistics and random
    states are restored.

    Args:
        runner (Runner): Of the training. Its seed decides which images are
            loaded, its optimiser's precision is that of the losses.
        model (BaseModel): The model.
        num_samples (int): Number of images of all ranks together; rounded up
            to whole batches.
    """

    def __init__(self, runner: Runner, model: BaseModel, num_samples: int):
        self.runner = runner
        self.model = model
        loader = runner.train_dataloader
        batch_size = loader.batch_sampler.batch_size
        count = -(-num_samples // (batch_size * get_world_size()))
        # A separate loader: that of the run is in the middle of an epoch.
        loader = DataLoader(
            loader.dataset,
            batch_size,
            sampler=DefaultSampler(loader.dataset, True, runner.seed),
            collate_fn=loader.collate_fn)
        with _random_states_kept(runner.seed):
            self.batches = list(islice(loader, count))

    @torch.no_grad()
    def losses(self, start: int, stop: int) -> List[float]:
        """Losses on the batches from ``start`` to ``stop``, means over ranks.

        Args:
            start (int): Index of the first batch.
            stop (int): Index behind the last.
        """
        losses = []
        precision = self.runner.optim_wrapper.optim_context(self.runner.model)
        with _buffers_kept(self.model), precision:
            for index in range(start, min(stop, len(self.batches))):
                with _random_states_kept(self.runner.seed + index):
                    losses.append(self._loss(self.batches[index]))
        if not losses:
            return []
        losses = torch.stack(losses)
        all_reduce(losses, 'mean')
        return losses.tolist()

    def _loss(self, data) -> torch.Tensor:
        data = self.model.data_preprocessor(data, True)
        parts = (self.model(**data, mode='loss') if isinstance(data, dict) else
                 self.model(*data, mode='loss'))
        return self.model.parse_losses(parts)[0].float()


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


@contextmanager
def _random_states_kept(seed: int) -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        set_random_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
