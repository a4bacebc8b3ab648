# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Training losses of networks on the same few images each time."""
import pickle
from contextlib import contextmanager
from itertools import islice
from typing import (
    Any,
    Callable,
    ContextManager,
    Iterable,
    Iterator,
    List,
    Sequence,
)

import torch
import torch.nn as nn
from mmengine.dataset import DefaultSampler
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from autonl_mm.random_state import random_states_kept


class ProxyLoss:
    """Training losses of networks on a few batches, the same for all.

    They are batches of the training data, with its augmentation, and BN normalises by
    each batch. Those that fit into half of ``max_bytes`` stay in main memory; the
    others are loaded each time that they are asked for, in parts of the other half,
    and come out the same. Neither loading nor measuring changes the run: running
    statistics and random states are restored.

    Args:
        runner (Runner): Of the training. Its seed decides which images are
            loaded, its optimiser's precision is that of the losses, and its training
            dataloader says how many workers load.
        model (BaseModel): The model.
        network (Callable): From what a network is named by to a context manager in
            which the model is that network.
        num_samples (int): Number of images of all ranks together; rounded up
            to whole batches.
        max_bytes (int): Bytes of the batches in memory at a time, for each rank.
            Defaults to 4 GiB.
    """

    def __init__(self,
                 runner: Runner,
                 model: BaseModel,
                 network: Callable[[Any], ContextManager],
                 num_samples: int,
                 max_bytes: int = 4 * 2**30):
        self.runner = runner
        self.model = model
        self.network = network
        loader = runner.train_dataloader
        batch_size = loader.batch_sampler.batch_size
        # A separate loader: that of the run is in the middle of an epoch.
        sampler = DefaultSampler(loader.dataset, True, runner.seed)
        count = -(-num_samples // (batch_size * get_world_size()))
        self.indices = list(islice(sampler, count * batch_size))
        self.batch_size = batch_size
        self.num_batches = -(-len(self.indices) // batch_size)
        self.max_bytes = max_bytes
        self.kept: List[Any] = []
        self.kept_bytes = 0
        self.is_full = False

    @torch.no_grad()
    def losses(self, networks: Sequence[Any], start: int,
               stop: int) -> List[List[float]]:
        """Losses on the batches from ``start`` to ``stop``, means over ranks.

        Args:
            networks (Sequence): The networks, as they are named.
            start (int): Index of the first batch.
            stop (int): Index behind the last.

        Returns:
            list[list[float]]: For each network one loss for each batch.
        """
        stop = min(stop, self.num_batches)
        if start >= stop or not networks:
            return [[] for _ in networks]
        rows = [[] for _ in networks]
        index = start
        for part in self._parts(start, stop):
            for row, network in zip(rows, networks):
                with self.network(network):
                    row += self._losses(part, index)
            index += len(part)
        losses = torch.stack([torch.stack(row) for row in rows])
        all_reduce(losses, 'mean')
        return losses.tolist()

    def _losses(self, batches: List[Any], index: int) -> List[torch.Tensor]:
        losses = []
        precision = self.runner.optim_wrapper.optim_context(self.runner.model)
        with _buffers_kept(self.model), precision:
            for i, batch in enumerate(batches, index):
                with random_states_kept(self.runner.seed + i):
                    losses.append(self._loss(batch))
        return losses

    def _loss(self, data) -> torch.Tensor:
        data = self.model.data_preprocessor(data, True)
        parts = (self.model(**data, mode='loss') if isinstance(data, dict) else
                 self.model(*data, mode='loss'))
        return self.model.parse_losses(parts)[0].float()

    def _parts(self, start: int, stop: int) -> Iterator[List[Any]]:
        """The batches: those that stay in memory, then the others in parts."""
        if not self.is_full:
            for batch in self._load(len(self.kept), stop):
                size = _num_bytes(batch)
                self.is_full = self.kept_bytes + size > self.max_bytes / 2
                if self.is_full:
                    break
                self.kept.append(batch)
                self.kept_bytes += size
        if self.kept[start:stop]:
            yield self.kept[start:stop]
        part, part_bytes = [], 0
        for batch in self._load(max(start, len(self.kept)), stop):
            size = _num_bytes(batch)
            if part and part_bytes + size > self.max_bytes / 2:
                yield part
                part, part_bytes = [], 0
            part.append(batch)
            part_bytes += size
        if part:
            yield part

    def _load(self, start: int, stop: int) -> Iterable[Any]:
        if start >= stop:
            return ()
        loader = self.runner.train_dataloader
        return DataLoader(
            _Seeded(loader.dataset, self.runner.seed),
            self.batch_size,
            sampler=self.indices[start * self.batch_size:stop * self.batch_size],
            num_workers=loader.num_workers,
            multiprocessing_context=loader.multiprocessing_context,
            collate_fn=loader.collate_fn,
            # of its own, so that the run's is not used
            generator=torch.Generator())


class _Seeded(Dataset):
    """A dataset whose augmentation of an image depends on a seed and the index alone.

    So it does not depend on how many workers load, nor on what they loaded before.

    Args:
        dataset (Dataset): The dataset.
        seed (int): The seed.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, index: int) -> Any:
        with random_states_kept((self.seed * 1_000_003 + index) % 2**32, devices=[]):
            return self.dataset[index]


def _num_bytes(batch: Any) -> int:
    """Bytes of a batch with all that belongs to it, such as boxes and masks."""
    return len(pickle.dumps(batch, protocol=5))


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
