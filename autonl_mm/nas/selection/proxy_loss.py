# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Losses of networks on the same few images each time."""
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
    Optional,
    Sequence,
)

import torch
import torch.nn as nn
from mmengine.dataset import DefaultSampler
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autonl_mm.runs.random_state import preserve_random_states


class ProxyLoss:
    """Losses of networks on a few batches, the same for all.

    They are batches of the training data, with its augmentation, or of images that
    were held out from it. BN normalises by each batch, because shared running
    statistics fit no network. The run is not changed: running statistics and random
    states are restored.

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
        dataset (Dataset, optional): The images that were held out. Defaults to None,
            the training images.

    Attributes:
        tried (FixedBatches): The batches that the losses are of.
    """

    def __init__(self,
                 runner: Runner,
                 model: BaseModel,
                 network: Callable[[Any], ContextManager],
                 num_samples: int,
                 max_bytes: int = 4 * 2**30,
                 dataset: Optional[Dataset] = None):
        self.runner = runner
        self.model = model
        self.network = network
        self.held_out = dataset is not None
        self.tried = FixedBatches(
            runner, dataset if self.held_out else runner.train_dataloader.dataset,
            num_samples, max_bytes, runner.seed)

    @property
    def num_batches(self) -> int:
        """Number of batches that the losses are of, for each rank."""
        return self.tried.num_batches

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
        for part in self.tried.parts(start, stop):
            for row, network in zip(rows, networks):
                with self.network(network), _buffers_kept(self.model):
                    row += self._losses(part, index)
            index += len(part)
        losses = torch.stack([torch.stack(row) for row in rows])
        all_reduce(losses, 'mean')
        return losses.tolist()

    def _losses(self, batches: List[Any], index: int) -> List[Tensor]:
        losses = []
        with self.runner.optim_wrapper.optim_context(self.runner.model):
            for i, batch in enumerate(batches, index):
                with preserve_random_states(self.runner.seed + i):
                    losses.append(self._loss(batch))
        return losses

    def _loss(self, data) -> Tensor:
        data = self.model.data_preprocessor(data, True)
        parts = (self.model(**data, mode='loss') if isinstance(data, dict) else
                 self.model(*data, mode='loss'))
        return self.model.parse_losses(parts)[0].float()

    @torch.no_grad()
    def recalibrate(self, batches: 'FixedBatches') -> None:
        """Give BN the statistics of the network that the model is now.

        They are the means of the means and variances of all batches, over ranks.

        Args:
            batches (FixedBatches): The batches.
        """
        norms = [m for m in self.model.modules()
                 if isinstance(m, _BatchNorm) and m.training]
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for the mean of all batches
        index = self.num_batches  # random numbers of their own
        for part in batches.parts(0, batches.num_batches):
            self._losses(part, index)
            index += len(part)
        for norm, momentum in zip(norms, before):
            norm.momentum = momentum
            all_reduce(norm.running_mean, 'mean')
            all_reduce(norm.running_var, 'mean')


class FixedBatches:
    """Batches of a dataset, the same each time.

    Those that fit into half of ``max_bytes`` stay in main memory; the others are loaded
    each time that they are asked for, in parts of the other half, and come out the
    same.

    Args:
        runner (Runner): Of the training; its dataloader says how batches are made.
        dataset (Dataset): The images.
        num_samples (int): Number of images of all ranks together; rounded up
            to whole batches.
        max_bytes (int): Bytes of the batches in memory at a time, for each rank.
        seed (int): Decides which images.

    Attributes:
        batch_size (int): Images of a batch, for each rank.
        num_batches (int): Number of batches, for each rank.
        kept (list): The batches that stay in memory.
        kept_bytes (int): Their size.
        is_full (bool): Whether others did not fit.
    """

    def __init__(self, runner: Runner, dataset: Dataset, num_samples: int,
                 max_bytes: int, seed: int):
        # A separate loader: that of the run is in the middle of an epoch.
        self.loader = runner.train_dataloader
        self.dataset = _Seeded(dataset, runner.seed)
        self.batch_size = self.loader.batch_sampler.batch_size
        sampler = DefaultSampler(dataset, True, seed)
        count = -(-num_samples // (self.batch_size * get_world_size()))
        self.indices = list(islice(sampler, count * self.batch_size))
        self.num_batches = -(-len(self.indices) // self.batch_size)
        self.max_bytes = max_bytes
        self.kept: List[Any] = []
        self.kept_bytes = 0
        self.is_full = False

    def parts(self, start: int, stop: int) -> Iterator[List[Any]]:
        """The batches: those that stay in memory, then the others in parts.

        Args:
            start (int): Index of the first batch.
            stop (int): Index behind the last.
        """
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
        return DataLoader(
            self.dataset,
            self.batch_size,
            sampler=self.indices[start * self.batch_size:stop * self.batch_size],
            num_workers=self.loader.num_workers,
            multiprocessing_context=self.loader.multiprocessing_context,
            collate_fn=self.loader.collate_fn,
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
        seed = (self.seed * 1_000_003 + index) % 2**32
        with preserve_random_states(seed, devices=[]):
            return self.dataset[index]


def _num_bytes(batch: Any) -> int:
    """Bytes of a batch with all that belongs to it, such as boxes and masks."""
    return len(pickle.dumps(batch, protocol=5))


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore buffers behind the ``with`` block."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
