# Copyright (c) autonl_mm authors. Licensed under Apache-2.0.
"""Losses of subnets on the same few images."""
import hashlib
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
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autonl_mm.datasets.holdout_dataset import image_key
from autonl_mm.runs.random_state import preserve_random_states
from autonl_mm.runs.ranks import check_ranks_agree, shared_seed

# Bytes of the batches in memory at a time, per rank
MAX_BYTES = 4 * 2**30


class ProxyLoss:
    """Losses of subnets on a few batches, which are the same for all subnets.

    The batches are of training images, with their augmentation, or of held-out images.
    BN normalises by each batch, because shared running statistics fit no subnet. The
    run is not changed: running statistics and random states are restored.

    Args:
        runner (Runner): The runner of the training. Its seed decides the images, its
            optimiser the precision of the losses, and its training dataloader the
            number of workers.
        model (BaseModel): The model.
        as_subnet (Callable): From a subnet to a context manager in which the model is
            that subnet.
        num_samples (int): Number of images over all ranks, rounded up to whole batches.
        dataset (Dataset, optional): Held-out images. Defaults to None, the training
            images.

    Attributes:
        batches (FixedBatches): The batches; at most :data:`MAX_BYTES` of them are in
            memory at a time.
    """

    def __init__(self,
                 runner: Runner,
                 model: BaseModel,
                 as_subnet: Callable[[Any], ContextManager],
                 num_samples: int,
                 dataset: Optional[Dataset] = None):
        self.runner = runner
        self.model = model
        self.as_subnet = as_subnet
        self.held_out = dataset is not None
        self.seed = shared_seed(runner)
        self.batches = FixedBatches(
            runner, dataset if self.held_out else runner.train_dataloader.dataset,
            num_samples, MAX_BYTES, self.seed)

    @property
    def num_batches(self) -> int:
        """Number of batches per rank."""
        return self.batches.num_batches

    @property
    def images(self) -> List[int]:
        """Images of each batch, per rank; the last batch may be smaller."""
        size, count = self.batches.batch_size, len(self.batches.indices)
        return [min(size, count - start) for start in range(0, count, size)]

    def describe_images(self) -> str:
        """The images in words, for logs."""
        kind = 'held-out' if self.held_out else 'training'
        return f'{self.num_batches} batches of {self.batches.batch_size} {kind} images'

    @torch.no_grad()
    def losses(self, subnets: Sequence[Any], start: int,
               stop: int) -> List[List[float]]:
        """Losses on the batches from ``start`` to ``stop``, averaged over ranks.

        Args:
            subnets (Sequence[Subnet]): The subnets.
            start (int): Index of the first batch.
            stop (int): Index after the last batch.

        Returns:
            list[list[float]]: For each subnet one loss for each batch.

        Raises:
            RuntimeError: If ranks ask for different subnets.
        """
        check_ranks_agree('candidates', (subnets, start, stop))
        stop = min(stop, self.num_batches)
        if start >= stop or not subnets:
            return [[] for _ in subnets]
        rows = [[] for _ in subnets]
        index = start
        for part in self.batches.parts(start, stop):
            for row, subnet in zip(rows, subnets):
                with self.as_subnet(subnet), _buffers_kept(self.model):
                    row += self._losses(part, index)
            index += len(part)
        losses = torch.stack([torch.stack(row) for row in rows])
        all_reduce(losses, 'mean')
        return losses.tolist()

    def _losses(self, batches: List[Any], index: int) -> List[Tensor]:
        losses = []
        with self.runner.optim_wrapper.optim_context(self.runner.model):
            for i, batch in enumerate(batches, index):
                with preserve_random_states(self.seed + i):
                    losses.append(self._loss(batch))
        return losses

    def _loss(self, data) -> Tensor:
        data = self.model.data_preprocessor(data, True)
        parts = (self.model(**data, mode='loss') if isinstance(data, dict) else
                 self.model(*data, mode='loss'))
        return self.model.parse_losses(parts)[0].float()

    @torch.no_grad()
    def recalibrate(self, batches: 'FixedBatches') -> None:
        """Measure BN's statistics of the model in its present form.

        They are the means of the means and variances of all batches with a finite
        loss, over ranks.

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
            for batch in part:
                states = [{k: v.clone() for k, v in norm.named_buffers()}
                          for norm in norms]
                loss, = self._losses([batch], index)
                if not loss.isfinite():  # nothing of this batch counts
                    for norm, state in zip(norms, states):
                        norm.load_state_dict(state, strict=False)
                index += 1
        for norm, momentum in zip(norms, before):
            norm.momentum = momentum
            all_reduce(norm.running_mean, 'mean')
            all_reduce(norm.running_var, 'mean')


class FixedBatches:
    """Fixed batches of a dataset, which are the same for each use.

    Batches that fit into half of ``max_bytes`` stay in main memory. All other batches
    are loaded again for each use, in parts of at most the second half. They are the
    same each time.

    Args:
        runner (Runner): The runner of the training; its dataloader makes the batches.
        dataset (Dataset): The images.
        num_samples (int): Number of images over all ranks, rounded up to whole batches.
        max_bytes (int): Bytes of the batches in memory at a time, per rank.
        seed (int): Seed of the choice of images.

    Attributes:
        batch_size (int): Images of a batch, per rank.
        num_batches (int): Number of batches, per rank.
        kept (list): The batches that stay in memory.
        kept_bytes (int): Size of the kept batches in bytes.
        is_full (bool): Whether some batches did not fit.
    """

    def __init__(self, runner: Runner, dataset: Dataset, num_samples: int,
                 max_bytes: int, seed: int):
        # A separate loader: the run's is in the middle of an epoch.
        self.loader = runner.train_dataloader
        self.dataset = _Seeded(dataset, shared_seed(runner))
        self.batch_size = self.loader.batch_sampler.batch_size
        sampler = DefaultSampler(dataset, True, seed)
        count = -(-num_samples // (self.batch_size * get_world_size()))
        self.indices = list(islice(sampler, count * self.batch_size))
        self.num_batches = -(-len(self.indices) // self.batch_size)
        self.max_bytes = max_bytes
        self.kept: List[Any] = []
        self.kept_bytes = 0
        self.is_full = False

    def fingerprint(self) -> str:
        """Digest of the images of all ranks, with their annotations and their order."""
        total, dataset = hashlib.sha256(), self.dataset.dataset
        total.update(repr(len(dataset)).encode())
        for index in self.indices:
            info = getattr(dataset, 'get_data_info', lambda i: {})(index)
            rest = {key: value for key, value in info.items() if key != 'img'}
            total.update(repr((index, image_key(info), rest)).encode())
        digests = ''.join(all_gather_object(total.hexdigest()))
        return hashlib.sha256(digests.encode()).hexdigest()

    def parts(self, start: int, stop: int) -> Iterator[List[Any]]:
        """Parts of the batches: first the kept batches, then loaded batches.

        Args:
            start (int): Index of the first batch.
            stop (int): Index after the last batch.
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
            # so that the run's generator is not used
            generator=torch.Generator())


class _Seeded(Dataset):
    """A dataset whose augmentation of an image depends only on a seed and the index.

    It does not depend on the number of workers, nor on the images loaded before.

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
    """Bytes of a batch with its annotations, such as boxes and masks."""
    return len(pickle.dumps(batch, protocol=5))


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore buffers after the ``with`` block."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
